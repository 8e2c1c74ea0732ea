//! A weight with the changes of adapters, one after another.

use crate::checkpoint::tensor::TensorView;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ErrorKind, ShapeError};
use rayon::prelude::*;

/// Rows of the weight that one task computes: enough to pay for the packing of
/// a product's second factor, few enough for all cores to take part.
const ROWS: usize = 64;

/// LyCORIS and ComfyUI add it to the norms that DoRA divides by.
const EPSILON: f64 = f32::EPSILON as f64;

type Fits<T = ()> = Result<T, ShapeError>;

/// A matrix, row by row.
#[derive(Debug, Clone)]
pub(super) struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f32>,
}

/// ΔW of a weight W, `[rows, columns]`: a convolution's columns are inputs times taps.
#[derive(Debug)]
pub(super) enum Change {
    /// up x down.
    Product([Matrix; 2]),
    /// (up x down) * (up x down), value by value.
    Hadamard([[Matrix; 2]; 2]),
    /// The Kronecker product.
    Kronecker([Matrix; 2]),
    /// W times a number for each input or output.
    Channels {
        scale: Vec<f32>,
        on_input: bool,
    },
    Full(Vec<f32>),
    /// W x inner + outer, where W x inner is over the inputs.
    General {
        inner: [Matrix; 2],
        outer: [Matrix; 2],
    },
}

/// What one adapter does to a weight W: W + weight * scale * ΔW. With DoRA's magnitudes
/// m it is W + weight * (W' - W), where W' = m * V / |V| of V = W + scale * ΔW, norms over
/// each output or each input (Liu et al. 2024, arXiv:2402.09353; the weight counts as in
/// ComfyUI's `weight_decompose` and LyCORIS' `apply_dora_scale`).
#[derive(Debug)]
pub(super) struct Step {
    change: Change,
    scale: f64,
    weight: f64,
    taps: usize,
    magnitude: Option<Magnitude>,
}

#[derive(Debug)]
struct Magnitude {
    values: Vec<f32>,
    of_inputs: bool,
    /// Of each input, where the magnitudes are theirs: they take all rows.
    norms: Vec<f64>,
}

impl Matrix {
    fn view(&self) -> Fits<ArrayView2<'_, f32>> {
        ArrayView2::from_shape((self.rows, self.columns), &self.values)
    }

    pub fn transposed(&self) -> Self {
        let mut values = Vec::with_capacity(self.values.len());
        for column in 0..self.columns {
            values.extend(self.values.iter().skip(column).step_by(self.columns));
        }
        Self {
            rows: self.columns,
            columns: self.rows,
            values,
        }
    }

    /// The matrix product; the second may be a convolution's, whose taps are columns.
    pub fn times(&self, other: &Matrix) -> Fits<Matrix> {
        if self.columns != other.rows {
            return Err(misfit());
        }
        let mut values = vec![0.0; self.rows * other.columns];
        let mut out = ArrayViewMut2::from_shape((self.rows, other.columns), &mut values)?;
        general_mat_mul(1.0, &self.view()?, &other.view()?, 0.0, &mut out);
        Ok(Matrix {
            rows: self.rows,
            columns: other.columns,
            values,
        })
    }
}

fn misfit() -> ShapeError {
    ShapeError::from_kind(ErrorKind::IncompatibleShape)
}

/// Some rows of a weight.
struct Rows<'a> {
    first: usize,
    columns: usize,
    values: &'a mut [f32],
}

impl Rows<'_> {
    fn count(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    /// Each row and its number.
    fn numbered(&mut self) -> impl Iterator<Item = (usize, &mut [f32])> {
        let rows = self.values.chunks_mut(self.columns.max(1)).enumerate();
        rows.map(|(i, row)| (self.first + i, row))
    }

    /// beta times these rows plus alpha times a product's.
    fn product(&mut self, alpha: f32, [up, down]: &[Matrix; 2], beta: f32) -> Fits {
        let (first, count, columns) = (self.first, self.count(), self.columns);
        let up = up.view()?;
        let down = down.view()?;
        let fits = up.ncols() == down.nrows() && down.ncols() == columns;
        if !fits || first + count > up.nrows() {
            return Err(misfit());
        }
        let up = up.slice(ndarray::s![first..first + count, ..]);
        let mut rows = ArrayViewMut2::from_shape((count, columns), self.values)?;
        general_mat_mul(alpha, &up, &down, beta, &mut rows);
        Ok(())
    }
}

