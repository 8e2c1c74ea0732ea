// Rows to columns, head by head: y[z, d, t] = x[batch, t, head * D + d], which
// turns keys into the right operand of a product. z = batch * heads + head.
//
// Bindings: x [batch, T, pitch] activations; y [batch * heads, D, T rounded up
// to 8] activations, padding zero. D a multiple of 4. One invocation a 4x4
// block; grid (T/4, D/4, z).

#import storage

struct Params {
    rows: u32,      // T
    d4: u32,
    pitch: u32,     // vec4s
    offset: u32,
    batch: u32,     // vec4s from batch to batch
    heads: u32,
    y_pitch: u32,   // vec4s
}

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read_write> y: array<Act>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let t4 = group.x * 8u + local.x;
    if t4 >= p.y_pitch {
        return;
    }
    let batch = group.z / p.heads;
    let base = p.offset + batch * p.batch + (group.z - batch * p.heads) * p.d4 + group.y;
#repeat i 4
    let live${i} = 4u * t4 + ${i}u < p.rows;
    let x${i} = select(vec4(0.0), widen(x[base + min(4u * t4 + ${i}u, p.rows - 1u) * p.pitch]), live${i});
#end
    let block = transpose(mat4x4<f32>(x0, x1, x2, x3));
#repeat j 4
    y[((group.z * p.d4 + group.y) * 4u + ${j}u) * p.y_pitch + t4] = narrow(block[${j}]);
#end
}
