//! A file of tensors: mapped into memory, its header checked. The format is found by
//! the first bytes, whatever the name says.

mod bytes;
mod foreign;
mod gguf;
mod safetensors;
mod torch;

use super::tensor::{DType, TensorView};
use crate::{Error, Field, Remedy, Result};
use half::{bf16, f16};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

const AGAIN: &str = "download the file again";

/// A format: how its files begin, and what reads their header. A reader checks every
/// count against the file's size before it allocates.
struct Format {
    begins: &'static [u8],
    read: fn(&Path, &[u8]) -> Result<Contents>,
}

/// The formats that have a mark. safetensors has none, and is what remains.
const FORMATS: [Format; 2] = [
    Format {
        begins: gguf::MAGIC,
        read: gguf::read,
    },
    Format {
        begins: torch::MAGIC,
        read: torch::read,
    },
];

/// A file whose header and size agree.
#[derive(Debug)]
pub(super) struct TensorFile {
    path: PathBuf,
    bytes: Bytes,
    contents: Contents,
}

/// What a file's header says.
#[derive(Debug, Default)]
struct Contents {
    tensors: HashMap<String, Info>,
    /// Free-form strings.
    metadata: HashMap<String, String>,
}

/// One tensor of a header.
#[derive(Debug)]
struct Info {
    shape: Vec<usize>,
    stored: Stored,
    /// Where in the file its values are.
    range: Range<usize>,
    /// What each value is multiplied by.
    scale: f32,
}

impl Info {
    /// A tensor without a scale.
    fn new(shape: Vec<usize>, stored: Stored, range: Range<usize>) -> Self {
        Self {
            shape,
            stored,
            range,
            scale: 1.0,
        }
    }
}

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Embedded(&'static [u8]),
    #[cfg(test)]
    Owned(Vec<u8>),
}

/// How a tensor's values are stored: as a weight's may be, or otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    Weight(DType),
    F64,
    I64,
    I32,
    /// The format's name of another type.
    Other(String),
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stored::Weight(dtype) => f.write_str(dtype.name()),
            Stored::F64 => f.write_str("F64"),
            Stored::I64 => f.write_str("I64"),
            Stored::I32 => f.write_str("I32"),
            Stored::Other(name) => f.write_str(name),
        }
    }
}

/// A tensor as the header describes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub shape: &'a [usize],
    pub stored: &'a Stored,
    pub data: &'a [u8],
    /// What each value is multiplied by: scaled fp8's scale, else 1.
    pub scale: f32,
}

impl<'a> Entry<'a> {
    /// The precision, where it is one that a weight may have.
    pub fn precision(&self) -> Option<DType> {
        match self.stored {
            Stored::Weight(dtype) => Some(*dtype),
            _ => None,
        }
    }

    /// Whether every value is an f16 exactly, by its type alone.
    pub fn fits_f16(&self) -> bool {
        self.scale == 1.0 && self.precision().is_some_and(DType::fits_f16)
    }

    /// The values as a weight's, under `shape`, where they can be.
    pub fn view(&self, shape: &[usize]) -> Option<TensorView<'a>> {
        Some(TensorView {
            scale: self.scale,
            ..TensorView::new(self.precision()?, shape, self.data)
        })
    }

    /// The first `most` values of a small tensor of any type of number.
    pub fn numbers(&self, most: usize) -> Option<Vec<f64>> {
        fn all<const N: usize>(data: &[u8], most: usize, value: fn([u8; N]) -> f64) -> Vec<f64> {
            let values = data.as_chunks().0.iter().take(most);
            values.map(|bytes| value(*bytes)).collect()
        }
        let data = self.data;
        Some(match self.stored {
            Stored::F64 => all(data, most, f64::from_le_bytes),
            Stored::I64 => all(data, most, |b| i64::from_le_bytes(b) as f64),
            Stored::I32 => all(data, most, |b| i32::from_le_bytes(b).into()),
            Stored::Weight(DType::F32) => all(data, most, |b| f32::from_le_bytes(b).into()),
            Stored::Weight(DType::F16) => all(data, most, |b| f16::from_le_bytes(b).into()),
            Stored::Weight(DType::BF16) => all(data, most, |b| bf16::from_le_bytes(b).into()),
            _ => return None,
        })
    }
}

