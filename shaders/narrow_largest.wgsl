// The largest magnitude in every chunk of rows, the first step of narrowing (see
// narrow.wgsl).
//
// Bindings: x f32 [rows, C]; largest f32 [chunks]. WIDE: a workgroup a chunk of rows;
// otherwise an invocation. What is infinite or not a number may or may not count: it
// stays what it is in narrow.wgsl.

#import storage
#import reduce

struct Params {
    rows: u32,      // of this dispatch
    c4: u32,
    pitch: u32,     // vec4s
    offset: u32,
    chunk: u32,     // rows of a chunk
    first: u32,     // the first chunk
}

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read_write> largest: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

#ifdef WIDE
@compute @workgroup_size(64)
#else
@compute @workgroup_size(8)
#endif
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let chunk = row_of(group, grid, thread);
    let lane = lane_of(thread);
    let begin = chunk * p.chunk;
    if begin >= p.rows {
        return;
    }
    let end = min(begin + p.chunk, p.rows);
    var top = 0.0;
    for (var i = begin * p.c4 + lane; i < end * p.c4; i += LANES) {
        let row = i / p.c4;
        top = max(top, max4(abs(widen(x[p.offset + row * p.pitch + i - row * p.c4]))));
    }
    top = reduce_max(lane, top);
    if lane == 0u {
        largest[p.first + chunk] = top;
    }
}
