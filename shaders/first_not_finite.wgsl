// The first step at which a value is not finite: found = min(found, number of the
// step) where one of x is NaN or infinite. The exponents' bits are compared, since
// compilers may take it that x == x.
//
// Bindings: x f32 [count], read as bits; step the step's numbers; found u32, one word. count in values, offset in vec4s. One
// invocation a vec4; what lies in the last vec4 beyond count does not matter.

#import step

override WG: u32 = 64u;

struct Params {
    count: u32,
    offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> step: Step;
@group(0) @binding(2) var<storage, read_write> found: atomic<u32>;
@group(0) @binding(3) var<uniform> p: Params;

const EXPONENT: u32 = 0x7f800000u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * grid.x + group.x) * WG + local.x;
    if 4u * i >= p.count {
        return;
    }
    let bad = (x[p.offset + i] & vec4(EXPONENT)) == vec4(EXPONENT);
    let counted = vec4(4u * i) + vec4(0u, 1u, 2u, 3u) < vec4(p.count);
    if any(bad & counted) {
        atomicMin(&found, u32(step.number));
    }
}
