// A scheduler's step as a linear combination: x = a x + b e, where e is the
// guided prediction. Schedulers work out a and b (src/schedule).
//
// Bindings: x latents f32, changed in place; e f32; step f32: [3] a, [4] b.

override WG: u32 = 64u;

struct Params {
    count: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> e: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> step: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let at = (group.y * grid.x + group.x) * WG + local.x;
    if at < p.count {
        x[at] = step[3] * x[at] + step[4] * e[at];
    }
}
