//! Keys: made, listed, granted credits, revoked, recognized.

use super::fault::Fault;
use super::{Books, Postgres, change, row, rows};
use crate::server::ledger::contract::Keys;
use crate::server::ledger::keys::{
    Balance, Key, KeyInfo, check_credits, check_grant, check_new, taken, unknown,
};
use crate::server::ledger::secret;
use crate::{Error, Result};
use tokio_postgres::Row;

/// What [`balance`] reads.
pub(super) const BALANCE: &str = "granted, remaining, reserved, spent";
/// ISO 8601; the session's times are UTC.
pub(super) const TIME: &str = r#"'YYYY-MM-DD"T"HH24:MI:SS"Z"'"#;

/// From columns `granted, remaining, reserved, spent`, wherever they stand.
pub(super) fn balance(row: &Row) -> Result<Balance, Fault> {
    Ok(Balance {
        granted: row.try_get("granted")?,
        remaining: row.try_get("remaining")?,
        reserved: row.try_get("reserved")?,
        spent: row.try_get("spent")?,
    })
}

impl Keys for Postgres {
    fn add(&self, name: &str, credits: i64) -> Result<String> {
        let name = check_new(name, credits)?;
        let secret = secret::draw()?;
        let hash = secret::hash(&secret);
        let insert = "INSERT INTO keys (name, hash, granted, remaining) VALUES ($1, $2, $3, $3)
             ON CONFLICT (name) DO NOTHING RETURNING id";
        self.write(async |books| {
            let Some(made) = row(books, insert, &[&name, &&hash[..], &credits]).await? else {
                return Err(taken(name).into());
            };
            if credits > 0 {
                note_grant(books, made.try_get(0)?, credits).await?;
            }
            Ok(())
        })?;
        Ok(secret)
    }

    fn list(&self) -> Result<Vec<KeyInfo>> {
        let sql = format!(
            "SELECT name, {BALANCE}, to_char(created, {TIME}) AS created,
                 to_char(revoked, {TIME}) AS revoked,
                 (SELECT to_char(created, {TIME}) FROM charges WHERE key = keys.id
                  ORDER BY id DESC LIMIT 1) AS last_used
             FROM keys ORDER BY id"
        );
        self.read(async |books| {
            let keys = rows(books, &sql, &[]).await?;
            let keys = keys.iter().map(|row| {
                Ok(KeyInfo {
                    name: row.try_get("name")?,
                    balance: balance(row)?,
                    created: row.try_get("created")?,
                    revoked: row.try_get("revoked")?,
                    last_used: row.try_get("last_used")?,
                })
            });
            keys.collect()
        })
    }

    fn revoke(&self, name: &str) -> Result<()> {
        let sql = "UPDATE keys SET revoked = now() WHERE id = $1 AND revoked IS NULL";
        self.write(async |books| {
            let id = known(books, name).await?;
            change(books, sql, &[&id]).await.map(drop)
        })
    }

    fn grant(&self, name: &str, credits: i64) -> Result<Balance> {
        check_credits(credits, 1)?;
        let look = "SELECT granted, revoked IS NOT NULL FROM keys WHERE id = $1 FOR UPDATE";
        let update = format!(
            "UPDATE keys SET granted = granted + $2, remaining = remaining + $2
             WHERE id = $1 RETURNING {BALANCE}"
        );
        self.write(async |books| {
            let id = known(books, name).await?;
            let found = books.query_one(look, &[&id]).await?;
            check_grant(name, credits, found.try_get(0)?, found.try_get(1)?)?;
            note_grant(books, id, credits).await?;
            balance(&books.query_one(&update, &[&id, &credits]).await?)
        })
    }

    fn authenticate(&self, presented: Option<&str>) -> Result<Option<Key>> {
        let (hash, possible) = secret::presented(presented);
        // One row in any case, empty where no key has the hash.
        let sql = "SELECT id, name, hash, id IS NOT NULL AND revoked IS NULL
                   FROM (SELECT 1) AS one LEFT JOIN keys ON hash = $1";
        self.read(async |books| {
            let Some(found) = row(books, sql, &[&&hash[..]]).await? else {
                return Ok(None);
            };
            let stored: Option<&[u8]> = found.try_get(2)?;
            let stored = stored.and_then(|stored| stored.try_into().ok());
            let (id, name): (Option<i64>, Option<String>) = (found.try_get(0)?, found.try_get(1)?);
            let key = id.zip(name).map(|(id, name)| Key { id, name });
            let usable = found.try_get(3)?;
            Ok(secret::opens(&hash, possible, stored, usable, key))
        })
    }

    fn balance(&self, key: i64) -> Result<Balance> {
        self.read(async |books| balance_of(books, key).await)
    }
}

pub(super) async fn balance_of(books: &Books<'_>, key: i64) -> Result<Balance, Fault> {
    let sql = format!("SELECT {BALANCE} FROM keys WHERE id = $1");
    match row(books, &sql, &[&key]).await? {
        Some(row) => balance(&row),
        None => Err(Error::invalid("key", key, "no key has this id").into()),
    }
}

async fn note_grant(books: &Books<'_>, key: i64, amount: i64) -> Result<(), Fault> {
    let sql = "INSERT INTO grants (key, amount) VALUES ($1, $2)";
    books.execute(sql, &[&key, &amount]).await?;
    Ok(())
}

/// The id of the key of this name, or an error that offers those there are.
pub(super) async fn known(books: &Books<'_>, name: &str) -> Result<i64, Fault> {
    let name = name.trim();
    let sql = "SELECT id FROM keys WHERE name = $1";
    if let Some(found) = books.query_opt(sql, &[&name]).await? {
        return Ok(found.try_get(0)?);
    }
    let names = books
        .query("SELECT name FROM keys ORDER BY id", &[])
        .await?;
    let names: Result<Vec<String>, _> = names.iter().map(|row| row.try_get(0)).collect();
    Err(unknown(name, &names?).into())
}
