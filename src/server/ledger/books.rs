//! The check of the books.

use super::fault::{Fault, unsound};
use super::{Balance, Ledger};
use crate::Result;
use rusqlite::{Connection, OptionalExtension, Row};
use std::path::Path;

impl Ledger {
    /// Compares each balance with the sums of its journals, and has SQLite check
    /// the file. Reads the whole file.
    ///
    /// # Errors
    /// The first key whose figures differ, with the figures; what SQLite found.
    pub fn check(&self) -> Result<()> {
        self.read(|books| {
            check_balances(books, &self.path)?;
            check_file(books, &self.path)
        })
    }
}

/// A key's balance as its row has it, and as the journals have it.
struct Entry {
    name: String,
    balance: Balance,
    journals: Balance,
}

impl Entry {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let granted: i64 = row.get("sum_granted")?;
        let reserved: i64 = row.get("sum_reserved")?;
        let spent: i64 = row.get("sum_spent")?;
        Ok(Entry {
            name: row.get("name")?,
            balance: Balance::read(row)?,
            journals: Balance {
                granted,
                // A figure that nobody can have where the journals make no sense.
                remaining: granted.saturating_sub(reserved).saturating_sub(spent),
                reserved,
                spent,
            },
        })
    }
}

fn check_balances(books: &Connection, path: &Path) -> Result<(), Fault> {
    let mut statement = books.prepare(
        "SELECT keys.*,
             (SELECT coalesce(sum(amount), 0) FROM grants
              WHERE key = keys.id) AS sum_granted,
             (SELECT coalesce(sum(amount), 0) FROM charges
              WHERE key = keys.id AND state = 'reserved') AS sum_reserved,
             pruned + (SELECT coalesce(sum(amount), 0) FROM charges
                       WHERE key = keys.id AND state = 'spent') AS sum_spent
         FROM keys ORDER BY id",
    )?;
    for entry in statement.query_map([], Entry::read)? {
        let Entry {
            name,
            balance,
            journals,
        } = entry?;
        if balance != journals || balance.remaining < 0 {
            let problem = format!(
                "the books of key {name:?} do not add up: its balance is {}, its journals say {}",
                words(&balance),
                words(&journals)
            );
            return Err(unsound(path, problem).into());
        }
    }
    Ok(())
}

fn words(balance: &Balance) -> String {
    format!(
        "granted {}, remaining {}, reserved {}, spent {}",
        balance.granted, balance.remaining, balance.reserved, balance.spent
    )
}

fn check_file(books: &Connection, path: &Path) -> Result<(), Fault> {
    let found: String = books.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(unsound(path, format!("is damaged: {found}")).into());
    }
    let stray: Option<String> = books
        .query_row("PRAGMA foreign_key_check", [], |row| row.get(0))
        .optional()?;
    match stray {
        Some(table) => {
            let problem = format!("the table {table} names a key that does not exist");
            Err(unsound(path, problem).into())
        }
        None => Ok(()),
    }
}
