//! Keys: made, listed, granted credits, revoked, recognized.

use super::fault::Fault;
use super::{Ledger, MOST_CREDITS, secret};
use crate::{Error, Result};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use subtle::{Choice, ConstantTimeEq};

/// In characters.
const LONGEST_NAME: usize = 64;

/// A key that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: i64,
    pub name: String,
}

/// Credits of one key: `granted` is the sum of the others, and none is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// All that the key ever got.
    pub granted: i64,
    /// What it can still spend.
    pub remaining: i64,
    /// Held for jobs that have not ended.
    pub reserved: i64,
    pub spent: i64,
}

impl Balance {
    /// From columns `granted, remaining, reserved, spent`, wherever they stand.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Balance {
            granted: row.get("granted")?,
            remaining: row.get("remaining")?,
            reserved: row.get("reserved")?,
            spent: row.get("spent")?,
        })
    }
}

/// What is known of a key. Times are UTC, as ISO 8601.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    pub name: String,
    #[serde(flatten)]
    pub balance: Balance,
    pub created: String,
    /// Since when the key opens nothing.
    pub revoked: Option<String>,
    /// When its latest job came.
    pub last_used: Option<String>,
}

/// Checks the name and the first credits of a key that is to be made, and gives
/// the name as it will be kept.
///
/// # Errors
/// A name that is not 1 to 64 printable characters; credits below 0 or above
/// [`MOST_CREDITS`].
pub fn check_new(name: &str, credits: i64) -> Result<&str> {
    check_credits(credits, 0)?;
    let name = name.trim();
    // Quotes are printable, though escaped.
    let plain = name.replace(['"', '\'', '\\'], "");
    let printable = plain.escape_debug().eq(plain.chars());
    if name.is_empty() || !printable || name.chars().count() > LONGEST_NAME {
        let allowed = format!("must be 1 to {LONGEST_NAME} printable characters");
        return Err(Error::invalid("name", format!("{name:?}"), allowed));
    }
    Ok(name)
}

fn check_credits(credits: i64, least: i64) -> Result<()> {
    if (least..=MOST_CREDITS).contains(&credits) {
        return Ok(());
    }
    let allowed = format!("must be from {least} to {MOST_CREDITS}");
    Err(Error::invalid("credits", credits, allowed))
}

impl Ledger {
    /// Makes a key and gives its secret, which is kept nowhere.
    ///
    /// # Errors
    /// Those of [`check_new`]; the name is taken, by a revoked key too.
    pub fn add(&self, name: &str, credits: i64) -> Result<String> {
        let name = check_new(name, credits)?;
        let secret = secret::draw()?;
        let hash = secret::hash(&secret);
        self.write(|books| {
            if find(books, name)?.is_some() {
                let allowed = "there is a key of this name already; choose another name";
                return Err(Error::invalid("name", format!("{name:?}"), allowed).into());
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

    /// All keys, revoked ones too, oldest first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn list(&self) -> Result<Vec<KeyInfo>> {
        self.read(|books| {
            let mut statement = books.prepare_cached(
                "SELECT *, (SELECT created FROM charges WHERE key = keys.id
                            ORDER BY id DESC LIMIT 1) AS last_used
                 FROM keys ORDER BY id",
            )?;
            let keys = statement.query_map([], |row| {
                Ok(KeyInfo {
                    name: row.get("name")?,
                    balance: Balance::read(row)?,
                    created: row.get("created")?,
                    revoked: row.get("revoked")?,
                    last_used: row.get("last_used")?,
                })
            })?;
            Ok(keys.collect::<Result<_, _>>()?)
        })
    }

    /// Shuts a key for good; jobs that it has started still end. A key that is
    /// revoked stays as it is.
    ///
    /// # Errors
    /// No key has this name.
    pub fn revoke(&self, name: &str) -> Result<()> {
        self.write(|books| {
            books.execute(
                "UPDATE keys SET revoked = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
                 WHERE id = ?1 AND revoked IS NULL",
                [known(books, name)?],
            )?;
            Ok(())
        })
    }

    /// Gives a key more credits, from 1.
    ///
    /// # Errors
    /// No key has this name, or it is revoked; the key would have been granted
    /// more than [`MOST_CREDITS`].
    pub fn grant(&self, name: &str, credits: i64) -> Result<Balance> {
        check_credits(credits, 1)?;
        self.write(|books| {
            let id = known(books, name)?;
            let (granted, revoked): (i64, bool) = books.query_row(
                "SELECT granted, revoked IS NOT NULL FROM keys WHERE id = ?1",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            if revoked {
                let allowed = "this key is revoked; add another";
                return Err(Error::invalid("name", format!("{name:?}"), allowed).into());
            }
            if credits > MOST_CREDITS - granted {
                let allowed = format!(
                    "the key was granted {granted} already, and {MOST_CREDITS} is the most in all"
                );
                return Err(Error::invalid("credits", credits, allowed).into());
            }
            note_grant(books, id, credits)?;
            Ok(books.query_row(
                "UPDATE keys SET granted = granted + ?2, remaining = remaining + ?2
                 WHERE id = ?1 RETURNING *",
                [id, credits],
                Balance::read,
            )?)
        })
    }

    /// The key whose secret was presented; `None` where it is missing, unknown or
    /// revoked. All of these take the same steps.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn authenticate(&self, presented: Option<&str>) -> Result<Option<Key>> {
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
            let equal = stored.unwrap_or_default().ct_eq(&hash);
            let open = equal & flag(possible) & flag(usable);
            let key = id.zip(name).map(|(id, name)| Key { id, name });
            Ok(key.filter(|_| open.into()))
        })
    }

    /// # Errors
    /// No key has this id, or the file cannot be read.
    pub fn balance(&self, key: i64) -> Result<Balance> {
        self.read(|books| {
            let mut statement = books.prepare_cached("SELECT * FROM keys WHERE id = ?1")?;
            Ok(statement.query_row([key], Balance::read)?)
        })
    }
}

fn flag(value: bool) -> Choice {
    Choice::from(u8::from(value))
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
    let error = match names.is_empty() {
        true => Error::invalid("name", format!("{name:?}"), "there is no key yet; add one"),
        false => Error::unknown("name", name, names.iter().map(String::as_str)),
    };
    Err(error.into())
}
