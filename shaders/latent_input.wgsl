// The UNet's input: latents times the step's input factor, once for every half
// of the batch: y[b, i] = x[i] * factor.
//
// Bindings: x latents f32 [pixels, C/4]; y activations [copies, pixels, C/4];
// step f32: [0] timestep, [1] factor (see latent_update.wgsl).

#import storage

override WG: u32 = 64u;

struct Params {
    count: u32,   // vec4s of x
    copies: u32,
    unused_0: u32,
    unused_1: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> step: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<Act>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let at = (group.y * grid.x + group.x) * WG + local.x;
    if at >= p.count {
        return;
    }
    let value = narrow(x[at] * step[1]);
    for (var b = 0u; b < p.copies; b++) {
        y[b * p.count + at] = value;
    }
}
