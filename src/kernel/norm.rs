//! Group norm (with SiLU), layer norm and softmax.

use super::{Activation, Dispatch, Storage, Tensor, Tuning, View, key};
use crate::Result;
use crate::gpu::{Access, Gpu, PipelineKey};

const STATS: &[Access] = &[Access::Read, Access::Write, Access::Uniform];
const FINISH: &[Access] = &[
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Write,
    Access::Uniform,
];
const APPLY: &[Access] = &[Access::Read, Access::Read, Access::Write, Access::Uniform];
const LAYER: &[Access] = FINISH;
const SOFTMAX: &[Access] = &[Access::Write, Access::Uniform];

pub(super) fn stats_key(tuning: Tuning, storage: Storage) -> PipelineKey {
    let wg = vec![("WG", tuning.workgroup())];
    key("group_norm_stats", storage.defines(), wg, STATS)
}

pub(super) fn finish_key(tuning: Tuning) -> PipelineKey {
    let defines = tuning.row_defines(Storage::F32);
    key("group_norm_finish", defines, vec![], FINISH)
}

pub(super) fn apply_key(tuning: Tuning, storage: Storage) -> PipelineKey {
    let wg = vec![("WG", tuning.workgroup())];
    key("group_norm_apply", storage.defines(), wg, APPLY)
}

pub(super) fn layer_key(tuning: Tuning, storage: Storage) -> PipelineKey {
    key("layer_norm", tuning.row_defines(storage), vec![], LAYER)
}

pub(super) fn softmax_key(tuning: Tuning, storage: Storage) -> PipelineKey {
    key("softmax", tuning.row_defines(storage), vec![], SOFTMAX)
}

/// Group norm over `[n, h, w, c]`: `act((x - mean) / sqrt(var + eps) * gamma +
/// beta)`, mean and variance over the pixels and the channels of each group
/// (Wu and He, 2018). `gamma` and `beta` are f32 `[c]`.
pub struct GroupNorm<'a> {
    pub x: &'a Tensor,
    pub y: &'a Tensor,
    pub gamma: &'a View,
    pub beta: &'a View,
    pub groups: usize,
    pub eps: f32,
    pub activation: Activation,
    /// Room for [`scratch_bytes`].
    pub stats: &'a View,
    pub affine: &'a View,
}

/// Rows of a slab: enough slabs to fill a GPU, but slabs long enough to be worth
/// their entry.
fn slab(rows: usize) -> usize {
    rows.div_ceil(64).max(16).min(rows)
}

/// Bytes of the statistics and of the factors that a group norm over
/// `[n, h, w, c]` needs.
pub fn scratch_bytes([n, h, w, c]: [usize; 4]) -> [u64; 2] {
    let c4 = c.div_ceil(4);
    let slabs = (h * w).div_ceil(slab(h * w));
    [(n * slabs * c4 * 32) as u64, (n * c4 * 32) as u64]
}

/// Ranges of rows of one picture that fit into a binding, in whole slabs.
fn bands(gpu: &Gpu, x: &Tensor, y: &Tensor, slab: usize) -> Vec<std::ops::Range<usize>> {
    let capabilities = gpu.capabilities();
    let limit = capabilities
        .max_binding
        .saturating_sub(2 * capabilities.alignment);
    let rows = x.rows_per_batch();
    let fit = (limit / x.row_bytes().max(y.row_bytes())) as usize;
    let step = if fit >= rows {
        rows
    } else {
        (fit / slab).max(1) * slab
    };
    (0..rows)
        .step_by(step)
        .map(|first| first..(first + step).min(rows))
        .collect()
}

