//! The sum of a weight and the products of low rank.

use crate::checkpoint::tensor::TensorView;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ErrorKind, ShapeError};
use rayon::prelude::*;

/// Rows of the weight that one task computes: enough to pay for the packing of
/// `down`, few enough for all cores to take part.
const ROWS: usize = 64;

/// scale * (up x down): `up` is `[rows, rank]`, `down` `[rank, columns]`.
#[derive(Debug)]
pub(super) struct Term {
    pub scale: f32,
    pub rank: usize,
    pub up: Vec<f32>,
    pub down: Vec<f32>,
}

/// `base`, `[rows, columns]` in any precision, plus all terms: the bytes of f32 values.
/// An error where a term's sizes do not fit.
pub(super) fn merge(
    base: &TensorView<'_>,
    [rows, columns]: [usize; 2],
    terms: &[Term],
) -> Result<Vec<u8>, ShapeError> {
    const SIZE: usize = size_of::<f32>();
    let fits =
        |term: &Term| term.up.len() == rows * term.rank && term.down.len() == term.rank * columns;
    if base.count() != rows * columns || !terms.iter().all(fits) {
        return Err(ShapeError::from_kind(ErrorKind::IncompatibleShape));
    }
    let mut bytes = vec![0; rows * columns * SIZE];
    let block = ROWS * columns.max(1);
    let blocks = bytes.par_chunks_mut(block * SIZE).enumerate();
    blocks.try_for_each(|(number, bytes)| {
        let (first, count) = (number * block, bytes.len() / SIZE);
        let mut sum = base.values(first..first + count);
        let (first, rows) = (number * ROWS, count / columns.max(1));
        let mut view = ArrayViewMut2::from_shape((rows, columns), &mut sum)?;
        for term in terms {
            let up = &term.up[first * term.rank..(first + rows) * term.rank];
            let up = ArrayView2::from_shape((rows, term.rank), up)?;
            let down = ArrayView2::from_shape((term.rank, columns), &term.down)?;
            general_mat_mul(term.scale, &up, &down, 1.0, &mut view);
        }
        bytes.copy_from_slice(bytemuck::cast_slice(&sum));
        Ok(())
    })?;
    Ok(bytes)
}

/// A 1x1 convolution `down` `[b, inputs]` and the kernel `mid` `[a, b, taps]` after it
/// as one convolution `[a, inputs, taps]` (LyCORIS' LoCon in Tucker's form).
pub(super) fn joined(
    mid: &[f32],
    down: &[f32],
    [a, b, taps]: [usize; 3],
) -> Result<Vec<f32>, ShapeError> {
    let inputs = down.len() / b.max(1);
    let down = ArrayView2::from_shape((b, inputs), down)?;
    let mid = ndarray::ArrayView3::from_shape((a, b, taps), mid)?;
    let mut out = ndarray::Array3::zeros((a, inputs, taps));
    for (kernel, mut out) in mid.outer_iter().zip(out.outer_iter_mut()) {
        general_mat_mul(1.0, &down.t(), &kernel, 0.0, &mut out);
    }
    Ok(out.into_raw_vec_and_offset().0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::DType;
    use half::f16;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step) % 17) as f32 - 8.0).collect()
    }

    #[test]
    fn the_sum_is_that_of_the_definition() {
        let (rows, columns) = (ROWS + 3, 37);
        let base: Vec<f16> = numbers(rows * columns, 5)
            .into_iter()
            .map(f16::from_f32)
            .collect();
        let bytes: &[u8] = bytemuck::cast_slice(&base);
        let view = TensorView::new(DType::F16, &[rows, columns], bytes);
        let term = |rank: usize, scale: f32| Term {
            scale,
            rank,
            up: numbers(rows * rank, 3),
            down: numbers(rank * columns, 7),
        };
        let terms = [term(2, 0.5), term(5, -0.25)];
        let merged = merge(&view, [rows, columns], &terms).unwrap();
        let merged: Vec<f32> = bytemuck::pod_collect_to_vec(&merged);
        for i in 0..rows {
            for j in 0..columns {
                let mut sum = base[i * columns + j].to_f32();
                for t in &terms {
                    for r in 0..t.rank {
                        sum += t.scale * t.up[i * t.rank + r] * t.down[r * columns + j];
                    }
                }
                assert_eq!(merged[i * columns + j], sum, "{i} {j}");
            }
        }
        for columns in [columns - 1, columns + 1] {
            assert!(merge(&view, [rows, columns], &terms).is_err());
        }
    }

    #[test]
    fn two_convolutions_are_joined() {
        let (a, b, inputs, taps) = (2, 3, 4, 9);
        let (mid, down) = (numbers(a * b * taps, 3), numbers(b * inputs, 5));
        let out = joined(&mid, &down, [a, b, taps]).unwrap();
        for x in 0..a {
            for i in 0..inputs {
                for t in 0..taps {
                    let sum: f32 = (0..b)
                        .map(|y| mid[(x * b + y) * taps + t] * down[y * inputs + i])
                        .sum();
                    assert_eq!(out[(x * inputs + i) * taps + t], sum);
                }
            }
        }
    }
}
