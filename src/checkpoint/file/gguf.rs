//! GGUF, ggml's format (`ggml/docs/gguf.md`), versions 2 and 3: metadata, a table of
//! tensors, and their values from the next multiple of the alignment on.
//!
//! Sizes are written innermost first, the other way round than PyTorch's. Convolutions
//! of which rows are no whole blocks are flattened by ComfyUI-GGUF, which keeps their
//! shape as `comfy.gguf.orig_shape.NAME`.

use super::bytes::Cursor;
use super::{AGAIN, Contents, Info, Stored};
use crate::checkpoint::dtype::DType;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

pub(super) const MAGIC: &[u8] = b"GGUF";

/// More are no diffusion model's: SDXL has below 3,000 tensors.
const MOST_TENSORS: usize = 1 << 16;
const MOST_KEYS: usize = 1 << 16;

/// Sizes of one tensor.
const MOST_SIZES: usize = 8;

/// Characters of a tensor's name, and of metadata that is kept.
const LONGEST_NAME: usize = 1 << 10;
const LONGEST_TEXT: usize = 1 << 16;

/// What values are aligned to where the file says nothing.
const ALIGNMENT: usize = 32;

const SHAPE: &str = "comfy.gguf.orig_shape.";

/// The contents of a whole file.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let damaged = |problem: String| Error::file(path, format!("GGUF: {problem}"), AGAIN);
    let mut at = Cursor::new(bytes);
    at.take(MAGIC.len());
    match at.u32() {
        Some(2 | 3) => {}
        Some(version) if version != 0 && version.trailing_zeros() >= 16 => {
            return Err(Error::file(
                path,
                "a GGUF file for big-endian machines",
                "download the usual, little-endian one",
            ));
        }
        Some(version) => {
            return Err(Error::file(
                path,
                format!("a GGUF file of version {version}; 2 and 3 are known"),
                "convert it with a newer program",
            ));
        }
        None => return Err(damaged("truncated in its header".into())),
    }
    let mut header = Header::default();
    let read = header.read(&mut at);
    read.map_err(|problem| damaged(problem.unwrap_or("truncated in its header".into())))?;
    header.contents(&at, bytes.len()).map_err(damaged)
}

/// What is wrong; `None` where the file ends too soon.
type Problem = Option<String>;

#[derive(Default)]
struct Header {
    metadata: HashMap<String, String>,
    shapes: HashMap<String, Vec<usize>>,
    alignment: Option<u64>,
    tensors: Vec<Tensor>,
}

/// A row of the table.
struct Tensor {
    name: String,
    /// Innermost first.
    sizes: Vec<usize>,
    kind: u32,
    offset: usize,
}

impl Header {
    fn read(&mut self, at: &mut Cursor<'_>) -> Result<(), Problem> {
        let (tensors, keys) = (at.size().ok_or(None)?, at.size().ok_or(None)?);
        for (what, count, most) in [
            ("tensors", tensors, MOST_TENSORS),
            ("keys", keys, MOST_KEYS),
        ] {
            if count > most {
                return Err(Some(format!(
                    "its header claims {count} {what}; at most {most} are allowed"
                )));
            }
        }
        for _ in 0..keys {
            self.key(at)?;
        }
        for _ in 0..tensors {
            self.tensors.push(Tensor::read(at)?);
        }
        Ok(())
    }

    fn key(&mut self, at: &mut Cursor<'_>) -> Result<(), Problem> {
        let key = text(at, LONGEST_TEXT)?;
        let kind = at.u32().ok_or(None)?;
        match kind {
            STRING => {
                let length = at.size().ok_or(None)?;
                let value = at.take(length).ok_or(None)?;
                if let (Ok(value), true) = (std::str::from_utf8(value), length <= LONGEST_TEXT) {
                    self.metadata.insert(key, value.to_string());
                }
            }
            ARRAY => {
                let (kind, count) = (at.u32().ok_or(None)?, at.size().ok_or(None)?);
                match key.strip_prefix(SHAPE) {
                    Some(name) if count <= MOST_SIZES => {
                        let sizes = (0..count).map(|_| whole(at, kind).map(|n| n as usize));
                        self.shapes
                            .insert(name.to_string(), sizes.collect::<Result<_, _>>()?);
                    }
                    _ => skip(at, kind, count)?,
                }
            }
            _ if key == "general.alignment" => self.alignment = Some(whole(at, kind)?),
            _ => skip(at, kind, 1)?,
        }
        Ok(())
    }

    /// The table with places in the file, whose length is `size`.
    fn contents(self, at: &Cursor<'_>, size: usize) -> Result<Contents, String> {
        let alignment = self.alignment.unwrap_or(ALIGNMENT as u64);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(format!(
                "its alignment is {alignment}, which is no power of two up to 1048576"
            ));
        }
        let alignment = alignment as usize;
        let start = at.position().next_multiple_of(alignment);
        let mut contents = Contents {
            metadata: self.metadata,
            ..Contents::default()
        };
        for tensor in self.tensors {
            let name = tensor.name.clone();
            let shape = self.shapes.get(&name);
            let info = tensor
                .info(start, alignment, size, shape)
                .map_err(|problem| format!("tensor {name}: {problem}"))?;
            if contents.tensors.insert(name.clone(), info).is_some() {
                return Err(format!("tensor {name} is there twice"));
            }
        }
        Ok(contents)
    }
}

