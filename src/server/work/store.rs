//! Results of jobs, kept for a while in a folder, bounded. A folder that the operator names
//! keeps them over restarts: beside the pictures of a job lies what is known of it.

use crate::picture::write_file;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{HashSet, VecDeque};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const REMEDY: &str = "point --results at a folder that can be written";
const LOCK: &str = ".calotype.lock";

/// Files of results.
pub struct Store {
    folder: PathBuf,
    /// Removes the folder at the end, where the operator named none.
    temporary: Option<TempDir>,
    /// Held open for its lock, which the system drops with the process.
    _lock: Option<File>,
    keep_for: Duration,
    /// Bytes.
    most: u64,
    kept: Mutex<VecDeque<Kept>>,
}

/// The files of one job.
struct Kept {
    job: String,
    ended: SystemTime,
    bytes: u64,
    files: Vec<PathBuf>,
}

/// What is known of a job that is done, for the next run of the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub job: String,
    /// The key's number.
    pub owner: Option<i64>,
    pub route: String,
    /// Credits.
    pub cost: i64,
    /// Of the first picture.
    pub seed: u64,
    pub steps: usize,
    pub created: SystemTime,
    pub ended: SystemTime,
    pub pictures: Vec<Pictured>,
    /// Wall time of drawing.
    pub seconds: f64,
    pub interrupted: bool,
    pub settings: Value,
    pub warnings: Vec<String>,
}

/// A picture of a [`Record`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pictured {
    pub file: String,
    pub seed: u64,
}

impl Store {
    /// In `folder`, or in a temporary one; and what an earlier run left in that folder.
    ///
    /// # Errors
    /// The folder cannot be used, or another service uses it.
    pub fn open(
        folder: Option<&Path>,
        keep_for: Duration,
        most: u64,
    ) -> Result<(Self, Vec<Record>)> {
        let mut store = Self {
            folder: PathBuf::new(),
            temporary: None,
            _lock: None,
            keep_for,
            most,
            kept: Mutex::default(),
        };
        let Some(folder) = folder else {
            let temporary = tempfile::Builder::new()
                .prefix("calotype-")
                .tempdir()
                .map_err(|e| Error::file(std::env::temp_dir(), e, REMEDY))?;
            store.folder = temporary.path().to_owned();
            store.temporary = Some(temporary);
            return Ok((store, Vec::new()));
        };
        let failed = |e: std::io::Error| Error::file(folder, e, REMEDY);
        make(folder).map_err(failed)?;
        store.folder = folder.to_owned();
        store._lock = Some(lock(folder)?);
        let records = store.recover().map_err(failed)?;
        Ok((store, records))
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
            ended: SystemTime::now(),
            bytes: 0,
            files: Vec::new(),
        };
        for (name, bytes) in names.iter().zip(pictures) {
            if let Err(error) = self.write(name, bytes, &mut kept) {
                kept.remove();
                return Err(error);
            }
        }
        self.kept().push_back(kept);
        Ok(names)
    }

    fn write(&self, name: &str, bytes: &[u8], kept: &mut Kept) -> Result<()> {
        let path = self.folder.join(name);
        kept.files.push(path.clone());
        kept.bytes += bytes.len() as u64;
        write_file(&path, bytes)?;
        close_to_others(&path, 0o600);
        Ok(())
    }

    /// Keeps what is known of a job whose pictures are kept; for the next run alone.
    pub fn note(&self, record: &Record) -> Result<()> {
        if self.temporary.is_some() {
            return Ok(());
        }
        // Plain data always has a JSON form.
        let bytes = serde_json::to_vec(record).unwrap_or_default();
        let mut kept = self.kept();
        match kept.iter_mut().find(|kept| kept.job == record.job) {
            Some(kept) => self.write(&format!("{}.json", record.job), &bytes, kept),
            None => Ok(()),
        }
    }

    /// The bytes of a result; `None` for what is no result or is gone.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.folder.join(name);
        let known = self.kept().iter().any(|kept| kept.files.contains(&path));
        let picture = known && !name.ends_with(".json");
        picture.then(|| std::fs::read(path).ok()).flatten()
    }

    /// Removes the results of these jobs.
    pub fn remove(&self, jobs: &[String]) {
        if jobs.is_empty() {
            return;
        }
        self.kept().retain(|kept| {
            let stays = !jobs.contains(&kept.job);
            if !stays {
                kept.remove();
            }
            stays
        });
    }

    /// Removes what is too old or too much, oldest first; the jobs that it was of.
    pub fn evict(&self) -> Vec<String> {
        let mut kept = self.kept();
        let mut bytes: u64 = kept.iter().map(|kept| kept.bytes).sum();
        let mut gone = Vec::new();
        while let Some(oldest) = kept.front() {
            let newest = kept.len() == 1;
            let too_much = bytes > self.most && !newest;
            if !too_much && age(oldest.ended) <= self.keep_for {
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

    /// What an earlier run left; its files that nothing is known of are removed.
    fn recover(&self) -> std::io::Result<Vec<Record>> {
        let mut ours = HashSet::new();
        let mut records: Vec<Record> = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !is_ours(&name) {
                continue;
            }
            if name.ends_with(".json") {
                let bytes = std::fs::read(self.folder.join(&name))?;
                let record = serde_json::from_slice(&bytes);
                records.extend(record.ok().filter(|r: &Record| names_itself(r, &name)));
            }
            ours.insert(name);
        }
        records.retain(|record| record.pictures.iter().all(|p| ours.contains(&p.file)));
        records.sort_by_key(|record| record.ended);
        let mut kept = self.kept();
        for record in &records {
            let note = format!("{}.json", record.job);
            let pictures = record.pictures.iter().map(|picture| picture.file.clone());
            let names: Vec<String> = pictures.chain([note]).collect();
            let files: Vec<PathBuf> = names.iter().map(|n| self.folder.join(n)).collect();
            let sizes = files
                .iter()
                .map(|file| file.metadata().map_or(0, |m| m.len()));
            kept.push_back(Kept {
                job: record.job.clone(),
                ended: record.ended,
                bytes: sizes.sum(),
                files,
            });
            for name in names {
                ours.remove(&name);
            }
        }
        for name in ours {
            std::fs::remove_file(self.folder.join(name))?;
        }
        Ok(records)
    }
}

/// How long ago; nothing where the clock was set back.
pub fn age(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
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

/// Makes the folder, for its owner alone; one that is there stays as it is.
fn make(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    close_to_others(folder, 0o700);
    Ok(())
}

fn close_to_others(path: &Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(mode);
        if let Err(error) = std::fs::set_permissions(path, permissions) {
            tracing::warn!("{}: {error}", path.display());
        }
    }
    #[cfg(not(unix))]
    let _ = (path, mode);
}

/// Takes the lock that keeps a second service away, or says that it is taken.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| Error::file(&path, e, REMEDY))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::file(
            folder,
            "another service keeps its results here",
            "stop that one, or give this one a folder of its own",
        )),
        Err(TryLockError::Error(error)) => Err(Error::file(path, error, "choose a local folder")),
    }
}

