// Guidance rescale (Lin et al. 2023, section 3.4): for every picture
// e = phi · e · std(t) / std(e) + (1 - phi) · e, standard deviations over all
// channels and pixels, from the differences to the mean. Values beyond MOST count as
// MOST; a prediction without any spread stays as it is.
//
// Bindings: t the prompt's prediction, activations [pictures, count]; e the guided
// prediction f32, as t, changed in place; step the step's numbers: where its
// guidance_rescale, phi, is 0 nothing is done. count in vec4s; channels must be a
// multiple of 4, so that there is no padding to count. A workgroup a picture, on
// every adapter (WIDE).

#import storage
#import reduce
#import step
#import bounded

// Its square, summed over all values of a picture, stays within f32.
const MOST: f32 = 0x1p48;

struct Params {
    pictures: u32,
    count: u32,
    t_offset: u32, // vec4s
}

@group(0) @binding(0) var<storage, read> t: array<Act>;
@group(0) @binding(1) var<storage, read_write> e: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let picture = row_of(group, grid, thread);
    let lane = lane_of(thread);
    let phi = step.guidance_rescale;
    if picture >= p.pictures || phi == 0.0 {
        return;
    }
    let t_base = p.t_offset + picture * p.count;
    let e_base = picture * p.count;
    let share = 1.0 / f32(4u * p.count);
    var t_sum = 0.0;
    var e_sum = 0.0;
    for (var i = lane; i < p.count; i += LANES) {
        t_sum += sum4(bounded(widen(t[t_base + i]), MOST));
        e_sum += sum4(bounded(e[e_base + i], MOST));
    }
    let t_mean = reduce_sum(lane, t_sum) * share;
    let e_mean = reduce_sum(lane, e_sum) * share;
    var t_squares = 0.0;
    var e_squares = 0.0;
    for (var i = lane; i < p.count; i += LANES) {
        let a = bounded(widen(t[t_base + i]), MOST) - t_mean;
        let b = bounded(e[e_base + i], MOST) - e_mean;
        t_squares += dot(a, a);
        e_squares += dot(b, b);
    }
    let t_spread = reduce_sum(lane, t_squares);
    let e_spread = reduce_sum(lane, e_squares);
    // Two equal numbers of values: their count cancels.
    let ratio = select(sqrt(t_spread) / sqrt(e_spread), 1.0, e_spread == 0.0);
    let factor = phi * ratio + (1.0 - phi);
    for (var i = lane; i < p.count; i += LANES) {
        e[e_base + i] *= factor;
    }
}
