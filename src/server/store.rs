//! Results of jobs, kept for a while in a folder, bounded.

use crate::picture::write_file;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Files of results.
pub struct Store {
    folder: PathBuf,
    /// Removes the folder at the end, where the operator named none.
    _temporary: Option<TempDir>,
    keep_for: Duration,
    /// Bytes.
    most: u64,
    kept: Mutex<VecDeque<Kept>>,
}

/// The files of one job.
struct Kept {
    job: String,
    since: Instant,
    bytes: u64,
    files: Vec<PathBuf>,
}

impl Store {
    /// In `folder`, or in a temporary one. What an earlier run left there is removed.
    pub fn open(folder: Option<&Path>, keep_for: Duration, most: u64) -> Result<Self> {
        let remedy = "point --results at a folder that can be written";
        let (folder, temporary) = match folder {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e, remedy))?;
                sweep(folder).map_err(|e| Error::file(folder, e, remedy))?;
                (folder.to_owned(), None)
            }
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("calotype-")
                    .tempdir()
                    .map_err(|e| Error::file(std::env::temp_dir(), e, remedy))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        Ok(Self {
            folder,
            _temporary: temporary,
            keep_for,
            most,
            kept: Mutex::default(),
        })
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the pictures of a job; their names, in order. Older jobs make room.
    pub fn put(&self, job: &str, ending: &str, pictures: &[&[u8]]) -> Result<Vec<String>> {
        let name = |i: usize| format!("{job}-{i}.{ending}");
        let names: Vec<String> = (0..pictures.len()).map(name).collect();
        let mut kept = Kept {
            job: job.to_owned(),
            since: Instant::now(),
            bytes: 0,
            files: Vec::new(),
        };
        for (name, bytes) in names.iter().zip(pictures) {
            let path = self.folder.join(name);
            kept.files.push(path.clone());
            kept.bytes += bytes.len() as u64;
            if let Err(error) = write_file(&path, bytes) {
                kept.remove();
                return Err(error);
            }
        }
        self.kept().push_back(kept);
        Ok(names)
    }

    /// The bytes of a result; `None` for what is no result or is gone.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.folder.join(name);
        let known = self.kept().iter().any(|kept| kept.files.contains(&path));
        known.then(|| std::fs::read(path).ok()).flatten()
    }

    /// Removes what is too old or too much, oldest first; the jobs that it was of.
    pub fn evict(&self) -> Vec<String> {
        let mut kept = self.kept();
        let mut bytes: u64 = kept.iter().map(|kept| kept.bytes).sum();
        let mut gone = Vec::new();
        while let Some(oldest) = kept.front() {
            let newest = kept.len() == 1;
            let too_much = bytes > self.most && !newest;
            if !too_much && oldest.since.elapsed() <= self.keep_for {
                break;
            }
            if let Some(oldest) = kept.pop_front() {
                bytes -= oldest.bytes;
                oldest.remove();
                gone.push(oldest.job);
            }
        }
        gone
    }
}

impl Kept {
    fn remove(&self) {
        for file in &self.files {
            if let Err(error) = std::fs::remove_file(file)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("{}: {error}", file.display());
            }
        }
    }
}

/// Removes results of an earlier run: files named as this one names them.
fn sweep(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.split_once('-').is_some_and(|(id, rest)| {
            id.len() == 32
                && id.bytes().all(|b| b.is_ascii_hexdigit())
                && rest.starts_with(|c: char| c.is_ascii_digit())
        });
        if ours {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn older_results_make_room() {
        let store = Store::open(None, HOUR, 10).unwrap();
        let a = store.put("a", "png", &[b"12345", b"678"]).unwrap();
        assert_eq!(a, ["a-0.png", "a-1.png"]);
        assert!(store.evict().is_empty());
        store.put("b", "png", &[b"123"]).unwrap();
        assert_eq!(store.evict(), ["a"]);
        assert_eq!(store.read("a-0.png"), None);
        assert_eq!(store.read("b-0.png").as_deref(), Some(&b"123"[..]));
        assert_eq!(store.read("../b-0.png"), None);
        // One result is kept even if it is larger than all may be.
        store.put("c", "png", &[b"12345678901234"]).unwrap();
        assert_eq!(store.evict(), ["b"]);
    }

    #[test]
    fn results_grow_old() {
        let store = Store::open(None, Duration::ZERO, 10).unwrap();
        store.put("a", "png", &[b"1"]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(store.evict(), ["a"]);
    }

    #[test]
    fn only_results_of_an_earlier_run_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join(format!("{:032x}-0.png", 7));
        let other = folder.path().join("holiday-1.png");
        std::fs::write(&old, "x").unwrap();
        std::fs::write(&other, "x").unwrap();
        Store::open(Some(folder.path()), HOUR, 10).unwrap();
        assert!(!old.exists() && other.exists());
    }
}
