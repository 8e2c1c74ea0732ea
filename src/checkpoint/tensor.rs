//! Where tensors come from.

pub use super::dtype::DType;
use crate::Result;
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Values that one thread looks at by itself.
const CHUNK: usize = 1 << 20;

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

/// One tensor: little-endian blocks of values, row-major, in the checkpoint's own shape
/// (PyTorch's: linear `[out, in]`, convolution `[out, in, kh, kw]`).
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: Cow<'a, [u8]>,
    /// What every value is multiplied by; 1 but for scaled fp8.
    pub scale: f32,
}

impl<'a> TensorView<'a> {
    /// A tensor without a scale.
    pub fn new(dtype: DType, shape: &[usize], data: impl Into<Cow<'a, [u8]>>) -> Self {
        Self {
            dtype,
            shape: shape.to_vec(),
            data: data.into(),
            scale: 1.0,
        }
    }

    /// The same with its bytes copied.
    pub fn into_owned(self) -> TensorView<'static> {
        TensorView {
            dtype: self.dtype,
            shape: self.shape,
            data: Cow::Owned(self.data.into_owned()),
            scale: self.scale,
        }
    }

    /// How many values there are in `data`.
    pub fn count(&self) -> usize {
        let block = self.dtype.block();
        self.data.len() / block.bytes * block.values
    }

    /// The values `range` (counted in values) as f32.
    pub fn values(&self, range: Range<usize>) -> Vec<f32> {
        let mut values = vec![0.0; range.len()];
        self.read(range.start, &mut values);
        values
    }

    /// The values from `first` on as f32, as many as `to` has.
    pub fn read(&self, first: usize, to: &mut [f32]) {
        let block = self.dtype.block();
        let bytes = |from: usize, to: usize| &self.data[from * block.bytes..to * block.bytes];
        // Blocks that are only partly asked for, at the ends, go through here.
        let mut whole = [0.0; DType::LARGEST_BLOCK];
        let mut partly = |number: usize, skip: usize, to: &mut [f32]| {
            let whole = &mut whole[..block.values];
            self.dtype.widen(bytes(number, number + 1), whole);
            to.copy_from_slice(&whole[skip..skip + to.len()]);
        };
        let (mut number, skip) = (first / block.values, first % block.values);
        let mut rest = &mut *to;
        if skip > 0 {
            let count = rest.len().min(block.values - skip);
            let (head, tail) = rest.split_at_mut(count);
            partly(number, skip, head);
            (number, rest) = (number + 1, tail);
        }
        let blocks = rest.len() / block.values;
        let (middle, tail) = rest.split_at_mut(blocks * block.values);
        self.dtype.widen(bytes(number, number + blocks), middle);
        if !tail.is_empty() {
            partly(number + blocks, 0, tail);
        }
        if self.scale != 1.0 {
            to.iter_mut().for_each(|value| *value *= self.scale);
        }
    }

    /// Whether every value is an f16 exactly, by its type alone.
    pub fn fits_f16(&self) -> bool {
        self.dtype.fits_f16() && self.scale == 1.0
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
            _ => self.widened_reach(),
        };
        Extent {
            largest: largest * self.scale.abs(),
            not_finite,
        }
    }

    /// The same by way of f32, for blocks.
    fn widened_reach(&self) -> (f32, usize) {
        const RUN: usize = 16 * DType::LARGEST_BLOCK;
        let block = self.dtype.block();
        let of_chunk = |bytes: &[u8]| {
            let mut values = [0.0; RUN];
            let values = &mut values[..bytes.len() / block.bytes * block.values];
            self.dtype.widen(bytes, values);
            let finite = values.iter().filter(|x| x.is_finite());
            let count = values.len() - finite.clone().count();
            (finite.fold(0f32, |top, x| top.max(x.abs())), count)
        };
        let chunks = self.data.par_chunks(RUN / block.values * block.bytes);
        chunks
            .map(of_chunk)
            .reduce(Default::default, |a, b| (a.0.max(b.0), a.1 + b.1))
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

    /// Whether every value that `read` would give is an f16 exactly, by its type alone.
    fn fits_f16(&self, name: &str) -> bool {
        self.dtype(name).is_some_and(DType::fits_f16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<T: bytemuck::Pod>(dtype: DType, values: &[T]) -> TensorView<'static> {
        // A byte into a longer piece of memory, as files have them.
        let bytes: &'static mut [u8] = vec![0; 1 + size_of_val(values)].leak();
        bytes[1..].copy_from_slice(bytemuck::cast_slice(values));
        TensorView::new(dtype, &[values.len()], &bytes[1..])
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

    /// Ranges that begin and end anywhere are those of the whole, in every precision,
    /// and so is how far the values reach.
    #[test]
    fn any_range_of_values_can_be_read() {
        for dtype in DType::ALL {
            let block = dtype.block();
            let count = 5 * DType::LARGEST_BLOCK;
            let bytes: Vec<u8> = (0..dtype.bytes(count).unwrap())
                .map(|i| (i * 37 % 0x3b) as u8)
                .collect();
            let view = TensorView {
                scale: 0.5,
                ..TensorView::new(dtype, &[count], bytes.as_slice())
            };
            let mut whole = vec![0.0; count];
            dtype.widen(&bytes, &mut whole);
            whole.iter_mut().for_each(|x| *x *= 0.5);
            assert_eq!(view.count(), count);
            let steps = [0, 1, block.values / 2, block.values, 2 * block.values + 1];
            for from in steps {
                for length in steps.into_iter().chain([count - from]) {
                    let range = from..from + length;
                    assert_eq!(view.values(range.clone()), whole[range], "{dtype:?} {from}");
                }
            }
            let largest = whole.iter().fold(0f32, |top, x| top.max(x.abs()));
            let want = Extent {
                largest,
                not_finite: 0,
            };
            assert_eq!(view.extent(), want, "{dtype:?}");
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