impl GroupNorm<'_> {
    /// The last pass alone, with the factors that `affine` holds already.
    pub fn apply_only(&self, gpu: &Gpu, tuning: Tuning) -> Vec<Dispatch> {
        let (limit, rows) = (gpu.capabilities().max_binding, self.x.rows());
        let alignment = gpu.capabilities().alignment;
        let widest = self.x.row_bytes().max(self.y.row_bytes());
        let step = (limit.saturating_sub(2 * alignment) / widest) as usize;
        (0..rows)
            .step_by(step.clamp(1, rows))
            .map(|first| self.apply(tuning, first, step.min(rows - first), alignment))
            .collect()
    }

    /// The three passes; the first and last in bands where a binding limit asks for them.
    pub fn dispatches(&self, gpu: &Gpu, tuning: Tuning) -> Result<Vec<Dispatch>> {
        let x = self.x;
        let (rows, c4) = (x.rows_per_batch(), x.c4());
        let slab = slab(rows);
        let slabs = rows.div_ceil(slab);
        let alignment = gpu.capabilities().alignment;
        let bands = bands(gpu, x, self.y, slab);
        let whole =
            bands.len() == 1 && x.view.size.max(self.y.view.size) <= gpu.capabilities().max_binding;
        let mut all = Vec::new();
        // Without bands one dispatch serves the whole batch.
        let pictures = if whole { 1 } else { x.n };
        let batch = if whole { x.n } else { 1 };
        for picture in 0..pictures {
            for band in &bands {
                let first = picture * rows + band.start;
                let count = (batch - 1) * rows + band.len();
                let (view, offset) = x.row_window(first, count, alignment);
                let params = vec![
                    band.len() as u32,
                    c4 as u32,
                    x.pitch as u32,
                    offset,
                    slab as u32,
                    slabs as u32,
                    (band.start / slab + picture * slabs) as u32,
                    (rows * x.pitch) as u32,
                ];
                all.push(Dispatch {
                    key: stats_key(tuning, x.storage),
                    views: vec![view, self.stats.clone()],
                    params,
                    grid: [
                        c4.div_ceil(tuning.workgroup() as usize) as u32,
                        band.len().div_ceil(slab) as u32,
                        batch as u32,
                    ],
                    flops: (batch * band.len() * c4 * 16) as u64,
                    bytes: count as u64 * x.row_bytes(),
                });
            }
        }
        all.push(self.finish(tuning, slab, slabs));
        for picture in 0..pictures {
            for band in &bands {
                let first = picture * rows + band.start;
                let count = (batch - 1) * rows + band.len();
                all.push(self.apply(tuning, first, count, alignment));
            }
        }
        Ok(all)
    }

    fn finish(&self, tuning: Tuning, slab: usize, slabs: usize) -> Dispatch {
        let x = self.x;
        let all_groups = x.n * self.groups;
        Dispatch {
            key: finish_key(tuning),
            views: vec![
                self.stats.clone(),
                self.gamma.clone(),
                self.beta.clone(),
                self.affine.clone(),
            ],
            params: vec![
                all_groups as u32,
                self.groups as u32,
                (x.c / self.groups) as u32,
                x.c4() as u32,
                slabs as u32,
                slab as u32,
                x.rows_per_batch() as u32,
                self.eps.to_bits(),
            ],
            grid: tuning.row_grid(all_groups),
            flops: (x.n * slabs * x.c * 8) as u64,
            bytes: (x.n * slabs * x.c * 16) as u64,
        }
    }

    fn apply(&self, tuning: Tuning, first: usize, count: usize, alignment: u64) -> Dispatch {
        let (x, y) = (self.x, self.y);
        let (x_view, x_offset) = x.row_window(first, count, alignment);
        let (y_view, y_offset) = y.row_window(first, count, alignment);
        Dispatch {
            key: apply_key(tuning, x.storage),
            views: vec![x_view, self.affine.clone(), y_view],
            params: vec![
                count as u32,
                x.c4() as u32,
                x.pitch as u32,
                y.pitch as u32,
                x_offset,
                y_offset,
                first as u32,
                x.rows_per_batch() as u32,
                self.activation as u32,
                0,
                0,
                0,
            ],
            grid: tuning.item_grid(count * x.c4()),
            flops: (count * x.c4() * 32) as u64,
            bytes: count as u64 * (x.row_bytes() + y.row_bytes()),
        }
    }
}

/// Layer norm over the columns of each row of `x`; `gamma` and `beta` are f32
/// `[c]`, padded with zeros to vec4s.
pub fn layer_norm(
    gpu: &Gpu,
    tuning: Tuning,
    x: &Tensor,
    [gamma, beta]: [&View; 2],
    y: &Tensor,
    eps: f32,
) -> Vec<Dispatch> {
    let alignment = gpu.capabilities().alignment;
    let limit = gpu.capabilities().max_binding.saturating_sub(2 * alignment);
    let fit = limit / x.row_bytes().max(y.row_bytes());
    let step = (fit as usize).clamp(1, x.rows());
    (0..x.rows())
        .step_by(step)
        .map(|first| {
            let rows = step.min(x.rows() - first);
            let (x_view, x_offset) = x.row_window(first, rows, alignment);
            let (y_view, y_offset) = y.row_window(first, rows, alignment);
            Dispatch {
                key: layer_key(tuning, x.storage),
                views: vec![x_view, gamma.clone(), beta.clone(), y_view],
                params: vec![
                    rows as u32,
                    x.c as u32,
                    x.pitch as u32,
                    y.pitch as u32,
                    x_offset,
                    y_offset,
                    eps.to_bits(),
                    0,
                ],
                grid: tuning.row_grid(rows),
                flops: (rows * x.c * 8) as u64,
                bytes: rows as u64 * (x.row_bytes() + y.row_bytes()),
            }
        })
        .collect()
}

