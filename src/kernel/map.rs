//! Activations, sums, copies and concatenations: `y = act(x) + b`.

use super::{Activation, Context, Dispatch, Mode, Storage, Tensor, Work, key};
use crate::Result;
use crate::gpu::{Access, PipelineKey, host_shareable};

const BINDINGS: &[Access] = &[Access::Read, Access::Read, Access::Write, Access::Uniform];

host_shareable! {
    /// `Params` of `map.wgsl`.
    struct Params {
        rows: u32,
        c4: u32,
        x_pitch: u32,
        y_pitch: u32,
        b_pitch: u32,
        x_offset: u32,
        y_offset: u32,
        b_offset: u32,
        rows_per_b: u32,
        /// Whether there is a `b`.
        added: u32,
        activation: u32,
        /// Rows before row 0 that share its row of `b`.
        shared_rows: u32,
    }
}

pub(super) fn pipeline_key(mode: Mode, storage: Storage) -> PipelineKey {
    let wg = vec![("WG", mode.workgroup())];
    key::<Params>("map", storage.defines(), wg, BINDINGS)
}

/// `y = act(x) + b`, rows of `x` and `y` alike; `b` has as many rows, or one a
/// picture. Where a tensor exceeds the binding limit: in bands of rows.
///
/// # Errors
/// [`crate::Error::Internal`] where the shapes do not fit together.
pub fn dispatches(
    context: &Context,
    x: &Tensor,
    activation: Activation,
    b: Option<&Tensor>,
    y: &Tensor,
) -> Result<Vec<Dispatch>> {
    x.check("x")?;
    y.expect("y", x.shape(), x.storage)?;
    if let Some(b) = b {
        let [n, h, w, c] = x.shape();
        let each = match b.rows() == x.rows() {
            true => [n, h, w, c],
            false => [n, 1, 1, c],
        };
        b.expect("b", each, x.storage)?;
    }
    let (gpu, mode) = (&context.gpu, context.mode);
    let alignment = gpu.capabilities().alignment;
    let limit = gpu.capabilities().max_binding.saturating_sub(2 * alignment);
    let widest = x.row_bytes().max(y.row_bytes());
    let widest = widest.max(b.map_or(0, Tensor::row_bytes));
    let rows_per_b = b.map_or(1, |b| x.rows() / b.rows());
    let step = ((limit / widest) as usize).max(1);
    let band = |first: usize| {
        let count = step.min(x.rows() - first);
        // Rows before the band that share its first row of `b`.
        let shared = first % rows_per_b;
        let (x_operand, x_offset) = x.row_operand("x", first..first + count, alignment)?;
        let (y_operand, y_offset) = y.row_operand("y", first..first + count, alignment)?;
        let (b_operand, b_offset, b_pitch) = match b {
            Some(b) => {
                let row = first / rows_per_b;
                let rows = row..row + (shared + count).div_ceil(rows_per_b);
                let (operand, offset) = b.row_operand("b", rows, alignment)?;
                (operand, offset, b.pitch)
            }
            None => (context.nothing(0)?, 0, 0),
        };
        Dispatch::new(
            pipeline_key(mode, x.storage),
            [x_operand, b_operand, y_operand],
            Params {
                rows: count as u32,
                c4: x.c4() as u32,
                x_pitch: x.pitch as u32,
                y_pitch: y.pitch as u32,
                b_pitch: b_pitch as u32,
                x_offset,
                y_offset,
                b_offset,
                rows_per_b: rows_per_b as u32,
                added: u32::from(b.is_some()),
                activation: activation as u32,
                shared_rows: shared as u32,
            },
            mode.item_grid(count * x.c4()),
            Work {
                flops: count * x.c4() * 8,
                bytes: 2 * count * x.c4() * 4 * x.storage.bytes(),
            },
        )
    };
    (0..x.rows()).step_by(step).map(band).collect()
}

/// The CPU twin over rows of `c`; `b` has one row for every `rows_per_b`.
pub fn twin(x: &[f32], c: usize, activation: Activation, b: Option<(&[f32], usize)>) -> Vec<f32> {
    x.iter()
        .enumerate()
        .map(|(i, v)| {
            let add = b.map_or(0.0, |(b, rows)| b[i / c / rows * c + i % c]);
            activation.apply(*v) + add
        })
        .collect()
}
