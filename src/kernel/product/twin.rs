//! The CPU twins of products and their epilogues, in f64.

use super::Conv;
use crate::kernel::Activation;

/// The CPU twin of a linear layer: `out[m][n] = sum_k a[m][k] w[k][n]`, in f64.
pub fn twin_linear(a: &[f32], w: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0f32; m * n];
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k)
                .map(|x| f64::from(a[i * k + x]) * f64::from(w[x * n + j]))
                .sum();
            out[i * n + j] = sum as f32;
        }
    }
    out
}

/// The numbers of an [`Epilogue`], for its CPU twin.
#[derive(Clone, Copy, Default)]
pub struct TwinEpilogue<'a> {
    pub scale: Option<f32>,
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    /// `[batch, n]`, with the rows that share a line of it.
    pub channel: Option<(&'a [f32], usize)>,
    pub geglu: bool,
    pub activation: Activation,
    /// As the result.
    pub residual: Option<&'a [f32]>,
}

/// The CPU twin of an epilogue over sums `[m, n]`. With `geglu` the second half of the
/// columns gates the first, which is the result.
pub fn twin_epilogue(sums: &[f32], n: usize, e: &TwinEpilogue<'_>) -> Vec<f32> {
    let before = |i: usize, sum: f32| {
        let bias = e.bias.map_or(0.0, |b| b[i % n]);
        let channel = e
            .channel
            .map_or(0.0, |(c, rows)| c[i / n / rows * n + i % n]);
        (sum + bias) * e.scale.unwrap_or(1.0) + channel
    };
    let values: Vec<f32> = sums
        .iter()
        .enumerate()
        .map(|(i, s)| before(i, *s))
        .collect();
    if e.geglu {
        return values
            .chunks_exact(n)
            .flat_map(|row| {
                let (value, gate) = row.split_at(n / 2);
                let gated = |(v, g): (&f32, &f32)| v * Activation::Gelu.apply(*g);
                value.iter().zip(gate).map(gated)
            })
            .collect();
    }
    values
        .iter()
        .enumerate()
        .map(|(i, v)| e.activation.apply(*v) + e.residual.map_or(0.0, |r| r[i]))
        .collect()
}

/// The CPU twin of a convolution over `[n, h, w, c]`, weights `[taps, c, co]`,
/// in f64. Returns `[n, oh, ow, co]`.
pub fn twin_conv(
    a: &[f32],
    [n, h, w, c]: [usize; 4],
    weights: &[f32],
    [taps, co]: [usize; 2],
    conv: Conv,
    [oh, ow]: [usize; 2],
) -> Vec<f32> {
    let side = if taps == 9 { 3 } else { 1 };
    let up = usize::from(conv.upsample);
    let mut out = vec![0f32; n * oh * ow * co];
    let mut sums = vec![0f64; co];
    for (row, pixel) in out.chunks_exact_mut(co).enumerate() {
        let (b, y, x) = (row / (oh * ow), row / ow % oh, row % ow);
        sums.fill(0.0);
        for tap in 0..taps {
            let iy = (y * conv.stride + tap / side).wrapping_sub(conv.pad);
            let ix = (x * conv.stride + tap % side).wrapping_sub(conv.pad);
            if iy >= conv.seen(h, oh) || ix >= conv.seen(w, ow) {
                continue;
            }
            let at = ((b * h + (iy >> up)) * w + (ix >> up)) * c;
            for i in 0..c {
                let value = f64::from(a[at + i]);
                let line = &weights[(tap * c + i) * co..][..co];
                for (sum, weight) in sums.iter_mut().zip(line) {
                    *sum += value * f64::from(*weight);
                }
            }
        }
        for (o, sum) in pixel.iter_mut().zip(&sums) {
            *o = *sum as f32;
        }
    }
    out
}