impl Change {
    /// Adds `by` times the change to rows of the weight.
    fn add(&self, by: f32, taps: usize, rows: &mut Rows<'_>) -> Fits {
        match self {
            Change::Product(pair) => rows.product(by, pair, 1.0),
            Change::Hadamard(both) => {
                let mut parts = both.iter().map(|pair| {
                    let mut values = vec![0.0; rows.values.len()];
                    let mut part = Rows {
                        values: &mut values,
                        ..*rows
                    };
                    part.product(1.0, pair, 0.0)?;
                    Ok(values)
                });
                let (Some(a), Some(b)) = (parts.next(), parts.next()) else {
                    return Err(misfit());
                };
                let (a, b) = (a?, b?);
                let pairs = a.iter().zip(&b);
                let all = rows.values.iter_mut().zip(pairs);
                all.for_each(|(x, (a, b))| *x += by * (a * b));
                Ok(())
            }
            Change::Kronecker([a, b]) => {
                if a.columns * b.columns != rows.columns
                    || rows.first + rows.count() > a.rows * b.rows
                {
                    return Err(misfit());
                }
                for (number, row) in rows.numbered() {
                    let (i, j) = (number / b.rows, number % b.rows);
                    let a = &a.values[i * a.columns..(i + 1) * a.columns];
                    let b = &b.values[j * b.columns..(j + 1) * b.columns];
                    for (a, piece) in a.iter().zip(row.chunks_mut(b.len().max(1))) {
                        let by = by * a;
                        piece.iter_mut().zip(b).for_each(|(x, b)| *x += by * b);
                    }
                }
                Ok(())
            }
            Change::Channels { scale, on_input } => {
                for (number, row) in rows.numbered() {
                    match on_input {
                        true => {
                            let inputs = row.chunks_mut(taps.max(1)).zip(scale);
                            inputs.for_each(|(x, s)| x.iter_mut().for_each(|x| *x *= 1.0 + by * s));
                        }
                        false => {
                            let by = 1.0 + by * scale.get(number).ok_or_else(misfit)?;
                            row.iter_mut().for_each(|x| *x *= by);
                        }
                    }
                }
                Ok(())
            }
            Change::Full(values) => {
                let first = rows.first * rows.columns;
                let values = values.get(first..first + rows.values.len());
                let values = values.ok_or_else(misfit)?;
                let all = rows.values.iter_mut().zip(values);
                all.for_each(|(x, d)| *x += by * d);
                Ok(())
            }
            Change::General { inner, outer } => {
                let through = rows.through(inner, taps)?;
                rows.product(by, outer, 1.0)?;
                let all = rows.values.iter_mut().zip(&through);
                all.for_each(|(x, d)| *x += by * d);
                Ok(())
            }
        }
    }
}

impl Rows<'_> {
    /// Rows times a product over the inputs, tap by tap.
    fn through(&self, [first, second]: &[Matrix; 2], taps: usize) -> Fits<Vec<f32>> {
        let inputs = self.columns / taps.max(1);
        if first.rows != inputs || second.columns != inputs {
            return Err(misfit());
        }
        let mut out = vec![0.0; self.values.len()];
        let rows = self.values.chunks(self.columns.max(1));
        for (row, out) in rows.zip(out.chunks_mut(self.columns.max(1))) {
            let row = ArrayView2::from_shape((inputs, taps), row)?;
            let mut narrow = ndarray::Array2::zeros((first.columns, taps));
            general_mat_mul(1.0, &first.view()?.t(), &row, 0.0, &mut narrow);
            let mut out = ArrayViewMut2::from_shape((inputs, taps), out)?;
            general_mat_mul(1.0, &second.view()?.t(), &narrow, 0.0, &mut out);
        }
        Ok(out)
    }
}

impl Step {
    pub fn new(change: Change, scale: f64, weight: f64, taps: usize) -> Self {
        Self {
            change,
            scale,
            weight,
            taps,
            magnitude: None,
        }
    }

