//! Plain CPU twins: what the kernels compute.

/// The CPU twin of [`super::transpose`]; `v` is `[n, keys, heads * d]`.
pub fn twin_transpose(v: &[f32], [n, keys]: [usize; 2], [heads, d]: [usize; 2]) -> Vec<f32> {
    let columns = keys.next_multiple_of(8);
    let mut turned = vec![0f32; n * heads * d * columns];
    for (i, value) in v.iter().enumerate() {
        let (row, c) = (i / (heads * d), i % (heads * d));
        let (batch, key) = (row / keys, row % keys);
        turned[((batch * heads * d) + c) * columns + key] = *value;
    }
    turned
}

/// The CPU twin, in f64: q `[n, queries, heads * d]`, k and v `[n, keys, heads * d]`.
pub fn twin(
    [q, k, v]: [&[f32]; 3],
    [n, queries, keys]: [usize; 3],
    [heads, d]: [usize; 2],
    causal: bool,
) -> Vec<f32> {
    let c = heads * d;
    let mut out = vec![0f32; n * queries * c];
    for b in 0..n {
        for h in 0..heads {
            for i in 0..queries {
                let row = &q[(b * queries + i) * c + h * d..][..d];
                let seen = if causal { keys.min(i + 1) } else { keys };
                let scores: Vec<f64> = (0..seen)
                    .map(|j| {
                        let key = &k[(b * keys + j) * c + h * d..][..d];
                        let dot: f64 = row
                            .iter()
                            .zip(key)
                            .map(|(x, y)| f64::from(*x) * f64::from(*y))
                            .sum();
                        dot / (d as f64).sqrt()
                    })
                    .collect();
                let top = scores.iter().fold(f64::MIN, |a, b| a.max(*b));
                let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut mix = vec![0f64; d];
                for (j, weight) in weights.iter().enumerate() {
                    let value = &v[(b * keys + j) * c + h * d..][..d];
                    for (m, x) in mix.iter_mut().zip(value) {
                        *m += weight * f64::from(*x);
                    }
                }
                for (o, m) in out[(b * queries + i) * c + h * d..][..d]
                    .iter_mut()
                    .zip(mix)
                {
                    *o = (m / sum) as f32;
                }
            }
        }
    }
    out
}
