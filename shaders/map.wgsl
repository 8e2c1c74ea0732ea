// One reading, one writing: y = act(x) + b, over rows at pitches of their own.
// Serves activations, sums, copies and the parts of a concatenation.
//
// Bindings: x, y [rows, C] activations; b [rows / rows_per_b, C] where there is
// one. One invocation a vec4.

#import storage
#import activation

override WG: u32 = 64u;

struct Params {
    rows: u32,
    c4: u32,
    x_pitch: u32,   // vec4s
    y_pitch: u32,
    b_pitch: u32,
    x_offset: u32,
    y_offset: u32,
    b_offset: u32,
    rows_per_b: u32,
    added: u32,     // 1: there is a b
    activation: u32,
    shared_rows: u32, // rows before row 0 that share its row of b
}

@group(0) @binding(0) var<storage, read> x: array<Act>;
@group(0) @binding(1) var<storage, read> b: array<Act>;
@group(0) @binding(2) var<storage, read_write> y: array<Act>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * grid.x + group.x) * WG + local.x;
    let row = i / p.c4;
    if row >= p.rows {
        return;
    }
    let c = i - row * p.c4;
    var value = activate(p.activation, widen(x[p.x_offset + row * p.x_pitch + c]));
    if p.added != 0u {
        value += widen(b[p.b_offset + (row + p.shared_rows) / p.rows_per_b * p.b_pitch + c]);
    }
    y[p.y_offset + row * p.y_pitch + c] = narrow(value);
}
