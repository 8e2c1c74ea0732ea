// Layer norm over the channels of each row: y = (x - mean) / sqrt(var + eps) *
// gamma + beta, statistics in f32, the variance from the differences to the
// mean (Ba et al., 2016), in the units of moments.wgsl. Sums run over differences to
// the row's first value, so that a constant row has no variance.
//
// Bindings: x [rows, C] activations, y as x, gamma and beta f32 [C], padded with
// zeros to vec4s, which makes the padding of y zero. WIDE: a workgroup a row;
// otherwise an invocation.

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

#ifdef WIDE
@compute @workgroup_size(64)
#else
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
    let shift = scaled(widen(x[base])).x;
    var sum = 0.0;
    for (var i = lane; i < c4; i += LANES) {
        sum += sum4(select(vec4(0.0), scaled(widen(x[base + i])) - shift, inside(i, p.count)));
    }
    let mean = shift + reduce_sum(lane, sum) * share;
    var squares = 0.0;
    for (var i = lane; i < c4; i += LANES) {
        let d = select(vec4(0.0), scaled(widen(x[base + i])) - mean, inside(i, p.count));
        squares += dot(d, d);
    }
    let rstd = inverseSqrt(reduce_sum(lane, squares) * share + max(p.eps, 1e-12) * UNIT * UNIT);
    for (var i = lane; i < c4; i += LANES) {
        y[p.y_offset + row * p.y_pitch + i] = narrow((scaled(widen(x[base + i])) - mean) * rstd * gamma[i] + beta[i]);
    }
}
