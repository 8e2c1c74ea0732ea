//! The cache in which Hugging Face's programs keep what they download: a folder
//! `models--OWNER--NAME` for each repository, in it `refs/main` with the name of the
//! newest snapshot, and `snapshots/NAME` with its files.

use crate::{Error, Field, Remedy, Result};
use std::path::{Path, PathBuf};

/// The command that downloads a repository, whose name follows: this program's where it has
/// one, else that of the hub's own.
pub const DOWNLOAD: &str = if cfg!(feature = "pull") {
    "calotype pull"
} else {
    "hf download"
};

/// The folders that may be the cache, as `huggingface_hub` finds it.
fn caches() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(cache) = set("HF_HUB_CACHE") {
        return vec![cache.into()];
    }
    if let Some(home) = set("HF_HOME") {
        return vec![Path::new(&home).join("hub")];
    }
    let base = directories::BaseDirs::new();
    let home = base.map(|base| base.home_dir().join(".cache/huggingface/hub"));
    let xdg = set("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("huggingface/hub"));
    xdg.into_iter().chain(home).collect()
}

/// The folder that is the cache, for who writes there.
///
/// # Errors
/// The system names no home.
pub fn cache() -> Result<PathBuf> {
    let mut caches = caches().into_iter();
    caches.next().ok_or_else(|| {
        let problem = "no folder of the user is known";
        Error::file("Hugging Face's cache", problem, "name one by HF_HOME")
    })
}

/// The name of a repository's folder in the cache.
pub fn folder_name(repository: &str) -> String {
    format!("models--{}", repository.replace('/', "--"))
}

/// Whether a name that is no path is one of a repository, `OWNER/NAME`.
pub fn is_repository(name: &str) -> bool {
    let fits = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(plain)
    };
    let endings = [".safetensors", ".ckpt", ".gguf", ".bin", ".pt", ".pth"];
    matches!(name.split_once('/'), Some((owner, name)) if fits(owner) && fits(name))
        && !endings.iter().any(|end| name.ends_with(end))
}

/// The snapshot of a repository's folder, if it is one.
pub(super) fn snapshot(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.join("snapshots");
    let named = std::fs::read_to_string(folder.join("refs/main")).ok();
    let named = named.map(|name| snapshots.join(name.trim()));
    if let Some(path) = named.filter(|path| path.is_dir()) {
        return Some(path);
    }
    // Downloaded by the name of a revision: taken where there is no choice.
    let mut all = std::fs::read_dir(snapshots).ok()?.flatten();
    match (all.next(), all.next()) {
        (Some(only), None) => Some(only.path()).filter(|path| path.is_dir()),
        _ => None,
    }
}

/// The folder of a repository in the cache; `None` for a name that is none's.
///
/// # Errors
/// Where the cache does not have it: how to download it.
pub(super) fn find(name: &str) -> Option<Result<PathBuf>> {
    if !is_repository(name) {
        return None;
    }
    let folder = folder_name(name);
    let mut found = caches().into_iter().map(|cache| cache.join(&folder));
    if let Some(snapshot) = found.find_map(|folder| snapshot(&folder)) {
        return Some(Ok(snapshot));
    }
    let problem = "no such file or folder, nor is it in Hugging Face's cache";
    let remedies = vec![
        Remedy::Plain(format!("download it with `{DOWNLOAD} {name}`").into()),
        Remedy::give(Field::Model, "a file or folder"),
    ];
    Some(Err(Error::File {
        path: name.into(),
        problem: problem.into(),
        remedy: remedies.into(),
    }))
}