impl Tensor {
    fn read(at: &mut Cursor<'_>) -> Result<Self, Problem> {
        let name = text(at, LONGEST_NAME)?;
        let dims = at.u32().ok_or(None)? as usize;
        if !(1..=MOST_SIZES).contains(&dims) {
            return Err(Some(format!(
                "tensor {name} has {dims} sizes; 1 to {MOST_SIZES} are allowed"
            )));
        }
        let sizes: Option<Vec<usize>> = (0..dims).map(|_| at.size()).collect();
        Ok(Self {
            name,
            sizes: sizes.ok_or(None)?,
            kind: at.u32().ok_or(None)?,
            offset: at.size().ok_or(None)?,
        })
    }

    fn info(
        self,
        start: usize,
        alignment: usize,
        size: usize,
        original: Option<&Vec<usize>>,
    ) -> Result<Info, String> {
        if !self.offset.is_multiple_of(alignment) {
            return Err(format!(
                "its offset {} is no multiple of {alignment}",
                self.offset
            ));
        }
        let count = product(&self.sizes).ok_or(format!("its sizes {:?} overflow", self.sizes))?;
        let stored = stored(self.kind);
        let bytes = match &stored {
            Stored::Weight(dtype) => dtype.bytes(count).ok_or(format!(
                "its {count} values are no whole blocks of {}",
                dtype.name()
            ))?,
            Stored::F64 | Stored::I64 => count.saturating_mul(8),
            Stored::I32 => count.saturating_mul(4),
            // Never read.
            Stored::Other(_) => 0,
        };
        let from = start.checked_add(self.offset);
        let range = from.and_then(|from| Some(from..from.checked_add(bytes)?));
        let range = range.filter(|range| range.end <= size).ok_or(format!(
            "truncated: its {bytes} bytes lie beyond the file's end"
        ))?;
        let mut shape = self.sizes;
        shape.reverse();
        if let Some(original) = original {
            if product(original) != Some(count) {
                return Err(format!(
                    "its original shape {original:?} has not {count} values"
                ));
            }
            shape = original.clone();
        }
        Ok(Info::new(shape, stored, range))
    }
}

fn product(sizes: &[usize]) -> Option<usize> {
    sizes
        .iter()
        .try_fold(1usize, |all, size| all.checked_mul(*size))
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

fn text(at: &mut Cursor<'_>, longest: usize) -> Result<String, Problem> {
    let length = at.size().ok_or(None)?;
    if length > longest {
        return Err(Some(format!("a name of {length} bytes")));
    }
    let bytes = at.take(length).ok_or(None)?;
    let text = std::str::from_utf8(bytes).map_err(|_| Some("a name that is no UTF-8".into()))?;
    Ok(text.to_string())
}

/// A whole number of any of the format's types, not below 0.
fn whole(at: &mut Cursor<'_>, kind: u32) -> Result<u64, Problem> {
    let number = match kind {
        0 => at.u8().map(i128::from),
        1 => at.u8().map(|n| i128::from(n as i8)),
        2 => at.u16().map(i128::from),
        3 => at.u16().map(|n| i128::from(n as i16)),
        4 => at.u32().map(i128::from),
        5 => at.u32().map(|n| i128::from(n as i32)),
        10 => at.u64().map(i128::from),
        11 => at.u64().map(|n| i128::from(n as i64)),
        _ => return Err(Some(format!("a value of type {kind} where a count is due"))),
    };
    let number = number.ok_or(None)?;
    u64::try_from(number).map_err(|_| Some(format!("a count of {number}")))
}

/// Passes over `count` values. Arrays of arrays, which no model has, are an error.
fn skip(at: &mut Cursor<'_>, kind: u32, count: usize) -> Result<(), Problem> {
    let size = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        STRING => {
            // Each has a length of 8 bytes: a lying count ends with the file.
            for _ in 0..count {
                let length = at.size().ok_or(None)?;
                at.take(length).ok_or(None)?;
            }
            return Ok(());
        }
        _ => return Err(Some(format!("metadata of the unknown type {kind}"))),
    };
    let bytes = count.checked_mul(size).ok_or(None)?;
    at.take(bytes).map(|_| ()).ok_or(None)
}

/// ggml's numbers of types (`enum ggml_type`).
fn stored(kind: u32) -> Stored {
    let name = match kind {
        0 => return Stored::Weight(DType::F32),
        1 => return Stored::Weight(DType::F16),
        2 => return Stored::Weight(DType::Q4_0),
        3 => return Stored::Weight(DType::Q4_1),
        6 => return Stored::Weight(DType::Q5_0),
        7 => return Stored::Weight(DType::Q5_1),
        8 => return Stored::Weight(DType::Q8_0),
        12 => return Stored::Weight(DType::Q4K),
        13 => return Stored::Weight(DType::Q5K),
        14 => return Stored::Weight(DType::Q6K),
        26 => return Stored::I32,
        27 => return Stored::I64,
        28 => return Stored::F64,
        30 => return Stored::Weight(DType::BF16),
        9 => "q8_1",
        10 => "q2_K",
        11 => "q3_K",
        15 => "q8_K",
        16 => "iq2_xxs",
        17 => "iq2_xs",
        18 => "iq3_xxs",
        19 => "iq1_s",
        20 => "iq4_nl",
        21 => "iq3_s",
        22 => "iq2_s",
        23 => "iq4_xs",
        29 => "iq1_m",
        34 => "tq1_0",
        35 => "tq2_0",
        _ => return Stored::Other(format!("ggml type {kind}")),
    };
    Stored::Other(name.into())
}
