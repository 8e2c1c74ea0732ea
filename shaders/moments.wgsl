// Values as means and variances take them: in units of 2^40, so that sums of squares
// stay within f32 for values up to MOST; larger ones count as MOST. A power of two
// costs no digits. Epsilons (1e-12 at the least) go in units of its square.

#import bounded

const UNIT: f32 = 0x1p-40;
const MOST: f32 = 0x1p88;

// f16 holds nothing that large.
fn scaled(x: vec4<f32>) -> vec4<f32> {
#ifdef F16
    return x * UNIT;
#else
    return bounded(x, MOST) * UNIT;
#endif
}
