//! Activations, sums, copies and concatenations: `y = act(x) + b`.

use super::{Activation, Dispatch, Storage, Tensor, Tuning, View, key};
use crate::gpu::{Access, Buffer, Gpu, PipelineKey};
use std::sync::Arc;

const BINDINGS: &[Access] = &[Access::Read, Access::Read, Access::Write, Access::Uniform];

pub(super) fn pipeline_key(tuning: Tuning, storage: Storage) -> PipelineKey {
    let wg = vec![("WG", tuning.workgroup())];
    key("map", storage.defines(), wg, BINDINGS)
}

/// `y = act(x) + b`, rows of `x` and `y` alike; `b` has as many rows, or one a
/// picture. Where a tensor exceeds the binding limit: in bands of rows.
pub fn dispatches(
    gpu: &Gpu,
    tuning: Tuning,
    none: &Arc<Buffer>,
    x: &Tensor,
    activation: Activation,
    b: Option<&Tensor>,
    y: &Tensor,
) -> Vec<Dispatch> {
    let alignment = gpu.capabilities().alignment;
    let limit = gpu.capabilities().max_binding.saturating_sub(2 * alignment);
    let widest = x.row_bytes().max(y.row_bytes());
    let widest = widest.max(b.map_or(0, Tensor::row_bytes));
    let rows_per_b = match b {
        Some(b) if b.rows() < x.rows() => x.rows() / b.rows(),
        _ => 1,
    };
    let step = ((limit / widest) as usize).max(1);
    (0..x.rows())
        .step_by(step)
        .map(|first| {
            let count = step.min(x.rows() - first);
            // Rows before the band that share its first row of `b`.
            let shared = first % rows_per_b;
            let (x_view, x_offset) = x.row_window(first, count, alignment);
            let (y_view, y_offset) = y.row_window(first, count, alignment);
            let (b_view, b_offset, b_pitch) = match b {
                Some(b) => {
                    let rows = (shared + count).div_ceil(rows_per_b);
                    let (view, offset) = b.row_window(first / rows_per_b, rows, alignment);
                    (view, offset, b.pitch)
                }
                None => (View::whole(none), 0, 0),
            };
            Dispatch {
                key: pipeline_key(tuning, x.storage),
                views: vec![x_view, b_view, y_view],
                params: vec![
                    count as u32,
                    x.c4() as u32,
                    x.pitch as u32,
                    y.pitch as u32,
                    b_pitch as u32,
                    x_offset,
                    y_offset,
                    b_offset,
                    rows_per_b as u32,
                    u32::from(b.is_some()) | (activation as u32) << 8,
                    shared as u32,
                    0,
                ],
                grid: tuning.item_grid(count * x.c4()),
                flops: (count * x.c4() * 8) as u64,
                bytes: (count * x.c4()) as u64 * x.storage.bytes4() * 2,
            }
        })
        .collect()
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
