//! How weights lie on the device. The one place that knows: the model's loader, the
//! tests and the benches all pack here, and `product.wgsl` reads it.
//!
//! Weights are `[columns / 64, taps, k / 8, 64, 8]`: panels of [`PANEL`] columns, so
//! that a range of columns is a range of bytes, and in a panel units of [`UNIT`] values
//! along k of one column, the 64 columns side by side. So 16 bytes of f16 are one
//! column's next 8 values: what a tile in shared memory stores at once, what a matrix
//! fragment reads as a run, and what a K-contiguous activation looks like, so that
//! keys serve as weights as they lie. Columns and rows of padding are zero. Gated
//! layers alternate four values and four gates, so that both meet in one invocation.

use super::WeightStorage;
use bytemuck::Pod;
use rayon::prelude::*;
use std::ops::Range;
use wgpu::WriteOnly;

/// Columns of a panel, as in `product.wgsl`.
pub const PANEL: usize = 64;

/// Groups of 8 columns in a panel.
pub(super) const PANEL8: usize = PANEL / 8;

/// Values along k of one column that lie side by side.
pub const UNIT: usize = 8;

/// Columns of the widest tile.
pub(super) const WIDEST: usize = 256;

/// Bytes that are written at once: half a unit of a panel's columns in f32, all of it
/// in f16.
const PIECE: usize = PANEL * UNIT * 2;

/// Room for a piece, perhaps in memory that is slow to write in smaller ones.
/// Gone once it is written.
type Piece<'a> = Option<WriteOnly<'a, [u8; PIECE]>>;

/// Where the columns of weights come from, each `[k, taps]`.
pub trait Columns<T>: Sync {
    /// The values of a column from `first` on.
    fn read(&self, column: usize, first: usize, to: &mut [T]);
}

impl<T: Copy + Sync> Columns<T> for [&[T]] {
    fn read(&self, column: usize, first: usize, to: &mut [T]) {
        to.copy_from_slice(&self[column][first..first + to.len()]);
    }
}

/// What a thread works in: small enough for the processor's caches.
struct Scratch<T> {
    /// `[rows, taps]` of one column.
    run: Vec<T>,
    /// `[taps, rows / 8, 64]` units of a panel.
    packed: Vec<[T; UNIT]>,
}

impl<T: Pod> Scratch<T> {
    fn new(layout: Layout) -> Self {
        let values = layout.strip() * layout.taps;
        Self {
            run: vec![T::zeroed(); values],
            packed: vec![[T::zeroed(); UNIT]; values / UNIT * PANEL],
        }
    }
}

/// The shape of weights before they are packed: `[n, k, taps]`, as PyTorch has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// 1, or 9 for convolutions 3x3.
    pub taps: usize,
    /// Input channels.
    pub k: usize,
    /// Output channels, gates included.
    pub n: usize,
    /// The first half of the columns is gated by the second: `value * gelu(gate)`.
    pub geglu: bool,
}

impl Layout {
    /// Columns once packed, of which a gated layer's output has half.
    pub fn columns(self) -> usize {
        match self.geglu {
            true => 2 * (self.n / 2).next_multiple_of(4),
            false => self.n,
        }
    }

    /// Rows of a tap, padding included.
    pub fn rows(self) -> usize {
        self.k.next_multiple_of(UNIT)
    }

    /// Values of a panel.
    fn panel(self) -> usize {
        self.taps * self.rows() * PANEL
    }

    /// Values of all panels.
    fn values(self) -> usize {
        self.panels() * self.panel()
    }

    /// Bytes of all panels.
    pub fn bytes(self, storage: WeightStorage) -> u64 {
        (self.values() / 8) as u64 * storage.bytes8()
    }

    /// Values of packed biases.
    pub fn bias_places(self) -> usize {
        (self.columns() + WIDEST).next_multiple_of(PANEL)
    }

    /// The column of `[n, k, taps]` that the packed column `j` holds; `None` for
    /// padding.
    pub(super) fn source(self, j: usize) -> Option<usize> {
        if !self.geglu {
            return (j < self.n).then_some(j);
        }
        let half = self.n / 2;
        let column = j / 8 * 4 + j % 4;
        (column < half).then_some(if j % 8 < 4 { column } else { half + column })
    }

