// The size of a subgroup of a pipeline that asks for none, written to sizes[place].
//
// Bindings: sizes u32. One workgroup, as large as those of product_coop.wgsl.

struct Params {
    place: u32,
}

@group(0) @binding(0) var<storage, read_write> sizes: array<u32>;
@group(0) @binding(1) var<uniform> p: Params;

@compute @workgroup_size(128)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(subgroup_size) size: u32) {
    if thread == 0u {
        sizes[p.place] = size;
    }
}
