//! How the values of a weight are stored: blocks of bytes, and what numbers they are.

mod fp8;
mod ggml;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Precision of stored values. Each is a row of blocks, which are small numbers of
/// values that share their scales; where there are no scales a block is one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
    /// 4 bits of exponent, 3 of mantissa, no infinity (E4M3FN; Micikevicius et al. 2022,
    /// arXiv:2209.05433).
    F8E4M3,
    /// 5 bits of exponent, 2 of mantissa: the upper byte of an f16.
    F8E5M2,
    /// ggml's blocks of 32 and of 256 values.
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// How many values a block holds, and in how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub values: usize,
    pub bytes: usize,
}

impl DType {
    /// Every precision that can be read.
    pub const ALL: [DType; 13] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
    ];

    /// The values of the largest block.
    pub(super) const LARGEST_BLOCK: usize = 256;

    /// Its block.
    pub const fn block(self) -> Block {
        let (values, bytes) = match self {
            DType::F32 => (1, 4),
            DType::F16 | DType::BF16 => (1, 2),
            DType::F8E4M3 | DType::F8E5M2 => (1, 1),
            DType::Q4_0 => (32, 18),
            DType::Q4_1 => (32, 20),
            DType::Q5_0 => (32, 22),
            DType::Q5_1 => (32, 24),
            DType::Q8_0 => (32, 34),
            DType::Q4K => (256, 144),
            DType::Q5K => (256, 176),
            DType::Q6K => (256, 210),
        };
        Block { values, bytes }
    }

    /// Bytes of `count` values; `None` where they are no whole blocks, or too many.
    pub fn bytes(self, count: usize) -> Option<usize> {
        let block = self.block();
        let whole = count.is_multiple_of(block.values);
        (count / block.values)
            .checked_mul(block.bytes)
            .filter(|_| whole)
    }

    /// The name as people write it: `f32`, `f16`, `q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F8E4M3 => "fp8_e4m3",
            DType::F8E5M2 => "fp8_e5m2",
            DType::Q4_0 => "q4_0",
            DType::Q4_1 => "q4_1",
            DType::Q5_0 => "q5_0",
            DType::Q5_1 => "q5_1",
            DType::Q8_0 => "q8_0",
            DType::Q4K => "q4_K",
            DType::Q5K => "q5_K",
            DType::Q6K => "q6_K",
        }
    }

    /// Whether it is a float of 8 bits, which may have a scale beside it in the file.
    pub fn is_fp8(self) -> bool {
        matches!(self, DType::F8E4M3 | DType::F8E5M2)
    }

    /// Whether every value that it can hold is an f16 exactly.
    pub fn fits_f16(self) -> bool {
        self == DType::F16 || self.is_fp8()
    }

    /// Whole little-endian blocks as f32: as many as `to` has values.
    pub fn widen(self, bytes: &[u8], to: &mut [f32]) {
        match self {
            DType::F32 => bytemuck::cast_slice_mut(to).copy_from_slice(bytes),
            DType::F16 => widen_half::<f16>(bytes, to),
            DType::BF16 => widen_half::<bf16>(bytes, to),
            DType::F8E4M3 => fp8::widen(&fp8::E4M3, bytes, to),
            DType::F8E5M2 => fp8::widen(&fp8::E5M2, bytes, to),
            DType::Q4_0 => each_block(bytes, to, ggml::q4_0),
            DType::Q4_1 => each_block(bytes, to, ggml::q4_1),
            DType::Q5_0 => each_block(bytes, to, ggml::q5_0),
            DType::Q5_1 => each_block(bytes, to, ggml::q5_1),
            DType::Q8_0 => each_block(bytes, to, ggml::q8_0),
            DType::Q4K => each_block(bytes, to, ggml::q4_k),
            DType::Q5K => each_block(bytes, to, ggml::q5_k),
            DType::Q6K => each_block(bytes, to, ggml::q6_k),
        }
    }
}

/// 16-bit floats as f32, many at a time where the processor can.
fn widen_half<T: bytemuck::Pod>(bytes: &[u8], to: &mut [f32])
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

/// Blocks of `BYTES` bytes and `VALUES` values, one after the other.
fn each_block<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    to: &mut [f32],
    widen: fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    let (blocks, values) = (bytes.as_chunks().0, to.as_chunks_mut().0);
    for (block, values) in blocks.iter().zip(values) {
        widen(block, values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_have_bytes() {
        for dtype in DType::ALL {
            let block = dtype.block();
            assert!(block.values <= DType::LARGEST_BLOCK);
            assert_eq!(dtype.bytes(3 * block.values), Some(3 * block.bytes));
            if block.values > 1 {
                assert_eq!(dtype.bytes(block.values + 1), None);
            }
        }
        assert_eq!(DType::F32.bytes(usize::MAX / 2), None);
    }
}
