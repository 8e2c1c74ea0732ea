//! Adapters by name, as in the tags `<lora:NAME:WEIGHT>` of a prompt.

use crate::{Error, Field, Remedy, Result};
use std::path::{Path, PathBuf};

const ENDING: &str = "safetensors";
/// Folders in folders.
const DEEPEST: usize = 8;

/// The file NAME.safetensors in `folder`, or in a folder in it where NAME is
/// `folder/name`. Upper and lower case are the same unless two
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

/// Names of the adapters in `folder` and its folders, sorted.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let files = files(folder)?;
    Ok(files.into_iter().map(|(name, _)| name).collect())
}

/// Names and paths of the adapters in a folder and its folders, sorted.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    collect(folder, "", DEEPEST, &mut files)?;
    files.sort();
    Ok(files)
}

/// Links to other folders are not followed: they may lead anywhere.
fn collect(
    folder: &Path,
    prefix: &str,
    deeper: usize,
    files: &mut Vec<(String, PathBuf)>,
) -> Result<()> {
    let unreadable = |e| {
        let remedy = Remedy::give(Field::LoraDir, "a folder of adapters");
        Error::file(folder, format!("cannot be read ({e})"), remedy)
    };
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        if entry.file_type().map_err(unreadable)?.is_dir() {
            if let Some(name) = entry.file_name().to_str()
                && deeper > 0
            {
                collect(&path, &format!("{prefix}{name}/"), deeper - 1, files)?;
            }
            continue;
        }
        let ending = path.extension().and_then(|e| e.to_str());
        let fits = ending.is_some_and(|e| e.eq_ignore_ascii_case(ENDING));
        if let Some(stem) = path.file_stem().and_then(|s| s.to_str())
            && fits
        {
            files.push((format!("{prefix}{stem}"), path.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_looked_into_and_never_left() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = folder.path();
        std::fs::create_dir_all(folder.join("ink/wet")).unwrap();
        for name in ["a", "ink/b", "ink/wet/c"] {
            std::fs::write(folder.join(format!("{name}.safetensors")), "").unwrap();
        }
        std::fs::write(outside.path().join("x.safetensors"), "").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(outside.path(), folder.join("out")).unwrap();
        assert_eq!(names(folder).unwrap(), ["a", "ink/b", "ink/wet/c"]);
        let found = find("Ink/wet/c", folder).unwrap();
        assert_eq!(found, folder.join("ink/wet/c.safetensors"));
        let above = format!(
            "../{}/x",
            outside.path().file_name().unwrap().to_string_lossy()
        );
        for wrong in ["b", "ink/../a", "out/x", &above, "/etc/passwd", "ink//b"] {
            assert!(find(wrong, folder).is_err(), "{wrong}");
        }
    }
}
