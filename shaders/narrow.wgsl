// f32 activations as f16 operands of a product: y = x / 2^k, with 2^-k as
// narrow_factor.wgsl finds it. The product takes the bias by the same factor and
// multiplies by 2^k at its end: both are exact, so that only the rounding to f16 remains.
//
// Bindings: x f32 [rows, C]; biased f32 as vec4s, the factors in its last one;
// y f16 [rows, C]. One invocation a vec4.

#import storage

override WG: u32 = 64u;

struct Params {
    rows: u32,
    c4: u32,
    x_pitch: u32,   // vec4s
    y_pitch: u32,
    x_offset: u32,
    y_offset: u32,
    factor_at: u32, // the last vec4 of biased
}

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read> biased: array<vec4<f32>>;
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
    let down = biased[p.factor_at].y;
    y[p.y_offset + row * p.y_pitch + c] = narrow(widen(x[p.x_offset + row * p.x_pitch + c]) * down);
}
