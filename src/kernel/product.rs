//! Matrix product and convolution: one shader body, two variants
//! (`product_direct.wgsl`, `product_tiled.wgsl`), all epilogues.

use super::{Activation, Dispatch, Storage, Tensor, Tuning, View, key};
use crate::Result;
use crate::gpu::{Access, Buffer, Gpu, PipelineKey};
use std::sync::Arc;

const BINDINGS: &[Access] = &[
    Access::Read,
    Access::Read,
    Access::Write,
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Uniform,
];

/// How weights are stored on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightStorage {
    F32,
    /// Packed in pairs: needs no f16 feature.
    F16,
}

impl WeightStorage {
    /// Bytes of a group of 8 columns.
    fn bytes8(self) -> u64 {
        match self {
            WeightStorage::F32 => 32,
            WeightStorage::F16 => 16,
        }
    }

    /// The storage that reads activations as a right operand.
    fn of(storage: Storage) -> Self {
        match storage {
            Storage::F32 => WeightStorage::F32,
            Storage::F16 => WeightStorage::F16,
        }
    }
}

/// The right operand of a product, `[taps * k_rows, n]`, in groups of 8 columns;
/// packed weights lie in panels of 64 columns, `[n / 64, taps * k_rows, 64]`, so
/// that a range of columns is a range of bytes.
#[derive(Clone)]
pub struct Weight {
    pub view: View,
    pub storage: WeightStorage,
    pub taps: usize,
    /// Rows of a tap that may be read.
    pub k_rows: usize,
    /// Columns in groups of 8.
    pub n8: usize,
    /// Groups of 8 from row to row.
    pub pitch: usize,
    /// Groups of 8 from a panel of 64 columns to the next.
    pub panel: usize,
    /// Groups of 8 before the first column.
    pub offset: usize,
}

impl Weight {
    /// Weights as [`pack`] lays them out.
    pub fn packed(view: View, storage: WeightStorage, taps: usize, k: usize, n: usize) -> Self {
        let k_rows = k.next_multiple_of(4);
        Self {
            view,
            storage,
            taps,
            k_rows,
            n8: n.div_ceil(8),
            pitch: 8,
            panel: taps * k_rows * 8,
            offset: 0,
        }
    }

    /// Activations `[n, rows, 1, c]` as a right operand; their columns must lie
    /// in groups of 8.
    pub fn of(tensor: &Tensor) -> Self {
        debug_assert!(tensor.pitch % 2 == 0 && tensor.offset % 2 == 0);
        Self {
            view: tensor.view.clone(),
            storage: WeightStorage::of(tensor.storage),
            taps: 1,
            k_rows: tensor.rows_per_batch(),
            n8: tensor.c.div_ceil(8),
            pitch: tensor.pitch / 2,
            panel: 8,
            offset: tensor.offset / 2,
        }
    }
}

/// Bytes of weights `[taps, k, n]` once packed.
pub fn packed_bytes(storage: WeightStorage, taps: usize, k: usize, n: usize) -> u64 {
    (taps * k.next_multiple_of(4) * n.div_ceil(64) * 8) as u64 * storage.bytes8()
}

/// Packs `value(tap, k, n)` as the kernels read it: panels of 64 columns,
/// `[n / 64, taps, k rounded up to 4, 64]`, padding zero. For tests and small tensors; checkpoints
/// are packed by the model's loader.
pub fn pack(
    storage: WeightStorage,
    [taps, k, n]: [usize; 3],
    value: impl Fn(usize, usize, usize) -> f32,
) -> Vec<u8> {
    let k4 = k.next_multiple_of(4);
    let mut values = vec![0f32; taps * k4 * n.next_multiple_of(64)];
    for t in 0..taps {
        for i in 0..k {
            for j in 0..n {
                values[((j / 64 * taps + t) * k4 + i) * 64 + j % 64] = value(t, i, j);
            }
        }
    }
    match storage {
        WeightStorage::F32 => Storage::F32.encode(&values),
        WeightStorage::F16 => Storage::F16.encode(&values),
    }
}

/// Geometry of a convolution with 3x3 or 1x1 taps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conv {
    pub stride: usize,
    /// Zeros before the first row and column (those after follow from the output's size).
    pub pad: usize,
    /// The input is seen at twice its size (nearest neighbour), or one less where
    /// the output is odd, as diffusers does for sizes that do not halve evenly.
    pub upsample: bool,
}

impl Conv {
    /// Size of the picture that the taps see, from those of input and output.
    fn seen(self, input: usize, out: usize) -> usize {
        if self.upsample {
            out.min(2 * input)
        } else {
            input
        }
    }
}

