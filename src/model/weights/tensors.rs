//! The tensors of a product as a checkpoint has them, and how they are packed.

use super::Keeping;
use super::packed::Packed;
use crate::checkpoint::{Extent, TensorSource, TensorView};
use crate::gpu::{Gpu, Uploads};
use crate::graph::{Placed, Product};
use crate::kernel::View;
use crate::kernel::product::{BLOCK, BlockFormat, Layout, WeightStorage};
use crate::{Error, Result};
use half::f16;

/// Values below which a product's weights stay as they are: blocks would save nothing.
const SMALL: usize = 1 << 14;

/// Columns of a product by which the error of its blocks is judged.
const SAMPLE: usize = 64;

/// What a product's weights are, on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain(WeightStorage),
    Blocks(BlockFormat),
}

impl Form {
    pub fn bytes(self, layout: Layout) -> u64 {
        match self {
            Form::Plain(storage) => layout.bytes(storage),
            Form::Blocks(format) => layout.block_bytes(format),
        }
    }

    fn panel_bytes(self, layout: Layout) -> u64 {
        match self {
            Form::Plain(storage) => layout.panel_bytes(storage),
            Form::Blocks(format) => layout.block_panel_bytes(format),
        }
    }
}

/// The largest error of blocks, `||q - w|| / ||w||`, at which a product is kept in them.
/// Normally distributed weights have 0.005 (q8) and 0.08 (q4).
fn tolerated(format: BlockFormat) -> f64 {
    match format {
        BlockFormat::Q8 => 0.02,
        BlockFormat::Q4 => 0.15,
    }
}

/// The tensors of a product.
pub(super) struct Tensors<'a> {
    /// `[n, k, taps]`, side by side.
    pub parts: Vec<TensorView<'a>>,
    pub bias: Vec<f32>,
    /// Names and largest magnitudes of those that f16 would make infinity of.
    pub wide: Vec<(String, f32)>,
}

/// A tensor, all of whose values are finite.
pub(super) fn read<'a>(
    source: &'a dyn TensorSource,
    name: &str,
    shape: &[usize],
) -> Result<(TensorView<'a>, Extent)> {
    let view = source.read(name, shape)?;
    let extent = view.extent();
    match extent.not_finite {
        0 => Ok((view, extent)),
        _ => Err(Error::not_finite_tensor(name)),
    }
}

impl<'a> Tensors<'a> {
    pub fn read(source: &'a dyn TensorSource, product: &Product) -> Result<Self> {
        Self::read_some(source, product, |_| true)
    }

    /// Those whose shapes are `wanted`.
    pub fn read_some(
        source: &'a dyn TensorSource,
        product: &Product,
        wanted: impl Fn(&[usize]) -> bool,
    ) -> Result<Self> {
        let mut tensors = Tensors {
            parts: Vec::new(),
            bias: Vec::new(),
            wide: Vec::new(),
        };
        for (name, shape) in product.tensors() {
            if !wanted(&shape) {
                continue;
            }
            let (view, extent) = read(source, &name, &shape)?;
            match shape[..] {
                [n] => tensors.bias.extend(view.values(0..n)),
                _ => {
                    tensors.parts.push(view);
                    if extent.exceeds_f16() {
                        tensors.wide.push((name, extent.largest));
                    }
                }
            }
        }
        Ok(tensors)
    }

    pub fn columns(&self, layout: Layout) -> Packed<'_> {
        Packed::new(&self.parts, layout.k * layout.taps)
    }

    /// How they are kept where `asked` is asked for, on a device that reads `halves` or not.
    pub fn form(&self, asked: Keeping, layout: Layout, halves: bool) -> Form {
        let all_f16 = halves && self.parts.iter().all(TensorView::fits_f16);
        if let (Some(format), true) = (asked.blocks, self.wide.is_empty())
            && fits_blocks(layout)
            && layout.block_error(format, &self.columns(layout), SAMPLE) <= tolerated(format)
        {
            return Form::Blocks(format);
        }
        Form::Plain(match self.wide.is_empty() {
            _ if all_f16 => WeightStorage::F16,
            true => asked.storage,
            // f16 would make infinity of them.
            false => WeightStorage::F32,
        })
    }
}

/// Whether a layout has enough values for blocks to save anything.
pub(super) fn fits_blocks(layout: Layout) -> bool {
    layout.k >= BLOCK && layout.n * layout.k * layout.taps >= SMALL
}

/// Packs a product's values to `view`.
pub(super) fn pack_weight(
    gpu: &Gpu,
    uploads: &mut Uploads,
    (layout, form): (Layout, Form),
    columns: &Packed<'_>,
    view: &View,
) -> Result<()> {
    let bytes = form.panel_bytes(layout);
    let panels = layout.panels();
    let at_a_time = (Uploads::AT_A_TIME / bytes).max(1) as usize;
    for first in (0..panels).step_by(at_a_time) {
        let some = first..(first + at_a_time).min(panels);
        let (offset, size) = (some.start as u64 * bytes, some.len() as u64 * bytes);
        let offset = view.offset + offset;
        uploads.write(gpu, &view.buffer, offset, size, |to| match form {
            Form::Plain(WeightStorage::F32) => layout.pack_panels::<f32>(some, columns, to),
            Form::Plain(WeightStorage::F16) => layout.pack_panels::<f16>(some, columns, to),
            Form::Blocks(format) => layout.pack_blocks(format, some, columns, to),
        })?;
    }
    Ok(())
}

impl Placed {
    /// Where the values are packed to, and how.
    pub(super) fn packed(&self) -> (&View, Form) {
        match &self.blocks {
            Some(blocks) => (&blocks.view, Form::Blocks(blocks.format)),
            None => (&self.weight.view, Form::Plain(self.weight.storage)),
        }
    }
}
