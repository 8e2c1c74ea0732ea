//! What services that died had reserved goes back to its keys.

use super::Ledger;
use super::fault::Fault;
use super::instance::{self, Instance};
use crate::Result;
use rusqlite::Connection;

impl Ledger {
    /// Takes the lock of a new instance.
    ///
    /// # Errors
    /// The folder cannot be written, or its file system has no locks.
    pub(super) fn join(&self) -> Result<Instance> {
        self.write(|_| Ok(Instance::new(&self.path)?))
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

    /// Whether another instance died. Within a transaction.
    fn is_dead(&self, id: &str) -> bool {
        let own = self.instance.as_ref().is_some_and(|own| own.id == id);
        !own && instance::is_dead(&self.path, id)
    }

    /// Removes the files of locks that nobody holds. Within a transaction.
    fn remove_dead(&self) {
        for id in instance::known(&self.path) {
            if self.is_dead(&id) {
                // One that stays is removed the next time.
                let _ = std::fs::remove_file(instance::lock_of(&self.path, &id));
            }
        }
    }
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
