//! Group norm (with SiLU), layer norm and softmax.

use super::{Activation, Dispatch, Mode, Storage, Tensor, View, Work, key, require};
use crate::Result;
use crate::gpu::{Access, Gpu, PipelineKey, host_shareable};
use std::ops::Range;

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
const WEIGHTS: &[Access] = STATS;

host_shareable! {
    /// `Params` of `group_norm_stats.wgsl`.
    struct StatsParams {
        rows: u32,
        c4: u32,
        pitch: u32,
        offset: u32,
        slab: u32,
        slabs: u32,
        first_slab: u32,
        batch: u32,
        columns: u32,
    }
}

host_shareable! {
    /// `Params` of `group_norm_finish.wgsl`.
    struct FinishParams {
        groups: u32,
        per_batch: u32,
        channels: u32,
        c4: u32,
        slabs: u32,
        slab: u32,
        rows: u32,
        eps: f32,
    }
}

host_shareable! {
    /// `Params` of `group_norm_apply.wgsl`.
    struct ApplyParams {
        rows: u32,
        c4: u32,
        x_pitch: u32,
        y_pitch: u32,
        x_offset: u32,
        y_offset: u32,
        first_row: u32,
        rows_per_batch: u32,
        activation: u32,
    }
}

host_shareable! {
    /// `Params` of `layer_norm.wgsl`.
    struct LayerParams {
        rows: u32,
        count: u32,
        x_pitch: u32,
        y_pitch: u32,
        x_offset: u32,
        y_offset: u32,
        eps: f32,
    }
}

host_shareable! {
    /// `Params` of `softmax.wgsl`.
    struct SoftmaxParams {
        rows: u32,
        count: u32,
        pitch: u32,
        rows_per_head: u32,
        first: u32,
        causal: u32,
        offset: u32,
        c4: u32,
    }
}

pub(super) fn stats_key(mode: Mode, storage: Storage) -> PipelineKey {
    key::<StatsParams>("group_norm_stats", mode.row_defines(storage), vec![], STATS)
}

pub(super) fn finish_key(mode: Mode) -> PipelineKey {
    let defines = mode.row_defines(Storage::F32);
    key::<FinishParams>("group_norm_finish", defines, vec![], FINISH)
}

pub(super) fn apply_key(mode: Mode, storage: Storage, out: Storage) -> PipelineKey {
    let wg = vec![("WG", mode.workgroup())];
    key::<ApplyParams>("group_norm_apply", storage.defines_to(out), wg, APPLY)
}

pub(super) fn layer_key(mode: Mode, storage: Storage, rows: usize) -> PipelineKey {
    let mut defines = mode.row_defines(storage);
    if !mode.direct {
        defines.push(("ROWS".into(), rows.to_string()));
    }
    key::<LayerParams>("layer_norm", defines, vec![], LAYER)
}

/// Rows of a workgroup of the layer norm, fewer where registers are few.
pub const LAYER_ROWS: [usize; 2] = [4, 2];

/// Those of the wide layer norm on `gpu`.
pub fn layer_rows(gpu: &Gpu) -> usize {
    LAYER_ROWS[usize::from(gpu.capabilities().few_registers)]
}

pub(super) fn softmax_key(mode: Mode) -> PipelineKey {
    key::<SoftmaxParams>("softmax", mode.row_defines(Storage::F32), vec![], SOFTMAX)
}

/// The softmax whose results are f16, beside the scores.
pub(super) fn weights_key(mode: Mode) -> PipelineKey {
    let mut defines = mode.row_defines(Storage::F32);
    defines.push(("OUT16".into(), String::new()));
    key::<SoftmaxParams>("softmax", defines, vec![], WEIGHTS)
}

/// Group norm over `[n, h, w, c]`: `act((x - mean) / sqrt(var + eps) * gamma +
/// beta)`, mean and variance over the pixels and the channels of each group
/// (Wu and He, 2018). `gamma` and `beta` are f32 `[c]`.
pub struct GroupNorm<'a> {
    pub x: &'a Tensor,
    /// As `x`, or f16 where that is f32.
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

/// Lanes of a workgroup of the wide statistics, as in the shader.
pub const STATS_LANES: usize = 128;

/// Workgroups of the wide statistics that share a row; each takes two rows at once or more.
fn tiles(c4: usize) -> usize {
    c4.div_ceil(STATS_LANES / 2).max(1)
}

/// The columns of a row that a workgroup of the statistics takes, in vec4s.
fn columns(mode: Mode, c4: usize) -> usize {
    match mode.direct {
        true => mode.workgroup() as usize,
        false => c4.div_ceil(tiles(c4)),
    }
}

