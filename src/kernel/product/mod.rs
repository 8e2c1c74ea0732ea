//! Matrix product and convolution: what is asked for, and the dispatches that make it.
//! All variants (see [`Variant`]) share `product.wgsl` and its epilogue.

use super::{Activation, Context, Dispatch, Storage, Tensor, View, require};
use crate::Result;
use std::ops::Range;

mod bands;
mod blocks;
mod choice;
mod dispatch;
mod layout;
mod measure;
mod selftest;
mod twin;
mod variant;

pub use crate::quantise::{BLOCK, BlockFormat};
pub(crate) use blocks::expand_key;
pub use blocks::{Blocks as WeightBlocks, expand, twin_expand};
pub use dispatch::EPILOGUE_FLAGS;
pub use layout::{Columns, Layout, PANEL, UNIT};
pub use measure::Shape;
pub use twin::{TwinEpilogue, twin_conv, twin_epilogue, twin_linear};
pub use variant::{Call, CoopTile, Direct, Family, Tile, Variant};
pub(super) use variant::{PARTIALS, lacking_lanes, lacking_matrices, lacking_room, sum_key};

use bands::{column_bands, row_bands};
use dispatch::dispatch;

/// How weights are stored on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightStorage {
    F32,
    /// Packed in pairs: needs no f16 feature.
    F16,
}

impl WeightStorage {
    /// Bytes of 8 values.
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

/// How the operands of a product are stored: A and what is written alike, or A in f16
/// and what is written in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Storages {
    pub a: Storage,
    pub weights: WeightStorage,
    /// Of the result, and of what an epilogue adds to it.
    pub out: Storage,
}

impl Storages {
    /// Every combination that there are kernels for.
    pub fn all() -> impl Iterator<Item = Self> {
        use Storage::{F16, F32};
        let activations = [(F32, F32), (F16, F16), (F16, F32)];
        let weights = [WeightStorage::F32, WeightStorage::F16];
        activations
            .into_iter()
            .flat_map(move |(a, out)| weights.map(|weights| Self { a, weights, out }))
    }

    /// Whether both operands can be read as f16.
    pub fn is_half(self) -> bool {
        self.a == Storage::F16 && self.weights == WeightStorage::F16
    }
}

/// Activations all alike.
impl From<(Storage, WeightStorage)> for Storages {
    fn from((activations, weights): (Storage, WeightStorage)) -> Self {
        Self {
            a: activations,
            weights,
            out: activations,
        }
    }
}

/// The right operand of a product, `[n, taps * k_rows]`, in units of 8 values along k
/// of one column; packed weights lie in panels of 64 columns (see [`Layout`]).
#[derive(Clone)]
pub struct Weight {
    pub view: View,
    pub storage: WeightStorage,
    pub taps: usize,
    /// Rows of a tap, a multiple of 8.
    pub k_rows: usize,
    /// Columns that may be read.
    pub columns: usize,
    /// Columns in groups of 8.
    pub n8: usize,
    /// Units of 8 from one to the next along k.
    pub step: usize,
    /// Units of 8 from column to column.
    pub column: usize,
    /// Units of 8 from a panel of 64 columns to the next.
    pub panel: usize,
    /// Units of 8 before the first.
    pub offset: usize,
}

impl Weight {
    /// Weights as [`Layout::pack`] lays them out.
    pub fn packed(view: View, storage: WeightStorage, layout: Layout) -> Self {
        Self {
            view,
            storage,
            taps: layout.taps,
            k_rows: layout.rows(),
            columns: layout.columns().next_multiple_of(PANEL),
            n8: layout.columns().div_ceil(8),
            step: PANEL,
            column: 1,
            panel: layout.taps * layout.rows() / UNIT * PANEL,
            offset: 0,
        }
    }

    /// Activations `[n, rows, 1, c]` as a right operand of `rows` columns, whose `c`
    /// values, a multiple of 8, are along k and must lie in groups of 8. Where `rows`
    /// is no multiple of 8, the last columns of the product are copies of others.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] where they do not.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let (pitch, offset) = (tensor.pitch, tensor.offset);
        let even = pitch.is_multiple_of(2) && offset.is_multiple_of(2);
        require(
            "a right operand",
            even && tensor.c.is_multiple_of(8),
            || format!("{} values from vec4 {offset} of {pitch} on", tensor.c),
        )?;
        Ok(Self {
            view: tensor.view.clone(),
            storage: WeightStorage::of(tensor.storage),
            taps: 1,
            k_rows: tensor.c,
            columns: tensor.rows_per_batch(),
            n8: tensor.rows_per_batch().div_ceil(8),
            step: 1,
            column: pitch / 2,
            panel: PANEL * (pitch / 2),
            offset: offset / 2,
        })
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

/// A factor of sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    Given(f32),
    /// The one that lies behind the bias (see [`crate::kernel::narrow`]).
    BehindBias,
}

/// What happens between the sum and the store, in this order.
#[derive(Clone, Default)]
pub struct Epilogue {
    /// f32, as [`Layout::pack_bias`] has it.
    pub bias: Option<View>,
    pub scale: Option<Scale>,
    /// `[n, 1, 1, c]`, added to every row of a picture.
    pub channel: Option<Tensor>,
    /// Columns alternate, four values and four gates: out = value * gelu(gate).
    /// Goes with a scale and a bias only.
    pub geglu: bool,
    pub activation: Activation,
    pub residual: Option<Tensor>,
}

