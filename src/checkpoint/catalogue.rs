//! The checkpoints in a folder.

use super::Checkpoint;
use crate::{Error, Field, Remedy, Result};
use std::path::{Path, PathBuf};

/// Ends of the names of files that may be checkpoints.
const ENDS: [&str; 5] = ["safetensors", "sft", "gguf", "ckpt", "pt"];

/// Whether a folder is no checkpoint but may hold some: it has no `model_index.json` and
/// is none of the hub's cache.
pub fn is_catalogue(path: &Path) -> bool {
    let has = |name: &str| path.join(name).exists();
    path.is_dir() && !has("model_index.json") && !has("snapshots")
}

/// The base checkpoints in a folder, by name: files, and folders with a
/// `model_index.json`. What is none (a LoRA, a VAE, a refiner) is left out and told.
///
/// # Errors
/// A folder that cannot be read, or that holds none.
pub fn catalogue(folder: &Path, told: &mut dyn FnMut(&Path, &str)) -> Result<Vec<PathBuf>> {
    let remedy = || Remedy::give(Field::Model, "a folder of checkpoints");
    let entries = std::fs::read_dir(folder).map_err(|e| Error::file(folder, e, remedy()))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let end = path
                .extension()
                .and_then(|end| end.to_str())
                .unwrap_or_default();
            let known = ENDS.iter().any(|known| known.eq_ignore_ascii_case(end));
            (known && path.is_file()) || path.join("model_index.json").is_file()
        })
        .collect();
    paths.sort();
    paths.retain(|path| match Checkpoint::open(&path.to_string_lossy()) {
        Ok(checkpoint) if checkpoint.is_refiner() => {
            told(path, "a refiner");
            false
        }
        Ok(_) => true,
        Err(error) => {
            told(path, &error.to_string());
            false
        }
    });
    match paths.is_empty() {
        true => Err(Error::file(folder, "it holds no checkpoint", remedy())),
        false => Ok(paths),
    }
}