/// Rows of a slab. Direct, few slabs, each worth its entry. Wide, as many as make the
/// first two passes equally long: a lane of the statistics reads `slab * c4 / (128 tiles)`
/// vec4s, one that joins them `slabs * c4 / 256` numbers, where there are 32 groups.
fn slab(mode: Mode, rows: usize, c4: usize) -> usize {
    let slab = match mode.direct {
        true => rows.div_ceil(64).max(16),
        false => {
            let slabs = (2 * rows / tiles(c4)).isqrt();
            rows.div_ceil(slabs.max(1))
        }
    };
    slab.min(rows).max(1)
}

/// Bytes of the statistics and of the factors that a group norm over
/// `[n, h, w, c]` needs.
pub fn scratch_bytes(mode: Mode, [n, h, w, c]: [usize; 4]) -> [u64; 2] {
    let c4 = c.div_ceil(4);
    let slabs = (h * w).div_ceil(slab(mode, h * w, c4));
    let stats = (n * slabs * c4 * 32) as u64;
    [stats, factor_bytes([n, h, w, c])]
}

/// Those of the factors alone.
pub fn factor_bytes([n, _, _, c]: [usize; 4]) -> u64 {
    (n * c.div_ceil(4) * 32) as u64
}

/// Ranges of rows of one picture that fit into a binding, in whole slabs.
fn bands(gpu: &Gpu, x: &Tensor, y: &Tensor, slab: usize) -> Vec<Range<usize>> {
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
    /// Fails where the shapes do not fit together or there is no room for the factors.
    fn check(&self) -> Result<()> {
        let x = self.x;
        x.check("x")?;
        // f16 for the products that read it, or as x.
        let out = match (x.storage, self.y.storage) {
            (Storage::F32, Storage::F16) => Storage::F16,
            _ => x.storage,
        };
        self.y.expect("y", x.shape(), out)?;
        let groups = self.groups;
        require(
            "group norm",
            groups > 0 && x.c.is_multiple_of(groups),
            || format!("{groups} groups of {} channels", x.c),
        )
    }

    /// The last pass alone, with the factors that `affine` holds already.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] where the shapes do not fit together.
    pub fn apply_only(&self, gpu: &Gpu, mode: Mode) -> Result<Vec<Dispatch>> {
        self.check()?;
        let (limit, rows) = (gpu.capabilities().max_binding, self.x.rows());
        let alignment = gpu.capabilities().alignment;
        let widest = self.x.row_bytes().max(self.y.row_bytes());
        let step = (limit.saturating_sub(2 * alignment) / widest) as usize;
        let step = step.clamp(1, rows);
        (0..rows)
            .step_by(step)
            .map(|first| self.apply(mode, first..rows.min(first + step), alignment))
            .collect()
    }

    /// The three passes; the first and last in bands where a binding limit asks for them.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] where the shapes do not fit together, or the views are
    /// smaller than [`scratch_bytes`].
    pub fn dispatches(&self, gpu: &Gpu, mode: Mode) -> Result<Vec<Dispatch>> {
        self.check()?;
        let x = self.x;
        let rows = x.rows_per_batch();
        let slab = slab(mode, rows, x.c4());
        let alignment = gpu.capabilities().alignment;
        let bands = bands(gpu, x, self.y, slab);
        let whole =
            bands.len() == 1 && x.view.size.max(self.y.view.size) <= gpu.capabilities().max_binding;
        // Without bands one dispatch serves the whole batch.
        let pictures = if whole { 1 } else { x.n };
        let batch = if whole { x.n } else { 1 };
        let bands: Vec<(usize, &Range<usize>)> = (0..pictures)
            .flat_map(|picture| bands.iter().map(move |band| (picture, band)))
            .collect();
        let mut all = Vec::new();
        for (picture, band) in &bands {
            all.push(self.stats(mode, *picture, band, batch, alignment)?);
        }
        all.push(self.finish(mode)?);
        for (picture, band) in &bands {
            let first = picture * rows + band.start;
            let count = (batch - 1) * rows + band.len();
            all.push(self.apply(mode, first..first + count, alignment)?);
        }
        Ok(all)
    }

    /// The statistics of the rows `band` of a picture, and of the same rows of as many
    /// pictures as `batch` says.
    fn stats(
        &self,
        mode: Mode,
        picture: usize,
        band: &Range<usize>,
        batch: usize,
        alignment: u64,
    ) -> Result<Dispatch> {
        let x = self.x;
        let (rows, c4) = (x.rows_per_batch(), x.c4());
        let slab = slab(mode, rows, c4);
        let slabs = rows.div_ceil(slab);
        let columns = columns(mode, c4);
        let [room, _] = scratch_bytes(mode, x.shape());
        let first = picture * rows + band.start;
        let count = (batch - 1) * rows + band.len();
        let (operand, offset) = x.row_operand("x", first..first + count, alignment)?;
        Dispatch::new(
            stats_key(mode, x.storage),
            [operand, self.stats.operand("statistics", room)?],
            StatsParams {
                rows: band.len() as u32,
                c4: c4 as u32,
                pitch: x.pitch as u32,
                offset,
                slab: slab as u32,
                slabs: slabs as u32,
                first_slab: (band.start / slab + picture * slabs) as u32,
                batch: (rows * x.pitch) as u32,
                columns: columns as u32,
            },
            [
                c4.div_ceil(columns) as u32,
                band.len().div_ceil(slab) as u32,
                batch as u32,
            ],
            Work {
                flops: batch * band.len() * c4 * 16,
                bytes: count * x.row_bytes() as usize,
            },
        )
    }

    fn finish(&self, mode: Mode) -> Result<Dispatch> {
        let x = self.x;
        let rows = x.rows_per_batch();
        let slab = slab(mode, rows, x.c4());
        let slabs = rows.div_ceil(slab);
        let all_groups = x.n * self.groups;
        let [stats, affine] = scratch_bytes(mode, x.shape());
        Dispatch::new(
            finish_key(mode),
            [
                self.stats.operand("statistics", stats)?,
                self.gamma.operand("gamma", 4 * x.c as u64)?,
                self.beta.operand("beta", 4 * x.c as u64)?,
                self.affine.operand("factors", affine)?,
            ],
            FinishParams {
                groups: all_groups as u32,
                per_batch: self.groups as u32,
                channels: (x.c / self.groups) as u32,
                c4: x.c4() as u32,
                slabs: slabs as u32,
                slab: slab as u32,
                rows: rows as u32,
                eps: self.eps,
            },
            mode.row_grid(all_groups),
            Work {
                flops: x.n * slabs * x.c * 8,
                bytes: x.n * slabs * x.c * 16,
            },
        )
    }

    /// The last pass over `rows`, counted over all pictures.
    fn apply(&self, mode: Mode, rows: Range<usize>, alignment: u64) -> Result<Dispatch> {
        let (x, y, count) = (self.x, self.y, rows.len());
        let (x_operand, x_offset) = x.row_operand("x", rows.clone(), alignment)?;
        let (y_operand, y_offset) = y.row_operand("y", rows.clone(), alignment)?;
        Dispatch::new(
            apply_key(mode, x.storage, y.storage),
            [
                x_operand,
                self.affine.operand("factors", factor_bytes(x.shape()))?,
                y_operand,
            ],
            ApplyParams {
                rows: count as u32,
                c4: x.c4() as u32,
                x_pitch: x.pitch as u32,
                y_pitch: y.pitch as u32,
                x_offset,
                y_offset,
                first_row: rows.start as u32,
                rows_per_batch: x.rows_per_batch() as u32,
                activation: self.activation as u32,
            },
            mode.item_grid(count * x.c4()),
            Work {
                flops: count * x.c4() * 32,
                bytes: count * (x.row_bytes() + y.row_bytes()) as usize,
            },
        )
    }
}

