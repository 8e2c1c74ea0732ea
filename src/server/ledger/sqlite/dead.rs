//! What services that died had reserved goes back to its keys.

use super::Sqlite;
use super::fault::Fault;
use super::instance::{self, Instance};
use crate::Result;
use rusqlite::Connection;

impl Sqlite {
    /// Takes the lock of a new instance.
    ///
    /// # Errors
    /// The folder cannot be written, or its file system has no locks.
    pub(super) fn join(&self) -> Result<Instance> {
        self.write(|_| Ok(Instance::new(&self.path)?))
    }

    pub(super) fn refund_all_dead(&self) -> Result<usize> {
        let refunded = self.write(|books| {
            let mut refunded = refund(books, DEAD, None)?;
            for id in waiting(books)? {
                if self.is_dead(&id) {
                    refunded += refund(books, DEAD, Some(&id))?;
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

    pub(super) fn refund_all_overdue(&self) -> Result<usize> {
        // Mostly there is none, and nobody need wait.
        if self.read(|books| Ok(overdue(books, &now(books)?)?))? == 0 {
            return Ok(0);
        }
        // Of one moment in both statements.
        let refunded = self.write(|books| refund(books, OVERDUE, Some(&now(books)?)))?;
        if refunded > 0 {
            let path = self.path.display();
            tracing::warn!("{path}: refunded {refunded} charges whose jobs did not end in time");
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

/// The open reservations of an instance; of none, those of versions that had none.
const DEAD: &str = "state = 'reserved' AND job IS NULL AND instance IS ?1";

/// Those whose deadline has passed at a moment.
const OVERDUE: &str = "state = 'reserved' AND deadline <= ?1";

fn now(books: &Connection) -> rusqlite::Result<String> {
    let sql = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
    books.query_row(sql, [], |row| row.get(0))
}

fn overdue(books: &Connection, now: &str) -> rusqlite::Result<i64> {
    let sql = format!("SELECT count(*) FROM charges WHERE {OVERDUE}");
    books.query_row(&sql, [now], |row| row.get(0))
}

/// Refunds the reservations of which `those` holds.
fn refund(books: &Connection, those: &str, value: Option<&str>) -> Result<usize, Fault> {
    books.execute(
        &format!(
            "UPDATE keys SET remaining = remaining + sum, reserved = reserved - sum
             FROM (SELECT key, sum(amount) AS sum FROM charges WHERE {those} GROUP BY key) AS held
             WHERE keys.id = held.key"
        ),
        [value],
    )?;
    let update = format!(
        "UPDATE charges SET state = 'refunded', ended = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
         WHERE {those}"
    );
    Ok(books.execute(&update, [value])?)
}
