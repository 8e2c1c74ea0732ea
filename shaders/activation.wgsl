// Activations, four values at a time. `exp` gets a clamped argument, since
// Metal's fast mathematics promises nothing about infinities.

const NONE: u32 = 0u;
const SILU: u32 = 1u;
const GELU: u32 = 2u;
const QUICK_GELU: u32 = 3u;
const RELU: u32 = 4u;
const SOFT_CLAMP: u32 = 5u;

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(min(-x, vec4(80.0))));
}

// erf by Abramowitz and Stegun 7.1.26, |error| <= 1.5e-7: WGSL has none.
fn erf(x: vec4<f32>) -> vec4<f32> {
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - poly * exp(-min(a * a, vec4(80.0))));
}

fn gelu(x: vec4<f32>) -> vec4<f32> {
    return 0.5 * x * (1.0 + erf(x * 0.7071067811865476));
}

// 3 tanh(x / 3), with an exponent that cannot overflow.
fn soft_clamp(x: vec4<f32>) -> vec4<f32> {
    return 3.0 - 6.0 / (1.0 + exp(clamp(x * 0.6666666666666666, vec4(-80.0), vec4(80.0))));
}

fn activate(kind: u32, x: vec4<f32>) -> vec4<f32> {
    switch kind {
        case SILU: { return x * sigmoid(x); }
        case GELU: { return gelu(x); }
        case QUICK_GELU: { return x * sigmoid(1.702 * x); }
        case RELU: { return max(x, vec4(0.0)); }
        case SOFT_CLAMP: { return soft_clamp(x); }
        default: { return x; }
    }
}
