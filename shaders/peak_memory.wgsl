// The rate of memory: each workgroup of LANES reads (READ), writes (WRITE) or copies
// PIECES vec4<f32> an invocation, neighbours next to each other, from one place to the
// end of its 16 * LANES * PIECES bytes.
//
// x, y [LANES * PIECES * workgroups] vec4<f32>; p.turns is not used. A read is summed,
// and written where the sum is a number that x never comes to.
#import peak_params

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(${LANES})
fn main(
    @builtin(workgroup_id) g: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (g.x + g.y * n.x) * ${LANES}u * ${PIECES}u + lane;
#ifdef READ
    var s = vec4(0.0);
#repeat i ${PIECES}
    s += x[first + ${i}u * ${LANES}u];
#end
    if s.x == 1e30 {
        y[lane] = s;
    }
#endif
#ifdef WRITE
#repeat i ${PIECES}
    y[first + ${i}u * ${LANES}u] = vec4(f32(p.turns));
#end
#endif
#ifdef COPY
#repeat i ${PIECES}
    y[first + ${i}u * ${LANES}u] = x[first + ${i}u * ${LANES}u];
#end
#endif
}
