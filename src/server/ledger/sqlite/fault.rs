//! SQLite's errors in words.

use crate::Error;
use rusqlite::ErrorCode;
use std::path::Path;

const RESTORE: &str = "stop whatever uses the file and put back a copy of it";

/// What stops a transaction: SQLite, or an error of ours.
pub(super) enum Fault {
    Sqlite(rusqlite::Error),
    /// Other threads wait for the file already.
    Busy,
    Other(Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Fault::Sqlite(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Other(error)
    }
}

impl Fault {
    /// What hinders every use of the file for now, whatever was asked for.
    pub fn is_trouble(&self) -> Option<String> {
        let error = match self {
            Fault::Busy => return Some("another program holds the file".into()),
            Fault::Other(_) => return None,
            Fault::Sqlite(error) => error,
        };
        let trouble = matches!(
            error.sqlite_error_code()?,
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::CannotOpen
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
        );
        trouble.then(|| error.to_string())
    }

    /// The error to show, which names the file.
    pub fn at(self, path: &Path) -> Error {
        let error = match self {
            Fault::Other(error) => return error,
            Fault::Busy => {
                let remedy = "try again, or see what uses it";
                return Error::file(path, "is held by another program", remedy);
            }
            Fault::Sqlite(error) => error,
        };
        let say = |problem: &str, remedy: &str| Error::file(path, problem, remedy);
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => not_ours(path),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => say(
                "another program has held the file for seconds",
                "try again, or see what uses it",
            ),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => say(
                "cannot be written",
                "allow this user to write the file and its folder",
            ),
            Some(ErrorCode::DiskFull) => say("its disk is full", "make room"),
            Some(ErrorCode::DatabaseCorrupt) => say(&format!("is damaged ({error})"), RESTORE),
            _ => Error::file(
                path,
                error,
                "nothing was changed; see that the file is sound",
            ),
        }
    }
}

/// The file holds something else.
pub(super) fn not_ours(path: &Path) -> Error {
    Error::file(
        path,
        "is no file of calotype's keys",
        "name the file that `calotype keys add` made, or one that does not exist yet",
    )
}

/// The file is what it should be, but what it holds cannot be true.
pub(super) fn unsound(path: &Path, problem: impl ToString) -> Error {
    Error::file(path, problem, RESTORE)
}
