// Softmax of each row of scores, in place, in f32: x = exp(x - max) / sum.
// Columns from `count` on, and with `causal` those after the row's own query,
// get 0, so that a product over the padded row needs no mask.
//
// Bindings: x activations [rows, pitch]. Row r belongs to query
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

@group(0) @binding(0) var<storage, read_write> x: array<Act>;
@group(0) @binding(1) var<uniform> p: Params;

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
    var top = -1e30;
    for (var i = lane; i < live; i += LANES) {
        let keep = inside(i, count);
        top = max(top, max4(select(vec4(-1e30), widen(x[base + i]), keep > vec4(0.0))));
    }
    top = reduce_max(lane, top);
    var sum = 0.0;
    for (var i = lane; i < live; i += LANES) {
        sum += sum4(exp(max(widen(x[base + i]) - top, vec4(-80.0))) * inside(i, count));
    }
    let scale = 1.0 / reduce_sum(lane, sum);
    for (var i = lane; i < p.c4; i += LANES) {
        let e = exp(clamp(widen(x[base + i]) - top, vec4(-80.0), vec4(0.0))) * scale;
        x[base + i] = narrow(select(vec4(0.0), e, inside(i, count) > vec4(0.0)));
    }
}
