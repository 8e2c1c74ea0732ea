// Classifier-free guidance (Ho and Salimans, 2022): y = u + s w (t - u), where the
// batch holds the negative prompt's prediction u first; without it y = t. Of a
// prompt of several parts (Liu et al. 2022), each with its weight w, every further
// one is added: y += s w (t - u).
//
// Bindings: u, t predictions, activations [pixels, C/4], bound to parts of the
// batch (or to several calls' outputs); y f32; step the step's numbers,
// whose guidance_scale is s.

#import storage
#import step

override WG: u32 = 64u;

struct Params {
    count: u32,
    guided: u32, // 0 without u, 1 for the first part, 2 for further ones
    u_offset: u32, // vec4s
    t_offset: u32,
    weight: f32,
    unused: u32,
    unused_2: u32,
    unused_3: u32,
}

@group(0) @binding(0) var<storage, read> u: array<Act>;
@group(0) @binding(1) var<storage, read> t: array<Act>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let at = (group.y * grid.x + group.x) * WG + local.x;
    if at >= p.count {
        return;
    }
    var value = widen(t[p.t_offset + at]);
    if p.guided != 0u {
        let negative = widen(u[p.u_offset + at]);
        var start = negative;
        if p.guided == 2u {
            start = y[at];
        }
        let scale = step.guidance_scale * p.weight;
        // At scale 1 the prediction itself, to the bit, as where guidance is off.
        if p.guided == 2u || scale != 1.0 {
            value = start + scale * (value - negative);
        }
    }
    y[at] = value;
}
