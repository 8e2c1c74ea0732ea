// The sum of the parts of a product (see SPLIT in product.wgsl), and its epilogue.
//
// Bindings: a f32 [parts, M, N] of whole tiles, rows at a_pitch, parts at a_batch
// vec4s; the others as in product.wgsl. One invocation makes 8 columns of a row.

#import product

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let unit = (group.y * grid.x + group.x) * 64u + thread;
    let row = unit / p.n8;
    let n8 = unit % p.n8;
    if row >= p.m {
        return;
    }
    var sum = Eight(vec4(0.0), vec4(0.0));
    for (var part = 0u; part < p.split; part++) {
        let at = part * p.a_batch + row * p.a_pitch + 2u * n8;
        sum.lo += a[at];
        sum.hi += a[at + 1u];
    }
    finish(row, n8, 0u, sum);
}
