// A scheduler's step: linear combinations of the state tensors. First up to four
// history tensors are written, in their order, each seeing what those before it
// wrote; then the latents become the step's update. Schedulers work out the
// factors (src/schedule).
//
//   row:  value = x·sample + e·output + n·noise + sum over j of h[j]·history[j],
//         clipped to -clip..clip where clip is not 0
//
// Bindings: x latents f32 [pictures, pixels, C/4], changed in place; e the guided
// prediction and n this step's noise, as x; h history f32 [slots, as x]; step the
// step's numbers. A factor of 0 reads nothing, so noise and history that a scheduler
// does not use may be missing (see Params): then their factors count for nothing.
// One invocation a vec4. What is not finite is not clipped: see bounded.wgsl.

#import step
#import bounded

override WG: u32 = 64u;

struct Params {
    count: u32,  // vec4s of x
    first: u32,  // stores to do: from `first`, counted from 0,
    last: u32,   // to before `last` or the step's own count
    finish: u32, // 1: then the update
    noise: u32,  // 1: n is there
    slots: u32,  // history tensors that h holds, up to SLOTS
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> e: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> n: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> h: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> step: Step;
@group(0) @binding(5) var<uniform> p: Params;

fn combined(terms: Row, at: u32) -> vec4<f32> {
    var row = terms;
    var value = row.sample * x[at] + row.output * e[at];
    if row.noise != 0.0 && p.noise != 0u {
        value += row.noise * n[at];
    }
    for (var j = 0u; j < SLOTS; j++) {
        let factor = row.history[j];
        if factor != 0.0 && j < p.slots {
            value += factor * h[j * p.count + at];
        }
    }
    if row.clip > 0.0 {
        value = bounded(value, row.clip);
    }
    return value;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let at = (group.y * grid.x + group.x) * WG + local.x;
    if at >= p.count {
        return;
    }
    let last = min(min(p.last, STORES), u32(step.stores));
    for (var i = p.first; i < last; i++) {
        let slot = u32(step.store[i].slot);
        if slot < p.slots {
            h[slot * p.count + at] = combined(step.store[i], at);
        }
    }
    if p.finish != 0u {
        x[at] = combined(step.update, at);
    }
}
