//! Keys and credits, in one SQLite file.
//!
//! A key has credits. A job reserves its price before it starts; a picture
//! settles the reservation, a failure refunds it. The table of keys holds each
//! balance, journals of grants and charges say how it came about, and SQLite
//! refuses every change after which a balance would not add up.
//!
//! All functions block, mostly for a lookup; those that write wait for the disk.

mod books;
mod charges;
mod fault;
mod file;
mod keys;
mod schema;
mod secret;
#[cfg(test)]
mod tests;

pub use charges::{Purpose, Reservation, Usage};
pub use keys::{Balance, Key, KeyInfo, check_new};

use crate::Result;
use fault::Fault;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most credits that one key is ever granted: sums of balances stay far
/// below 2^63, and exact as JSON numbers.
pub const MOST_CREDITS: i64 = 1_000_000_000_000;

/// The open file of keys and credits.
pub struct Ledger {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// Held open for its lock, which the system drops with the process.
    _lock: Option<File>,
}

impl Ledger {
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
        Ok(Ledger {
            path,
            connection: Mutex::new(connection),
            _lock: None,
        })
    }

    /// Opens the file for a service: [`Ledger::open`], and no second service gets
    /// it while this value lives. Checks the books, then refunds what a service
    /// that died had reserved.
    ///
    /// # Errors
    /// Those of [`Ledger::open`]; another service holds the file; the books do
    /// not add up.
    pub fn serve(path: &Path) -> Result<Self> {
        let mut ledger = Self::open(path)?;
        ledger._lock = Some(file::lock(&ledger.path)?);
        ledger.check()?;
        let refunded = ledger.refund_open()?;
        if refunded > 0 {
            let path = ledger.path.display();
            tracing::info!("{path}: refunded {refunded} charges that the last run left open");
        }
        Ok(ledger)
    }

    /// Runs `work` in a transaction that holds the write lock from its start, so
    /// that what it reads stays true until it has written.
    fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T> {
        let mut connection = self.connection();
        let run = || {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|fault: Fault| fault.at(&self.path))
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        work(&self.connection()).map_err(|fault| fault.at(&self.path))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic amid a transaction has rolled it back: the connection is sound.
        let lock = self.connection.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }
}
