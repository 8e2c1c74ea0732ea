//! The services that share a file. Each has a lock of its own for as long as it lives, so
//! that the others know when it died.

use super::file;
use crate::server::ledger::secret;
use crate::{Error, Result};
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const ENDING: &str = ".lock";

/// A service that uses the file.
pub(super) struct Instance {
    /// As its reservations have it.
    pub id: String,
    /// Held open for its lock, which the system drops with the process.
    _lock: File,
}

impl Instance {
    /// A new instance of the file at `path`. Within a transaction, as is the look at the
    /// locks of others: nobody finds the file before it is locked.
    ///
    /// # Errors
    /// The folder cannot be written, or its file system has no locks.
    pub fn new(path: &Path) -> Result<Self> {
        let id = secret::draw_id()?;
        let path = lock_of(path, &id);
        let _lock = file::beside(&path)?;
        let locked = _lock.try_lock();
        locked.map_err(|error| file::cannot_lock(&path, &error))?;
        Ok(Instance { id, _lock })
    }
}

/// Whether the lock of an instance can be taken, or is gone. Within a transaction.
pub(super) fn is_dead(path: &Path, id: &str) -> bool {
    match File::open(lock_of(path, id)) {
        Ok(file) => file.try_lock().is_ok(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// The instances of the file at `path` that have a file for their lock.
pub(super) fn known(path: &Path) -> Vec<String> {
    let entries = path.parent().and_then(|folder| folder.read_dir().ok());
    let names = entries.into_iter().flatten().flatten();
    let ids = names.filter_map(|entry| {
        let name = entry.file_name();
        id_of(path, name.to_str()?).map(str::to_owned)
    });
    ids.collect()
}

/// Such as `keys.db-0123456789abcdef.lock`.
pub(super) fn lock_of(path: &Path, id: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!("-{id}{ENDING}"));
    PathBuf::from(name)
}

/// The instance whose lock has this name, in the folder of the file at `path`.
fn id_of<'a>(path: &Path, name: &'a str) -> Option<&'a str> {
    let rest = name.strip_prefix(path.file_name()?.to_str()?)?;
    let id = rest.strip_prefix('-')?.strip_suffix(ENDING)?;
    let ours = id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit());
    ours.then_some(id)
}

/// Shuts out a service of a version that knew of no others, which locks this file alone.
pub(super) fn shut_out_older(path: &Path) -> Result<File> {
    let mut name = OsString::from(path);
    name.push(ENDING);
    let beside = PathBuf::from(name);
    let file = file::beside(&beside)?;
    match file.try_lock_shared() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::file(
            path,
            "a service of an older calotype uses this file",
            "stop that one first; from this version on they can share it",
        )),
        Err(error) => Err(file::cannot_lock(&beside, &error)),
    }
}
