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

/// Columns of a panel, as in `product.wgsl`.
pub const PANEL: usize = 64;

/// Groups of 8 columns in a panel.
pub(super) const PANEL8: usize = PANEL / 8;

/// Values along k of one column that lie side by side.
pub const UNIT: usize = 8;

/// Columns of the widest tile.
pub(super) const WIDEST: usize = 256;

/// Rows that are packed at a time, so that what is written stays in the processor's
/// first cache.
const STRIP: usize = 16;

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

    /// Where row `row` of `tap` of a column of its panel lies in the panel.
    fn place(self, tap: usize, row: usize, column: usize) -> usize {
        ((tap * self.rows() / UNIT + row / UNIT) * PANEL + column) * UNIT + row % UNIT
    }

    /// Values of a panel.
    fn panel(self) -> usize {
        self.taps * self.rows() * PANEL
    }

    /// Values of all panels.
    fn values(self) -> usize {
        self.columns().div_ceil(PANEL) * self.panel()
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
    fn source(self, j: usize) -> Option<usize> {
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
        packed
            .par_chunks_mut(self.panel())
            .enumerate()
            .for_each(|(p, panel)| self.pack_panel(columns, p, panel));
        packed
    }

    fn pack_panel<T: Pod>(self, columns: &[&[T]], p: usize, panel: &mut [T]) {
        let taps = self.taps;
        for start in (0..self.k).step_by(STRIP) {
            let end = (start + STRIP).min(self.k);
            for column in 0..PANEL {
                let Some(source) = self.source(p * PANEL + column) else {
                    continue;
                };
                let values = &columns[source][start * taps..end * taps];
                for (k, values) in values.chunks_exact(taps).enumerate() {
                    for (tap, value) in values.iter().enumerate() {
                        panel[self.place(tap, start + k, column)] = *value;
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
