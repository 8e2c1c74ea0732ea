//! A checkpoint as one file: in the layout of the original SDXL release, which every
//! program reads, with the configuration that shapes cannot tell in its header.

mod gguf;
mod plan;

use super::Checkpoint;
use crate::{Error, Field, Remedy, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;
use plan::{Planned, plan};
use safetensors::Dtype;
use safetensors::tensor::View;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;

/// How a file's weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    /// ggml's Q8_0, for the matrices of UNet and text encoders; the rest is F16.
    Q8,
    /// ggml's Q4_0 for the matrices of the UNet, Q8_0 for those of text encoders.
    Q4,
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "f32" => Self::F32,
            "f16" => Self::F16,
            "q8" | "q8_0" => Self::Q8,
            "q4" | "q4_0" => Self::Q4,
            _ => {
                let allowed = "choose one of f32, f16, q8, q4";
                return Err(Error::invalid(Field::Weights, format!("{text:?}"), allowed));
            }
        })
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Converted {
    pub tensors: usize,
    pub bytes: u64,
}

/// Writes `checkpoint` to `path`: safetensors, or GGUF where its name ends so, which alone
/// has blocks. The file is there once it is whole. Adapters are merged in. `next` hears how
/// many of how many tensors are done, and may stop it.
///
/// # Errors
/// Blocks asked of safetensors; a file that is there already; values that f16 does not
/// hold; what the disk says.
pub fn convert(
    checkpoint: &Checkpoint,
    path: &Path,
    precision: Precision,
    next: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Converted> {
    let end = path
        .extension()
        .and_then(|end| end.to_str())
        .unwrap_or_default();
    let is_gguf = end.eq_ignore_ascii_case("gguf");
    if !is_gguf && !end.eq_ignore_ascii_case("safetensors") {
        let allowed = "must end in .safetensors or .gguf";
        return Err(Error::invalid("output", path.display(), allowed));
    }
    if !is_gguf && matches!(precision, Precision::Q8 | Precision::Q4) {
        let allowed = "blocks need a name that ends in .gguf";
        return Err(Error::invalid("output", path.display(), allowed));
    }
    if path.exists() {
        let remedy = "give another name, or remove it";
        return Err(Error::file(path, "is there already", remedy));
    }
    let planned = plan(checkpoint)?;
    let config = checkpoint.configurations().to_string();
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let failed = |e: std::io::Error| {
        Error::file(path, e, "give a folder that can be written to and has room")
    };
    let file = tempfile::Builder::new()
        .prefix(".calotype-")
        .tempfile_in(folder)
        .map_err(failed)?;
    let writing = Writing {
        checkpoint,
        precision,
        next: RefCell::new(next),
        done: RefCell::new(0),
        count: planned.len(),
        failed: RefCell::new(None),
    };
    match is_gguf {
        true => gguf::write(file.as_file(), &planned, &writing, &config)
            .map_err(|e| writing.failed.take().unwrap_or_else(|| failed(e)))?,
        false => {
            let views = planned.iter().map(|tensor| {
                let view = Lazy {
                    tensor,
                    writing: &writing,
                };
                (tensor.key.clone(), view)
            });
            let metadata = HashMap::from([
                ("format".to_string(), "pt".to_string()),
                (super::single::CONFIG.to_string(), config),
            ]);
            let views: Vec<_> = views.collect();
            let written = safetensors::serialize_to_file(views, Some(metadata), file.path());
            if let Some(error) = writing.failed.take() {
                return Err(error);
            }
            written.map_err(|e| Error::file(path, e, "give a folder that has room"))?;
        }
    }
    let bytes = std::fs::metadata(file.path()).map_err(failed)?.len();
    file.persist_noclobber(path).map_err(|e| failed(e.error))?;
    Ok(Converted {
        tensors: planned.len(),
        bytes,
    })
}

/// What all tensors of a file share.
struct Writing<'a> {
    checkpoint: &'a Checkpoint,
    precision: Precision,
    next: RefCell<&'a mut dyn FnMut(usize, usize) -> Result<()>>,
    done: RefCell<usize>,
    count: usize,
    /// The first error, which the safetensors library has no way to tell of.
    failed: RefCell<Option<Error>>,
}

impl Writing<'_> {
    /// The values of a tensor.
    fn values(&self, tensor: &Planned) -> Result<Vec<f32>> {
        let done = self.done.replace_with(|done| *done + 1);
        (self.next.borrow_mut())(done, self.count)?;
        tensor.values(self.checkpoint)
    }

    /// The first error is kept; there is nothing to write then.
    fn or_note<T: Default>(&self, made: Result<T>) -> T {
        made.unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            T::default()
        })
    }
}

/// A tensor of a safetensors file, worked out when it is written.
struct Lazy<'a> {
    tensor: &'a Planned,
    writing: &'a Writing<'a>,
}

impl Lazy<'_> {
    fn bytes(&self) -> Result<Vec<u8>> {
        let values = self.writing.values(self.tensor)?;
        match self.writing.precision {
            Precision::F32 => Ok(bytemuck::cast_slice(&values).to_vec()),
            _ => halves(&self.tensor.key, &values),
        }
    }
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.writing.precision {
            Precision::F32 => Dtype::F32,
            _ => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.writing.failed.borrow().is_some() {
            return Cow::default();
        }
        Cow::Owned(self.writing.or_note(self.bytes()))
    }

    fn data_len(&self) -> usize {
        let count: usize = self.tensor.shape.iter().product();
        count * if self.dtype() == Dtype::F32 { 4 } else { 2 }
    }
}

/// Values as f16, little-endian.
fn halves(name: &str, values: &[f32]) -> Result<Vec<u8>> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    match halves
        .iter()
        .zip(values)
        .all(|(half, x)| half.is_finite() || !x.is_finite())
    {
        true => Ok(bytemuck::cast_slice(&halves).to_vec()),
        false => {
            let remedy = Remedy::Set {
                field: Field::Weights,
                value: "f32".into(),
            };
            let problem = "holds values that f16 does not";
            Err(Error::file(name, problem, remedy))
        }
    }
}
