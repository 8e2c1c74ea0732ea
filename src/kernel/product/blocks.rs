//! Weights in blocks that share a scale, in a quarter or half of the memory of f16: kept
//! on the device so, and expanded into f16 before each product.

use super::layout::{Columns, Layout, PANEL, UNIT};
use super::{Weight, WeightStorage};
use crate::gpu::{Access, PipelineKey, host_shareable};
use crate::kernel::{Context, Dispatch, Mode, View, Work, key};
use crate::quantise::{BLOCK, BlockFormat};
use crate::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;
use wgpu::WriteOnly;

/// Bytes that a panel is a multiple of, so that any range of them can be bound.
const ALIGNMENT: usize = 256;

const BINDINGS: &[Access] = &[Access::Read, Access::Write, Access::Uniform];

/// How a unit of 8 values lies on the device.
impl BlockFormat {
    /// Bytes of a unit of 8 values.
    fn unit_bytes(self) -> usize {
        match self {
            BlockFormat::Q8 => 8,
            BlockFormat::Q4 => 4,
        }
    }

    fn store(self, values: &[i8; UNIT]) -> [u8; UNIT] {
        match self {
            BlockFormat::Q8 => values.map(|q| q as u8),
            BlockFormat::Q4 => {
                let nibble = |i: usize| (values[i] + 8) as u8;
                let pair = |i: usize| nibble(2 * i) | nibble(2 * i + 1) << 4;
                std::array::from_fn(|i| if i < 4 { pair(i) } else { 0 })
            }
        }
    }
}

/// Weights in blocks on the device, beside the f16 [`Weight`] that they become.
#[derive(Clone)]
pub struct Blocks {
    pub format: BlockFormat,
    pub layout: Layout,
    /// Panels as [`Layout::pack_blocks`] lays them out.
    pub view: View,
}

host_shareable! {
    /// `Params` of `expand.wgsl`.
    struct ExpandParams {
        units: u32,
        panel: u32,
        k8: u32,
        blocks: u32,
        words: u32,
    }
}

pub(crate) fn expand_key(mode: Mode, format: BlockFormat) -> PipelineKey {
    let defines = match format {
        BlockFormat::Q8 => vec![],
        BlockFormat::Q4 => vec![("Q4".into(), String::new())],
    };
    let wg = vec![("WG", mode.workgroup())];
    key::<ExpandParams>("expand", defines, wg, BINDINGS)
}

/// The dispatches that write the values of `blocks` to `weight`: one, or one for as many
/// panels as the adapter can bind.
///
/// # Errors
/// [`Error::Internal`] where the two are not of one layout.
pub fn expand(context: &Context, blocks: &Blocks, weight: &Weight) -> Result<Vec<Dispatch>> {
    let Blocks {
        format,
        layout,
        view,
    } = blocks;
    if weight.storage != WeightStorage::F16 {
        return Err(Error::internal("expand", "weights that are not f16"));
    }
    let from = layout.block_panel_bytes(*format);
    let to = layout.panel_bytes(WeightStorage::F16);
    let limit = context.gpu.capabilities().max_binding;
    let step = (limit / from.max(to)).max(1) as usize;
    let all = layout.panels();
    let units = (to / 16) as usize;
    let bands = (0..all).step_by(step).map(|first| {
        let panels = first as u64..(first + step).min(all) as u64;
        let count = (panels.end - panels.start) as usize;
        let part = |view: &View, bytes: u64| view.part(panels.start * bytes..panels.end * bytes);
        Dispatch::new(
            expand_key(context.mode, *format),
            [
                part(view, from)?.operand("q", from * count as u64)?,
                part(&weight.view, to)?.operand("out", to * count as u64)?,
            ],
            ExpandParams {
                units: (units * count) as u32,
                panel: units as u32,
                k8: (layout.rows() / UNIT) as u32,
                blocks: layout.rows().div_ceil(BLOCK) as u32,
                words: (from / 4) as u32,
            },
            context.mode.item_grid(units * count),
            Work {
                flops: units * count * UNIT,
                bytes: (from + to) as usize * count,
            },
        )
    });
    bands.collect()
}

impl Layout {
    /// Bytes of the values of a panel in blocks, and of their scales.
    fn block_parts(self, format: BlockFormat) -> [usize; 2] {
        let units = self.taps * self.rows() / UNIT * PANEL;
        let blocks = self.taps * self.rows().div_ceil(BLOCK) * PANEL;
        [units * format.unit_bytes(), blocks * size_of::<f16>()]
    }

