// The rate of dot products of four int8: CHAINS independent sums, four steps of each a
// turn; each takes the sum before as an operand, so that none can be left out. A product
// counts 8 operations.
//
// x [16384] u32 (read); y [16384] u32 (written); p.turns. Workgroups of LANES.
#import peak_params

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(${LANES})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let b = x[id.x % 16384u];
    let d = i32(x[(id.x + 7u) % 16384u]);
#repeat i ${CHAINS}
    var c${i} = x[(id.x + ${i}u) % 16384u];
#end
    for (var t = 0u; t < p.turns; t++) {
#repeat r 4
#repeat i ${CHAINS}
        c${i} = u32(dot4I8Packed(c${i}, b) + d);
#end
#end
    }
    var s = b;
#repeat i ${CHAINS}
    s ^= c${i};
#end
    y[id.x % 16384u] = s;
}