impl TensorFile {
    /// Maps the file and checks it: length, header, offsets. Reads no values.
    pub fn open(path: &Path) -> Result<Self> {
        let remedy = || Remedy::give(Field::Model, "a .safetensors file or a diffusers folder");
        // Before opening: a pipe would never open.
        let about = std::fs::metadata(path).map_err(|e| Error::file(path, e, remedy()))?;
        if !about.is_file() {
            return Err(Error::file(path, "not a file", remedy()));
        }
        let file = File::open(path).map_err(|e| Error::file(path, e, remedy()))?;
        // SAFETY: the mapping is read-only and private to this process. Rust
        // asks that the file does not change below it: no program rewrites
        // published weights in place, and reading is through plain bytes, so
        // that any content is a valid value.
        let map = unsafe { memmap2::Mmap::map(&file) };
        let map =
            map.map_err(|e| Error::file(path, e, "free memory, or copy the file to a local disk"))?;
        Self::new(path.to_path_buf(), Bytes::Mapped(map))
    }

    /// The same for bytes that are part of the program; `path` is their name in messages.
    pub fn embedded(path: PathBuf, bytes: &'static [u8]) -> Result<Self> {
        Self::new(path, Bytes::Embedded(bytes))
    }

    fn new(path: PathBuf, bytes: Bytes) -> Result<Self> {
        let contents = read(&path, bytes.all())?;
        let mut file = Self {
            path,
            bytes,
            contents,
        };
        file.find_scales()?;
        Ok(file)
    }

    /// Gives fp8 weights the scales that lie beside them: `X.scale_weight` or
    /// `X.weight_scale` of `X.weight`, as ComfyUI writes them.
    fn find_scales(&mut self) -> Result<()> {
        let mut scales = Vec::new();
        for (name, info) in &self.contents.tensors {
            let is_fp8 = matches!(info.stored, Stored::Weight(dtype) if dtype.is_fp8());
            let Some(module) = name.strip_suffix(".weight").filter(|_| is_fp8) else {
                continue;
            };
            let keys = ["scale_weight", "weight_scale"].map(|end| format!("{module}.{end}"));
            let Some((key, entry)) = keys.iter().find_map(|key| Some((key, self.entry(key)?)))
            else {
                continue;
            };
            match entry.numbers(2).as_deref() {
                Some(&[scale]) if (scale as f32).is_finite() => {
                    scales.push((name.clone(), scale as f32));
                }
                _ => {
                    let shape = entry.shape;
                    let problem = format!("a scale of shape {shape:?}; one finite number is read");
                    let remedy = "use the f16 variant, or one with a scale for each tensor";
                    return Err(Error::tensor(&self.path, key, problem, remedy));
                }
            }
        }
        for (name, scale) in scales {
            if let Some(info) = self.contents.tensors.get_mut(&name) {
                info.scale = scale;
            }
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.bytes.all().len() as u64
    }

    /// Names of all tensors, in no order.
    pub fn names(&self) -> Vec<String> {
        self.contents.tensors.keys().cloned().collect()
    }

    /// The free-form strings of the header.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.contents.metadata.get(key).map(String::as_str)
    }

    /// Says that `data`, a tensor's, will be read soon.
    pub fn expect(&self, data: &[u8]) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes
            && let Some(offset) = data.as_ptr().addr().checked_sub(map.as_ptr().addr())
        {
            // A hint: the values are read all the same where the system takes none.
            let _ = map.advise_range(memmap2::Advice::WillNeed, offset, data.len());
        }
        #[cfg(not(unix))]
        let _ = data;
    }

    /// The tensor `name`, if the file has it.
    pub fn entry(&self, name: &str) -> Option<Entry<'_>> {
        let info = self.contents.tensors.get(name)?;
        Some(Entry {
            shape: &info.shape,
            stored: &info.stored,
            data: self.bytes.all().get(info.range.clone())?,
            scale: info.scale,
        })
    }
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Embedded(bytes) => bytes,
            #[cfg(test)]
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// Reads the header of whichever format the file is of.
fn read(path: &Path, bytes: &[u8]) -> Result<Contents> {
    if let Some(format) = FORMATS.iter().find(|f| bytes.starts_with(f.begins)) {
        return (format.read)(path, bytes);
    }
    match foreign::error(path, bytes) {
        Some(error) => Err(error),
        None => safetensors::read(path, bytes),
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
