//! Where a ledger is.

use super::contract::Ledger;
use super::postgres::{Postgres, Url};
use super::sqlite::Sqlite;
use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// A file, or a database of a PostgreSQL server. Shown without passwords.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// SQLite's.
    File(PathBuf),
    /// `postgres://user:password@host:port/database`.
    Server(Url),
}

impl Place {
    /// Whether it makes sense; touches nothing.
    ///
    /// # Errors
    /// Nothing at all; a URL that says nothing sensible.
    pub fn check(&self) -> Result<()> {
        match self {
            Place::File(path) if path.as_os_str().is_empty() => {
                let allowed = "name a file, or postgres://user@host/database";
                Err(Error::invalid("ledger", "empty", allowed))
            }
            Place::File(_) => Ok(()),
            Place::Server(url) => url.check(),
        }
    }

    /// Opens the books beside whoever else has them open, such as a running service, and
    /// makes them where they are missing. Reservations stay as they are.
    ///
    /// # Errors
    /// The place cannot be used, or holds something else, or books of a newer version.
    pub fn open(&self) -> Result<Box<dyn Ledger>> {
        Ok(match self {
            Place::File(path) => Box::new(Sqlite::open(path)?),
            Place::Server(url) => Box::new(Postgres::open(url)?),
        })
    }

    /// [`Place::open`], but of books that are there: a mistyped name makes none.
    ///
    /// # Errors
    /// Those of [`Place::open`]; there are no books.
    pub fn open_existing(&self) -> Result<Box<dyn Ledger>> {
        const REMEDY: &str = "name another, or make it with calotype keys add";
        match self {
            Place::File(path) if matches!(path.try_exists(), Ok(false)) => {
                Err(Error::file(path, "no such file", REMEDY))
            }
            Place::File(_) => self.open(),
            Place::Server(url) => match Postgres::open_existing(url)? {
                Some(ledger) => Ok(Box::new(ledger)),
                None => Err(Error::file(url.to_string(), "holds no keys", REMEDY)),
            },
        }
    }

    /// Opens the books for a service: [`Place::open`], as an instance that others know to
    /// live while this value does. Checks the books, then refunds what instances that died
    /// had reserved.
    ///
    /// # Errors
    /// Those of [`Place::open`]; a service of a version that shares with no other holds the
    /// file; the books do not add up.
    pub fn serve(&self) -> Result<Box<dyn Ledger>> {
        Ok(match self {
            Place::File(path) => Box::new(Sqlite::serve(path)?),
            Place::Server(url) => Box::new(Postgres::serve(url)?),
        })
    }
}

impl From<OsString> for Place {
    fn from(text: OsString) -> Self {
        match text.to_str().and_then(Url::recognize) {
            Some(url) => Place::Server(url),
            None => Place::File(text.into()),
        }
    }
}

impl From<&str> for Place {
    fn from(text: &str) -> Self {
        OsString::from(text).into()
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        path.as_os_str().to_owned().into()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => path.display().fmt(f),
            Place::Server(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Whole, with a password: as it is given, so is it read again.
impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Place::File(path) => path.serialize(serializer),
            Place::Server(url) => url.whole().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        Ok(path.into_os_string().into())
    }
}
