//! GGUF version 3 (`ggml/docs/gguf.md`), as stable-diffusion.cpp reads a whole checkpoint:
//! the original release's names; matrices in blocks, vectors f32, the rest f16.

use super::plan::Planned;
use super::{Precision, Writing, halves};
use crate::Result;
use crate::quantise::{BLOCK, BlockFormat};
use rayon::prelude::*;
use std::fs::File;
use std::io::{self, BufWriter, Write};

/// Where values begin, at multiples.
const ALIGNMENT: u64 = 32;

/// Type numbers of metadata and of tensors.
const U32: u32 = 4;
const STRING: u32 = 8;
const F32: u32 = 0;
const F16: u32 = 1;
const Q4_0: u32 = 2;
const Q8_0: u32 = 8;

/// `general.file_type` of files that are mostly of such tensors.
fn file_type(precision: Precision) -> u32 {
    match precision {
        Precision::F32 => 0,
        Precision::F16 => 1,
        Precision::Q4 => 2,
        Precision::Q8 => 7,
    }
}

fn kind(tensor: &Planned, precision: Precision) -> u32 {
    match precision {
        Precision::F32 => F32,
        _ if tensor.shape.len() < 2 => F32,
        // Four bits are too few for the text encoders, which are small.
        Precision::Q4 if tensor.suits_blocks() && tensor.is_of_unet() => Q4_0,
        Precision::Q8 | Precision::Q4 if tensor.suits_blocks() => Q8_0,
        _ => F16,
    }
}

fn bytes(kind: u32, count: u64) -> u64 {
    match kind {
        F32 => 4 * count,
        F16 => 2 * count,
        Q4_0 => count / BLOCK as u64 * 18,
        _ => count / BLOCK as u64 * 34,
    }
}

fn string(to: &mut impl Write, text: &str) -> io::Result<()> {
    to.write_all(&(text.len() as u64).to_le_bytes())?;
    to.write_all(text.as_bytes())
}

/// Writes the whole file.
pub(super) fn write(
    file: &File,
    tensors: &[Planned],
    writing: &Writing<'_>,
    config: &str,
) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(1 << 20, file);
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    let strings = [
        ("general.architecture", "sdxl"),
        (crate::checkpoint::single::CONFIG, config),
    ];
    let numbers = [
        ("general.alignment", ALIGNMENT as u32),
        ("general.quantization_version", 2),
        ("general.file_type", file_type(writing.precision)),
    ];
    header.extend(((strings.len() + numbers.len()) as u64).to_le_bytes());
    for (key, value) in strings {
        string(&mut header, key)?;
        header.extend(STRING.to_le_bytes());
        string(&mut header, value)?;
    }
    for (key, value) in numbers {
        string(&mut header, key)?;
        header.extend(U32.to_le_bytes());
        header.extend(value.to_le_bytes());
    }
    let mut offset = 0;
    for tensor in tensors {
        string(&mut header, &tensor.key)?;
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        // The innermost dimension comes first.
        for side in tensor.shape.iter().rev() {
            header.extend((*side as u64).to_le_bytes());
        }
        let kind = kind(tensor, writing.precision);
        header.extend(kind.to_le_bytes());
        header.extend(u64::to_le_bytes(offset));
        let count = tensor.shape.iter().product::<usize>() as u64;
        offset = (offset + bytes(kind, count)).next_multiple_of(ALIGNMENT);
    }
    to.write_all(&header)?;
    pad(&mut to, header.len() as u64)?;
    for tensor in tensors {
        let kind = kind(tensor, writing.precision);
        let made = writing
            .values(tensor)
            .and_then(|values| encoded(tensor, kind, &values));
        let made = writing.or_note(made);
        if writing.failed.borrow().is_some() {
            return Err(io::Error::other("a tensor could not be made"));
        }
        to.write_all(&made)?;
        pad(&mut to, made.len() as u64)?;
    }
    to.flush()
}

/// Zeros up to the next multiple of [`ALIGNMENT`].
fn pad(to: &mut impl Write, written: u64) -> io::Result<()> {
    let missing = written.next_multiple_of(ALIGNMENT) - written;
    to.write_all(&[0; ALIGNMENT as usize][..missing as usize])
}

fn encoded(tensor: &Planned, kind: u32, values: &[f32]) -> Result<Vec<u8>> {
    Ok(match kind {
        F32 => bytemuck::cast_slice(values).to_vec(),
        F16 => halves(&tensor.key, values)?,
        Q4_0 => blocks(values, |block, to: &mut [u8; 18]| {
            let (scale, q) = BlockFormat::Q4.quantise(block);
            to[..2].copy_from_slice(&scale.to_le_bytes());
            // Values 0 to 15 in the low four bits, 16 to 31 in the high ones.
            for (i, byte) in to[2..].iter_mut().enumerate() {
                *byte = (q[i] + 8) as u8 | ((q[i + BLOCK / 2] + 8) as u8) << 4;
            }
        }),
        _ => blocks(values, |block, to: &mut [u8; 34]| {
            let (scale, q) = BlockFormat::Q8.quantise(block);
            to[..2].copy_from_slice(&scale.to_le_bytes());
            to[2..].copy_from_slice(&q.map(|q| q as u8));
        }),
    })
}

/// Every block as `N` bytes, on all cores.
fn blocks<const N: usize>(
    values: &[f32],
    pack: impl Fn(&[f32; BLOCK], &mut [u8; N]) + Sync,
) -> Vec<u8> {
    let mut made = vec![0; values.len() / BLOCK * N];
    let from = values.as_chunks::<BLOCK>().0.par_iter();
    let to = made.as_chunks_mut::<N>().0.par_iter_mut();
    from.zip(to).for_each(|(block, to)| pack(block, to));
    made
}
