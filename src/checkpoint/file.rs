//! One safetensors file: mapped into memory, its header checked.

use super::tensor::DType;
use crate::{Error, Field, Remedy, Result};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Bytes of the little-endian header length that opens the file.
const LENGTH: usize = 8;

/// The longest header that the safetensors library accepts.
const LONGEST_HEADER: u64 = 100_000_000;

const AGAIN: &str = "download the file again";

/// A safetensors file whose header and size agree.
#[derive(Debug)]
pub(super) struct SafeFile {
    path: PathBuf,
    bytes: Bytes,
    /// Where the values begin.
    start: usize,
    header: Metadata,
}

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Embedded(&'static [u8]),
}

/// A tensor as the header describes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub shape: &'a [usize],
    pub dtype: Dtype,
    pub data: &'a [u8],
}

impl Entry<'_> {
    /// The precision, where it is one that can be read.
    pub fn precision(&self) -> Option<DType> {
        match self.dtype {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            _ => None,
        }
    }
}

impl SafeFile {
    /// Maps the file and checks it: length, header, offsets. Reads no values.
    pub fn open(path: &Path) -> Result<Self> {
        let remedy = || Remedy::give(Field::Model, "a .safetensors file or a diffusers folder");
        // Before opening: a pipe would never open.
        let about = std::fs::metadata(path).map_err(|e| Error::file(path, e, remedy()))?;
        if !about.is_file() {
            return Err(Error::file(path, "not a file", remedy()));
        }
        if about.len() < LENGTH as u64 {
            let problem = format!("{} bytes, too short for safetensors", about.len());
            return Err(Error::file(path, problem, AGAIN));
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
        let (start, header) = read_header(&path, bytes.all())?;
        Ok(Self {
            path,
            bytes,
            start,
            header,
        })
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
        self.header.offset_keys()
    }

    /// The free-form strings of the header.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header
            .metadata()
            .as_ref()?
            .get(key)
            .map(String::as_str)
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
        let info = self.header.info(name)?;
        let (from, to) = info.data_offsets;
        let data = self.bytes.all().get(self.start..)?.get(from..to)?;
        Some(Entry {
            shape: &info.shape,
            dtype: info.dtype,
            data,
        })
    }
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Embedded(bytes) => bytes,
        }
    }
}

/// The header of a whole file and where its values begin. The library checks
/// that offsets follow one another and fit the shapes; here, that they fit the file.
fn read_header(path: &Path, bytes: &[u8]) -> Result<(usize, Metadata)> {
    let (Some(length), rest) = (bytes.first_chunk::<LENGTH>(), bytes.get(LENGTH..)) else {
        return Err(Error::file(path, "too short for safetensors", AGAIN));
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
    Ok((LENGTH + header.len(), parsed))
}

/// What the matter is with a file whose header length cannot be.
fn bad_length(path: &Path, bytes: &[u8], claimed: u64) -> Error {
    let head = bytes.get(..bytes.len().min(512)).unwrap_or_default();
    let text = is_text(head);
    if head.starts_with(b"version https://git-lfs") {
        let problem = "a git-lfs pointer, not the weights themselves";
        return Error::file(path, problem, "run `git lfs pull` in its folder");
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"\x80\x02") {
        let problem = "a PyTorch pickle, not safetensors";
        return Error::file(
            path,
            problem,
            "convert it to safetensors, or download that variant",
        );
    }
    if text {
        let problem = "a text, not a safetensors file";
        return Error::file(
            path,
            problem,
            "download the weights again, or give the path of theirs",
        );
    }
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

/// Whether the bytes are UTF-8 without control characters; the last character may be cut.
fn is_text(bytes: &[u8]) -> bool {
    let whole = match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(e) if e.error_len().is_none() => e.valid_up_to(),
        Err(_) => return false,
    };
    let text = bytes.get(..whole).unwrap_or_default();
    text.iter()
        .all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 32..=126 | 128..))
}