    /// The same with DoRA's magnitudes, of inputs or of outputs.
    pub fn decomposed(self, values: Vec<f32>, of_inputs: bool) -> Self {
        let norms = Vec::new();
        Self {
            magnitude: Some(Magnitude {
                values,
                of_inputs,
                norms,
            }),
            ..self
        }
    }

    fn apply(&self, rows: &mut Rows<'_>) -> Fits {
        let Some(magnitude) = &self.magnitude else {
            let by = (self.scale * self.weight) as f32;
            return self.change.add(by, self.taps, rows);
        };
        let mut changed = self.undecomposed(rows)?;
        let mut rescaled = Rows {
            values: &mut changed,
            ..*rows
        };
        magnitude.rescale(self.taps, &mut rescaled)?;
        let weight = self.weight as f32;
        let all = rows.values.iter_mut().zip(&changed);
        match weight == 1.0 {
            true => all.for_each(|(x, new)| *x = *new),
            false => all.for_each(|(x, new)| *x += weight * (new - *x)),
        }
        Ok(())
    }

    /// Rows before DoRA makes them as long as it says.
    fn undecomposed(&self, rows: &Rows<'_>) -> Fits<Vec<f32>> {
        let mut values = rows.values.to_vec();
        let mut changed = Rows {
            values: &mut values,
            ..*rows
        };
        let by = self.scale as f32;
        self.change.add(by, self.taps, &mut changed)?;
        Ok(values)
    }
}

impl Magnitude {
    fn rescale(&self, taps: usize, rows: &mut Rows<'_>) -> Fits {
        if self.of_inputs {
            let factors = self.values.iter().zip(&self.norms);
            let factors: Vec<f32> = factors
                .map(|(m, norm)| (f64::from(*m) / (norm + EPSILON)) as f32)
                .collect();
            for (_, row) in rows.numbered() {
                let inputs = row.chunks_mut(taps.max(1)).zip(&factors);
                inputs.for_each(|(x, factor)| x.iter_mut().for_each(|x| *x *= factor));
            }
            return Ok(());
        }
        for (number, row) in rows.numbered() {
            let m = f64::from(*self.values.get(number).ok_or_else(misfit)?);
            let factor = (m / (squares(row).sqrt() + EPSILON)) as f32;
            row.iter_mut().for_each(|x| *x *= factor);
        }
        Ok(())
    }
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum()
}

/// `base`, `[rows, columns]` in any precision, after all steps, each of which sees what
/// those before it made: the bytes of f32 values. An error where sizes do not fit.
pub(super) fn merge(
    base: &TensorView<'_>,
    [rows, columns]: [usize; 2],
    mut steps: Vec<Step>,
) -> Fits<Vec<u8>> {
    const SIZE: usize = size_of::<f32>();
    if base.count() != rows * columns {
        return Err(misfit());
    }
    let block = ROWS * columns.max(1);
    // The values of a block by its number, after some of the steps.
    let after = |steps: &[Step], number: usize, values: &mut [f32]| {
        base.read(number * block, values);
        let mut rows = Rows {
            first: number * ROWS,
            columns,
            values,
        };
        steps.iter().try_for_each(|step| step.apply(&mut rows))
    };
    for k in 0..steps.len() {
        let (before, rest) = steps.split_at_mut(k);
        let Some(step) = rest.first_mut() else { break };
        if !step.magnitude.as_ref().is_some_and(|m| m.of_inputs) {
            continue;
        }
        let norms = input_norms(step, [rows, columns], |number, values| {
            after(before, number, values)
        })?;
        if let Some(magnitude) = &mut step.magnitude {
            magnitude.norms = norms;
        }
    }
    let mut bytes = vec![0; rows * columns * SIZE];
    let blocks = bytes.par_chunks_mut(block * SIZE).enumerate();
    blocks.try_for_each(|(number, bytes)| {
        // In place, where the memory begins at an f32's place, as it does in practice.
        if let Ok(values) = bytemuck::try_cast_slice_mut(bytes) {
            return after(&steps, number, values);
        }
        let mut values = vec![0.0; bytes.len() / SIZE];
        after(&steps, number, &mut values)?;
        bytes.copy_from_slice(bytemuck::cast_slice(&values));
        Fits::Ok(())
    })?;
    Ok(bytes)
}

