//! Adapters by name, as in the tags `<lora:NAME:WEIGHT>` of a prompt.

use crate::{Error, Field, Remedy, Result};
use std::path::{Path, PathBuf};

const ENDING: &str = "safetensors";

/// The file NAME.safetensors in `folder`. Upper and lower case are the same unless two
/// files differ in nothing else; for an unknown name the nearest are offered.
pub fn find(name: &str, folder: &Path) -> Result<PathBuf> {
    let files = files(folder)?;
    let stem = name.strip_suffix(".safetensors").unwrap_or(name);
    let exact = files.iter().find(|(known, _)| known == stem);
    let folded = stem.to_lowercase();
    let alike = || {
        files
            .iter()
            .find(|(known, _)| known.to_lowercase() == folded)
    };
    if let Some((_, path)) = exact.or_else(alike) {
        return Ok(path.clone());
    }
    if files.is_empty() {
        let allowed = format!(
            "the folder of LoRAs holds no .{ENDING} file; put it there, or take the tag out"
        );
        return Err(Error::invalid(Field::LoraTag, format!("{name:?}"), allowed));
    }
    let names = files.iter().map(|(known, _)| known.as_str());
    Err(Error::unknown(Field::LoraTag, name, names))
}

/// Names of the adapters in `folder`, sorted.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let files = files(folder)?;
    Ok(files.into_iter().map(|(name, _)| name).collect())
}

/// Names and paths of the adapters in a folder, sorted.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let unreadable = |e| {
        let remedy = Remedy::give(Field::LoraDir, "a folder of adapters");
        Error::file(folder, format!("cannot be read ({e})"), remedy)
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let ending = path.extension().and_then(|e| e.to_str());
        let fits = ending.is_some_and(|e| e.eq_ignore_ascii_case(ENDING));
        if let Some(stem) = path.file_stem().and_then(|s| s.to_str())
            && fits
        {
            files.push((stem.to_string(), path.clone()));
        }
    }
    files.sort();
    Ok(files)
}