/// What happens between the sum and the store, in this order.
#[derive(Clone, Default)]
pub struct Epilogue {
    pub scale: Option<f32>,
    /// f32, padded to groups of 8 columns.
    pub bias: Option<View>,
    /// `[n, 1, 1, c]`, added to every row of a picture.
    pub channel: Option<Tensor>,
    /// Columns alternate, four values and four gates: out = value * gelu(gate).
    pub geglu: bool,
    pub activation: Activation,
    pub residual: Option<Tensor>,
}

/// A product over `z` independent blocks, for attention: strides in vec4s (`a`,
/// `out`) and groups of 8 (`w`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Blocks {
    pub batches: usize,
    pub heads: usize,
    pub a: [usize; 2],
    pub w: [usize; 2],
    pub out: [usize; 2],
}

/// The arguments of [`dispatches`].
pub struct Product<'a> {
    pub a: &'a Tensor,
    pub weight: &'a Weight,
    pub out: &'a Tensor,
    /// `None`: rows of `a` are rows of `out`.
    pub conv: Option<Conv>,
    pub blocks: Option<Blocks>,
    pub epilogue: Epilogue,
    /// Rows `first .. first + count` of `a` and of `out`, counted in one block.
    pub rows: Option<std::ops::Range<usize>>,
}

/// Whether the large or the small tile serves `m` rows and `n8` groups of columns.
fn tile(gpu: &Gpu, m: usize, n8: usize) -> [u32; 2] {
    let c = gpu.capabilities();
    let fits = c.max_invocations >= 256 && c.max_workgroup_storage >= 16384;
    let large = m.div_ceil(128) * n8.div_ceil(16);
    if fits && large >= 192 {
        [16, 16]
    } else {
        [8, 8]
    }
}

pub(super) fn pipeline_key(
    direct: bool,
    storage: Storage,
    weights: WeightStorage,
    gather: bool,
    tile: [u32; 2],
) -> PipelineKey {
    let mut defines = storage.defines();
    if weights == WeightStorage::F16 {
        defines.push(("W16".into(), String::new()));
    }
    if gather {
        defines.push(("GATHER".into(), String::new()));
    }
    if direct {
        key("product_direct", defines, vec![], BINDINGS)
    } else {
        let constants = vec![("WX", tile[0]), ("WY", tile[1])];
        key("product_tiled", defines, constants, BINDINGS)
    }
}

/// The dispatches of a product: one, or as many bands of rows and columns as the
/// adapter's binding limit asks for. Bands are exact: nothing is computed apart.
///
/// # Errors
/// Where not even a single row of a picture fits into a binding.
pub fn dispatches(
    gpu: &Gpu,
    tuning: Tuning,
    none: &Arc<Buffer>,
    product: &Product<'_>,
) -> Result<Vec<Dispatch>> {
    let mut all = Vec::new();
    for columns in column_bands(gpu, product.weight)? {
        for band in row_bands(gpu, product)? {
            all.push(dispatch(gpu, tuning, none, product, &band, columns.clone()));
        }
    }
    Ok(all)
}

/// Ranges of groups of 8 columns whose weights fit into a binding.
fn column_bands(gpu: &Gpu, weight: &Weight) -> Result<Vec<std::ops::Range<usize>>> {
    let limit = gpu.capabilities().max_binding;
    if weight.view.size <= limit {
        return Ok(vec![0..weight.n8]);
    }
    let panel = weight.panel as u64 * weight.storage.bytes8();
    let panels = (limit / panel.max(1)) as usize;
    if panels == 0 || weight.pitch != 8 {
        return Err(gpu.error(
            format!(
                "a weight of {} bytes exceeds its binding limit of {limit} bytes",
                weight.view.size
            ),
            "use --dtype f16 or a smaller picture",
        ));
    }
    Ok((0..weight.n8)
        .step_by(panels * 8)
        .map(|first| first..(first + panels * 8).min(weight.n8))
        .collect())
}

/// Output rows `out` (of the whole output) and the input rows they read.
struct Band {
    out: std::ops::Range<usize>,
    input: std::ops::Range<usize>,
}

