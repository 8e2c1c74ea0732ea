// Layer norm over the channels of each row: y = (x - mean) / sqrt(var + eps) *
// gamma + beta, statistics in f32, the variance from the differences to the
// mean (Ba et al., 2016), in the units of moments.wgsl. Sums run over differences to
// the row's first value, so that a constant row has no variance.
//
// Bindings: x [rows, C] activations, y as x, gamma and beta f32 [C], padded with
// zeros to vec4s, which makes the padding of y zero. WIDE: a workgroup ROWS rows, up to
// four, so that one reading of gamma and beta and one barrier serve them all; its lanes
// keep the first five vec4s of each, 1280 channels in all, and read the others three
// times. Otherwise an invocation a row.
//
// With one row a workgroup it did 904 GB/s in the UNet on an NVIDIA H200 (docs/gpu.md),
// of 4147. Four rows there (2026-11-27): 1720 GB/s at 8192x640 and 1908 at 2048x1280
// alone (12.2 and 5.5 us), but 16 us a dispatch in a step, as with one. Rejected: a
// subgroup a row with subgroupAdd (11.0 and 6.5 us alone).
// By Mesa 26.1.6's compilers, f16, four rows, 2026-11-26: RDNA3 navi31 108 registers,
// inverse throughput 1407 (3461 where f16 values were bounded too); GA102 (NVK) 144
// registers. DG2 spills 50 with four rows and none with two, which it is given.

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

// Of vec4 number i, `v`: the sum of the differences to `shift`, and that of the squares
// of those to `mean`.
fn difference(v: vec4<f32>, i: u32, shift: f32) -> f32 {
    return sum4(select(vec4(0.0), v - shift, inside(i, p.count)));
}

fn square(v: vec4<f32>, i: u32, mean: f32) -> f32 {
    let d = select(vec4(0.0), v - mean, inside(i, p.count));
    return dot(d, d);
}

// Vec4 number i of the row that begins at `base`, or its last.
fn value(base: u32, i: u32) -> vec4<f32> {
    return scaled(widen(x[base + min(i, (p.count + 3u) / 4u - 1u)]));
}

#ifdef WIDE
const KEPT: u32 = 5u * LANES;

// What a lane keeps of a row: f16 as it is, in half the registers, else the scaled
// values.
#ifdef F16
fn keep(x: Act) -> Act {
    return x;
}
fn kept(x: Act) -> vec4<f32> {
    return scaled(widen(x));
}
#else
fn keep(x: Act) -> Act {
    return scaled(x);
}
fn kept(x: Act) -> vec4<f32> {
    return x;
}
#endif

var<workgroup> meeting_rows: array<vec4<f32>, 64>;
var<workgroup> eighth_rows: array<vec4<f32>, 8>;

// The sums over the lanes, row by row; as reduce_sum.
fn reduce_rows(lane: u32, x: vec4<f32>) -> vec4<f32> {
    meeting_rows[lane] = x;
    workgroupBarrier();
    if lane < 8u {
        var sum = meeting_rows[lane];
        for (var i = 1u; i < 8u; i++) {
            sum += meeting_rows[lane + 8u * i];
        }
        eighth_rows[lane] = sum;
    }
    workgroupBarrier();
    var sum = eighth_rows[0];
    for (var i = 1u; i < 8u; i++) {
        sum += eighth_rows[i];
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = row_of(group, grid, thread) * ${ROWS}u;
    let lane = lane_of(thread);
    if first >= p.rows {
        return;
    }
    let c4 = (p.count + 3u) / 4u;
    let share = 1.0 / f32(p.count);
    var shifts = vec4(0.0);
#repeat r ${ROWS}
    let base${r} = p.x_offset + min(first + ${r}u, p.rows - 1u) * p.x_pitch;
    shifts[${r}] = value(base${r}, 0u).x;
#end
#repeat i 5
    let i${i} = lane + ${i}u * LANES;
#repeat r ${ROWS}
    let x${r}_${i} = keep(x[base${r} + min(i${i}, c4 - 1u)]);
#end
#end
    var sums = vec4(0.0);
#repeat r ${ROWS}
#repeat i 5
    sums[${r}] += difference(kept(x${r}_${i}), i${i}, shifts[${r}]);
#end
#end
    for (var i = lane + KEPT; i < c4; i += LANES) {
#repeat r ${ROWS}
        sums[${r}] += difference(value(base${r}, i), i, shifts[${r}]);
#end
    }
    let means = shifts + reduce_rows(lane, sums) * share;
    var squares = vec4(0.0);
#repeat r ${ROWS}
#repeat i 5
    squares[${r}] += square(kept(x${r}_${i}), i${i}, means[${r}]);
#end
#end
    for (var i = lane + KEPT; i < c4; i += LANES) {
#repeat r ${ROWS}
        squares[${r}] += square(value(base${r}, i), i, means[${r}]);
#end
    }
    let rstd = inverseSqrt(reduce_rows(lane, squares) * share + max(p.eps, 1e-12) * UNIT * UNIT);
#repeat i 5
    if i${i} < c4 {
        let factor = gamma[i${i}];
        let term = beta[i${i}];
#repeat r ${ROWS}
        if first + ${r}u < p.rows {
            let v = (kept(x${r}_${i}) - means[${r}]) * rstd[${r}];
            y[p.y_offset + (first + ${r}u) * p.y_pitch + i${i}] = narrow(v * factor + term);
        }
#end
    }
#end
    for (var i = lane + KEPT; i < c4; i += LANES) {
        let factor = gamma[i];
        let term = beta[i];
#repeat r ${ROWS}
        if first + ${r}u < p.rows {
            let v = (value(base${r}, i) - means[${r}]) * rstd[${r}];
            y[p.y_offset + (first + ${r}u) * p.y_pitch + i] = narrow(v * factor + term);
        }
#end
    }
}
#else
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = row_of(group, grid, thread);
    if row >= p.rows {
        return;
    }
    let base = p.x_offset + row * p.x_pitch;
    let c4 = (p.count + 3u) / 4u;
    let share = 1.0 / f32(p.count);
    let shift = value(base, 0u).x;
    var sum = 0.0;
    for (var i = 0u; i < c4; i++) {
        sum += difference(value(base, i), i, shift);
    }
    let mean = shift + sum * share;
    var squares = 0.0;
    for (var i = 0u; i < c4; i++) {
        squares += square(value(base, i), i, mean);
    }
    let rstd = inverseSqrt(squares * share + max(p.eps, 1e-12) * UNIT * UNIT);
    for (var i = 0u; i < c4; i++) {
        y[p.y_offset + row * p.y_pitch + i] = narrow((value(base, i) - mean) * rstd * gamma[i] + beta[i]);
    }
}
#endif
