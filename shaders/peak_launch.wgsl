// The least that a dispatch can do: adds p.turns to the numbers of one workgroup. Those
// of one buffer wait for each other, those of several do not.
//
// y [32] u32 (read and written).
#import peak_params

@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@group(0) @binding(1) var<uniform> p: Params;

@compute @workgroup_size(32)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    y[id.x % 32u] += p.turns;
}