/// Which scores a softmax keeps.
#[derive(Debug, Clone, Copy)]
pub struct Mask {
    /// Columns that hold scores.
    pub count: usize,
    /// Rows that share a head.
    pub rows_per_head: usize,
    /// The query of the first row of a head.
    pub first: usize,
    /// Keep only the keys up to the row's query.
    pub causal: bool,
}

/// Softmax of each row of `x`, in place; columns that `mask` drops become 0.
pub fn softmax(tuning: Tuning, x: &Tensor, mask: Mask) -> Dispatch {
    Dispatch {
        key: softmax_key(tuning, x.storage),
        views: vec![x.view.clone()],
        params: vec![
            x.rows() as u32,
            mask.count as u32,
            x.pitch as u32,
            mask.rows_per_head as u32,
            mask.first as u32,
            u32::from(mask.causal),
            x.offset as u32,
            x.c4() as u32,
        ],
        grid: tuning.row_grid(x.rows()),
        flops: (x.rows() * x.c * 12) as u64,
        bytes: 2 * x.rows() as u64 * x.row_bytes(),
    }
}

/// The CPU twin of [`GroupNorm`], in f64; `x` is `[n, rows, c]`.
pub fn twin_group_norm(
    x: &[f32],
    [n, rows, c]: [usize; 3],
    gamma: &[f32],
    beta: &[f32],
    groups: usize,
    eps: f32,
    activation: Activation,
) -> Vec<f32> {
    let per = c / groups;
    let mut y = vec![0f32; x.len()];
    for b in 0..n {
        for g in 0..groups {
            let place = |row: usize, i: usize| (b * rows + row) * c + g * per + i;
            let cells = || (0..rows).flat_map(|row| (0..per).map(move |i| (row, i)));
            let count = (rows * per) as f64;
            let mean = cells().map(|(r, i)| f64::from(x[place(r, i)])).sum::<f64>() / count;
            let var = cells()
                .map(|(r, i)| (f64::from(x[place(r, i)]) - mean).powi(2))
                .sum::<f64>()
                / count;
            let rstd = 1.0 / (var + f64::from(eps)).sqrt();
            for (r, i) in cells() {
                let at = place(r, i);
                let v = (f64::from(x[at]) - mean) * rstd * f64::from(gamma[g * per + i])
                    + f64::from(beta[g * per + i]);
                y[at] = activation.apply(v as f32);
            }
        }
    }
    y
}

/// The CPU twin of [`layer_norm`], in f64; `x` is `[rows, c]`.
pub fn twin_layer_norm(x: &[f32], c: usize, gamma: &[f32], beta: &[f32], eps: f32) -> Vec<f32> {
    x.chunks_exact(c)
        .flat_map(|row| {
            let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / c as f64;
            let var = row
                .iter()
                .map(|v| (f64::from(*v) - mean).powi(2))
                .sum::<f64>()
                / c as f64;
            let rstd = 1.0 / (var + f64::from(eps)).sqrt();
            row.iter()
                .zip(gamma.iter().zip(beta))
                .map(|(v, (g, b))| {
                    ((f64::from(*v) - mean) * rstd * f64::from(*g) + f64::from(*b)) as f32
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The CPU twin of [`softmax`], in f64; `x` is `[rows, pitch]`.
pub fn twin_softmax(x: &[f32], pitch: usize, mask: Mask) -> Vec<f32> {
    let mut y = vec![0f32; x.len()];
    for (row, (input, output)) in x.chunks(pitch).zip(y.chunks_mut(pitch)).enumerate() {
        let mut count = mask.count;
        if mask.causal {
            count = count.min(mask.first + row % mask.rows_per_head + 1);
        }
        let top = input[..count].iter().fold(f32::MIN, |a, b| a.max(*b));
        let e = |v: f32| f64::from(v - top).exp();
        let sum: f64 = input[..count].iter().map(|v| e(*v)).sum();
        for (o, v) in output.iter_mut().zip(&input[..count]) {
            *o = (e(*v) / sum) as f32;
        }
    }
    y
}
