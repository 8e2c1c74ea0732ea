// How activations are stored: four values of one pixel or token a load, in f16
// where F16 is defined, otherwise in f32. All arithmetic is f32.

#ifdef F16
alias Act = vec4<f16>;
#else
alias Act = vec4<f32>;
#endif

fn widen(x: Act) -> vec4<f32> {
    return vec4<f32>(x);
}

fn narrow(x: vec4<f32>) -> Act {
    return Act(x);
}
