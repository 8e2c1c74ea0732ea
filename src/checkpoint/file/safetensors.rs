//! safetensors: a JSON header with names, types, shapes and offsets, then the values.

use super::{AGAIN, Contents, Info, Stored};
use crate::checkpoint::dtype::DType;
use crate::{Error, Result};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use std::path::Path;

/// Bytes of the little-endian header length that opens the file.
const LENGTH: usize = 8;

/// The longest header that the safetensors library accepts.
const LONGEST_HEADER: u64 = 100_000_000;

/// The contents of a whole file. The library checks that offsets follow one another
/// and fit the shapes; here, that they fit the file.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let (Some(length), rest) = (bytes.first_chunk::<LENGTH>(), bytes.get(LENGTH..)) else {
        let problem = format!("{} bytes, too short for safetensors", bytes.len());
        return Err(Error::file(path, problem, AGAIN));
    };
    let rest = rest.unwrap_or_default();
    let claimed = u64::from_le_bytes(*length);
    let header = usize::try_from(claimed).ok().and_then(|n| rest.get(..n));
    let header = match header {
        Some(header) if claimed <= LONGEST_HEADER => header,
        _ => return Err(bad_length(path, bytes, claimed)),
    };
    let parsed: Metadata = serde_json::from_slice(header).map_err(|e| {
        let problem = format!("its safetensors header is damaged ({e})");
        Error::file(path, problem, AGAIN)
    })?;
    let (want, have) = (parsed.data_len(), rest.len() - header.len());
    if want > have {
        let problem =
            format!("truncated: its header names {want} bytes of values, {have} are there");
        return Err(Error::file(path, problem, AGAIN));
    }
    if want < have {
        let problem = format!("{} bytes follow the last tensor", have - want);
        return Err(Error::file(path, problem, AGAIN));
    }
    let start = LENGTH + header.len();
    let mut contents = Contents::default();
    for (name, info) in parsed.tensors() {
        let (from, to) = info.data_offsets;
        let range = start + from..start + to;
        let tensor = Info::new(info.shape.clone(), stored(info.dtype), range);
        contents.tensors.insert(name, tensor);
    }
    contents.metadata = parsed.metadata().clone().unwrap_or_default();
    Ok(contents)
}

fn stored(dtype: Dtype) -> Stored {
    match dtype {
        Dtype::F32 => Stored::Weight(DType::F32),
        Dtype::F16 => Stored::Weight(DType::F16),
        Dtype::BF16 => Stored::Weight(DType::BF16),
        Dtype::F8_E4M3 => Stored::Weight(DType::F8E4M3),
        Dtype::F8_E5M2 => Stored::Weight(DType::F8E5M2),
        Dtype::F64 => Stored::F64,
        Dtype::I64 => Stored::I64,
        Dtype::I32 => Stored::I32,
        other => Stored::Other(format!("{other:?}")),
    }
}

/// What the matter is with a file whose header length cannot be.
fn bad_length(path: &Path, bytes: &[u8], claimed: u64) -> Error {
    let problem = if claimed > LONGEST_HEADER {
        format!(
            "its header claims {claimed} bytes (at most {LONGEST_HEADER} are allowed): damaged, or not a safetensors file"
        )
    } else {
        format!(
            "truncated: its header claims {claimed} bytes, the file has {}",
            bytes.len()
        )
    };
    Error::file(path, problem, AGAIN)
}
