// A bound that keeps what is infinite or not a number. `min`, `max` and `clamp` may
// return their other operand for NaN, and compilers make the same of a comparison
// with a choice (Mesa) or assume that there is no NaN (Metal's fast mathematics): a
// broken weight would give a sound picture's numbers. So it works on the bits, where
// finite magnitudes are ordered as whole numbers and the others lie above them.

const INFINITE: u32 = 0x7f800000u;

// x, brought to -most..most where it is finite. `most` is positive and finite.
fn bounded(x: vec4<f32>, most: f32) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(x);
    let first = bitcast<u32>(most) + 1u;
    let beyond = (bits & vec4(0x7fffffffu)) - vec4(first) < vec4(INFINITE - first);
    let limit = bitcast<vec4<f32>>((bits & vec4(0x80000000u)) | vec4(bitcast<u32>(most)));
    return select(x, limit, beyond);
}
