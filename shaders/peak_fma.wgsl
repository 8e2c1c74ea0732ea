// The rate of multiply-adds from registers: CHAINS independent sums of vec4<T>, four
// steps of each a turn. FUSED asks for fma, else a product and a sum that the compiler
// may join. Sums stay near x's values (below 1), whatever the number of turns.
//
// x [4096] vec4<T>, |x| < 1 (read); y [4096] vec4<T> (written, so that nothing is left
// out); p.turns. Workgroups of LANES, any number of them.
#import peak_params

@group(0) @binding(0) var<storage, read> x: array<vec4<${T}>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<${T}>>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(${LANES})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let a = x[id.x % 4096u];
    let b = x[(id.x + 7u) % 4096u];
#repeat i ${CHAINS}
    var c${i} = x[(id.x + ${i}u) % 4096u];
#end
    for (var t = 0u; t < p.turns; t++) {
#repeat r 4
#repeat i ${CHAINS}
#ifdef FUSED
        c${i} = fma(c${i}, a, b);
#else
        c${i} = c${i} * a + b;
#endif
#end
#end
    }
    var s = a;
#repeat i ${CHAINS}
    s += c${i};
#end
    y[id.x % 4096u] = s;
}
