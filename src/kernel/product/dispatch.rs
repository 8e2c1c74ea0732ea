//! One band of a product as dispatches: its parameters, its operands, its variant.

use super::bands::Band;
use super::layout::PANEL8;
use super::{Blocks, Call, Conv, PANEL, Product, Scale, UNIT, Variant, Weight, sum_key};
use crate::gpu::{Access, host_shareable};
use crate::kernel::program::Operand;
use crate::kernel::{Context, Dispatch, Tensor, Work, fold};
use crate::{Error, Result};
use std::ops::Range;

pub(super) const BINDINGS: &[Access] = &[
    Access::Read,
    Access::Read,
    Access::Write,
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Uniform,
];

host_shareable! {
    /// `Params` of `product.wgsl`.
    pub(super) struct Params {
        m: u32,
        n8: u32,
        k4: u32,
        taps: u32,
        k8: u32,
        a_offset: u32,
        a_pitch: u32,
        w_offset: u32,
        w_step: u32,
        w_column: u32,
        w_panel: u32,
        w_columns: u32,
        o_offset: u32,
        o_pitch: u32,
        n4: u32,
        r_offset: u32,
        c_offset: u32,
        c_pitch: u32,
        flags: u32,
        activation: u32,
        first_row: u32,
        rows_per_batch: u32,
        heads: u32,
        a_batch: u32,
        a_head: u32,
        w_batch: u32,
        w_head: u32,
        o_batch: u32,
        o_head: u32,
        scale: f32,
        scale_at: u32,
        in_h: u32,
        in_w: u32,
        out_w: u32,
        stride: u32,
        pad: u32,
        up: u32,
        a_first: u32,
        seen_h: u32,
        seen_w: u32,
        r_pitch: u32,
        split: u32,
    }
}

// Which parts of an [`Epilogue`] there are; as in `product.wgsl`.
const BIAS: u32 = 1;
const CHANNEL: u32 = 2;
const RESIDUAL: u32 = 4;
const GEGLU: u32 = 8;
const SCALED: u32 = 16;

/// The shader's flags by their names, for the test that compares them.
pub const EPILOGUE_FLAGS: [(&str, u32); 5] = [
    ("BIAS", BIAS),
    ("CHANNEL", CHANNEL),
    ("RESIDUAL", RESIDUAL),
    ("GEGLU", GEGLU),
    ("SCALED", SCALED),
];

impl Blocks {
    /// Steps from the first block to the last, given those of a batch and of a head.
    fn span(&self, [batch, head]: [usize; 2]) -> u64 {
        let steps = |count: usize, step: usize| (count as u64 - 1).saturating_mul(step as u64);
        steps(self.batches, batch).saturating_add(steps(self.heads, head))
    }

    /// The operand of `m` rows of every block of `t`, from row `first` of a block on, and
    /// where it begins, in vec4s.
    fn operand(
        &self,
        name: &'static str,
        t: &Tensor,
        strides: [usize; 2],
        first: usize,
        m: usize,
    ) -> Result<(Operand, u32)> {
        let pitch = t.pitch as u64;
        let offset = (first as u64).saturating_mul(pitch);
        let offset = offset.saturating_add(t.offset as u64);
        let last = (m as u64 - 1).saturating_mul(pitch);
        let vec4s = [offset, self.span(strides), last, t.c4() as u64]
            .into_iter()
            .fold(0, u64::saturating_add);
        let operand = t
            .view
            .operand(name, vec4s.saturating_mul(t.storage.bytes4()))?;
        Ok((operand, offset as u32))
    }
}

impl Weight {
    /// The operand of the groups of 8 columns `columns`, for blocks `w` apart.
    fn operand(&self, columns: &Range<usize>, blocks: &Blocks) -> Result<Operand> {
        let view = if columns.len() == self.n8 {
            self.view.clone()
        } else {
            let panel = (self.panel as u64).saturating_mul(self.storage.bytes8());
            let place = |n8: usize| panel.saturating_mul(n8.div_ceil(PANEL8) as u64);
            self.view.part(place(columns.start)..place(columns.end))?
        };
        // The last column lies furthest, or the last one of the panel before.
        let last = (8 * columns.len()).min(self.columns) - 1;
        let place = |n: usize| {
            let panels = ((n / PANEL) as u64).saturating_mul(self.panel as u64);
            panels.saturating_add(((n % PANEL) as u64).saturating_mul(self.column as u64))
        };
        let furthest = place(last).max(place((last / PANEL * PANEL).saturating_sub(1)));
        let steps = (self.taps as u64).saturating_mul((self.k_rows / UNIT) as u64) - 1;
        let units = [
            self.offset as u64,
            blocks.span(blocks.w),
            steps.saturating_mul(self.step as u64),
            furthest,
            1,
        ];
        let units = units.into_iter().fold(0, u64::saturating_add);
        view.operand("weights", units.saturating_mul(self.storage.bytes8()))
    }
}

