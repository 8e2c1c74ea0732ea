// Group norm, second of three passes: joins the slabs' and channels' statistics
// of a group (Chan et al., 1979) and turns them into a factor and a term for
// every channel: factor = gamma / sqrt(var + eps), term = beta - mean * factor.
//
// Bindings: stats as group_norm_stats.wgsl writes them, read as f32, in the units of
// moments.wgsl, which factors and terms are not; gamma and
// beta f32 [C]; affine f32 [batch, 2, C rounded up to 4], padding zero.
// WIDE: a workgroup a group of a picture; otherwise an invocation.

#import reduce
#import moments

struct Params {
    groups: u32,     // batch * groups
    per_batch: u32,  // groups of a picture
    channels: u32,   // of a group
    c4: u32,
    slabs: u32,
    slab: u32,       // rows a slab
    rows: u32,       // of a picture
    eps: f32,
}

@group(0) @binding(0) var<storage, read> stats: array<f32>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read_write> affine: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

// Four entries of a group's statistics, so that four readings are under way at a time:
// where they begin in `stats`, and how many rows they speak of. Those beyond the last
// entry are that one again, of no rows.
struct Four {
    at: vec4<u32>,
    rows: vec4<f32>,
}

fn four(batch: u32, first: u32, i: u32, entries: u32) -> Four {
    let which = vec4(i) + vec4(0u, 1u, 2u, 3u) * LANES;
    let known = min(which, vec4(entries - 1u));
    let slab = known / p.channels;
    let c = first + known % p.channels;
    let rows = vec4<f32>(min(vec4(p.slab), p.rows - slab * p.slab));
    var these: Four;
    these.at = ((batch * p.slabs + slab) * p.c4 + c / 4u) * 8u + c % 4u;
    these.rows = select(vec4(0.0), rows, which < vec4(entries));
    return these;
}

fn means(at: vec4<u32>) -> vec4<f32> {
    return vec4(stats[at.x], stats[at.y], stats[at.z], stats[at.w]);
}

fn with4(sum: f32, x: vec4<f32>) -> f32 {
    return (((sum + x.x) + x.y) + x.z) + x.w;
}

#ifdef WIDE
@compute @workgroup_size(64)
#else
@compute @workgroup_size(8)
#endif
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let which = row_of(group, grid, thread);
    let lane = lane_of(thread);
    if which >= p.groups {
        return;
    }
    let batch = which / p.per_batch;
    let first = (which - batch * p.per_batch) * p.channels;
    let entries = p.slabs * p.channels;
    let share = 1.0 / (f32(p.rows) * f32(p.channels));
    // Sums run over differences to one channel's mean, so that a group far from
    // zero keeps its digits.
    let shift = stats[(batch * p.slabs * p.c4 + first / 4u) * 8u + first % 4u];
    var sum = 0.0;
    for (var i = lane; i < entries; i += 4u * LANES) {
        let these = four(batch, first, i, entries);
        sum = with4(sum, these.rows * (means(these.at) - shift));
    }
    let mean = shift + reduce_sum(lane, sum) * share;
    var squares = 0.0;
    for (var i = lane; i < entries; i += 4u * LANES) {
        let these = four(batch, first, i, entries);
        let d = means(these.at) - mean;
        let own = select(vec4(0.0), means(these.at + 4u), these.rows > vec4(0.0));
        squares = with4(squares, own + these.rows * d * d);
    }
    let rstd = inverseSqrt(reduce_sum(lane, squares) * share + max(p.eps, 1e-12) * UNIT * UNIT);
    let base = batch * p.c4 * 8u;
    for (var i = lane; i < p.channels; i += LANES) {
        let factor = rstd * gamma[first + i];
        affine[base + first + i] = factor * UNIT;
        affine[base + p.c4 * 4u + first + i] = beta[first + i] - mean * factor;
    }
    if first + p.channels == p.per_batch * p.channels {
        for (var c = first + p.channels + lane; c < p.c4 * 4u; c += LANES) {
            affine[base + c] = 0.0;
            affine[base + p.c4 * 4u + c] = 0.0;
        }
    }
}
