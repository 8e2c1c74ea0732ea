//! f32 activations as the f16 operands of a product that none of them exceeds: scaled by
//! a power of two that the device finds, and undone at the end of the product.

use super::product::Layout;
use super::{Context, Dispatch, Mode, Storage, Tensor, View, Work, key, require};
use crate::gpu::{Access, PipelineKey, host_shareable};
use crate::{Error, Result};
use std::ops::Range;

const LARGEST: &[Access] = &[Access::Read, Access::Write, Access::Uniform];
const FACTOR: &[Access] = &[Access::Read, Access::Read, Access::Write, Access::Uniform];
const NARROW: &[Access] = FACTOR;

/// Chunks of rows whose largest magnitudes are found side by side.
const CHUNKS: usize = 1024;

host_shareable! {
    /// `Params` of `narrow_largest.wgsl`.
    struct LargestParams {
        rows: u32,
        c4: u32,
        pitch: u32,
        offset: u32,
        chunk: u32,
        first: u32,
    }
}

host_shareable! {
    /// `Params` of `narrow_factor.wgsl`.
    struct FactorParams {
        chunks: u32,
        places4: u32,
    }
}

host_shareable! {
    /// `Params` of `narrow.wgsl`.
    struct NarrowParams {
        rows: u32,
        c4: u32,
        x_pitch: u32,
        y_pitch: u32,
        x_offset: u32,
        y_offset: u32,
        factor_at: u32,
    }
}

pub(super) fn largest_key(mode: Mode) -> PipelineKey {
    let defines = mode.row_defines(Storage::F32);
    key::<LargestParams>("narrow_largest", defines, vec![], LARGEST)
}

pub(super) fn factor_key(mode: Mode) -> PipelineKey {
    let wg = vec![("WG", mode.workgroup())];
    key::<FactorParams>("narrow_factor", vec![], wg, FACTOR)
}

pub(super) fn narrow_key(mode: Mode) -> PipelineKey {
    let wg = vec![("WG", mode.workgroup())];
    let defines = Storage::F32.defines_to(Storage::F16);
    key::<NarrowParams>("narrow", defines, wg, NARROW)
}

/// Rows of a chunk.
fn chunk(rows: usize) -> usize {
    rows.div_ceil(CHUNKS).max(1)
}

/// Bytes of the operand `[n, h, w, c]`, of the largest magnitudes, and of the bias with
/// the factors behind it, for a product of `layout`.
pub fn scratch_bytes(shape: [usize; 4], layout: Layout) -> [u64; 3] {
    let [n, h, w, _] = shape;
    let rows = n * h * w;
    [
        Tensor::bytes_of(Storage::F16, shape).next_multiple_of(16),
        4 * rows.div_ceil(chunk(rows)) as u64,
        4 * (layout.bias_places() + 4) as u64,
    ]
}

/// The arguments of [`Self::dispatches`].
pub struct Narrow<'a> {
    /// f32.
    pub x: &'a Tensor,
    /// The product's, as [`Layout::pack_bias`] has it.
    pub bias: Option<&'a View>,
    pub layout: Layout,
    /// Room for [`scratch_bytes`].
    pub scratch: &'a [View],
}

/// What a product takes in place of its operand and its bias, with
/// [`super::product::Scale::BehindBias`].
pub struct Narrowed {
    pub operand: Tensor,
    pub bias: View,
    pub dispatches: Vec<Dispatch>,
}