/// A product over `z` independent blocks, for attention: strides in vec4s (`a`,
/// `out`) and units of 8 (`w`).
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
    /// Only these rows of `a` and of `out`, counted in one block; not for
    /// convolutions.
    pub rows: Option<Range<usize>>,
}

/// The dispatches of a product: one, or as many bands of rows and columns as the
/// adapter's binding limit asks for. Bands are exact: nothing is computed apart.
///
/// # Errors
/// Where not even a single row of a picture fits into a binding;
/// [`crate::Error::Internal`] where the shapes do not fit together.
pub fn dispatches(context: &Context, product: &Product<'_>) -> Result<Vec<Dispatch>> {
    banded(context, product, |call| context.choose(call))
}

/// [`dispatches`] by one variant, for tests, benches and measurements.
///
/// # Errors
/// As there, and where the variant does not serve the product.
pub fn dispatches_by(
    context: &Context,
    product: &Product<'_>,
    variant: Variant,
) -> Result<Vec<Dispatch>> {
    banded(context, product, |call| {
        let problem = || format!("{variant} does not serve {call:?}");
        require("product", variant.serves(call), problem)?;
        Ok(variant)
    })
}

fn banded(
    context: &Context,
    product: &Product<'_>,
    choose: impl Fn(&Call) -> Result<Variant>,
) -> Result<Vec<Dispatch>> {
    check(product)?;
    let gpu = &context.gpu;
    let mut all = Vec::new();
    for columns in column_bands(gpu, product.weight)? {
        for band in row_bands(gpu, product)? {
            let variant = choose(&product.call(band.out.len(), columns.len()))?;
            all.extend(dispatch(context, product, &band, columns.clone(), variant)?);
        }
    }
    Ok(all)
}

impl Product<'_> {
    /// What a variant is chosen for: `m` rows and `n8` groups of columns.
    pub fn call(&self, m: usize, n8: usize) -> Call {
        let (a, weight) = (self.a, self.weight);
        let even = a.pitch.is_multiple_of(2) && a.offset.is_multiple_of(2);
        let one_block = self.blocks.is_none_or(|b| b.batches * b.heads == 1);
        Call {
            m,
            n8,
            k8: weight.k_rows / UNIT,
            taps: weight.taps,
            gather: self.conv.is_some(),
            storages: Storages {
                a: a.storage,
                weights: weight.storage,
                out: self.out.storage,
            },
            plain: even && a.c == weight.k_rows && one_block,
        }
    }
}

/// Fails where the operands do not fit together. What each holds is seen where they
/// are bound.
fn check(product: &Product<'_>) -> Result<()> {
    let Product {
        a,
        weight,
        out,
        conv,
        blocks,
        epilogue,
        rows,
    } = product;
    let need = |holds: bool, problem: &str| {
        require("product", holds, || {
            format!(
                "{problem}: {:?} by {} rows in {} taps and {} groups of columns to {:?}",
                a.shape(),
                weight.k_rows,
                weight.taps,
                weight.n8,
                out.shape()
            )
        })
    };
    let narrower = (a.storage, out.storage) == (Storage::F16, Storage::F32);
    need(a.storage == out.storage || narrower, "storages differ")?;
    let behind = epilogue.scale == Some(Scale::BehindBias);
    need(!behind || epilogue.bias.is_some(), "a scale behind no bias")?;
    need(
        ![a.c, out.c, weight.k_rows, weight.n8].contains(&0),
        "nothing",
    )?;
    let inputs = (4 * a.c4()).next_multiple_of(UNIT);
    need(weight.k_rows == inputs, "other inputs")?;
    need(weight.columns.div_ceil(8) >= weight.n8, "other columns")?;
    let groups = if epilogue.geglu {
        out.c4()
    } else {
        out.c4().div_ceil(2)
    };
    need(groups == weight.n8, "other outputs")?;
    if epilogue.geglu {
        let alone = epilogue.channel.is_none() && epilogue.residual.is_none();
        let plain = epilogue.activation == Activation::None;
        need(alone && plain, "geglu goes with a scale and a bias only")?;
    }
    if let Some(channel) = &epilogue.channel {
        channel.expect("channel", [out.n, 1, 1, out.c], out.storage)?;
    }
    if let Some(residual) = &epilogue.residual {
        residual.expect("residual", out.shape(), out.storage)?;
    }
    if let Some(blocks) = blocks {
        let alone = epilogue.channel.is_none() && epilogue.residual.is_none();
        need(
            alone && conv.is_none() && rows.is_some(),
            "blocks go with rows only",
        )?;
        let counts = [blocks.batches, blocks.heads].map(|x| (1..65536).contains(&x));
        return need(counts == [true; 2] && weight.taps == 1, "blocks");
    }
    a.check("a")?;
    out.check("out")?;
    match conv {
        None => {
            need(weight.taps == 1 && a.rows() == out.rows(), "other rows")?;
            let end = rows.as_ref().map_or(0, |rows| rows.end);
            need(end <= out.rows(), "a range of rows beyond the last")
        }
        Some(conv) => {
            need(rows.is_none() && a.n == out.n, "other pictures")?;
            let side = match weight.taps {
                9 => 3,
                taps => taps,
            };
            let known = [1, 3].contains(&side) && [1, 2].contains(&conv.stride);
            need(known && conv.pad < side, "no convolution of these")
        }
    }
}