    /// Bytes of a panel in blocks.
    pub fn block_panel_bytes(self, format: BlockFormat) -> u64 {
        let [values, scales] = self.block_parts(format);
        (values + scales).next_multiple_of(ALIGNMENT) as u64
    }

    /// Bytes of all panels in blocks.
    pub fn block_bytes(self, format: BlockFormat) -> u64 {
        self.panels() as u64 * self.block_panel_bytes(format)
    }

    /// Quantises some of the panels, on all cores: `to` has just their size, and is
    /// written front to back.
    pub fn pack_blocks(
        self,
        format: BlockFormat,
        panels: Range<usize>,
        columns: &(impl Columns<f32> + ?Sized),
        mut to: WriteOnly<'_, [u8]>,
    ) {
        let bytes = self.block_panel_bytes(format) as usize;
        // As many at a time as there are threads to make them.
        let at_a_time = rayon::current_num_threads().max(1);
        let mut made = vec![0u8; bytes * at_a_time.min(panels.len())];
        for first in panels.clone().step_by(at_a_time) {
            let count = at_a_time.min(panels.end - first);
            let made = &mut made[..count * bytes];
            made.par_chunks_mut(bytes)
                .enumerate()
                .for_each(|(i, panel)| self.pack_block_panel(format, first + i, columns, panel));
            let at = (first - panels.start) * bytes;
            to.slice(at..at + made.len()).copy_from_slice(made);
        }
    }

