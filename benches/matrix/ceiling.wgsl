// The rate of one instruction from registers: CHAINS independent sums, `turns`
// times: with MATRIX multiply-adds of F x F matrices, f16 to SUM; else fma of IN.
// Bindings: x, y f32 or f16 [..]; p the number of turns.
#ifdef MATRIX
enable wgpu_cooperative_matrix;
#endif

struct Params { turns: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<${SUM}>;
@group(0) @binding(1) var<storage, read> x: array<${IN}>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(workgroup_id) g: vec3<u32>, @builtin(subgroup_id) sg: u32) {
#ifdef MATRIX
    let at = g.x % 8u * 2048u + sg * 256u;
    let a = coopLoadT<coop_mat${F}x${F}<f16, A>>(&x[at], ${F}u);
    let b = coopLoadT<coop_mat${F}x${F}<f16, B>>(&x[at + 256u], ${F}u);
#repeat i ${CHAINS}
    var c${i} = coopLoadT<coop_mat${F}x${F}<${SUM}, C>>(&y[at + ${i}u * 16u], ${F}u);
#end
    for (var t = 0u; t < p.turns; t++) {
#repeat r 4
#repeat i ${CHAINS}
        c${i} = coopMultiplyAdd(a, b, c${i});
#end
#end
    }
#repeat i ${CHAINS}
    coopStoreT(c${i}, &y[at], ${F}u);
#end
#else
    let a = x[id.x % 4096u];
    let b = x[(id.x + 7u) % 4096u];
#repeat i ${CHAINS}
    var c${i} = x[(id.x + ${i}u) % 4096u];
#end
    for (var t = 0u; t < p.turns; t++) {
#repeat r 4
#repeat i ${CHAINS}
        c${i} = fma(a, b, c${i}) ;
        c${i} = fma(c${i}, a, b);
#end
#end
    }
    var s = c0;
#repeat i ${CHAINS}
    s += c${i};
#end
    y[id.x % 65536u] = s;
#endif
}
