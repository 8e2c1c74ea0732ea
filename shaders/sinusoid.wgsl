// Sinusoidal embeddings of scalars (Vaswani et al., 2017; diffusers'
// get_timestep_embedding): half of the columns cosines, half sines, of
// value * 10000^(-i / (half - shift)).
//
// The frequencies come with the parameters: Vulkan allows exp an error that
// grows with its argument, and a timestep of thousands multiplies it.
//
// Bindings: values f32 [count]; y activations [rows, columns], where row r
// holds values r * per_row .. and each value takes `dim` columns. One
// invocation a column pair. The range reduction is done here: Vulkan promises
// the accuracy of sin and cos between -pi and pi only, and timesteps and sizes
// reach thousands.

#import storage
#import bounded

struct Params {
    frequencies: array<vec4<f32>, 512>,
    count: u32,     // values in all
    per_row: u32,
    dim4: u32,      // dim / 4
    y_pitch: u32,   // vec4s
    cos_first: u32,
}

@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<Act>;
@group(0) @binding(2) var<uniform> p: Params;

// Cephes: reduction by multiples of pi/2 in three parts, then polynomials on
// [-pi/4, pi/4]. Returns (sin, cos).
fn sincos(x: f32) -> vec2<f32> {
    let n = round(x * 0.6366197723675814);
    var r = fma(n, -1.5703125, x);
    r = fma(n, -4.837512969970703e-4, r);
    r = fma(n, -7.54978995489188e-8, r);
    // Within pi/4, unless x is so large that the reduction is off.
    r = bounded(vec4(r), 1.0).x;
    let q = r * r;
    let s = r + r * q * (-1.6666654611e-1 + q * (8.3321608736e-3 - q * 1.9515295891e-4));
    let c = 1.0 - 0.5 * q + q * q * (4.166664568298827e-2 + q * (-1.388731625493765e-3 + q * 2.443315711809948e-5));
    let turn = i32(n) & 3;
    let swapped = select(vec2(s, c), vec2(c, s), (turn & 1) != 0);
    return swapped * vec2(select(1.0, -1.0, turn >= 2), select(1.0, -1.0, turn == 1 || turn == 2));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i4 = group.x * 8u + local.x;
    let half4 = p.dim4 / 2u;
    let which = group.y;
    if i4 >= half4 || which >= p.count {
        return;
    }
    let value = values[which];
    var sines = vec4(0.0);
    var cosines = vec4(0.0);
    let angles = value * p.frequencies[i4];
    for (var j = 0u; j < 4u; j++) {
        let sc = sincos(angles[j]);
        sines[j] = sc.x;
        cosines[j] = sc.y;
    }
    let base = which / p.per_row * p.y_pitch + which % p.per_row * p.dim4 + i4;
    let first = p.cos_first != 0u;
    y[base] = narrow(select(sines, cosines, first));
    y[base + half4] = narrow(select(cosines, sines, first));
}
