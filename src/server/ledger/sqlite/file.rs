//! Making, opening and locking the file.

use super::fault::Fault;
use super::schema;
use crate::{Error, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a statement waits for another program's transaction.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the file where it is missing, for its owner alone, and gives its one
/// true path, so that two names of a file have one lock.
pub(super) fn prepare(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("ledger", "empty", "name a file"));
    }
    // Never opened and closed where it exists: that would drop the locks that
    // SQLite holds on it in this process.
    match private().create_new(true).open(path) {
        Ok(_) => {}
        // A folder's name that ends in a slash has an error of its own.
        Err(error) if error.kind() == ErrorKind::AlreadyExists || path.is_dir() => {
            check_existing(path)?;
        }
        Err(error) => return Err(cannot_make(path, &error)),
    }
    path.canonicalize()
        .map_err(|error| Error::file(path, error, "name another file"))
}

fn check_existing(path: &Path) -> Result<()> {
    let metadata = path
        .metadata()
        .map_err(|error| Error::file(path, error, "name another file"))?;
    if metadata.is_dir() {
        return Err(Error::file(
            path,
            "is a folder",
            "name a file in it, such as keys.db",
        ));
    }
    if !metadata.is_file() {
        return Err(Error::file(path, "is no regular file", "name another file"));
    }
    Ok(())
}

/// Says where the hashes of the keys can be read by others: the file was made by
/// other hands, whose choice it may be.
pub(super) fn warn_of_others(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if path.metadata().is_ok_and(|file| file.mode() & 0o077 != 0) {
            let path = path.display();
            tracing::warn!("{path} is open to other users; chmod 600 closes it");
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

fn cannot_make(path: &Path, error: &io::Error) -> Error {
    let remedy = match error.kind() {
        ErrorKind::NotFound => "make the folder first, or choose another",
        _ => "choose a folder that this user may write",
    };
    Error::file(path, format!("cannot be made: {error}"), remedy)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Opens the file and brings its tables up to date.
pub(super) fn connect(path: &Path) -> Result<Connection, Fault> {
    // Without URI: a path that starts with `file:` is a path.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    // A file of another program is left as it is.
    let made = schema::recognize(&connection.transaction()?, path)?;
    let mode = write_ahead(&connection)?;
    if mode != "wal" {
        let problem = format!("its file system allows the journal mode {mode} only");
        return Err(Error::file(path, problem, "choose a local folder").into());
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    if !made {
        schema::install(&mut connection, path)?;
    }
    Ok(connection)
}

/// Another connection to a file that [`connect`] has opened, which only reads.
pub(super) fn reader(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Switches the journal mode and gives the one that came of it. SQLite does not
/// wait here by itself where several programs open a new file.
fn write_ahead(connection: &Connection) -> rusqlite::Result<String> {
    let start = Instant::now();
    loop {
        let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0));
        let busy = |error: &rusqlite::Error| {
            error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && start.elapsed() < PATIENCE
        };
        if !mode.as_ref().is_err_and(busy) {
            return mode;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Opens or makes a file of locks. A file beside: SQLite's own locks do not survive another
/// handle's closing.
pub(super) fn beside(path: &Path) -> Result<File> {
    let file = private().create(true).truncate(false).open(path);
    file.map_err(|error| cannot_make(path, &error))
}

pub(super) fn cannot_lock(path: &Path, error: &TryLockError) -> Error {
    let problem = format!("cannot be locked: {error}");
    Error::file(path, problem, "choose a local folder")
}
