//! Bands of rows and columns whose windows fit into an adapter's binding limit.

use super::layout::PANEL8;
use super::{Conv, Product, Weight};
use crate::gpu::Gpu;
use crate::kernel::Tensor;
use crate::{Error, Remedy, Result};
use std::ops::Range;

/// Ranges of groups of 8 columns whose weights fit into a binding.
pub(super) fn column_bands(gpu: &Gpu, weight: &Weight) -> Result<Vec<Range<usize>>> {
    let limit = gpu.capabilities().max_binding;
    if weight.view.size <= limit {
        return Ok(std::iter::once(0..weight.n8).collect());
    }
    let panel = (weight.panel as u64).saturating_mul(weight.storage.bytes8());
    let panels = (limit / panel.max(1)) as usize;
    if panels == 0 || weight.column != 1 {
        return Err(gpu.error(
            format!(
                "a weight of {} bytes exceeds its binding limit of {limit} bytes",
                weight.view.size
            ),
            [Remedy::HALF_PRECISION, Remedy::SmallerPicture],
        ));
    }
    Ok((0..weight.n8)
        .step_by(panels * PANEL8)
        .map(|first| first..(first + panels * PANEL8).min(weight.n8))
        .collect())
}

/// Output rows `out` (of the whole output) and the input rows they read.
pub(super) struct Band {
    pub out: Range<usize>,
    pub input: Range<usize>,
}

pub(super) fn row_bands(gpu: &Gpu, product: &Product<'_>) -> Result<Vec<Band>> {
    let rows = product.rows.clone().unwrap_or(0..product.out.rows());
    match product.conv {
        _ if product.blocks.is_some() => Ok(vec![Band {
            input: rows.clone(),
            out: rows,
        }]),
        None => linear_bands(gpu, product, rows),
        Some(conv) => conv_bands(gpu, product, conv, rows),
    }
}

/// Bytes that the windows of a band may cover, and rows that a dispatch may make.
fn band_limits(gpu: &Gpu) -> (u64, usize) {
    let c = gpu.capabilities();
    let bytes = c.max_binding.saturating_sub(2 * c.alignment);
    (bytes, c.max_workgroups as usize * 8)
}

/// Bytes from row to row of the output, or of a residual that is wider.
fn out_row_bytes(product: &Product<'_>) -> u64 {
    let residual = product.epilogue.residual.as_ref();
    product
        .out
        .row_bytes()
        .max(residual.map_or(0, Tensor::row_bytes))
}

fn too_wide(gpu: &Gpu, what: &str, bytes: u64) -> Error {
    gpu.error(
        format!("{what} takes {bytes} bytes, more than its binding limit allows"),
        [Remedy::SmallerPicture, Remedy::HALF_PRECISION],
    )
}

fn linear_bands(gpu: &Gpu, product: &Product<'_>, rows: Range<usize>) -> Result<Vec<Band>> {
    let (limit, most) = band_limits(gpu);
    let widest = product.a.row_bytes().max(out_row_bytes(product)).max(1);
    let step = ((limit / widest) as usize).min(most);
    if step == 0 {
        return Err(too_wide(gpu, "one row of a matrix", widest));
    }
    Ok(rows
        .clone()
        .step_by(step)
        .map(|first| first..(first + step).min(rows.end))
        .map(|band| Band {
            input: band.clone(),
            out: band,
        })
        .collect())
}

fn conv_bands(
    gpu: &Gpu,
    product: &Product<'_>,
    conv: Conv,
    rows: Range<usize>,
) -> Result<Vec<Band>> {
    let (a, out) = (product.a, product.out);
    let (limit, most) = band_limits(gpu);
    let line = out.w as u64 * out_row_bytes(product);
    let in_line = a.w as u64 * a.row_bytes();
    let largest = (in_line * (a.n * a.h) as u64).max(line * (out.n * out.h) as u64);
    if largest <= limit && rows.len() <= most {
        return Ok(vec![Band {
            out: rows,
            input: 0..a.rows(),
        }]);
    }
    // Whole lines of one picture, as many as fit.
    let side = if product.weight.taps == 9 { 3 } else { 1 };
    let fit = (limit / in_line.max(1)) as usize;
    let reach = if conv.upsample {
        (2 * fit).saturating_sub(side + 1)
    } else {
        (fit + conv.stride).saturating_sub(side) / conv.stride
    };
    let lines = reach
        .min((limit / line.max(1)) as usize)
        .min(most / out.w.max(1));
    if lines == 0 {
        let bytes = line.max(in_line * side as u64);
        return Err(too_wide(gpu, "what one line of a picture needs", bytes));
    }
    let up = usize::from(conv.upsample);
    let seen = conv.seen(a.h, out.h);
    let mut bands = Vec::new();
    for n in 0..out.n {
        for y in (0..out.h).step_by(lines) {
            let end = (y + lines).min(out.h);
            let top = (y * conv.stride).saturating_sub(conv.pad).min(seen - 1) >> up;
            let bottom = ((end - 1) * conv.stride + side)
                .saturating_sub(conv.pad)
                .clamp(1, seen);
            let bottom = ((bottom - 1) >> up) + 1;
            bands.push(Band {
                out: (n * out.h + y) * out.w..(n * out.h + end) * out.w,
                input: (n * a.h + top) * a.w..(n * a.h + bottom) * a.w,
            });
        }
    }
    Ok(bands)
}