/// Norms of what `step` makes of each input, over all outputs and taps; `before` fills in
/// a block of the weight by its number.
fn input_norms(
    step: &Step,
    [rows, columns]: [usize; 2],
    before: impl Fn(usize, &mut [f32]) -> Fits + Sync,
) -> Fits<Vec<f64>> {
    let inputs = columns / step.taps.max(1);
    let of_block = |number: usize| {
        let first = number * ROWS;
        let mut values = vec![0.0; ROWS.min(rows - first) * columns];
        before(number, &mut values)?;
        let block = Rows {
            first,
            columns,
            values: &mut values,
        };
        let changed = step.undecomposed(&block)?;
        let mut sums = vec![0.0; inputs];
        for row in changed.chunks(columns.max(1)) {
            let pieces = row.chunks(step.taps.max(1)).zip(&mut sums);
            pieces.for_each(|(piece, sum)| *sum += squares(piece));
        }
        Fits::Ok(sums)
    };
    let blocks: Vec<Vec<f64>> = (0..rows.div_ceil(ROWS))
        .into_par_iter()
        .map(of_block)
        .collect::<Fits<_>>()?;
    let total = |input: usize| blocks.iter().map(|sums| sums[input]).sum::<f64>().sqrt();
    Ok((0..inputs).map(total).collect())
}

/// A 1x1 convolution `down` `[b, inputs]` and the kernel `mid` `[a, b, taps]` after it
/// as one convolution `[a, inputs * taps]` (LyCORIS' `tucker_weight_from_conv`).
pub(super) fn joined(mid: &Matrix, down: &Matrix, [a, b, taps]: [usize; 3]) -> Fits<Matrix> {
    let mid = ArrayView3::from_shape((a, b, taps), &mid.values)?;
    if down.rows != b {
        return Err(misfit());
    }
    let mut out = ndarray::Array3::zeros((a, down.columns, taps));
    for (kernel, mut out) in mid.outer_iter().zip(out.outer_iter_mut()) {
        general_mat_mul(1.0, &down.view()?.t(), &kernel, 0.0, &mut out);
    }
    Ok(Matrix {
        rows: a,
        columns: down.columns * taps,
        values: out.into_raw_vec_and_offset().0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::DType;
    use half::f16;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step) % 17) as f32 - 8.0).collect()
    }

    fn matrix(rows: usize, columns: usize, step: usize) -> Matrix {
        let values = numbers(rows * columns, step);
        Matrix {
            rows,
            columns,
            values,
        }
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
        let pair = |rank| [matrix(rows, rank, 3), matrix(rank, columns, 7)];
        let terms = [(2, 0.5), (5, -0.25)];
        let steps = || {
            let step = |(rank, scale)| Step::new(Change::Product(pair(rank)), scale, 1.0, 1);
            terms.map(step).into_iter().collect()
        };
        let merged = merge(&view, [rows, columns], steps()).unwrap();
        let merged: Vec<f32> = bytemuck::pod_collect_to_vec(&merged);
        for i in 0..rows {
            for j in 0..columns {
                let mut sum = base[i * columns + j].to_f32();
                for (rank, scale) in terms {
                    let [up, down] = pair(rank);
                    for r in 0..rank {
                        let product = up.values[i * rank + r] * down.values[r * columns + j];
                        sum += scale as f32 * product;
                    }
                }
                assert_eq!(merged[i * columns + j], sum, "{i} {j}");
            }
        }
        for columns in [columns - 1, columns + 1] {
            assert!(merge(&view, [rows, columns], steps()).is_err());
        }
    }

    #[test]
    fn two_convolutions_are_joined() {
        let (a, b, inputs, taps) = (2, 3, 4, 9);
        let (mid, down) = (matrix(a, b * taps, 3), matrix(b, inputs, 5));
        let out = joined(&mid, &down, [a, b, taps]).unwrap();
        assert_eq!([out.rows, out.columns], [a, inputs * taps]);
        for x in 0..a {
            for i in 0..inputs {
                for t in 0..taps {
                    let sum: f32 = (0..b)
                        .map(|y| mid.values[(x * b + y) * taps + t] * down.values[y * inputs + i])
                        .sum();
                    assert_eq!(out.values[(x * inputs + i) * taps + t], sum);
                }
            }
        }
    }
}