impl Narrow<'_> {
    /// In bands of rows where the binding limit asks for them.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] where the operands do not fit together.
    pub fn dispatches(&self, context: &Context) -> Result<Narrowed> {
        let x = self.x;
        x.check("x")?;
        require("narrow", x.storage == Storage::F32, || {
            "activations that are not f32".into()
        })?;
        let [operand, largest, biased] = self.scratch else {
            return Err(Error::internal("narrow", "no room for what it makes"));
        };
        let [bytes, of_largest, of_bias] = scratch_bytes(x.shape(), self.layout);
        let (largest, biased) = (largest.first(of_largest)?, biased.first(of_bias)?);
        let y = Tensor::new(operand.first(bytes)?, Storage::F16, x.shape());
        let capabilities = context.gpu.capabilities();
        let alignment = capabilities.alignment;
        let limit = capabilities.max_binding.saturating_sub(2 * alignment);
        let fit = (limit / x.row_bytes()) as usize;
        let chunk = chunk(x.rows());
        // Whole chunks.
        let step = (fit / chunk).max(1) * chunk;
        let bands = || (0..x.rows()).step_by(step);
        let band = |first: usize| first..x.rows().min(first + step);
        let mut dispatches = Vec::new();
        for first in bands() {
            dispatches.push(self.largest(context, band(first), &largest)?);
        }
        dispatches.push(self.factor(context, &largest, &biased)?);
        for first in bands() {
            dispatches.push(self.narrow(context, band(first), &biased, &y)?);
        }
        Ok(Narrowed {
            operand: y,
            bias: biased,
            dispatches,
        })
    }

    fn largest(&self, context: &Context, rows: Range<usize>, largest: &View) -> Result<Dispatch> {
        let (x, mode) = (self.x, context.mode);
        let [_, bytes, _] = scratch_bytes(x.shape(), self.layout);
        let alignment = context.gpu.capabilities().alignment;
        let (operand, offset) = x.row_operand("x", rows.clone(), alignment)?;
        let chunk = chunk(x.rows());
        Dispatch::new(
            largest_key(mode),
            [operand, largest.operand("largest", bytes)?],
            LargestParams {
                rows: rows.len() as u32,
                c4: x.c4() as u32,
                pitch: x.pitch as u32,
                offset,
                chunk: chunk as u32,
                first: (rows.start / chunk) as u32,
            },
            mode.row_grid(rows.len().div_ceil(chunk)),
            Work {
                flops: rows.len() * x.c,
                bytes: rows.len() * x.row_bytes() as usize,
            },
        )
    }

    fn factor(&self, context: &Context, largest: &View, biased: &View) -> Result<Dispatch> {
        let [_, chunk_bytes, bytes] = scratch_bytes(self.x.shape(), self.layout);
        let places = self.layout.bias_places();
        let bias = match self.bias {
            Some(bias) => bias.operand("bias", 4 * places as u64)?,
            None => context.nothing(4 * places as u64)?,
        };
        Dispatch::new(
            factor_key(context.mode),
            [
                largest.operand("largest", chunk_bytes)?,
                bias,
                biased.operand("biased", bytes)?,
            ],
            FactorParams {
                chunks: (chunk_bytes / 4) as u32,
                places4: (places / 4) as u32,
            },
            context.mode.item_grid(places / 4 + 1),
            Work {
                flops: places,
                bytes: 8 * places,
            },
        )
    }

    fn narrow(
        &self,
        context: &Context,
        rows: Range<usize>,
        biased: &View,
        y: &Tensor,
    ) -> Result<Dispatch> {
        let (x, count) = (self.x, rows.len());
        let [_, _, bytes] = scratch_bytes(x.shape(), self.layout);
        let alignment = context.gpu.capabilities().alignment;
        let (x_operand, x_offset) = x.row_operand("x", rows.clone(), alignment)?;
        let (y_operand, y_offset) = y.row_operand("y", rows, alignment)?;
        Dispatch::new(
            narrow_key(context.mode),
            [x_operand, biased.operand("biased", bytes)?, y_operand],
            NarrowParams {
                rows: count as u32,
                c4: x.c4() as u32,
                x_pitch: x.pitch as u32,
                y_pitch: y.pitch as u32,
                x_offset,
                y_offset,
                factor_at: (self.layout.bias_places() / 4) as u32,
            },
            context.mode.item_grid(count * x.c4()),
            Work {
                flops: count * x.c,
                bytes: count * (x.row_bytes() + y.row_bytes()) as usize,
            },
        )
    }
}

/// The CPU twin: `2^k`, by which a product's operand is divided; the largest magnitude
/// becomes 2^14 to 2^15.
pub fn twin_factor(x: &[f32]) -> f32 {
    let largest = x.iter().fold(0f32, |most, x| most.max(x.abs()));
    let exponent = (largest.to_bits() >> 23).max(15);
    f32::from_bits((exponent - 14) << 23)
}
