// Group norm, first of three passes: mean and sum of squared differences of
// every channel over a slab of rows, in one reading (Welford's quantities, from
// sums shifted by the slab's first value, which keeps the difference of large
// numbers out of the variance), in the units of moments.wgsl.
//
// Bindings: x [batch, rows, C] activations; stats f32 [batch, slabs, C/4, 2]
// vec4s: mean, then the squares. Grid: (C/4 over `columns`, slabs, batch).
// WIDE: a workgroup has `columns` <= 128 vec4s of a row, as many rows at once as its
// 128 lanes are enough for; otherwise an invocation a column of `columns` = 8.

#import storage
#import moments

struct Params {
    rows: u32,       // of this dispatch, in one picture
    c4: u32,
    pitch: u32,      // vec4s
    offset: u32,
    slab: u32,       // rows a slab
    slabs: u32,      // of the whole picture
    first_slab: u32, // of this dispatch
    batch: u32,      // vec4s from picture to picture
    columns: u32,    // vec4s of a row that a workgroup takes
}

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read_write> stats: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> p: Params;

// Writes what the sums of `n` rows' differences to `shift`, and of their squares, say.
fn put(group: vec3<u32>, c: u32, n: f32, shift: vec4<f32>, sum: vec4<f32>, squares: vec4<f32>) {
    let at = ((group.z * p.slabs + p.first_slab + group.y) * p.c4 + c) * 2u;
    stats[at] = shift + sum / n;
    stats[at + 1u] = max(squares - sum * sum / n, vec4(0.0));
}

#ifdef WIDE
const STATS_LANES: u32 = 128u;
var<workgroup> sums: array<vec4<f32>, STATS_LANES>;
var<workgroup> squared: array<vec4<f32>, STATS_LANES>;

@compute @workgroup_size(STATS_LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at_once = STATS_LANES / p.columns;
    let first = lane / p.columns;
    let column = group.x * p.columns + lane % p.columns;
    let c = min(column, p.c4 - 1u);
    let alive = first < at_once && column < p.c4;
    let start = group.y * p.slab;
    let end = min(start + p.slab, p.rows);
    let base = p.offset + group.z * p.batch + c;
    let shift = scaled(widen(x[base + start * p.pitch]));
    var sum = vec4(0.0);
    var squares = vec4(0.0);
    var row = select(end, start + first, alive);
    // Four readings are under way at a time.
    for (; row + 3u * at_once < end; row += 4u * at_once) {
        let at = base + row * p.pitch;
        let step = at_once * p.pitch;
        let v0 = widen(x[at]);
        let v1 = widen(x[at + step]);
        let v2 = widen(x[at + 2u * step]);
        let v3 = widen(x[at + 3u * step]);
        let d0 = scaled(v0) - shift;
        let d1 = scaled(v1) - shift;
        let d2 = scaled(v2) - shift;
        let d3 = scaled(v3) - shift;
        sum += (d0 + d1) + (d2 + d3);
        squares = fma(d0, d0, fma(d1, d1, fma(d2, d2, fma(d3, d3, squares))));
    }
    for (; row < end; row += at_once) {
        let d = scaled(widen(x[base + row * p.pitch])) - shift;
        sum += d;
        squares = fma(d, d, squares);
    }
    sums[lane] = sum;
    squared[lane] = squares;
    workgroupBarrier();
    if first == 0u && column < p.c4 {
        for (var i = 1u; i < at_once; i++) {
            sum += sums[lane + i * p.columns];
            squares += squared[lane + i * p.columns];
        }
        put(group, column, f32(end - start), shift, sum, squares);
    }
}
#else
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = group.x * 8u + lane;
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
    put(group, c, f32(end - start), shift, sum, squares);
}
#endif
