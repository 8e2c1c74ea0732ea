// Group norm, first of three passes: mean and sum of squared differences of
// every channel over a slab of rows, in one reading (Welford's quantities, from
// sums shifted by the slab's first value, which keeps the difference of large
// numbers out of the variance), in the units of moments.wgsl.
//
// Bindings: x [batch, rows, C] activations; stats f32 [batch, slabs, C/4, 2]
// vec4s: mean, then the squares. Grid: (C/4, slabs, batch).

#import storage
#import moments

override WG: u32 = 64u;

struct Params {
    rows: u32,       // of this dispatch, in one picture
    c4: u32,
    pitch: u32,      // vec4s
    offset: u32,
    slab: u32,       // rows a slab
    slabs: u32,      // of the whole picture
    first_slab: u32, // of this dispatch
    batch: u32,      // vec4s from picture to picture
}

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read_write> stats: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let c = group.x * WG + local.x;
    if c >= p.c4 {
        return;
    }
    let start = group.y * p.slab;
    let end = min(start + p.slab, p.rows);
    let base = p.offset + group.z * p.batch + c;
    let shift = scaled(widen(x[base + start * p.pitch]));
    var sum = vec4(0.0);
    var squares = vec4(0.0);
    for (var row = start + 1u; row < end; row++) {
        let d = scaled(widen(x[base + row * p.pitch])) - shift;
        sum += d;
        squares = fma(d, d, squares);
    }
    let n = f32(end - start);
    let at = ((group.z * p.slabs + p.first_slab + group.y) * p.c4 + c) * 2u;
    stats[at] = shift + sum / n;
    stats[at + 1u] = max(squares - sum * sum / n, vec4(0.0));
}