fn row_bands(gpu: &Gpu, product: &Product<'_>) -> Result<Vec<Band>> {
    let (a, out) = (product.a, product.out);
    let limit = gpu.capabilities().max_binding - 2 * gpu.capabilities().alignment;
    let whole = product.rows.clone().unwrap_or(0..out.rows());
    let largest = (a.rows() as u64 * a.row_bytes()).max(out.rows() as u64 * out.row_bytes());
    let grid_limit = gpu.capabilities().max_workgroups as usize * 8;
    if product.blocks.is_some() || (largest <= limit && out.rows() <= grid_limit) {
        let input = match product.conv {
            Some(_) => 0..a.rows(),
            None => whole.clone(),
        };
        return Ok(vec![Band { out: whole, input }]);
    }
    let mut bands = Vec::new();
    // Lines of the picture (a token is a line of one), as many as fit.
    let line = out.w as u64 * out.row_bytes();
    let conv = product.conv.unwrap_or(Conv {
        stride: 1,
        pad: 0,
        upsample: false,
    });
    let side = if product.weight.taps == 9 { 3 } else { 1 };
    let in_line = a.w as u64 * a.row_bytes();
    let lines_out = limit / line.max(1);
    let reach = (limit / in_line.max(1)).saturating_sub(side as u64);
    let reach = if conv.upsample {
        2 * reach.saturating_sub(1)
    } else {
        reach / conv.stride as u64
    };
    let lines = (lines_out.min(reach) as usize).min(grid_limit / out.w.max(1));
    if lines == 0 {
        return Err(gpu.error(
            format!("one line of a picture takes {line} bytes, more than its binding limit"),
            "use a smaller --width",
        ));
    }
    for n in 0..out.n {
        for y in (0..out.h).step_by(lines) {
            let end = (y + lines).min(out.h);
            let base = n * out.h * out.w;
            let up = usize::from(conv.upsample);
            let seen = conv.seen(a.h, out.h);
            let top = (y * conv.stride).saturating_sub(conv.pad).min(seen - 1) >> up;
            let bottom = ((end - 1) * conv.stride + side)
                .saturating_sub(conv.pad)
                .clamp(1, seen);
            let bottom = (bottom - 1 >> up) + 1;
            let a_base = n * a.h * a.w;
            bands.push(Band {
                out: base + y * out.w..base + end * out.w,
                input: a_base + top * a.w..a_base + bottom * a.w,
            });
        }
    }
    Ok(bands)
}