    /// Packs the `n` columns, each `[k, taps]`.
    pub fn pack<T: Pod + Send + Sync>(self, columns: &[&[T]]) -> Vec<T> {
        let mut packed = vec![T::zeroed(); self.values()];
        let bytes = WriteOnly::from_mut(bytemuck::cast_slice_mut(&mut packed));
        self.pack_panels(0..self.panels(), columns, bytes);
        packed
    }

    /// How many panels there are.
    pub fn panels(self) -> usize {
        self.columns().div_ceil(PANEL)
    }

    /// Bytes of a panel.
    pub fn panel_bytes(self, storage: WeightStorage) -> u64 {
        (self.panel() / 8) as u64 * storage.bytes8()
    }

    /// Writes some of the panels as bytes, on all cores: `to` has just their size, and
    /// each [`PIECE`] of it is written once and as a whole.
    pub fn pack_panels<T: Pod + Send>(
        self,
        panels: Range<usize>,
        columns: &(impl Columns<T> + ?Sized),
        to: WriteOnly<'_, [u8]>,
    ) {
        let pieces = to.into_chunks::<PIECE>().0;
        let mut pieces: Vec<Piece<'_>> = pieces.into_iter().map(Some).collect();
        let of_a_panel = self.panel() * size_of::<T>() / PIECE;
        let first = panels.start;
        let scratch = || Scratch::<T>::new(self);
        pieces
            .par_chunks_mut(of_a_panel)
            .take(panels.len())
            .enumerate()
            .for_each_init(scratch, |scratch, (p, pieces)| {
                self.pack_panel(first + p, columns, scratch, pieces);
            });
    }

    /// Rows that are packed at a time, a multiple of [`UNIT`].
    fn strip(self) -> usize {
        if self.taps == 1 { 64 } else { 16 }
    }

