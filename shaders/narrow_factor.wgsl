// The factor of narrowing (see narrow.wgsl), a power of two, and a bias by it: `biased`
// holds bias / 2^k, then 2^k, 2^-k, 0, 0. 2^-k brings the largest magnitude to
// 2^14 .. 2^15, so that f16 holds all values, and those down to 2^-28 of the largest
// with all its digits.
//
// Bindings: largest f32 [chunks]; bias f32 [places], read as vec4s; biased f32
// [places + 4], as vec4s. One invocation a vec4 of biased.

override WG: u32 = 64u;

struct Params {
    chunks: u32,
    places4: u32,   // vec4s of bias
}

@group(0) @binding(0) var<storage, read> largest: array<f32>;
@group(0) @binding(1) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> biased: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * grid.x + group.x) * WG + local.x;
    if i > p.places4 {
        return;
    }
    var top = 0.0;
    for (var chunk = 0u; chunk < p.chunks; chunk++) {
        top = max(top, largest[chunk]);
    }
    // Exponents with f32's bias of 127: of the largest magnitude; 14 + 127 is wanted.
    // From 15 on, so that both factors are normal numbers.
    let exponent = max(bitcast<u32>(top) >> 23u, 15u);
    let up = bitcast<f32>((exponent - 14u) << 23u);
    let down = bitcast<f32>((268u - exponent) << 23u);
    if i == p.places4 {
        biased[i] = vec4(up, down, 0.0, 0.0);
    } else {
        biased[i] = bias[i] * down;
    }
}
