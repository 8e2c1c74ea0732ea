// Layer norm over the channels of each row: y = (x - mean) / sqrt(var + eps) *
// gamma + beta, statistics in f32, the variance from the differences to the
// mean (Ba et al., 2016), in the units of moments.wgsl. Sums run over differences to
// the row's first value, so that a constant row has no variance.
//
// Bindings: x [rows, C] activations, y as x, gamma and beta f32 [C], padded with
// zeros to vec4s, which makes the padding of y zero. WIDE: a workgroup a row, whose
// lanes keep the first five vec4s each, 1280 channels in all, and read the others three
// times; otherwise an invocation a row.

#import storage
#import reduce
#import moments

struct Params {
    rows: u32,
    count: u32,
    x_pitch: u32,   // vec4s
    y_pitch: u32,
    x_offset: u32,
    y_offset: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read> gamma: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> beta: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<Act>;
@group(0) @binding(4) var<uniform> p: Params;

// Of vec4 number i, `v`: the sum of the differences to `shift`, that of the squares of
// those to `mean`, and what becomes of it.
fn difference(v: vec4<f32>, i: u32, shift: f32) -> f32 {
    return sum4(select(vec4(0.0), v - shift, inside(i, p.count)));
}

fn square(v: vec4<f32>, i: u32, mean: f32) -> f32 {
    let d = select(vec4(0.0), v - mean, inside(i, p.count));
    return dot(d, d);
}

fn put(row: u32, v: vec4<f32>, i: u32, mean: f32, rstd: f32) {
    if i < (p.count + 3u) / 4u {
        y[p.y_offset + row * p.y_pitch + i] = narrow((v - mean) * rstd * gamma[i] + beta[i]);
    }
}

// Vec4 number i of the row that begins at `base`, or its last.
fn value(base: u32, i: u32) -> vec4<f32> {
    return scaled(widen(x[base + min(i, (p.count + 3u) / 4u - 1u)]));
}

#ifdef WIDE
const KEPT: u32 = 5u * LANES;

@compute @workgroup_size(64)
#else
const KEPT: u32 = 0u;

@compute @workgroup_size(8)
#endif
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(group, grid, thread);
    let lane = lane_of(thread);
    if row >= p.rows {
        return;
    }
    let base = p.x_offset + row * p.x_pitch;
    let c4 = (p.count + 3u) / 4u;
    let share = 1.0 / f32(p.count);
    let shift = value(base, 0u).x;
    var sum = 0.0;
#ifdef WIDE
    let i0 = lane;
    let i1 = lane + LANES;
    let i2 = lane + 2u * LANES;
    let i3 = lane + 3u * LANES;
    let i4 = lane + 4u * LANES;
    let v0 = value(base, i0);
    let v1 = value(base, i1);
    let v2 = value(base, i2);
    let v3 = value(base, i3);
    let v4 = value(base, i4);
    sum = (difference(v0, i0, shift) + difference(v1, i1, shift)) + (difference(v2, i2, shift) + difference(v3, i3, shift)) + difference(v4, i4, shift);
#endif
    for (var i = lane + KEPT; i < c4; i += LANES) {
        sum += difference(value(base, i), i, shift);
    }
    let mean = shift + reduce_sum(lane, sum) * share;
    var squares = 0.0;
#ifdef WIDE
    squares = (square(v0, i0, mean) + square(v1, i1, mean)) + (square(v2, i2, mean) + square(v3, i3, mean)) + square(v4, i4, mean);
#endif
    for (var i = lane + KEPT; i < c4; i += LANES) {
        squares += square(value(base, i), i, mean);
    }
    let rstd = inverseSqrt(reduce_sum(lane, squares) * share + max(p.eps, 1e-12) * UNIT * UNIT);
#ifdef WIDE
    put(row, v0, i0, mean, rstd);
    put(row, v1, i1, mean, rstd);
    put(row, v2, i2, mean, rstd);
    put(row, v3, i3, mean, rstd);
    put(row, v4, i4, mean, rstd);
#endif
    for (var i = lane + KEPT; i < c4; i += LANES) {
        put(row, value(base, i), i, mean, rstd);
    }
}