/// Layer norm over the columns of each row of `x`; `gamma` and `beta` are f32
/// `[c]`, padded with zeros to vec4s.
///
/// # Errors
/// [`crate::Error::Internal`] where the shapes do not fit together.
pub fn layer_norm(
    gpu: &Gpu,
    mode: Mode,
    x: &Tensor,
    [gamma, beta]: [&View; 2],
    y: &Tensor,
    eps: f32,
) -> Result<Vec<Dispatch>> {
    layer_norm_of(gpu, mode, layer_rows(gpu), x, [gamma, beta], y, eps)
}

/// [`layer_norm`] by the wide kernel that takes `rows` rows, one of [`LAYER_ROWS`], for
/// tests and benches.
///
/// # Errors
/// As there.
pub fn layer_norm_by(
    gpu: &Gpu,
    rows: usize,
    x: &Tensor,
    affine: [&View; 2],
    y: &Tensor,
    eps: f32,
) -> Result<Vec<Dispatch>> {
    let known = LAYER_ROWS.contains(&rows);
    require("layer norm", known, || format!("{rows} rows a workgroup"))?;
    layer_norm_of(gpu, Mode { direct: false }, rows, x, affine, y, eps)
}

fn layer_norm_of(
    gpu: &Gpu,
    mode: Mode,
    together: usize,
    x: &Tensor,
    [gamma, beta]: [&View; 2],
    y: &Tensor,
    eps: f32,
) -> Result<Vec<Dispatch>> {
    x.check("x")?;
    y.expect("y", x.shape(), x.storage)?;
    let alignment = gpu.capabilities().alignment;
    let limit = gpu.capabilities().max_binding.saturating_sub(2 * alignment);
    let fit = limit / x.row_bytes().max(y.row_bytes());
    let step = (fit as usize).clamp(1, x.rows());
    let padded = (x.c4() as u64).saturating_mul(16);
    let band = |first: usize| {
        let rows = step.min(x.rows() - first);
        let (x_operand, x_offset) = x.row_operand("x", first..first + rows, alignment)?;
        let (y_operand, y_offset) = y.row_operand("y", first..first + rows, alignment)?;
        let operands = [
            x_operand,
            gamma.operand("gamma", padded)?,
            beta.operand("beta", padded)?,
            y_operand,
        ];
        Dispatch::new(
            layer_key(mode, x.storage, together),
            operands,
            LayerParams {
                rows: rows as u32,
                count: x.c as u32,
                x_pitch: x.pitch as u32,
                y_pitch: y.pitch as u32,
                x_offset,
                y_offset,
                eps,
            },
            mode.row_grid(if mode.direct {
                rows
            } else {
                rows.div_ceil(together)
            }),
            Work {
                flops: rows * x.c * 8,
                bytes: rows * (x.row_bytes() + y.row_bytes()) as usize,
            },
        )
    };
    (0..x.rows()).step_by(step).map(band).collect()
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

/// Softmax of each row of `x`, which is f32: in place, or to `weights`, which are f16 and
/// lie as `x` does. Columns that `mask` drops become 0.
///
/// # Errors
/// [`crate::Error::Internal`] where the operands do not fit together, or `mask` keeps more
/// columns than there are, or none.
pub fn softmax(mode: Mode, x: &Tensor, weights: Option<&Tensor>, mask: Mask) -> Result<Dispatch> {
    let mut operands = vec![x.operand("scores")?];
    if let Some(weights) = weights {
        weights.expect("weights", x.shape(), Storage::F16)?;
        operands.push(weights.operand("weights")?);
    }
    let alike = |w: &Tensor| [w.pitch, w.offset] == [x.pitch, x.offset];
    let fits = x.storage == Storage::F32 && weights.is_none_or(alike);
    let masked = (1..=x.c).contains(&mask.count) && mask.rows_per_head > 0;
    let counted = [mask.rows_per_head, mask.first].map(|x| x <= i32::MAX as usize);
    require("softmax", fits && masked && counted == [true; 2], || {
        format!("{mask:?} of {:?}", x.shape())
    })?;
    Dispatch::new(
        match weights {
            Some(_) => weights_key(mode),
            None => softmax_key(mode),
        },
        operands,
        SoftmaxParams {
            rows: x.rows() as u32,
            count: mask.count as u32,
            pitch: x.pitch as u32,
            rows_per_head: mask.rows_per_head as u32,
            first: mask.first as u32,
            causal: u32::from(mask.causal),
            offset: x.offset as u32,
            c4: x.c4() as u32,
        },
        mode.row_grid(x.rows()),
        Work {
            flops: x.rows() * x.c * 12,
            bytes: 2 * x.rows() * x.row_bytes() as usize,
        },
    )
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
        let e = |v: f32| (f64::from(v) - f64::from(top)).exp();
        let sum: f64 = input[..count].iter().map(|v| e(*v)).sum();
        for (o, v) in output.iter_mut().zip(&input[..count]) {
            *o = (e(*v) / sum) as f32;
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At SDXL's larger shapes the wide statistics have lanes enough to fill a GPU, most
    /// of them with something to do, and no lane of either pass has far to go.
    #[test]
    fn wide_statistics_are_spread_over_many_lanes() {
        let wide = Mode { direct: false };
        for (side, c) in [
            (1024usize, 128usize),
            (512, 256),
            (256, 512),
            (128, 320),
            (128, 960),
        ] {
            let (rows, c4) = (side * side, c / 4);
            let slabs = rows.div_ceil(slab(wide, rows, c4));
            let [columns, tiles] = [columns(wide, c4), tiles(c4)];
            let at_once = STATS_LANES / columns;
            assert!(tiles * slabs * STATS_LANES >= 1 << 15, "{side} x {c}");
            let idle = STATS_LANES - at_once * columns;
            assert!(idle * 8 <= STATS_LANES, "{side} x {c}: {idle} idle");
            let ways = [slab(wide, rows, c4) / at_once, slabs * c / 32 / 64];
            assert!(ways.iter().all(|way| *way <= 256), "{side} x {c}: {ways:?}");
        }
    }
}
