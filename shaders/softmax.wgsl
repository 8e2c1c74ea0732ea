// Softmax of each row of scores, in f32: exp(x - max) / sum, in place, or with OUT16 to
// y in f16.
// Columns from `count` on, and with `causal` those after the row's own query,
// get 0, so that a product over the padded row needs no mask. They may hold
// anything finite, far above the row's own scores: they take no part in it. Scores
// 80 below the largest get 0. A score that is not a number stays so, and with it
// what is made of its row.
//
// Bindings: x f32 [rows, pitch]; y f16, as x, with OUT16. Row r belongs to query
// first + r % rows_per_head. WIDE: a workgroup a row; otherwise an invocation.

#import storage
#import reduce

struct Params {
    rows: u32,
    count: u32,
    pitch: u32,          // vec4s
    rows_per_head: u32,
    first: u32,
    causal: u32,
    offset: u32,         // vec4s
    c4: u32,             // of a row, padding included
}

#ifdef OUT16
@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read_write> y: array<Out>;
@group(0) @binding(2) var<uniform> p: Params;

fn put(at: u32, value: vec4<f32>) {
    y[at] = narrow(value);
}
#else
@group(0) @binding(0) var<storage, read_write> x: array<Act>;
@group(0) @binding(1) var<uniform> p: Params;

fn put(at: u32, value: vec4<f32>) {
    x[at] = narrow(value);
}
#endif

const LOWEST: f32 = -0x1.fffffep127;

// Weights of vec4 number i before they are divided by their sum.
fn weights(at: u32, i: u32, count: u32, top: f32) -> vec4<f32> {
    let keep = inside(i, count);
    let drop = select(vec4(-100.0), widen(x[at + i]) - top, keep);
    return select(exp(drop), vec4(0.0), drop < vec4(-80.0));
}

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
    let base = p.offset + row * p.pitch;
    var count = p.count;
    if p.causal != 0u {
        count = min(count, p.first + row % p.rows_per_head + 1u);
    }
    let live = (count + 3u) / 4u;
    var top = LOWEST;
    for (var i = lane; i < live; i += LANES) {
        top = max(top, max4(select(vec4(LOWEST), widen(x[base + i]), inside(i, count))));
    }
    top = reduce_max(lane, top);
    var sum = 0.0;
    for (var i = lane; i < live; i += LANES) {
        sum += sum4(weights(base, i, count, top));
    }
    sum = reduce_sum(lane, sum);
    // The largest score counts 1, so the sum is no less, unless there are no scores.
    let scale = select(1.0, 1.0 / sum, count > 0u);
    for (var i = lane; i < p.c4; i += LANES) {
        put(base + i, weights(base, i, count, top) * scale);
    }
}
