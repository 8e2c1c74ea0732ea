//! What only a file does: who may read it, what is damaged, older versions.

use super::fault::Fault;
use super::{Sqlite, schema};
use crate::server::ledger::tests::helpers::{PURPOSE, balance, failure, has};
use crate::server::ledger::{Charges, Key, Keys, Settlement, Upkeep, secret};
use rusqlite::Connection;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use tempfile::TempDir;

/// A ledger in a folder of its own, and a key with 10 credits.
fn ledger() -> (TempDir, PathBuf, Sqlite, Key) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let ledger = Sqlite::serve(&path).unwrap();
    let secret = ledger.add("ada", 10).unwrap();
    let key = ledger.authenticate(Some(&secret)).unwrap().unwrap();
    (folder, path, ledger, key)
}

#[test]
fn the_locks_of_the_dead_are_removed() {
    let (folder, path, living, _) = ledger();
    drop(Sqlite::serve(&path).unwrap());
    living.refund_dead().unwrap();
    let locks = fs::read_dir(folder.path()).unwrap().flatten();
    let locks = locks.filter(|e| e.file_name().to_string_lossy().contains(".db-"));
    let locks = locks.filter(|e| e.path().extension().is_some_and(|e| e == "lock"));
    assert_eq!(locks.count(), 1);
}

#[test]
fn a_service_of_a_version_that_shares_with_none_is_left_alone() {
    let (_folder, path, ledger, _) = ledger();
    drop(ledger);
    let older = File::open(path.with_extension("db.lock")).unwrap();
    older.lock().unwrap();
    has(&failure(Sqlite::serve(&path)), &["an older calotype uses"]);
    Sqlite::open(&path).unwrap().add("bob", 1).unwrap();
    drop(older);
    Sqlite::serve(&path).unwrap();
}

/// The tables of version 1 or 2, with a key, a reservation and a charge that is paid.
fn older(path: &Path, version: i32) {
    let mut tables = schema::TABLES.to_owned();
    for (_, column, kind) in schema::ADDED {
        if version == 1 || !["pruned", "instance"].contains(&column) {
            let line = format!("    {column} {kind},\n");
            assert!(tables.contains(&line), "{line}");
            tables = tables.replace(&line, "");
        }
    }
    let books = Connection::open(path).unwrap();
    books
        .execute_batch(&format!(
            "PRAGMA application_id = 0x63616c6f; PRAGMA user_version = {version}; {tables}
             INSERT INTO keys (id, name, hash, granted, remaining, reserved, spent)
                 VALUES (1, 'ada', zeroblob(32), 10, 3, 4, 3);
             INSERT INTO grants (key, amount) VALUES (1, 10);
             INSERT INTO charges (key, amount, state, ended, route, request_id,
                                  samples, steps, width, height, refiner)
                 VALUES (1, 4, 'reserved', NULL, '/', 'a', 1, 1, 8, 8, 0),
                        (1, 3, 'spent', '2026-01-01T00:00:00Z', '/', 'b', 1, 1, 8, 8, 0);"
        ))
        .unwrap();
}

#[test]
fn a_file_of_an_older_version_is_brought_up_to_date() {
    for version in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.db");
        older(&path, version);
        let ledger = Sqlite::open(&path).unwrap();
        assert_eq!(ledger.balance(1).unwrap(), balance(10, 3, 4, 3));
        ledger.check().unwrap();
        // As an older service that still runs would set it.
        let older = Connection::open(&path).unwrap();
        older.pragma_update(None, "user_version", version).unwrap();
        let service = Sqlite::serve(&path).unwrap();
        assert_eq!(service.balance(1).unwrap(), balance(10, 7, 0, 3));
        assert_eq!(service.usage(None, 9).unwrap().len(), 2);
        let purpose = crate::server::ledger::Purpose {
            job: Some(crate::server::ledger::Job {
                id: "a",
                deadline: std::time::Duration::from_secs(9),
            }),
            ..PURPOSE
        };
        let charge = service.reserve(1, 2, &purpose).unwrap().unwrap();
        assert!(service.reserve(1, 2, &purpose).is_err());
        assert!(service.claim(&charge, 1).unwrap());
        let settled = service.settle(&charge, 1, 2).unwrap();
        assert_eq!(settled, Settlement::Paid(balance(10, 5, 0, 5)));
        service.check().unwrap();
    }
}

