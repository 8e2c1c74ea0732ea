// Between PyTorch's pictures (planes of f32, [N, C, pixels]) and this
// program's activations (channels last, [N, pixels, C rounded up to 4]).
// TO_PLANES says which way. y = x * scale + shift; padding becomes zero.
//
// Bindings: planes f32; pixels activations. One invocation a vec4 of pixels.

#import storage

override WG: u32 = 64u;

struct Params {
    count: u32,    // pixels of one picture
    channels: u32,
    c4: u32,
    pictures: u32,
    scale: f32,
    shift: f32,
}

#ifdef TO_PLANES
@group(0) @binding(0) var<storage, read> pixels: array<Act>;
@group(0) @binding(1) var<storage, read_write> planes: array<f32>;
#else
@group(0) @binding(0) var<storage, read> planes: array<f32>;
@group(0) @binding(1) var<storage, read_write> pixels: array<Act>;
#endif
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let pixel = (group.y * grid.x + group.x) * WG + local.x;
    let c = group.z % p.c4;
    let picture = group.z / p.c4;
    if pixel >= p.count {
        return;
    }
    let at = (picture * p.count + pixel) * p.c4 + c;
    let base = (picture * p.channels + 4u * c) * p.count + pixel;
    let live = min(p.channels - 4u * c, 4u);
#ifdef TO_PLANES
    let value = widen(pixels[at]) * p.scale + p.shift;
    for (var j = 0u; j < live; j++) {
        planes[base + j * p.count] = value[j];
    }
#else
    var value = vec4(0.0);
    for (var j = 0u; j < live; j++) {
        value[j] = planes[base + j * p.count] * p.scale + p.shift;
    }
    pixels[at] = narrow(value);
#endif
}
