// Dynamic thresholding (Saharia et al. 2022, section 2.3): for every picture the
// quantile s of the absolute values, linear between the two nearest, raised to
// 1, then lowered to `most` (as torch's clamp); then x = clamp(x, -s, s) / s, what
// is not finite apart (see bounded.wgsl).
//
// The order statistic is found exactly, bit by bit from the top: positive floats
// are ordered as their bits are. 31 passes over a picture's latents.
//
// Bindings: x history f32 [slots, pictures, count], of which the slot of the step's
// first store is changed in place; step the step's numbers, whose threshold_ratio
// and threshold_most are the quantile and `most`. count in vec4s; channels must be a multiple of 4.
// A workgroup a picture, on every adapter (WIDE): Mesa's CPU driver ends an
// invocation's loops after 65,535 rounds in all, which one for 1024x1024 pixels
// would exceed.

#import reduce
#import step
#import bounded

struct Params {
    pictures: u32,
    count: u32,
    slots: u32, // history tensors that x holds
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> step: Step;
@group(0) @binding(2) var<uniform> p: Params;

// How many of a picture's absolute values have bits below `bits`. Counts are
// exact in f32: a picture has fewer than 2^24 values.
fn below(base: u32, lane: u32, bits: u32) -> f32 {
    var count = 0.0;
    for (var i = lane; i < p.count; i += LANES) {
        let less = bitcast<vec4<u32>>(abs(x[base + i])) < vec4(bits);
        count += sum4(select(vec4(0.0), vec4(1.0), less));
    }
    return reduce_sum(lane, count);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let picture = row_of(group, grid, thread);
    let lane = lane_of(thread);
    if picture >= p.pictures {
        return;
    }
    let slot = min(u32(step.store[0].slot), p.slots - 1u);
    let base = (slot * p.pictures + picture) * p.count;
    let place = step.threshold_ratio * f32(4u * p.count - 1u);
    let k = floor(place);
    // The largest bits with at most k values below: those of value number k.
    var bits = 0u;
    for (var bit = 31u; bit > 0u; bit--) {
        let candidate = bits | (1u << (bit - 1u));
        if below(base, lane, candidate) <= k {
            bits = candidate;
        }
    }
    let low = bitcast<f32>(bits);
    // Value number k + 1: the same again, or the next larger.
    var next = -3.0e38;
    for (var i = lane; i < p.count; i += LANES) {
        let values = abs(x[base + i]);
        next = max(next, max4(select(vec4(-3.0e38), -values, values > vec4(low))));
    }
    next = -reduce_max(lane, next);
    let repeated = below(base, lane, bits + 1u) >= k + 2.0;
    let high = select(next, low, repeated || next > 1.0e38);
    let most = max(step.threshold_most, 1e-30);
    let level = min(max(low + (place - k) * (high - low), 1.0), most);
    // Beyond 2^126 a divisor's reciprocal is no normal number, and WGSL promises nothing
    // of the quotient (0 on an NVIDIA H200): both sides are made smaller, which is exact.
    let unit = select(1.0, 5.421010862427522e-20, level > 1.0e19);
    for (var i = lane; i < p.count; i += LANES) {
        x[base + i] = (bounded(x[base + i], level) * unit) / (level * unit);
    }
}
