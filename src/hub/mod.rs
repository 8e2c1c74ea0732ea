//! Downloading models from Hugging Face's hub, into the cache that its own programs keep:
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.
//!
//! A file is written beside its final name, as `blobs/HASH.incomplete`, which another run goes
//! on with. It gets its name when its hash is that of the hub; and a snapshot shows files
//! when all of them are there.

mod api;
mod blob;
mod choice;

pub use api::{Hub, Token};
pub use choice::choose;

use crate::checkpoint::hub::{folder_name, is_repository};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// What to download.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// `OWNER/NAME`.
    pub repository: String,
    /// A branch, tag or commit.
    pub revision: String,
    /// Files of it; none means those that calotype reads.
    pub files: Vec<String>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path in the repository, with slashes.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub hash: Hash,
}

/// What a file's bytes give, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256 of the bytes, of large files.
    Sha256(String),
    /// Git's: SHA-1 of `blob SIZE`, a zero and the bytes.
    Git(String),
}

impl Hash {
    /// The digits, which name the blob.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }
}

/// What happens while files are downloaded.
#[derive(Debug)]
pub enum Progress<'a> {
    /// All files: how many bytes, and how many of them are there.
    Begin { size: u64, there: u64 },
    /// More bytes came.
    Bytes(u64),
    /// A file is begun.
    File(&'a File),
    /// The connection was cut, or the hub was busy; it is tried again.
    Again(&'a str),
}

/// Downloads what is not there yet; returns the snapshot's folder, or the file where one was
/// asked for or is all that is there.
///
/// # Errors
/// No such repository or file, one that asks for a token or its licence, files that cannot be
/// written, a connection that stays cut, bytes of another hash; or what `told` returns.
pub fn pull(
    hub: &Hub,
    cache: &Path,
    wanted: &Wanted,
    told: &mut dyn FnMut(Progress<'_>) -> Result<()>,
) -> Result<PathBuf> {
    let name = &wanted.repository;
    if !is_repository(name) {
        let allowed = "give OWNER/NAME, such as stabilityai/stable-diffusion-xl-base-1.0";
        return Err(Error::invalid("repository", name, allowed));
    }
    let (commit, listed) = hub.files(name, &wanted.revision)?;
    let files = choose(name, &listed, &wanted.files)?;
    let folder = cache.join(folder_name(name));
    let blobs = folder.join("blobs");
    make_folder(&blobs)?;
    let there = files.iter().map(|file| blob::there(&blobs, file)).sum();
    let size = files.iter().map(|file| file.size).sum();
    told(Progress::Begin { size, there })?;
    for file in &files {
        blob::fetch(hub, &format!("{name}/resolve/{commit}"), file, &blobs, told)?;
    }
    let snapshot = folder.join("snapshots").join(&commit);
    for file in &files {
        show(&blobs.join(file.hash.digits()), &snapshot.join(&file.path))?;
    }
    let refers = folder.join("refs").join(&wanted.revision);
    if wanted.revision != commit {
        make_folder(refers.parent().unwrap_or(&folder))?;
        crate::picture::write_file(&refers, commit.as_bytes())?;
    }
    match &files[..] {
        [only] => Ok(snapshot.join(&only.path)),
        _ => Ok(snapshot),
    }
}

/// Shows a blob under a file's name: by a link, or where the system has none, a copy.
fn show(blob: &Path, path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    make_folder(folder)?;
    if path.exists() {
        return Ok(());
    }
    // A link to what is gone.
    let _ = std::fs::remove_file(path);
    let failed = |e: std::io::Error| Error::file(path, e, "choose another cache by HF_HOME");
    #[cfg(unix)]
    return std::os::unix::fs::symlink(std::path::absolute(blob).map_err(failed)?, path)
        .map_err(failed);
    #[cfg(not(unix))]
    return std::fs::hard_link(blob, path)
        .or_else(|_| std::fs::copy(blob, path).map(drop))
        .map_err(failed);
}

fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::file(folder, e, "choose another cache by HF_HOME"))
}
