//! The services that share a file. Each has a lock of its own for as long as it lives, so
//! that the others know when it died.

use super::fault::Fault;
use super::{Ledger, file};
use crate::{Error, Result};
use rand::TryRng;
use rand::rngs::SysRng;
use rusqlite::Connection;
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

impl Ledger {
    /// Takes the lock of a new instance.
    ///
    /// # Errors
    /// The folder cannot be written, or its file system has no locks.
    pub(super) fn join(&self) -> Result<Instance> {
        let mut random = [0; 8];
        SysRng.try_fill_bytes(&mut random).map_err(|error| {
            let remedy = "try again when the system has its randomness";
            Error::file("system randomness", error, remedy)
        })?;
        let id = format!("{:016x}", u64::from_ne_bytes(random));
        let path = lock_of(&self.path, &id);
        // In a transaction, as is the look at the locks of others: nobody finds the file
        // before it is locked.
        let _lock = self.write(|_| {
            let file = file::beside(&path)?;
            let locked = file.try_lock();
            locked.map_err(|error| file::cannot_lock(&path, &error))?;
            Ok(file)
        })?;
        Ok(Instance { id, _lock })
    }

    /// Refunds what instances that died had reserved, and gives how many reservations
    /// there were. Those of living ones stay.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn refund_dead(&self) -> Result<usize> {
        let refunded = self.write(|books| {
            let mut refunded = refund(books, None)?;
            for id in waiting(books)? {
                if self.is_dead(&id) {
                    refunded += refund(books, Some(&id))?;
                }
            }
            self.remove_dead();
            Ok(refunded)
        })?;
        if refunded > 0 {
            let path = self.path.display();
            tracing::info!("{path}: refunded {refunded} charges that a service left open");
        }
        Ok(refunded)
    }

    /// Whether the lock of an instance can be taken, or is gone. Within a transaction.
    fn is_dead(&self, id: &str) -> bool {
        if self.instance.as_ref().is_some_and(|own| own.id == id) {
            return false;
        }
        match File::open(lock_of(&self.path, id)) {
            Ok(file) => file.try_lock().is_ok(),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    /// Removes the files of locks that nobody holds. Within a transaction.
    fn remove_dead(&self) {
        let Some(entries) = self.path.parent().and_then(|f| f.read_dir().ok()) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let known = name.to_str().and_then(|name| id_of(&self.path, name));
            if known.is_some_and(|id| self.is_dead(id)) {
                // One that stays is removed the next time.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Such as `keys.db-0123456789abcdef.lock`.
fn lock_of(path: &Path, id: &str) -> PathBuf {
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

/// The instances that have open reservations.
fn waiting(books: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = books.prepare_cached(
        "SELECT DISTINCT instance FROM charges
         WHERE state = 'reserved' AND instance IS NOT NULL",
    )?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Refunds the open reservations of an instance; of none, those of versions that had none.
fn refund(books: &Connection, instance: Option<&str>) -> Result<usize, Fault> {
    books.execute(
        "UPDATE keys SET remaining = remaining + sum, reserved = reserved - sum
         FROM (SELECT key, sum(amount) AS sum FROM charges
               WHERE state = 'reserved' AND instance IS ?1 GROUP BY key) AS held
         WHERE keys.id = held.key",
        [instance],
    )?;
    Ok(books.execute(
        "UPDATE charges SET state = 'refunded', ended = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE state = 'reserved' AND instance IS ?1",
        [instance],
    )?)
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