fn dispatch(
    gpu: &Gpu,
    tuning: Tuning,
    none: &Arc<Buffer>,
    product: &Product<'_>,
    band: &Band,
    columns: std::ops::Range<usize>,
) -> Dispatch {
    let Product {
        a,
        weight,
        out,
        conv,
        blocks,
        epilogue,
        ..
    } = product;
    let alignment = gpu.capabilities().alignment;
    let m = band.out.len();
    let n8 = columns.len();
    // Blocks carry strides of their own over the whole tensors.
    let (a_view, a_offset, o_view, o_offset) = if blocks.is_some() {
        let skip = |t: &Tensor, first: usize| (t.offset + first * t.pitch) as u32;
        (
            a.view.clone(),
            skip(a, band.input.start),
            out.view.clone(),
            skip(out, band.out.start),
        )
    } else {
        let (a_view, a_offset) = a.row_window(band.input.start, band.input.len(), alignment);
        let (o_view, o_offset) = out.row_window(band.out.start, m, alignment);
        (a_view, a_offset, o_view, o_offset)
    };
    // Columns before this band, in panels: a window on weights and bias, an
    // offset in what runs along the output.
    let panels = (columns.start / 8) as u64;
    let per_panel = if epilogue.geglu { 8 } else { 16 };
    let skip4 = panels as usize * per_panel;
    let w_view = if columns.len() == weight.n8 {
        weight.view.clone()
    } else {
        let panel = weight.panel as u64 * weight.storage.bytes8();
        View {
            buffer: weight.view.buffer.clone(),
            offset: weight.view.offset + panels * panel,
            size: columns.len().div_ceil(8) as u64 * panel,
        }
    };
    let dummy = || View::whole(none);
    let mut flags = (epilogue.activation as u32) << 8;
    let bias = match &epilogue.bias {
        Some(view) => {
            flags |= 1;
            View {
                offset: view.offset + panels * 256,
                size: view.size - panels * 256,
                ..view.clone()
            }
        }
        None => dummy(),
    };
    let (channel, c_offset, c_pitch) = match &epilogue.channel {
        Some(t) => {
            flags |= 2;
            (t.view.clone(), (t.offset + skip4) as u32, t.pitch as u32)
        }
        None => (dummy(), 0, 0),
    };
    let (residual, r_offset) = match &epilogue.residual {
        Some(t) => {
            flags |= 4;
            debug_assert_eq!(t.pitch, out.pitch);
            t.row_window(band.out.start, m, alignment)
        }
        None => (dummy(), 0),
    };
    if epilogue.geglu {
        flags |= 8;
    }
    let blocks = blocks.unwrap_or(Blocks {
        batches: 1,
        heads: 1,
        ..Default::default()
    });
    let geometry = conv.unwrap_or(Conv {
        stride: 1,
        pad: 0,
        upsample: false,
    });
    let params = vec![
        m as u32,
        n8 as u32,
        a.c4() as u32,
        weight.taps as u32,
        weight.k_rows as u32,
        a_offset,
        a.pitch as u32,
        weight.offset as u32,
        weight.pitch as u32,
        weight.panel as u32,
        o_offset + skip4 as u32,
        out.pitch as u32,
        (out.c4() - skip4) as u32,
        r_offset + skip4 as u32,
        c_offset,
        c_pitch,
        flags,
        band.out.start as u32,
        out.rows_per_batch() as u32,
        blocks.heads as u32,
        blocks.a[0] as u32,
        blocks.a[1] as u32,
        blocks.w[0] as u32,
        blocks.w[1] as u32,
        blocks.out[0] as u32,
        blocks.out[1] as u32,
        epilogue.scale.unwrap_or(1.0).to_bits(),
        a.h as u32,
        a.w as u32,
        out.w as u32,
        geometry.stride as u32,
        geometry.pad as u32,
        u32::from(geometry.upsample),
        if conv.is_some() {
            band.input.start as u32
        } else {
            0
        },
        geometry.seen(a.h, out.h) as u32,
        geometry.seen(a.w, out.w) as u32,
    ];
    let z = blocks.batches * blocks.heads;
    let shape = tile(gpu, m, n8);
    let grid = if tuning.direct {
        [m.div_ceil(8) as u32, n8.div_ceil(8) as u32, z as u32]
    } else {
        [
            m.div_ceil(8 * shape[1] as usize) as u32,
            n8.div_ceil(shape[0] as usize) as u32,
            z as u32,
        ]
    };
    let flops = 2 * (z * m * n8 * 8) as u64 * (weight.taps * a.c) as u64;
    let bytes = z as u64 * (band.input.len() as u64 * a.row_bytes() + m as u64 * out.row_bytes())
        + weight.view.size;
    Dispatch {
        key: pipeline_key(
            tuning.direct,
            a.storage,
            weight.storage,
            conv.is_some(),
            shape,
        ),
        views: vec![a_view, w_view, o_view, bias, channel, residual],
        params,
        grid,
        flops,
        bytes,
    }
}

/// The CPU twin of a linear layer: `out[m][n] = sum_k a[m][k] w[k][n]`, in f64.
pub fn twin_linear(a: &[f32], w: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0f32; m * n];
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k)
                .map(|x| f64::from(a[i * k + x]) * f64::from(w[x * n + j]))
                .sum();
            out[i * n + j] = sum as f32;
        }
    }
    out
}

/// The CPU twin of a convolution over `[n, h, w, c]`, weights `[taps, c, co]`,
/// in f64. Returns `[n, oh, ow, co]`.
pub fn twin_conv(
    a: &[f32],
    [n, h, w, c]: [usize; 4],
    weights: &[f32],
    [taps, co]: [usize; 2],
    conv: Conv,
    [oh, ow]: [usize; 2],
) -> Vec<f32> {
    let side = if taps == 9 { 3 } else { 1 };
    let up = usize::from(conv.upsample);
    let mut out = vec![0f32; n * oh * ow * co];
    let mut sums = vec![0f64; co];
    for (row, pixel) in out.chunks_exact_mut(co).enumerate() {
        let (b, y, x) = (row / (oh * ow), row / ow % oh, row % ow);
        sums.fill(0.0);
        for tap in 0..taps {
            let iy = (y * conv.stride + tap / side).wrapping_sub(conv.pad);
            let ix = (x * conv.stride + tap % side).wrapping_sub(conv.pad);
            if iy >= conv.seen(h, oh) || ix >= conv.seen(w, ow) {
                continue;
            }
            let at = ((b * h + (iy >> up)) * w + (ix >> up)) * c;
            for i in 0..c {
                let value = f64::from(a[at + i]);
                let line = &weights[(tap * c + i) * co..][..co];
                for (sum, weight) in sums.iter_mut().zip(line) {
                    *sum += value * f64::from(*weight);
                }
            }
        }
        for (o, sum) in pixel.iter_mut().zip(&sums) {
            *o = *sum as f32;
        }
    }
    out
}
