//! What all tests of ledgers need.

use crate::Result;
use crate::server::ledger::{Balance, Key, Ledger, Place, Purpose, Settlement};
use rusqlite::Connection;
use std::path::PathBuf;
use tempfile::TempDir;

/// A place that nobody else uses, with nothing in it.
pub trait Home {
    fn place(&self) -> Place;

    /// Another one of its kind.
    fn another(&self) -> Box<dyn Home>;

    /// Runs SQL beside the ledger.
    fn execute(&self, sql: &str);

    /// The same, though it breaks the rules of the table of keys.
    fn tamper(&self, sql: &str);
}

/// A file in a folder of its own.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("keys.db")
    }
}

impl Home for Folder {
    fn place(&self) -> Place {
        Place::File(self.path())
    }

    fn another(&self) -> Box<dyn Home> {
        Box::new(Self::new())
    }

    fn execute(&self, sql: &str) {
        Connection::open(self.path())
            .unwrap()
            .execute_batch(sql)
            .unwrap();
    }

    fn tamper(&self, sql: &str) {
        self.execute(&format!("PRAGMA ignore_check_constraints = 1; {sql}"));
    }
}

/// A ledger for a service, and a key with 10 credits.
pub fn ledger(home: &dyn Home) -> (Box<dyn Ledger>, Key) {
    let ledger = home.place().serve().unwrap();
    let secret = ledger.add("ada", 10).unwrap();
    let key = ledger.authenticate(Some(&secret)).unwrap().unwrap();
    (ledger, key)
}

/// The balance after a charge that ended now.
pub fn paid(settled: Result<Settlement>) -> Balance {
    match settled.unwrap() {
        Settlement::Paid(balance) => balance,
        other => panic!("{other:?}"),
    }
}

pub fn balance(granted: i64, remaining: i64, reserved: i64, spent: i64) -> Balance {
    Balance {
        granted,
        remaining,
        reserved,
        spent,
    }
}

pub fn failure<T>(result: Result<T>) -> String {
    let message = result.err().expect("this should fail").to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

pub fn has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

pub const PURPOSE: Purpose<'_> = Purpose {
    route: "/v1/sdxl-torch",
    request_id: "a-request",
    samples: 2,
    steps: 25,
    width: 1024,
    height: 768,
    refiner: true,
    job: None,
};