/// Whether a file is named as this one names them: `ID-N.ENDING` or `ID.json`.
fn is_ours(name: &str) -> bool {
    let Some((id, rest)) = name.split_at_checked(32) else {
        return false;
    };
    let digit = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    let known = rest == ".json" || rest.strip_prefix('-').is_some_and(digit);
    known && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a record names files of its own job alone.
fn names_itself(record: &Record, name: &str) -> bool {
    let own = |picture: &Pictured| is_ours(&picture.file) && picture.file.starts_with(&record.job);
    name == format!("{}.json", record.job) && record.pictures.iter().all(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn older_results_make_room() {
        let (store, _) = Store::open(None, HOUR, 10).unwrap();
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
        let (store, _) = Store::open(None, Duration::ZERO, 10).unwrap();
        store.put("a", "png", &[b"1"]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(store.evict(), ["a"]);
    }

    #[test]
    fn results_outlive_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Store::open(Some(folder.path()), HOUR, 1000);
        let job = format!("{:032x}", 7);
        let record = |file: &str| Record {
            job: job.clone(),
            owner: Some(1),
            route: "/v1/jobs".into(),
            cost: 2,
            seed: 7,
            steps: 1,
            created: SystemTime::now(),
            ended: SystemTime::now(),
            pictures: vec![Pictured {
                file: file.into(),
                seed: 7,
            }],
            seconds: 0.5,
            interrupted: false,
            settings: serde_json::json!({"prompt": "a"}),
            warnings: Vec::new(),
        };
        let (store, _) = open().unwrap();
        let names = store.put(&job, "png", &[b"12345"]).unwrap();
        store.note(&record(&names[0])).unwrap();
        let error = open().err().unwrap().to_string();
        assert!(error.contains("another service keeps"), "{error}");
        drop(store);
        let (store, found) = open().unwrap();
        assert_eq!(
            found,
            [record(&names[0])].map(|r| Record {
                created: found[0].created,
                ended: found[0].ended,
                ..r
            })
        );
        assert_eq!(store.read(&names[0]).as_deref(), Some(&b"12345"[..]));
        assert_eq!(store.read(&format!("{job}.json")), None);
        store.remove(std::slice::from_ref(&job));
        drop(store);
        assert_eq!(open().unwrap().1, []);
        // One that names another's files is none.
        let note = folder.path().join(format!("{job}.json"));
        std::fs::write(
            &note,
            serde_json::to_vec(&record("../../etc/passwd")).unwrap(),
        )
        .unwrap();
        assert_eq!(open().unwrap().1, []);
        assert!(!note.exists());
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