/// What an epilogue reads, with its offset and pitch in vec4s.
struct Extra {
    operand: Operand,
    offset: u32,
    pitch: u32,
}

impl Extra {
    /// Zeros, of which `bytes` are read.
    fn none(context: &Context, bytes: u64) -> Result<Self> {
        Ok(Self {
            operand: context.nothing(bytes)?,
            offset: 0,
            pitch: 0,
        })
    }
}

pub(super) fn dispatch(
    context: &Context,
    product: &Product<'_>,
    band: &Band,
    columns: Range<usize>,
    variant: Variant,
) -> Result<Vec<Dispatch>> {
    let Product {
        a,
        weight,
        out,
        conv,
        epilogue,
        ..
    } = product;
    let alignment = context.gpu.capabilities().alignment;
    let m = band.out.len();
    let n8 = columns.len();
    let one = Blocks {
        batches: 1,
        heads: 1,
        ..Default::default()
    };
    // Blocks carry strides of their own over the whole tensors.
    let blocks = product.blocks.unwrap_or(one);
    let ((a_operand, a_offset), (o_operand, o_offset)) = if product.blocks.is_some() {
        (
            blocks.operand("a", a, blocks.a, band.input.start, m)?,
            blocks.operand("out", out, blocks.out, band.out.start, m)?,
        )
    } else {
        (
            a.row_operand("a", band.input.clone(), alignment)?,
            out.row_operand("out", band.out.clone(), alignment)?,
        )
    };
    // Columns before this band, in panels: a window on weights and bias, an
    // offset in what runs along the output.
    let panels = columns.start / PANEL8;
    let per_panel = PANEL / if epilogue.geglu { 8 } else { 4 };
    let skip4 = panels * per_panel;
    let mut flags = 0;
    let mut scale_at = 0;
    let bias = match &epilogue.bias {
        Some(view) => {
            flags |= BIAS;
            let start = (4 * PANEL * panels) as u64;
            let mut bytes = 4 * variant.bias_columns(n8) as u64;
            if epilogue.scale == Some(Scale::BehindBias) {
                flags |= SCALED;
                // In the last vec4.
                bytes = view.size.saturating_sub(start);
                scale_at = (bytes.saturating_sub(16) / 4) as u32;
            }
            let view = view.part(start..view.size.max(start))?;
            view.operand("bias", bytes)?
        }
        None => Extra::none(context, 4 * variant.bias_columns(n8) as u64)?.operand,
    };
    let channel = match &epilogue.channel {
        Some(t) => {
            flags |= CHANNEL;
            Extra {
                operand: t.operand("channel")?,
                offset: (t.offset + skip4) as u32,
                pitch: t.pitch as u32,
            }
        }
        None => Extra::none(context, 0)?,
    };
    let residual = match &epilogue.residual {
        Some(t) => {
            flags |= RESIDUAL;
            let (operand, offset) = t.row_operand("residual", band.out.clone(), alignment)?;
            Extra {
                operand,
                offset: offset + skip4 as u32,
                pitch: t.pitch as u32,
            }
        }
        None => Extra::none(context, 0)?,
    };
    if epilogue.geglu {
        flags |= GEGLU;
    }
    let geometry = conv.unwrap_or(Conv {
        stride: 1,
        pad: 0,
        upsample: false,
    });
    let z = blocks.batches * blocks.heads;
    let call = product.call(m, n8);
    let key = variant.key(call.storages, call.gather);
    let key = key.ok_or_else(|| Error::internal("product", format!("{variant} of f32")))?;
    let moved = band.input.len() * a.row_bytes() as usize + m * out.row_bytes() as usize;
    let params = Params {
        m: m as u32,
        n8: n8 as u32,
        k4: a.c4() as u32,
        taps: weight.taps as u32,
        k8: (weight.k_rows / UNIT) as u32,
        a_offset,
        a_pitch: a.pitch as u32,
        w_offset: weight.offset as u32,
        w_step: weight.step as u32,
        w_column: weight.column as u32,
        w_panel: weight.panel as u32,
        w_columns: (8 * n8).min(weight.columns - columns.start * 8) as u32,
        o_offset: o_offset + skip4 as u32,
        o_pitch: out.pitch as u32,
        n4: (out.c4() - skip4) as u32,
        r_offset: residual.offset,
        c_offset: channel.offset,
        c_pitch: channel.pitch,
        flags,
        activation: epilogue.activation as u32,
        first_row: band.out.start as u32,
        rows_per_batch: out.rows_per_batch() as u32,
        heads: blocks.heads as u32,
        a_batch: blocks.a[0] as u32,
        a_head: blocks.a[1] as u32,
        w_batch: blocks.w[0] as u32,
        w_head: blocks.w[1] as u32,
        o_batch: blocks.out[0] as u32,
        o_head: blocks.out[1] as u32,
        scale: match epilogue.scale {
            Some(Scale::Given(scale)) => scale,
            Some(Scale::BehindBias) | None => 1.0,
        },
        scale_at,
        in_h: a.h as u32,
        in_w: a.w as u32,
        out_w: out.w as u32,
        stride: geometry.stride as u32,
        pad: geometry.pad as u32,
        up: u32::from(geometry.upsample),
        a_first: if conv.is_some() {
            band.input.start as u32
        } else {
            0
        },
        seen_h: geometry.seen(a.h, out.h) as u32,
        seen_w: geometry.seen(a.w, out.w) as u32,
        r_pitch: residual.pitch,
        split: 0,
    };
    let work = Work {
        flops: 2 * z * m * n8 * 8 * weight.taps * a.c,
        bytes: z * moved + weight.view.size as usize,
    };
    let weights = weight.operand(&columns, &blocks)?;
    let extras = [bias, channel.operand, residual.operand];
    if variant.parts() > 1 {
        let operands = Operands {
            a: a_operand,
            weights,
            out: o_operand,
            extras,
        };
        return in_parts(context, variant, &call, operands, params, work);
    }
    let [bias, channel, residual] = extras;
    let operands = [a_operand, weights, o_operand, bias, channel, residual];
    let grid = variant.grid(m, n8, z);
    Ok(vec![Dispatch::new(key, operands, params, grid, work)?])
}

