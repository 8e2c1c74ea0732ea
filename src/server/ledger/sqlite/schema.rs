//! The tables, and how a file is known to hold them.

use super::fault::{Fault, not_ours};
use crate::Error;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::path::Path;

/// `calo`, in the header of every file of ours.
const APPLICATION: i32 = 0x6361_6c6f;
/// Counts up with every change of the tables.
pub(super) const VERSION: i32 = 3;

/// The limits are those of [`super::MOST_CREDITS`]. Times are UTC, as ISO 8601. `pruned` is
/// the part of `spent` whose charges are in the journal no longer, `instance` the service
/// that reserved. `job` and `deadline` are of what is reserved for no service, `fence` the
/// highest attempt that was noted.
pub(super) const TABLES: &str = "
CREATE TABLE keys (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    granted INTEGER NOT NULL CHECK (granted BETWEEN 0 AND 1000000000000),
    remaining INTEGER NOT NULL CHECK (remaining >= 0),
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    revoked TEXT,
    pruned INTEGER NOT NULL DEFAULT 0 CHECK (pruned >= 0),
    CHECK (granted = remaining + reserved + spent)
) STRICT;
CREATE TABLE grants (
    id INTEGER PRIMARY KEY,
    key INTEGER NOT NULL REFERENCES keys (id),
    amount INTEGER NOT NULL CHECK (amount > 0),
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;
CREATE TABLE charges (
    id INTEGER PRIMARY KEY,
    key INTEGER NOT NULL REFERENCES keys (id),
    amount INTEGER NOT NULL CHECK (amount >= 0),
    state TEXT NOT NULL DEFAULT 'reserved' CHECK (state IN ('reserved', 'spent', 'refunded')),
    route TEXT NOT NULL,
    request_id TEXT NOT NULL,
    samples INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    refiner INTEGER NOT NULL CHECK (refiner IN (0, 1)),
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    ended TEXT,
    instance TEXT,
    job TEXT,
    deadline TEXT CHECK ((job IS NULL) = (deadline IS NULL)),
    fence INTEGER NOT NULL DEFAULT 0 CHECK (fence >= 0),
    CHECK ((state = 'reserved') = (ended IS NULL))
) STRICT;
CREATE INDEX grants_of_key ON grants (key);
CREATE INDEX charges_of_key ON charges (key);
CREATE INDEX open_charges ON charges (key) WHERE state = 'reserved';
";

/// One charge a job; made after the columns are there.
pub(super) const JOBS: &str =
    "CREATE UNIQUE INDEX IF NOT EXISTS charges_of_job ON charges (job) WHERE job IS NOT NULL;";

/// The columns that came after version 1.
pub(super) const ADDED: [(&str, &str, &str); 5] = [
    (
        "keys",
        "pruned",
        "INTEGER NOT NULL DEFAULT 0 CHECK (pruned >= 0)",
    ),
    ("charges", "instance", "TEXT"),
    ("charges", "job", "TEXT"),
    (
        "charges",
        "deadline",
        "TEXT CHECK ((job IS NULL) = (deadline IS NULL))",
    ),
    (
        "charges",
        "fence",
        "INTEGER NOT NULL DEFAULT 0 CHECK (fence >= 0)",
    ),
];

/// Refuses a file of another program or of a newer version. Writes nothing.
/// Gives whether the tables are there as this version has them. In a transaction, so that
/// it does not see half of what another program is making.
pub(super) fn recognize(books: &Transaction<'_>, path: &Path) -> Result<bool, Fault> {
    let number = |sql| books.query_row(sql, [], |row| row.get::<_, i32>(0));
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let things = number("SELECT count(*) FROM sqlite_schema")?;
    match (application, version, things) {
        (0, 0, 0) => Ok(false),
        (APPLICATION, VERSION, _) => Ok(true),
        (APPLICATION, 1..VERSION, _) => Ok(false),
        (APPLICATION, newer, _) if newer > VERSION => Err(Error::file(
            path,
            format!("has tables of version {newer}; this calotype knows version {VERSION}"),
            "use a newer calotype",
        )
        .into()),
        _ => Err(not_ours(path).into()),
    }
}

/// Writes to the file what it holds already.
pub(super) fn touch(books: &Connection) -> rusqlite::Result<()> {
    books.pragma_update(None, "user_version", VERSION)
}

/// Makes the tables or brings them up to date, unless another program has meanwhile.
pub(super) fn install(connection: &mut Connection, path: &Path) -> Result<(), Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if !recognize(&transaction, path)? {
        match has(
            &transaction,
            "SELECT 1 FROM sqlite_schema WHERE name = ?1",
            "keys",
        )? {
            true => add_columns(&transaction)?,
            false => transaction.execute_batch(TABLES)?,
        }
        transaction.execute_batch(JOBS)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(transaction.commit()?)
}

fn add_columns(books: &Connection) -> rusqlite::Result<()> {
    for (table, column, kind) in ADDED {
        let sql = format!("SELECT 1 FROM pragma_table_info('{table}') WHERE name = ?1");
        // A service of version 1 that runs may have set the version back.
        if !has(books, &sql, column)? {
            books.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}"))?;
        }
    }
    Ok(())
}

fn has(books: &Connection, sql: &str, name: &str) -> rusqlite::Result<bool> {
    books.prepare(sql)?.exists([name])
}
