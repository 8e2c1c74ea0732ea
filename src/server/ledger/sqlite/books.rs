//! The check of the books.

use super::Sqlite;
use super::fault::{Fault, unsound};
use super::keys::balance;
use crate::Result;
use crate::server::ledger::keys::Entry;
use rusqlite::{Connection, OptionalExtension, Row};
use std::path::Path;

impl Sqlite {
    /// Compares each balance with the sums of its journals, and has SQLite check the file.
    pub(super) fn check_all(&self) -> Result<()> {
        self.read(|books| {
            check_balances(books, &self.path)?;
            check_file(books, &self.path)
        })
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        name: row.get("name")?,
        balance: balance(row)?,
        sums: [
            row.get("sum_granted")?,
            row.get("sum_reserved")?,
            row.get("sum_spent")?,
        ],
    })
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
    for entry in statement.query_map([], read)? {
        if let Some(problem) = entry?.problem() {
            return Err(unsound(path, problem).into());
        }
    }
    Ok(())
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