#[test]
fn sqlite_refuses_a_balance_that_does_not_add_up() {
    let (_folder, path, _ledger, _) = ledger();
    let other = Connection::open(path).unwrap();
    for change in ["remaining = 11", "remaining = -1, spent = 11"] {
        let error = other.execute(&format!("UPDATE keys SET {change}"), []);
        has(
            &error.unwrap_err().to_string(),
            &["CHECK constraint failed"],
        );
    }
}

#[test]
fn the_check_finds_a_charge_of_no_key() {
    let (_folder, path, ledger, key) = ledger();
    ledger.reserve(key.id, 2, &PURPOSE).unwrap().unwrap();
    let other = Connection::open(path).unwrap();
    other
        .execute_batch("PRAGMA foreign_keys = 0; DELETE FROM keys")
        .unwrap();
    has(
        &failure(ledger.check()),
        &["names a key that does not exist"],
    );
}

#[test]
fn secrets_are_in_no_file() {
    use base64::Engine;
    let (folder, _, ledger, _) = ledger();
    let secret = ledger.add("bob", 5).unwrap();
    let random = secret.strip_prefix("calo_").unwrap();
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let bytes = engine.decode(random).unwrap();
    let mut seen = Vec::new();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        seen.extend(fs::read(entry.path()).unwrap());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{entry:?}");
        }
    }
    let holds = |part: &[u8]| seen.windows(part.len()).any(|window| window == part);
    assert!(holds(b"bob") && holds(&secret::hash(&secret)));
    assert!(!holds(random.as_bytes()) && !holds(&bytes));
}

#[test]
fn wrong_places_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = |name: &str| failure(Sqlite::open(&folder.path().join(name)));
    has(&message(""), &["is a folder"]);
    has(
        &message("none/keys.db"),
        &["none/keys.db", "make the folder"],
    );
    fs::write(folder.path().join("text"), "nothing but words ".repeat(99)).unwrap();
    has(&message("text"), &["text: is no file of calotype's keys"]);
    has(
        &message("text/keys.db"),
        &["text/keys.db", "cannot be made"],
    );
    has(&failure(Sqlite::open(Path::new(""))), &["ledger is empty"]);
    #[cfg(unix)]
    has(&failure(Sqlite::open(Path::new("/dev/null"))), &["regular"]);
}

#[test]
fn files_of_others_and_of_later_versions_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("CREATE TABLE keys (name TEXT)")
        .unwrap();
    let before = fs::read(&path).unwrap();
    has(
        &failure(Sqlite::open(&path)),
        &["is no file of calotype's keys"],
    );
    assert_eq!(fs::read(&path).unwrap(), before);

    let path = folder.path().join("later.db");
    drop(Sqlite::open(&path).unwrap());
    let other = Connection::open(&path).unwrap();
    other
        .pragma_update(None, "user_version", schema::VERSION + 1)
        .unwrap();
    has(
        &failure(Sqlite::open(&path)),
        &["version 4", "newer calotype"],
    );
}

#[test]
fn a_file_is_made_once_whoever_comes_first() {
    for _ in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.db");
        let start = Barrier::new(4);
        thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let (start, path) = (&start, &path);
                scope.spawn(move || {
                    start.wait();
                    Sqlite::open(path).unwrap().add(name, 1).unwrap();
                });
            }
        });
        assert_eq!(Sqlite::open(&path).unwrap().list().unwrap().len(), 4);
    }
}

#[test]
fn a_panic_changes_nothing_and_shuts_nobody_out() {
    let (_folder, _, ledger, key) = ledger();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        ledger.write(|books| -> Result<(), Fault> {
            books.execute("UPDATE keys SET remaining = 0, spent = 10", [])?;
            panic!("amid a transaction");
        })
    }));
    assert!(panicked.is_err() && ledger.connection.is_poisoned());
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 10, 0, 0));
    assert!(ledger.reserve(key.id, 10, &PURPOSE).unwrap().is_some());
}
