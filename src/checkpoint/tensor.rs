//! Where tensors come from.

use crate::Result;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;

/// Values that one thread looks at by itself.
const CHUNK: usize = 1 << 20;

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

    /// Little-endian values as f32; there are as many as `to` has.
    pub fn widen(self, bytes: &[u8], to: &mut [f32]) {
        match self {
            DType::F32 => bytemuck::cast_slice_mut(to).copy_from_slice(bytes),
            DType::F16 => widen::<f16>(bytes, to),
            DType::BF16 => widen::<bf16>(bytes, to),
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
        let mut values = vec![0.0; range.len()];
        self.dtype.widen(bytes, &mut values);
        values
    }
}

/// How far the values of a tensor reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// The largest magnitude among the finite values; 0 where there is none.
    pub largest: f32,
    /// How many values are NaN or infinite.
    pub not_finite: usize,
}

impl Extent {
    /// Whether a value rounds to infinity in f16.
    pub fn exceeds_f16(&self) -> bool {
        f16::from_f32(self.largest).is_infinite()
    }
}

impl TensorView<'_> {
    /// Looks at every value.
    pub fn extent(&self) -> Extent {
        // Magnitudes are ordered as their bits are, NaN above infinity.
        let bits16 = |b: [u8; 2]| u16::from_le_bytes(b) & 0x7fff;
        let bits32 = |b: [u8; 4]| u32::from_le_bytes(b) & 0x7fff_ffff;
        let of_16 = |infinity: u16, value: fn(u16) -> f32| {
            let (largest, not_finite) = reach(&self.data, bits16, infinity);
            (value(largest), not_finite)
        };
        let (largest, not_finite) = match self.dtype {
            DType::F16 => of_16(f16::INFINITY.to_bits(), |b| f16::from_bits(b).to_f32()),
            DType::BF16 => of_16(bf16::INFINITY.to_bits(), |b| bf16::from_bits(b).to_f32()),
            DType::F32 => {
                let (largest, not_finite) = reach(&self.data, bits32, f32::INFINITY.to_bits());
                (f32::from_bits(largest), not_finite)
            }
        };
        Extent {
            largest,
            not_finite,
        }
    }
}

/// The largest magnitude below `infinity`, and how many are not below it.
fn reach<T: Ord + Copy + Default + Send + Sync, const N: usize>(
    bytes: &[u8],
    magnitude: impl Fn([u8; N]) -> T + Sync,
    infinity: T,
) -> (T, usize) {
    let of_chunk = |bytes: &[u8]| {
        let all = || bytes.as_chunks().0.iter().map(|b| magnitude(*b));
        // The one comparison that processors do many at a time comes first.
        match all().max().unwrap_or_default() {
            largest if largest < infinity => (largest, 0),
            _ => {
                let finite = all().filter(|x| *x < infinity);
                let count = all().filter(|x| *x >= infinity).count();
                (finite.max().unwrap_or_default(), count)
            }
        }
    };
    let chunks = bytes.par_chunks(CHUNK * N).map(of_chunk);
    chunks.reduce(Default::default, |a, b| (a.0.max(b.0), a.1 + b.1))
}

/// 16-bit floats as f32, many at a time where the processor can.
fn widen<T: bytemuck::Pod>(bytes: &[u8], to: &mut [f32])
where
    [T]: HalfFloatSliceExt,
{
    // Files have them at any byte.
    const RUN: usize = 128;
    let mut aligned = [T::zeroed(); RUN];
    for (bytes, to) in bytes.chunks(RUN * size_of::<T>()).zip(to.chunks_mut(RUN)) {
        let aligned = &mut aligned[..to.len()];
        bytemuck::cast_slice_mut(aligned).copy_from_slice(bytes);
        aligned.convert_to_f32_slice(to);
    }
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

    /// Says that `name` will be read soon, so that a disk may begin.
    fn expect(&self, _name: &str) {}

    /// The precision that `read` would give, where it can be told without reading.
    fn dtype(&self, _name: &str) -> Option<DType> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<T: bytemuck::Pod>(dtype: DType, values: &[T]) -> TensorView<'static> {
        // A byte into a longer piece of memory, as files have them.
        let bytes: &'static mut [u8] = vec![0; 1 + size_of_val(values)].leak();
        bytes[1..].copy_from_slice(bytemuck::cast_slice(values));
        TensorView {
            dtype,
            shape: vec![values.len()],
            data: Cow::Borrowed(&bytes[1..]),
        }
    }

    /// Finite values, then the same with others that are not, in every precision.
    #[test]
    fn every_value_of_a_tensor_counts() {
        for count in [0, 1, 7, CHUNK, 2 * CHUNK + 3] {
            let mut values = vec![-0.5f32; count];
            let mut want = Extent {
                largest: if count > 0 { 0.5 } else { 0.0 },
                not_finite: 0,
            };
            let check = |values: &[f32], want: Extent| {
                let halves: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
                let brains: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
                assert_eq!(view(DType::F32, values).extent(), want);
                assert_eq!(view(DType::F16, &halves).extent(), want);
                assert_eq!(view(DType::BF16, &brains).extent(), want);
            };
            check(&values, want);
            for (i, bad) in [f32::NAN, f32::NEG_INFINITY, -f32::NAN]
                .into_iter()
                .enumerate()
            {
                if count > 4 {
                    values[count - 1 - i * (count / 3)] = bad;
                    values[1] = -64.0;
                    (want.largest, want.not_finite) = (64.0, i + 1);
                    check(&values, want);
                }
            }
        }
    }

    #[test]
    fn the_end_of_f16_is_where_values_round_to_infinity() {
        for (value, beyond) in [
            (65504.0, false),
            (65519.0, false),
            (65520.0, true),
            (1.7e6, true),
        ] {
            assert_eq!(
                view(DType::F32, &[0f32, -value]).extent().exceeds_f16(),
                beyond
            );
        }
        let wide = view(DType::BF16, &[bf16::from_f32(1e30)]).extent();
        assert!(wide.exceeds_f16() && wide.not_finite == 0);
        assert!(!view(DType::F16, &[f16::MAX]).extent().exceeds_f16());
    }
}
