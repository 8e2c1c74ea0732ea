//! Keys: made, listed, granted credits, revoked, recognized.

use super::Sqlite;
use super::fault::Fault;
use crate::Result;
use crate::server::ledger::contract::Keys;
use crate::server::ledger::keys::{
    Balance, Key, KeyInfo, check_credits, check_grant, check_new, taken, unknown,
};
use crate::server::ledger::secret;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// From columns `granted, remaining, reserved, spent`, wherever they stand.
pub(super) fn balance(row: &Row<'_>) -> rusqlite::Result<Balance> {
    Ok(Balance {
        granted: row.get("granted")?,
        remaining: row.get("remaining")?,
        reserved: row.get("reserved")?,
        spent: row.get("spent")?,
    })
}

impl Keys for Sqlite {
    fn add(&self, name: &str, credits: i64) -> Result<String> {
        let name = check_new(name, credits)?;
        let secret = secret::draw()?;
        let hash = secret::hash(&secret);
        self.write(|books| {
            if find(books, name)?.is_some() {
                return Err(taken(name).into());
            }
            books.execute(
                "INSERT INTO keys (name, hash, granted, remaining) VALUES (?1, ?2, ?3, ?3)",
                params![name, hash, credits],
            )?;
            if credits > 0 {
                note_grant(books, books.last_insert_rowid(), credits)?;
            }
            Ok(())
        })?;
        Ok(secret)
    }

    fn list(&self) -> Result<Vec<KeyInfo>> {
        self.read(|books| {
            let mut statement = books.prepare_cached(
                "SELECT *, (SELECT created FROM charges WHERE key = keys.id
                            ORDER BY id DESC LIMIT 1) AS last_used
                 FROM keys ORDER BY id",
            )?;
            let keys = statement.query_map([], |row| {
                Ok(KeyInfo {
                    name: row.get("name")?,
                    balance: balance(row)?,
                    created: row.get("created")?,
                    revoked: row.get("revoked")?,
                    last_used: row.get("last_used")?,
                })
            })?;
            Ok(keys.collect::<Result<_, _>>()?)
        })
    }

    fn revoke(&self, name: &str) -> Result<()> {
        self.write(|books| {
            books.execute(
                "UPDATE keys SET revoked = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
                 WHERE id = ?1 AND revoked IS NULL",
                [known(books, name)?],
            )?;
            Ok(())
        })
    }

    fn grant(&self, name: &str, credits: i64) -> Result<Balance> {
        check_credits(credits, 1)?;
        self.write(|books| {
            let id = known(books, name)?;
            let (granted, revoked): (i64, bool) = books.query_row(
                "SELECT granted, revoked IS NOT NULL FROM keys WHERE id = ?1",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            check_grant(name, credits, granted, revoked)?;
            note_grant(books, id, credits)?;
            Ok(books.query_row(
                "UPDATE keys SET granted = granted + ?2, remaining = remaining + ?2
                 WHERE id = ?1 RETURNING *",
                [id, credits],
                balance,
            )?)
        })
    }

    fn authenticate(&self, presented: Option<&str>) -> Result<Option<Key>> {
        let (hash, possible) = secret::presented(presented);
        self.read(|books| {
            // One row in any case, empty where no key has the hash.
            let mut statement = books.prepare_cached(
                "SELECT id, name, hash, id IS NOT NULL AND revoked IS NULL
                 FROM (SELECT 1) LEFT JOIN keys ON hash = ?1",
            )?;
            let (id, name, stored, usable) = statement.query_row([hash], |row| {
                let stored: Option<secret::Hash> = row.get(2)?;
                let name: Option<String> = row.get(1)?;
                Ok((row.get::<_, Option<i64>>(0)?, name, stored, row.get(3)?))
            })?;
            let key = id.zip(name).map(|(id, name)| Key { id, name });
            Ok(secret::opens(&hash, possible, stored, usable, key))
        })
    }

    fn balance(&self, key: i64) -> Result<Balance> {
        self.read(|books| {
            let mut statement = books.prepare_cached("SELECT * FROM keys WHERE id = ?1")?;
            Ok(statement.query_row([key], balance)?)
        })
    }
}

fn note_grant(books: &Connection, key: i64, amount: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO grants (key, amount) VALUES (?1, ?2)";
    books.execute(sql, [key, amount]).map(drop)
}

fn find(books: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT id FROM keys WHERE name = ?1";
    books.query_row(sql, [name], |row| row.get(0)).optional()
}

/// The id of the key of this name, or an error that offers those there are.
pub(super) fn known(books: &Connection, name: &str) -> Result<i64, Fault> {
    let name = name.trim();
    if let Some(id) = find(books, name)? {
        return Ok(id);
    }
    let mut statement = books.prepare("SELECT name FROM keys ORDER BY id")?;
    let names = statement.query_map([], |row| row.get(0))?;
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    Err(unknown(name, &names).into())
}
