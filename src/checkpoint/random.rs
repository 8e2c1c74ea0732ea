//! Weights made on the spot, for timing and memory on a machine that has no
//! checkpoint: the real architecture, any shape that is asked for.

use super::tensor::{DType, TensorSource, TensorView};
use crate::Result;
use half::f16;
use rayon::prelude::*;

/// Values made by one thread at a time.
const CHUNK: usize = 1 << 16;

/// Entries of the table of values: random bits choose among them.
const TABLE_BITS: u32 = 12;

/// A source that has every tensor. Equal names give equal values: weights are
/// uniform with a standard deviation of 1/sqrt(inputs), norms are the identity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Random;

impl TensorSource for Random {
    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn check(&self, _name: &str, _shape: &[usize]) -> Result<()> {
        Ok(())
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        Ok(TensorView::new(DType::F16, shape, values(name, shape)))
    }

    fn dtype(&self, _name: &str) -> Option<DType> {
        Some(DType::F16)
    }
}

/// Little-endian f16 values of the tensor `name`.
fn values(name: &str, shape: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let constant = |value: f32| f16::from_f32(value).to_le_bytes().repeat(count);
    if name.ends_with(".bias") {
        return constant(0.0);
    }
    if is_norm(name) {
        return constant(1.0);
    }
    let inputs: usize = shape.iter().skip(1).product();
    let table = table(1.0 / (inputs.max(1) as f32).sqrt());
    let seed = hash(name);
    let mut bytes = vec![0; count * 2];
    let chunks = bytes.par_chunks_mut(CHUNK * 2).enumerate();
    chunks.for_each(|(i, chunk)| fill(chunk, seed ^ hash_number(i as u64), &table));
    bytes
}

/// Whether the tensor is a norm's scale: the word before `.weight` has `norm` in it.
fn is_norm(name: &str) -> bool {
    let mut words = name.rsplit('.');
    words.next() == Some("weight") && words.next().is_some_and(|word| word.contains("norm"))
}

/// Evenly spaced values around 0 with standard deviation `std`, as bytes.
fn table(std: f32) -> Vec<[u8; 2]> {
    let entries = 1u32 << TABLE_BITS;
    let half_width = std * 3f32.sqrt();
    (0..entries)
        .map(|i| (i as f32 + 0.5) / entries as f32 * 2.0 - 1.0)
        .map(|at| f16::from_f32(at * half_width).to_le_bytes())
        .collect()
}

/// Four values a 64-bit word of xorshift64*.
fn fill(bytes: &mut [u8], seed: u64, table: &[[u8; 2]]) {
    let mut state = seed | 1;
    let mask = (1usize << TABLE_BITS) - 1;
    for four in bytes.chunks_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
        for (i, value) in four.chunks_exact_mut(2).enumerate() {
            let at = (word >> (16 * i)) as usize & mask;
            if let Some(entry) = table.get(at) {
                value.copy_from_slice(entry);
            }
        }
    }
}

/// FNV-1a, spread over all bits.
fn hash(name: &str) -> u64 {
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3);
    hash_number(name.bytes().fold(0xCBF2_9CE4_8422_2325, step))
}

/// The finishing step of splitmix64.
fn hash_number(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(name: &str, shape: &[usize]) -> Vec<f32> {
        let bytes = values(name, shape);
        let pairs = bytes.chunks_exact(2);
        pairs
            .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect()
    }

    #[test]
    fn weights_have_the_spread_of_their_inputs() {
        let x = floats("mid_block.resnets.0.conv1.weight", &[300, 77, 3, 3]);
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let std = (x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
        let want = 1.0 / (77.0f32 * 9.0).sqrt();
        assert!((std / want - 1.0).abs() < 0.02, "{std} {want}");
        assert!(mean.abs() < 0.01 * want);
    }

    #[test]
    fn equal_names_give_equal_values_and_others_do_not() {
        let shape = [33, 5];
        assert_eq!(values("a.weight", &shape), values("a.weight", &shape));
        assert_ne!(values("a.weight", &shape), values("b.weight", &shape));
    }

    #[test]
    fn norms_are_the_identity() {
        assert!(floats("a.norm1.weight", &[9]).iter().all(|v| *v == 1.0));
        assert!(
            floats("conv_norm_out.weight", &[9])
                .iter()
                .all(|v| *v == 1.0)
        );
        assert!(floats("a.norm1.bias", &[9]).iter().all(|v| *v == 0.0));
    }
}