    fn pack_panel<T: Pod>(
        self,
        p: usize,
        columns: &(impl Columns<T> + ?Sized),
        scratch: &mut Scratch<T>,
        pieces: &mut [Piece<'_>],
    ) {
        let Self { taps, k, .. } = self;
        let sources: [_; PANEL] = std::array::from_fn(|column| self.source(p * PANEL + column));
        let units = self.strip() / UNIT;
        let Scratch { run, packed } = scratch;
        // Columns and rows that there are not stay as they are here.
        packed.fill([T::zeroed(); UNIT]);
        for start in (0..k).step_by(self.strip()) {
            let rows = (k - start).min(self.strip());
            if !rows.is_multiple_of(UNIT) {
                packed.fill([T::zeroed(); UNIT]);
            }
            for (column, source) in sources.iter().enumerate() {
                let Some(source) = *source else { continue };
                let run = &mut run[..rows * taps];
                columns.read(source, start * taps, run);
                match taps {
                    1 => {
                        let (whole, rest) = run.as_chunks::<UNIT>();
                        for (unit, values) in whole.iter().enumerate() {
                            packed[unit * PANEL + column] = *values;
                        }
                        if !rest.is_empty() {
                            packed[whole.len() * PANEL + column][..rest.len()]
                                .copy_from_slice(rest);
                        }
                    }
                    _ => {
                        for (row, values) in run.chunks_exact(taps).enumerate() {
                            let (unit, within) = (row / UNIT, row % UNIT);
                            for (tap, value) in values.iter().enumerate() {
                                packed[(tap * units + unit) * PANEL + column][within] = *value;
                            }
                        }
                    }
                }
            }
            for (tap, packed) in packed.chunks_exact(units * PANEL).enumerate() {
                let packed = &packed[..rows.div_ceil(UNIT) * PANEL];
                let packed = bytemuck::cast_slice::<_, u8>(packed.as_flattened()).as_chunks();
                let to = (tap * self.rows() + start) * PANEL * size_of::<T>() / PIECE;
                for (to, piece) in pieces[to..].iter_mut().zip(packed.0) {
                    if let Some(to) = to.take() {
                        to.write(*piece);
                    }
                }
            }
        }
    }

    /// Packs `n` biases: in the order of the columns, followed by as many zeros as the
    /// widest tile may read.
    pub fn pack_bias(self, bias: &[f32]) -> Vec<f32> {
        let places = 0..self.bias_places();
        let value = |j| self.source(j).map_or(0.0, |from| bias[from]);
        places.map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shaders::SHADERS;

    /// The reverse of [`Layout::pack`]: `[n, k, taps]`, and the values of the padding.
    fn unpack(layout: Layout, packed: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let Layout { taps, k, n, .. } = layout;
        let (mut values, mut padding) = (vec![0.0; n * k * taps], Vec::new());
        for (at, value) in packed.iter().enumerate() {
            let (unit, within) = (at / UNIT, at % UNIT);
            let (row, column) = (unit / PANEL * UNIT + within, unit % PANEL);
            let (tap, row) = (row / layout.rows(), row % layout.rows());
            let (panel, tap) = (tap / taps, tap % taps);
            match layout.source(panel * PANEL + column) {
                Some(source) if row < k => values[(source * k + row) * taps + tap] = *value,
                _ => padding.push(*value),
            }
        }
        (values, padding)
    }

    fn layouts() -> impl Iterator<Item = Layout> {
        let shapes = [
            [1, 1, 1],
            [9, 3, 5],
            [1, 17, 64],
            [9, 4, 65],
            [1, 33, 130],
            [1, 16, 200],
        ];
        shapes.into_iter().flat_map(|[taps, k, n]| {
            let layout = |n, geglu| Layout { taps, k, n, geglu };
            [layout(n, false), layout(2 * n, true)]
        })
    }

    #[test]
    fn unpacking_gives_back_what_was_packed() {
        for layout in layouts() {
            let Layout { taps, k, n, .. } = layout;
            let values: Vec<f32> = (1..=n * k * taps).map(|x| x as f32).collect();
            let columns: Vec<&[f32]> = values.chunks(k * taps).collect();
            let packed = layout.pack(&columns);
            let bytes = layout.bytes(WeightStorage::F32);
            assert_eq!(packed.len() as u64 * 4, bytes, "{layout:?}");
            assert_eq!(bytes, 2 * layout.bytes(WeightStorage::F16));
            let (back, padding) = unpack(layout, &packed);
            assert_eq!(back, values, "{layout:?}");
            assert!(padding.iter().all(|x| *x == 0.0), "{layout:?}");
        }
    }

    /// Written down apart from the packer, as the kernels' comments have it.
    #[test]
    fn columns_lie_where_the_kernels_look_for_them() {
        for layout in layouts() {
            let Layout { taps, k, n, geglu } = layout;
            let values: Vec<f32> = (1..=n * k * taps).map(|x| x as f32).collect();
            let columns: Vec<&[f32]> = values.chunks(k * taps).collect();
            let packed = layout.pack(&columns);
            let bias: Vec<f32> = (1..=n).map(|x| x as f32).collect();
            let packed_bias = layout.pack_bias(&bias);
            assert!(packed_bias.len().is_multiple_of(64));
            assert_eq!(packed_bias.iter().sum::<f32>(), bias.iter().sum::<f32>());
            for j in 0..n {
                // Value i of a gated layer is in group i / 4, its gate four further.
                let (i, gate) = (j % (n / 2).max(1), j / (n / 2).max(1));
                let place = match geglu {
                    true => i / 4 * 8 + 4 * gate + i % 4,
                    false => j,
                };
                assert_eq!(packed_bias[place], bias[j], "{layout:?}");
                for (row, tap) in (0..k).flat_map(|row| (0..taps).map(move |tap| (row, tap))) {
                    let k8 = (place / 64 * taps + tap) * k.div_ceil(8) + row / 8;
                    let at = (k8 * 64 + place % 64) * 8 + row % 8;
                    let value = values[(j * k + row) * taps + tap];
                    assert_eq!(packed[at], value, "{layout:?} {j} {row} {tap}");
                }
            }
        }
    }

    #[test]
    fn the_shader_has_the_same_panels() {
        let (_, text) = SHADERS.iter().find(|(name, _)| *name == "product").unwrap();
        assert!(text.contains(&format!("const PANEL: u32 = {PANEL}u;")));
    }
}
