//! Where tensors come from.

use crate::Result;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::borrow::Cow;

/// Precision of stored values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
}

impl DType {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The name as people write it: `f32`, `f16`, `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
        }
    }
}

/// The parts of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    TextEncoder,
    TextEncoder2,
    UNet,
    Vae,
}

impl Part {
    /// Every part, in the order of the work.
    pub const ALL: [Part; 4] = [Part::TextEncoder, Part::TextEncoder2, Part::UNet, Part::Vae];

    /// The part's folder in a diffusers checkpoint.
    pub fn folder(self) -> &'static str {
        match self {
            Part::TextEncoder => "text_encoder",
            Part::TextEncoder2 => "text_encoder_2",
            Part::UNet => "unet",
            Part::Vae => "vae",
        }
    }
}

/// One tensor: little-endian values, row-major, in the checkpoint's own shape
/// (PyTorch's: linear `[out, in]`, convolution `[out, in, kh, kw]`).
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: Cow<'a, [u8]>,
}

impl TensorView<'_> {
    /// The values `range` (counted in values) as f32.
    pub fn values(&self, range: std::ops::Range<usize>) -> Vec<f32> {
        let size = self.dtype.size();
        let bytes = &self.data[range.start * size..range.end * size];
        match self.dtype {
            DType::F32 => bytemuck::pod_collect_to_vec(bytes),
            DType::F16 => widened::<f16>(bytes),
            DType::BF16 => widened::<bf16>(bytes),
        }
    }
}

/// 16-bit floats as f32, many at a time where the processor can.
fn widened<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<f32>
where
    [T]: HalfFloatSliceExt,
{
    let halves: Cow<'_, [T]> = match bytemuck::try_cast_slice(bytes) {
        Ok(aligned) => Cow::Borrowed(aligned),
        Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
    };
    let mut values = vec![0.0; halves.len()];
    halves.convert_to_f32_slice(&mut values);
    values
}

/// The named tensors of one part, under diffusers' state-dict names
/// (`down_blocks.0.resnets.0.conv1.weight`), whatever the file calls them.
pub trait TensorSource: Send + Sync {
    /// Whether the part has a tensor of that name.
    fn contains(&self, name: &str) -> bool;

    /// Checks, without reading values, that `name` exists with `shape` and a
    /// readable type. The error names file and tensor.
    fn check(&self, name: &str, shape: &[usize]) -> Result<()>;

    /// The values of `name`, which must have `shape`.
    fn read(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>>;

    /// The precision that `read` would give, where it can be told without reading.
    fn dtype(&self, _name: &str) -> Option<DType> {
        None
    }
}
