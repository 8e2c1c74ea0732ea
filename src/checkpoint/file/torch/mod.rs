//! PyTorch's zip files (`torch.save` since 1.6; `.ckpt`, `.pt`, `.pth`, `.bin`): a pickle
//! that names tensors, and their values as files beside it, stored as they are.
//!
//! A pickle is a program. It is not run: [`machine`] knows the few instructions that
//! build dictionaries of tensors and refuses all others, as it does every class and
//! function but those that make a tensor.

mod archive;
mod machine;
mod tensors;

use super::{AGAIN, Contents};
use crate::{Error, Result};
use archive::Archive;
use std::path::Path;

pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// Bytes of the pickle; SDXL's have below 1 MB.
const LONGEST_PICKLE: usize = 64 << 20;

/// What is wrong with a file, and what to do about it.
struct Problem {
    what: String,
    remedy: &'static str,
}

impl Problem {
    fn damaged(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: AGAIN,
        }
    }

    fn other(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: "use the .safetensors variant of this file",
        }
    }
}

/// The contents of a whole file.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Contents> {
    contents(bytes).map_err(|problem| Error::file(path, problem.what, problem.remedy))
}

fn contents(bytes: &[u8]) -> Result<Contents, Problem> {
    let archive = Archive::read(bytes)?;
    let Some((folder, pickle)) = archive.pickle() else {
        return Err(Problem::other(
            "a zip archive, but not of PyTorch's: it holds no data.pkl",
        ));
    };
    let program = &bytes[pickle.clone()];
    if program.len() > LONGEST_PICKLE {
        let what = format!("its pickle has {} bytes", program.len());
        return Err(Problem::other(what));
    }
    if let Some(order) = archive.file(&format!("{folder}byteorder"))
        && &bytes[order.clone()] == b"big"
    {
        return Err(Problem::other("a PyTorch file of a big-endian machine"));
    }
    let objects = machine::run(program)?;
    let storage = |key: &str| archive.file(&format!("{folder}data/{key}"));
    tensors::contents(&objects, storage)
}
