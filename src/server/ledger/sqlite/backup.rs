//! A copy of the file while a service uses it.

use super::Sqlite;
use super::fault::Fault;
use crate::{Error, Result};
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

impl Sqlite {
    /// A plain copy of the file would lack what its journal beside it holds.
    pub(super) fn copy_to(&self, to: &Path) -> Result<()> {
        const REMEDY: &str = "name a file that is not there, in a folder that can be written";
        let failed = |error: &dyn std::fmt::Display| {
            Error::file(to, format!("cannot be made: {error}"), REMEDY)
        };
        if to.symlink_metadata().is_ok() {
            return Err(Error::file(to, "is there already", "name another file"));
        }
        let folder = match to.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let copy = tempfile::Builder::new()
            .prefix(".calotype-")
            .tempfile_in(folder);
        let copy = copy.map_err(|e| failed(&e))?;
        self.read(|books| copy_pages(books, copy.path()).map_err(Fault::from))?;
        copy.as_file().sync_all().map_err(|e| failed(&e))?;
        copy.persist_noclobber(to).map_err(|e| failed(&e.error))?;
        Ok(())
    }
}

fn copy_pages(books: &Connection, path: &Path) -> rusqlite::Result<()> {
    /// All at once: a copy in parts begins again with every write in between.
    const PAGES: i32 = i32::MAX;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(path, flags)?;
    let backup = Backup::new(books, &mut copy)?;
    backup.run_to_completion(PAGES, Duration::from_millis(10), None)?;
    drop(backup);
    // One file, with no journal beside it.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |row| {
        row.get::<_, String>(0)
    })?;
    copy.close().map_err(|(_, error)| error)
}