/// What a dispatch binds, before it is cut into two.
struct Operands {
    a: Operand,
    weights: Operand,
    out: Operand,
    /// Bias, channel, residual.
    extras: [Operand; 3],
}

/// The dispatch that makes the parts of a product, and the one that adds and finishes
/// them.
fn in_parts(
    context: &Context,
    variant: Variant,
    call: &Call,
    operands: Operands,
    params: Params,
    work: Work,
) -> Result<Vec<Dispatch>> {
    let [bm, bn] = variant.tile();
    let pitch = (8 * call.n8).next_multiple_of(bn) / 4;
    let rows = call.m.next_multiple_of(bm);
    let bytes = variant.partial_bytes(call);
    let partials = |name| context.partials(bytes)?.operand(name, bytes);
    let key = variant.key(call.storages, call.gather);
    let key = key.ok_or_else(|| Error::internal("product", format!("{variant} of f32")))?;
    let nothing = || context.nothing(4 * variant.bias_columns(call.n8) as u64);
    let parts = Dispatch::new(
        key,
        [
            operands.a,
            operands.weights,
            partials("parts")?,
            nothing()?,
            nothing()?,
            nothing()?,
        ],
        Params {
            o_offset: 0,
            o_pitch: pitch as u32,
            flags: 0,
            split: variant.part(call) as u32,
            ..params
        },
        variant.grid(call.m, call.n8, 1),
        work,
    )?;
    let [bias, channel, residual] = operands.extras;
    let sum = Dispatch::new(
        sum_key(call.storages.out),
        [
            partials("parts")?,
            context.nothing(0)?,
            operands.out,
            bias,
            channel,
            residual,
        ],
        Params {
            a_offset: 0,
            a_pitch: pitch as u32,
            a_batch: (rows * pitch) as u32,
            split: variant.parts(),
            ..params
        },
        fold((call.m * call.n8).div_ceil(64)),
        Work {
            flops: call.m * 8 * call.n8 * variant.parts() as usize,
            bytes: bytes as usize,
        },
    )?;
    Ok(vec![parts, sum])
}
