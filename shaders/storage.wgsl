// How activations are stored: four values of one pixel or token a load, in f16
// where F16 is defined, otherwise in f32. All arithmetic is f32. What a kernel writes
// is stored as what it reads, unless OUT16 or OUT32 says otherwise.

#ifdef F16
alias Act = vec4<f16>;
#else
alias Act = vec4<f32>;
#endif

#ifdef OUT16
alias Out = vec4<f16>;
#else
#ifdef OUT32
alias Out = vec4<f32>;
#else
alias Out = Act;
#endif
#endif

fn widen(x: Act) -> vec4<f32> {
    return vec4<f32>(x);
}

fn narrow(x: vec4<f32>) -> Out {
    return Out(x);
}
