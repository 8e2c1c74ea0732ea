// A scheduler's step: linear combinations of the state tensors. First up to four
// history tensors are written, in their order, each seeing what those before it
// wrote; then the latents become the step's update. Schedulers work out the
// factors (src/schedule).
//
//   row:  value = x·sample + e·output + n·noise + sum over j of h[j]·history[j],
//         clipped to -clip..clip where clip is not 0
//
// Bindings: x latents f32 [pictures, pixels, C/4], changed in place; e the guided
// prediction and n this step's noise, as x; h history f32 [slots, as x]; step f32:
// [6] rows that store, from [12] on the rows, 12 numbers each: slot, clip, sample,
// output, noise, history (7). Row 0 is the update. A factor of 0 reads nothing, so
// tensors that a scheduler does not use may be of any size.
// One invocation a vec4.

override WG: u32 = 64u;

const HEADER: u32 = 12u;
const ROW: u32 = 12u;
const SLOTS: u32 = 7u;

struct Params {
    count: u32,  // vec4s of x
    first: u32,  // stores to do: from `first`, counted from 0,
    last: u32,   // to before `last` or the step's own count
    finish: u32, // 1: then the update
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> e: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> n: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> h: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> step: array<f32>;
@group(0) @binding(5) var<uniform> p: Params;

fn combined(row: u32, at: u32) -> vec4<f32> {
    let base = HEADER + row * ROW;
    var value = step[base + 2u] * x[at] + step[base + 3u] * e[at];
    let noise = step[base + 4u];
    if noise != 0.0 {
        value += noise * n[at];
    }
    for (var j = 0u; j < SLOTS; j++) {
        let factor = step[base + 5u + j];
        if factor != 0.0 {
            value += factor * h[j * p.count + at];
        }
    }
    let clip = step[base + 1u];
    if clip > 0.0 {
        value = clamp(value, vec4(-clip), vec4(clip));
    }
    return value;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let at = (group.y * grid.x + group.x) * WG + local.x;
    if at >= p.count {
        return;
    }
    let last = min(p.last, u32(step[6]));
    for (var i = p.first; i < last; i++) {
        let row = i + 1u;
        let slot = u32(step[HEADER + row * ROW]);
        h[slot * p.count + at] = combined(row, at);
    }
    if p.finish != 0u {
        x[at] = combined(0u, at);
    }
}
