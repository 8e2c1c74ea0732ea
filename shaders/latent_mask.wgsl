// Inpainting with a UNet that does not know of the mask: what is not painted anew
// is put back at the noise level that the step has reached,
// x = (1 - m) · (original · a + noise · b) + m · x.
//
// Bindings: x latents f32 [pictures, pixels, C/4], changed in place; original
// latents of the picture and noise, as x; m f32 [pixels], 1 where painted anew;
// step the step's numbers, whose kept_original and kept_noise are a and b. One
// invocation a vec4.

#import step

override WG: u32 = 64u;

struct Params {
    count: u32,  // vec4s of x
    c4: u32,
    pixels: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> original: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> noise: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> m: array<f32>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let at = (group.y * grid.x + group.x) * WG + local.x;
    if at >= p.count {
        return;
    }
    let paint = m[at / p.c4 % p.pixels];
    let kept = step.kept_original * original[at] + step.kept_noise * noise[at];
    x[at] = (1.0 - paint) * kept + paint * x[at];
}
