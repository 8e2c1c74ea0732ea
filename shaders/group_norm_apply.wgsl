// Group norm, last of three passes: y = act(x * factor + term), one factor and
// one term a channel and picture.
//
// Bindings: x and y [batch, rows, C] activations; affine as
// group_norm_finish.wgsl writes it, read as vec4s. One invocation a vec4.

#import storage
#import activation
#import moments

override WG: u32 = 64u;

struct Params {
    rows: u32,             // of this dispatch
    c4: u32,
    x_pitch: u32,          // vec4s
    y_pitch: u32,
    x_offset: u32,
    y_offset: u32,
    first_row: u32,
    rows_per_batch: u32,
    activation: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read> affine: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<Out>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * grid.x + group.x) * WG + local.x;
    let row = i / p.c4;
    if row >= p.rows {
        return;
    }
    let c = i - row * p.c4;
    let at = (row + p.first_row) / p.rows_per_batch * p.c4 * 2u + c;
    let value = fma(bounded(widen(x[p.x_offset + row * p.x_pitch + c]), MOST), affine[at], affine[at + p.c4]);
    y[p.y_offset + row * p.y_pitch + c] = narrow(activate(p.activation, value));
}
