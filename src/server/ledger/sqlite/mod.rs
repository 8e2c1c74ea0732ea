//! Keys and credits, in one SQLite file.
//!
//! A key has credits. A job reserves its price before it starts; a picture
//! settles the reservation, a failure refunds it. The table of keys holds each
//! balance, journals of grants and charges say how it came about, and SQLite
//! refuses every change after which a balance would not add up.

mod backup;
mod books;
mod charges;
mod dead;
mod fault;
mod file;
mod instance;
mod keys;
mod prune;
mod schema;
#[cfg(test)]
mod tests;
mod upkeep;

use crate::Result;
use fault::Fault;
use instance::Instance;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a running service waits for another program's transaction: to write, and to
/// read, which in this mode of the journal seldom waits at all.
const WRITE_PATIENCE: Duration = Duration::from_secs(2);
const READ_PATIENCE: Duration = Duration::from_millis(25);

/// The open file of keys and credits.
pub(super) struct Sqlite {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// Reads beside writes, which may wait for the disk or another program.
    reader: Option<Mutex<Connection>>,
    /// Why the file could not be written or read at the last try.
    trouble: Mutex<Option<String>>,
    /// Of a service.
    instance: Option<Instance>,
    /// Held open for its lock, which the system drops with the process.
    _older: Option<File>,
}

impl Sqlite {
    /// Opens the file beside whoever else has it open, such as a running
    /// service, and makes it where it is missing. Reservations stay as they are.
    ///
    /// # Errors
    /// The folder is missing or closed to us, or the file is no ledger, or one
    /// of a newer version.
    pub fn open(path: &Path) -> Result<Self> {
        let path = file::prepare(path)?;
        let connection = file::connect(&path).map_err(|fault| fault.at(&path))?;
        file::warn_of_others(&path);
        Ok(Sqlite {
            path,
            connection: Mutex::new(connection),
            reader: None,
            trouble: Mutex::default(),
            instance: None,
            _older: None,
        })
    }

    /// Opens the file for a service: [`Sqlite::open`], as an instance that others on this
    /// host know to live while this value does. Checks the books, then refunds what
    /// instances that died had reserved.
    ///
    /// # Errors
    /// Those of [`Sqlite::open`]; a service of a version that shares with no other holds
    /// the file; the books do not add up.
    pub fn serve(path: &Path) -> Result<Self> {
        let mut ledger = Self::open(path)?;
        ledger._older = Some(instance::shut_out_older(&ledger.path)?);
        ledger.instance = Some(ledger.join()?);
        ledger.check_all()?;
        ledger.refund_all_dead()?;
        let patient = |connection: &Connection, time| {
            let set = connection.busy_timeout(time);
            set.map_err(|error| Fault::from(error).at(&ledger.path))
        };
        let reader = file::reader(&ledger.path).map_err(|fault| fault.at(&ledger.path))?;
        patient(&reader, READ_PATIENCE)?;
        patient(&ledger.connection(), WRITE_PATIENCE)?;
        ledger.reader = Some(Mutex::new(reader));
        Ok(ledger)
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in a transaction that holds the write lock from its start, so
    /// that what it reads stays true until it has written.
    fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T> {
        let run = || {
            let mut connection = self.turn()?;
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        let result = run();
        match &result {
            Ok(_) => *self.trouble() = None,
            Err(fault) => self.note(fault),
        }
        result.map_err(|fault: Fault| fault.at(&self.path))
    }

    /// The connection that writes, in turn with other threads: a service does not wait
    /// longer for them than for another program.
    fn turn(&self) -> Result<MutexGuard<'_, Connection>, Fault> {
        const PAUSE: Duration = Duration::from_millis(2);
        if self.reader.is_none() {
            return Ok(self.connection());
        }
        let end = Instant::now() + WRITE_PATIENCE;
        loop {
            match self.connection.try_lock() {
                Ok(connection) => return Ok(connection),
                // A panic amid a transaction has rolled it back.
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(Fault::Busy),
            }
        }
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        let result = match &self.reader {
            Some(reader) => work(&reader.lock().unwrap_or_else(PoisonError::into_inner)),
            None => work(&self.connection()),
        };
        if let Err(fault) = &result {
            self.note(fault);
        }
        result.map_err(|fault| fault.at(&self.path))
    }

    /// Remembers trouble with the file, which is not the fault of who asked.
    fn note(&self, fault: &Fault) {
        if let Some(why) = fault.is_trouble() {
            self.trouble().get_or_insert(why);
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic amid a transaction has rolled it back: the connection is sound.
        let lock = self.connection.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }
}
