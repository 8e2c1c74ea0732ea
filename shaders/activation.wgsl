// Activations, four values at a time. `exp` gets a clamped argument and nothing on
// the way becomes infinite, since Metal's fast mathematics promises nothing about
// infinities. What is not a number stays so: see bounded.wgsl.

#import bounded

const NONE: u32 = 0u;
const SILU: u32 = 1u;
const GELU: u32 = 2u;
const QUICK_GELU: u32 = 3u;
const RELU: u32 = 4u;
const SOFT_CLAMP: u32 = 5u;

// 0 below -80, where a factor of 1e38 would make something of the true value.
fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    let e = exp(clamp(-x, vec4(-80.0), vec4(80.0)));
    return select(1.0 / (1.0 + e), vec4(0.0), x < vec4(-80.0));
}

// erf by Abramowitz and Stegun 7.1.26, |error| <= 1.5e-7: WGSL has none.
fn erf(x: vec4<f32>) -> vec4<f32> {
    // erf(6) is 1 in f32.
    let a = min(abs(x), vec4(6.0));
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - poly * exp(-a * a));
}

fn gelu(x: vec4<f32>) -> vec4<f32> {
    return 0.5 * x * (1.0 + erf(x * 0.7071067811865476));
}

// 3 tanh(x / 3), with an exponent that cannot overflow. NaN is put back: SwiftShader's
// exp makes a number of it.
fn soft_clamp(x: vec4<f32>) -> vec4<f32> {
    let y = 3.0 - 6.0 / (1.0 + exp(clamp(x * 0.6666666666666666, vec4(-80.0), vec4(80.0))));
    return select(y, x, (bitcast<vec4<u32>>(x) & vec4(0x7fffffffu)) > vec4(INFINITE));
}

// Zero where the sign bit is set, but not for NaN, whose bits lie above those of
// -infinity.
fn relu(x: vec4<f32>) -> vec4<f32> {
    let below = bitcast<vec4<u32>>(x) - vec4(0x80000000u) <= vec4(INFINITE);
    return select(x, vec4(0.0), below);
}

fn activate(kind: u32, x: vec4<f32>) -> vec4<f32> {
    switch kind {
        case SILU: { return x * sigmoid(x); }
        case GELU: { return gelu(x); }
        case QUICK_GELU: { return x * sigmoid(1.702 * clamp(x, vec4(-60.0), vec4(60.0))); }
        case RELU: { return relu(x); }
        case SOFT_CLAMP: { return soft_clamp(x); }
        default: { return x; }
    }
}
