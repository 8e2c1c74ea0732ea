//! Blocks of integers that share a scale, as ggml's Q8_0 and Q4_0 have them: for the
//! kernels and for files, below every room.

use half::f16;

/// Values that share a scale.
pub const BLOCK: usize = 32;

/// How the values of a block are stored, beside its f16 scale: as ggml's formats of the
/// same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockFormat {
    /// int8, -127 to 127.
    Q8,
    /// Four bits, -8 to 7.
    Q4,
}

impl BlockFormat {
    pub fn name(self) -> &'static str {
        match self {
            BlockFormat::Q8 => "q8",
            BlockFormat::Q4 => "q4",
        }
    }

    /// Quantises a block of [`BLOCK`] values: the scale, and the integers.
    pub fn quantise(self, values: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
        match self {
            BlockFormat::Q8 => quantise8(values),
            BlockFormat::Q4 => quantise4(values),
        }
    }
}

/// The least f16 that is not below `x`, which is not negative.
fn ceil16(x: f32) -> f16 {
    let near = f16::from_f32(x);
    match near.to_f32() < x {
        true => f16::from_bits(near.to_bits() + 1),
        false => near,
    }
}

/// To the nearest whole number, halves to even, for magnitudes below 2^22: as additions,
/// which a compiler makes of many values at a time.
fn whole(x: f32) -> f32 {
    const WHOLE: f32 = 12_582_912.0;
    x + WHOLE - WHOLE
}

/// The largest magnitude becomes 127.
fn quantise8(values: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let scale = ceil16(largest / 127.0).min(f16::MAX);
    let up = match scale.to_f32() {
        0.0 => 0.0,
        scale => 1.0 / scale,
    };
    (
        scale,
        values.map(|x| whole(x * up).clamp(-127.0, 127.0) as i8),
    )
}

/// The scale with the least squared error of those that make the largest magnitude
/// -8 (as ggml does) or, so that fewer of the others are rounded coarsely, up to -6.5.
fn quantise4(values: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let largest = values
        .iter()
        .copied()
        .fold(0f32, |most, x| if x.abs() > most.abs() { x } else { most });
    let mut best = (f32::INFINITY, f16::ZERO);
    for places in [-8.0f32, -7.5, -7.0, -6.5, 7.0, 7.5] {
        let scale = f16::from_f32(largest / places);
        let wide = scale.to_f32();
        if wide == 0.0 || !wide.is_finite() {
            continue;
        }
        let up = 1.0 / wide;
        let off = values.map(|x| whole(x * up).clamp(-8.0, 7.0) * wide - x);
        // Eight sums, which are added side by side.
        let mut sums = [0f32; 8];
        for eight in off.as_chunks::<8>().0 {
            for (sum, off) in sums.iter_mut().zip(eight) {
                *sum += off * off;
            }
        }
        let error: f32 = sums.iter().sum();
        if error < best.0 {
            best = (error, scale);
        }
    }
    let up = match best.1.to_f32() {
        0.0 => 0.0,
        scale => 1.0 / scale,
    };
    let round = |x: f32| whole(x * up).clamp(-8.0, 7.0) as i8;
    (best.1, values.map(round))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 24) as f32
        };
        // Of about normal distribution.
        (0..count)
            .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
            .collect()
    }

    /// What ggml has quantised comes through as it was: its scales are f16 and some value
    /// of a block is the largest that there is.
    #[test]
    fn values_that_were_quantised_before_stay_as_they_are() {
        for (format, most) in [(BlockFormat::Q8, 127i8), (BlockFormat::Q4, -8)] {
            for (seed, scale) in [3e-5f32, 0.0071, -0.25, 1.0].into_iter().enumerate() {
                let scale = f16::from_f32(if format == BlockFormat::Q8 {
                    scale.abs()
                } else {
                    scale
                });
                let random = noise(BLOCK, seed as u64 + 1);
                let mut q: [i8; BLOCK] = std::array::from_fn(|i| (random[i] * 2.0) as i8);
                q[seed] = most;
                let least = if format == BlockFormat::Q4 { -8 } else { -127 };
                let most = if format == BlockFormat::Q4 { 7 } else { 127 };
                let values = q.map(|q| f32::from(q.clamp(least, most)) * scale.to_f32());
                let (again, made) = format.quantise(&values);
                let back = made.map(|q| f32::from(q) * again.to_f32());
                for (x, y) in back.iter().zip(values) {
                    assert!(
                        (x - y).abs() <= y.abs() * 1e-6,
                        "{format:?} {scale}: {x} {y}"
                    );
                }
            }
        }
    }

    /// Nothing becomes infinite or not a number, however large or small.
    #[test]
    fn extremes_are_quantised_to_what_f16_has() {
        for format in [BlockFormat::Q8, BlockFormat::Q4] {
            for size in [0.0, 1e-30, 1e-8, 1e-5, 65504.0, 60000.0] {
                let values: [f32; BLOCK] = std::array::from_fn(|i| size * (i as f32 / 31.0 - 0.5));
                let (scale, made) = format.quantise(&values);
                assert!(scale.is_finite());
                for (q, x) in made.iter().zip(values) {
                    let off = (f32::from(*q) * scale.to_f32() - x).abs();
                    let step = scale.to_f32().abs().max(6e-8);
                    assert!(off <= step * 0.75, "{format:?} {size}: {off} of {step}");
                }
            }
        }
    }
}
