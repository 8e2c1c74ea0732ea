// The UNet's input: latents times the step's input factor, once for every half
// of the batch: y[b, i] = x[i] * factor. Where the UNet takes more channels than
// the latents have (inpainting), they come from `extra`, as they are.
//
// Bindings: x latents f32 [rows, X]; extra f32 [rows, Y - X] (all in vec4s; the
// channels follow one another, so the latents' must be a multiple of 4); step
// the step's numbers, whose input_scale is the factor; y activations [copies,
// rows, Y]. One invocation a vec4 of y's first copy.

#import storage
#import step

override WG: u32 = 64u;

struct Params {
    rows: u32,
    copies: u32,
    x_c4: u32,
    y_c4: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> extra: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read_write> y: array<Act>;
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let at = (group.y * grid.x + group.x) * WG + local.x;
    let count = p.rows * p.y_c4;
    if at >= count {
        return;
    }
    let row = at / p.y_c4;
    let c = at - row * p.y_c4;
    var value: vec4<f32>;
    if c < p.x_c4 {
        value = x[row * p.x_c4 + c] * step.input_scale;
    } else {
        value = extra[row * (p.y_c4 - p.x_c4) + c - p.x_c4];
    }
    for (var b = 0u; b < p.copies; b++) {
        y[b * count + at] = narrow(value);
    }
}
