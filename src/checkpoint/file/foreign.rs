//! Files that hold no tensors, or hold them in a way that is not read.

use crate::Error;
use std::path::Path;

/// Bytes that tell what a file is.
const HEAD: usize = 512;

/// What the matter is with a file that is known not to be one of tensors.
pub(super) fn error(path: &Path, bytes: &[u8]) -> Option<Error> {
    let head = bytes.get(..bytes.len().min(HEAD)).unwrap_or_default();
    let (problem, remedy) = if head.len() < 8 {
        return None;
    } else if head.starts_with(b"version https://git-lfs") {
        (
            "a git-lfs pointer, not the weights themselves",
            "run `git lfs pull` in its folder",
        )
    } else if is_old_pickle(head) {
        (
            "an old PyTorch pickle (from before version 1.6), which is not read",
            "download the .safetensors variant, or save it again with a newer PyTorch",
        )
    } else if is_text(head) {
        (
            "a text, not a safetensors file",
            "download the weights again, or give the path of theirs",
        )
    } else {
        return None;
    };
    Some(Error::file(path, problem, remedy))
}

/// Whether the bytes are a pickle of protocols 2 to 5, as PyTorch wrote it without an archive.
fn is_old_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, ..])
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