    fn pack_block_panel(
        self,
        format: BlockFormat,
        panel: usize,
        columns: &(impl Columns<f32> + ?Sized),
        to: &mut [u8],
    ) {
        let (units, blocks) = (self.rows() / UNIT, self.rows().div_ceil(BLOCK));
        let [values_bytes, scale_bytes] = self.block_parts(format);
        let (values, rest) = to.split_at_mut(values_bytes);
        let scales = &mut rest[..scale_bytes];
        let unit_bytes = format.unit_bytes();
        values.fill(format.store(&[0; UNIT])[0]);
        scales.fill(0);
        let mut run = vec![0f32; BLOCK * self.taps];
        let sources = (0..PANEL).map(|column| self.source(panel * PANEL + column));
        for (column, source) in sources.enumerate() {
            let Some(source) = source else { continue };
            for block in 0..blocks {
                let start = block * BLOCK;
                let rows = (self.k - start).min(BLOCK);
                let run = &mut run[..rows * self.taps];
                columns.read(source, start * self.taps, run);
                for tap in 0..self.taps {
                    let mut one = [0f32; BLOCK];
                    for (row, value) in one[..rows].iter_mut().enumerate() {
                        *value = run[row * self.taps + tap];
                    }
                    let (scale, made) = format.quantise(&one);
                    let at = ((tap * blocks + block) * PANEL + column) * 2;
                    scales[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                    let here = (units - block * (BLOCK / UNIT)).min(BLOCK / UNIT);
                    for (u, unit) in made.as_chunks::<UNIT>().0[..here].iter().enumerate() {
                        let place = (tap * units + block * (BLOCK / UNIT) + u) * PANEL + column;
                        values[place * unit_bytes..][..unit_bytes]
                            .copy_from_slice(&format.store(unit)[..unit_bytes]);
                    }
                }
            }
        }
    }

    /// How far quantising changes the columns: `||q - w|| / ||w||`, from at most
    /// `most` columns spread over all.
    pub fn block_error(
        self,
        format: BlockFormat,
        columns: &(impl Columns<f32> + ?Sized),
        most: usize,
    ) -> f64 {
        let step = self.n.div_ceil(most.max(1)).max(1);
        let chosen: Vec<usize> = (0..self.n).step_by(step).collect();
        let sums = chosen.into_par_iter().map(|column| {
            let mut values = vec![0f32; self.k * self.taps];
            columns.read(column, 0, &mut values);
            let (mut off, mut all) = (0f64, 0f64);
            for tap in 0..self.taps {
                for start in (0..self.k).step_by(BLOCK) {
                    let mut one = [0f32; BLOCK];
                    let rows = (self.k - start).min(BLOCK);
                    for (row, value) in one[..rows].iter_mut().enumerate() {
                        *value = values[(start + row) * self.taps + tap];
                    }
                    let (scale, made) = format.quantise(&one);
                    for (q, x) in made.iter().zip(one) {
                        let difference = f64::from(f32::from(*q) * scale.to_f32() - x);
                        off += difference * difference;
                        all += f64::from(x) * f64::from(x);
                    }
                }
            }
            [off, all]
        });
        let [off, all] = sums.reduce(|| [0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
        match all {
            0.0 => 0.0,
            all => (off / all).sqrt(),
        }
    }
}

/// The CPU twin of [`expand`]: panels of [`Layout::pack_blocks`] as packed f16 values.
pub fn twin_expand(format: BlockFormat, layout: Layout, panels: &[u8]) -> Vec<f32> {
    let (units, blocks) = (layout.rows() / UNIT, layout.rows().div_ceil(BLOCK));
    let [values_bytes, _] = layout.block_parts(format);
    let mut all = Vec::new();
    for panel in panels.chunks(layout.block_panel_bytes(format) as usize) {
        let (values, scales) = panel.split_at(values_bytes);
        for unit in 0..layout.taps * units * PANEL {
            let (row, column) = (unit / PANEL, unit % PANEL);
            let block = row / units * blocks + row % units / (BLOCK / UNIT);
            let at = (block * PANEL + column) * 2;
            let scale = f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32();
            let bytes = &values[unit * format.unit_bytes()..][..format.unit_bytes()];
            let exact: [f32; UNIT] = std::array::from_fn(|i| match format {
                BlockFormat::Q8 => scale * f32::from(bytes[i] as i8),
                BlockFormat::Q4 => scale * (f32::from(bytes[i / 2] >> (4 * (i % 2)) & 15) - 8.0),
            });
            let mut halves = [f16::ZERO; UNIT];
            halves.convert_from_f32_slice(&exact);
            all.extend(halves.map(f16::to_f32));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantise::tests::noise;

    fn pack(format: BlockFormat, layout: Layout, values: &[f32]) -> Vec<u8> {
        let columns: Vec<&[f32]> = values.chunks(layout.k * layout.taps).collect();
        let mut packed = vec![0xaau8; layout.block_bytes(format) as usize];
        let to = WriteOnly::from_mut(&mut packed[..]);
        layout.pack_blocks(format, 0..layout.panels(), &columns[..], to);
        packed
    }

    /// The error of a value is at most half a step, where a step follows from the largest
    /// of the block; values lie where f16 ones would, and padding is zero.
    #[test]
    fn blocks_hold_the_columns_in_the_places_of_f16() {
        for [taps, k, n] in [
            [1, 1, 1],
            [9, 40, 5],
            [1, 64, 64],
            [9, 8, 65],
            [1, 100, 130],
        ] {
            for geglu in [false, true] {
                let n = if geglu { 2 * n } else { n };
                let layout = Layout { taps, k, n, geglu };
                let values = noise(n * k * taps, (k + n) as u64);
                let columns: Vec<&[f32]> = values.chunks(k * taps).collect();
                let exact = layout.pack(&columns);
                for (format, within) in [(BlockFormat::Q8, 0.02), (BlockFormat::Q4, 0.45)] {
                    let packed = pack(format, layout, &values);
                    let back = twin_expand(format, layout, &packed);
                    assert_eq!(back.len(), exact.len());
                    for (x, y) in back.iter().zip(&exact) {
                        assert!((x - y).abs() <= within, "{layout:?} {format:?}: {x} {y}");
                        assert!(*y != 0.0 || *x == 0.0, "padding: {x}");
                    }
                    let off: f64 = back
                        .iter()
                        .zip(&exact)
                        .map(|(x, y)| f64::from(x - y).powi(2))
                        .sum();
                    let all: f64 = exact.iter().map(|x| f64::from(*x).powi(2)).sum();
                    let told = layout.block_error(format, &columns[..], usize::MAX);
                    assert!(((off / all).sqrt() - told).abs() < 1e-3, "{told}");
                    if k >= 32 {
                        let most = if format == BlockFormat::Q8 {
                            0.006
                        } else {
                            0.09
                        };
                        assert!(told < most && told > most / 20.0, "{format:?}: {told}");
                    }
                }
            }
        }
    }
}
