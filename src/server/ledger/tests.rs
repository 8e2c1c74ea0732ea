use super::*;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::thread;
use tempfile::TempDir;

const PURPOSE: Purpose<'_> = Purpose {
    route: "/v1/sdxl-torch",
    request_id: "a-request",
    samples: 2,
    steps: 25,
    width: 1024,
    height: 768,
    refiner: true,
};

/// A ledger in a folder of its own, and a key with 10 credits.
fn ledger() -> (TempDir, PathBuf, Ledger, Key) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let ledger = Ledger::serve(&path).unwrap();
    let secret = ledger.add("ada", 10).unwrap();
    let key = ledger.authenticate(Some(&secret)).unwrap().unwrap();
    (folder, path, ledger, key)
}

fn balance(granted: i64, remaining: i64, reserved: i64, spent: i64) -> Balance {
    Balance {
        granted,
        remaining,
        reserved,
        spent,
    }
}

fn failure<T>(result: Result<T>) -> String {
    let message = result.err().expect("this should fail").to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

fn has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn credits_move_between_the_columns() {
    let (_folder, _, ledger, key) = ledger();
    let first = ledger.reserve(key.id, 4, &PURPOSE).unwrap().unwrap();
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 6, 4, 0));
    assert_eq!(
        ledger.settle(&first, first.amount).unwrap(),
        balance(10, 6, 0, 4)
    );
    let second = ledger.reserve(key.id, 6, &PURPOSE).unwrap().unwrap();
    assert_eq!(ledger.refund(&second).unwrap(), balance(10, 6, 0, 4));
    assert_eq!(ledger.grant("ada", 5).unwrap(), balance(15, 11, 0, 4));
    assert_eq!(ledger.balance(key.id).unwrap(), balance(15, 11, 0, 4));
    ledger.check().unwrap();
}

#[test]
fn nothing_changes_where_credits_are_missing() {
    let (_folder, _, ledger, key) = ledger();
    for amount in [11, i64::MAX] {
        assert_eq!(ledger.reserve(key.id, amount, &PURPOSE).unwrap(), None);
    }
    has(&failure(ledger.reserve(key.id, -1, &PURPOSE)), &["-1"]);
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 10, 0, 0));
    assert!(ledger.usage(None, 9).unwrap().is_empty());
    assert!(ledger.reserve(key.id, 10, &PURPOSE).unwrap().is_some());
}

#[test]
fn a_charge_ends_once_as_it_was_reserved() {
    let (_folder, _, ledger, key) = ledger();
    let charge = ledger.reserve(key.id, 4, &PURPOSE).unwrap().unwrap();
    let other = Reservation {
        amount: 3,
        ..charge
    };
    has(&failure(ledger.refund(&other)), &["it is reserved"]);
    ledger.settle(&charge, charge.amount).unwrap();
    has(
        &failure(ledger.settle(&charge, charge.amount)),
        &["it is spent"],
    );
    has(&failure(ledger.refund(&charge)), &["it is spent"]);
    let unknown = Reservation { id: 99, ..charge };
    has(
        &failure(ledger.settle(&unknown, unknown.amount)),
        &["99", "it is unknown"],
    );
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 6, 0, 4));
    ledger.check().unwrap();
}

#[test]
fn two_threads_race_for_the_last_credits() {
    let (_folder, path, ledger, key) = ledger();
    // A handle of its own races through the file, the other through the mutex.
    let beside = Ledger::open(&path).unwrap();
    for _ in 0..8 {
        let before = ledger.balance(key.id).unwrap();
        let start = Barrier::new(3);
        let reserve = |handle: &Ledger| {
            start.wait();
            handle.reserve(key.id, before.remaining, &PURPOSE).unwrap()
        };
        let won: Vec<Reservation> = thread::scope(|scope| {
            let racers = [&ledger, &ledger, &beside].map(|handle| scope.spawn(|| reserve(handle)));
            let ended = racers.map(|racer| racer.join().unwrap());
            ended.into_iter().flatten().collect()
        });
        assert_eq!(won.len(), 1);
        assert_eq!(ledger.refund(&won[0]).unwrap(), before);
    }
    ledger.check().unwrap();
}

#[test]
fn what_a_crash_left_reserved_is_refunded_by_the_next_service_only() {
    let (_folder, path, ledger, key) = ledger();
    let charge = ledger.reserve(key.id, 3, &PURPOSE).unwrap().unwrap();
    ledger.reserve(key.id, 4, &PURPOSE).unwrap().unwrap();
    ledger.settle(&charge, charge.amount).unwrap();
    drop(ledger);
    let beside = Ledger::open(&path).unwrap();
    assert_eq!(beside.balance(key.id).unwrap(), balance(10, 3, 4, 3));
    let ledger = Ledger::serve(&path).unwrap();
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 7, 0, 3));
    let states: Vec<_> = ledger.usage(None, 9).unwrap();
    let states: Vec<_> = states.iter().map(|usage| usage.state.as_str()).collect();
    assert_eq!(states, ["refunded", "spent"]);
    ledger.check().unwrap();
}

#[test]
fn only_what_dead_instances_reserved_is_refunded() {
    let (folder, path, living, key) = ledger();
    let dead = Ledger::serve(&path).unwrap();
    let charge = living.reserve(key.id, 3, &PURPOSE).unwrap().unwrap();
    dead.reserve(key.id, 4, &PURPOSE).unwrap().unwrap();
    assert_eq!(living.refund_dead().unwrap(), 0);
    assert_eq!(living.balance(key.id).unwrap(), balance(10, 3, 7, 0));
    drop(dead);
    // By another that starts.
    let third = Ledger::serve(&path).unwrap();
    assert_eq!(third.balance(key.id).unwrap(), balance(10, 7, 3, 0));
    third.reserve(key.id, 2, &PURPOSE).unwrap().unwrap();
    drop(third);
    // By one that runs on.
    assert_eq!(living.refund_dead().unwrap(), 1);
    assert_eq!(living.balance(key.id).unwrap(), balance(10, 7, 3, 0));
    assert_eq!(living.settle(&charge, 3).unwrap(), balance(10, 7, 0, 3));
    living.check().unwrap();
    let locks = || fs::read_dir(folder.path()).unwrap().flatten();
    let locks = locks().filter(|e| e.file_name().to_string_lossy().contains(".db-"));
    let locks = locks.filter(|e| e.path().extension().is_some_and(|e| e == "lock"));
    assert_eq!(locks.count(), 1, "the locks of the dead are removed");
}

#[test]
fn a_service_of_a_version_that_shares_with_none_is_left_alone() {
    let (_folder, path, ledger, _) = ledger();
    drop(ledger);
    let older = File::open(path.with_extension("db.lock")).unwrap();
    older.lock().unwrap();
    has(&failure(Ledger::serve(&path)), &["an older calotype uses"]);
    Ledger::open(&path).unwrap().add("bob", 1).unwrap();
    drop(older);
    Ledger::serve(&path).unwrap();
}

/// The tables of version 1, with a key, a reservation and a charge that is paid.
fn version_1(path: &Path) {
    let older = schema::TABLES
        .replace(
            "    pruned INTEGER NOT NULL DEFAULT 0 CHECK (pruned >= 0),\n",
            "",
        )
        .replace("    instance TEXT,\n", "");
    assert!(!older.contains("pruned") && !older.contains("instance"));
    let books = Connection::open(path).unwrap();
    books
        .execute_batch(&format!(
            "PRAGMA application_id = 0x63616c6f; PRAGMA user_version = 1; {older}
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
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    version_1(&path);
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.balance(1).unwrap(), balance(10, 3, 4, 3));
    ledger.check().unwrap();
    // As an older service that still runs would set it.
    let older = Connection::open(&path).unwrap();
    older.pragma_update(None, "user_version", 1).unwrap();
    let service = Ledger::serve(&path).unwrap();
    assert_eq!(service.balance(1).unwrap(), balance(10, 7, 0, 3));
    let states = service.usage(None, 9).unwrap();
    assert_eq!(states.len(), 2);
}

#[test]
fn old_charges_are_removed_and_their_sums_stay() {
    let (_folder, path, ledger, key) = ledger();
    for amount in [1, 2, 3] {
        let charge = ledger.reserve(key.id, amount, &PURPOSE).unwrap().unwrap();
        ledger.settle(&charge, amount).unwrap();
    }
    let charge = ledger.reserve(key.id, 1, &PURPOSE).unwrap().unwrap();
    ledger.refund(&charge).unwrap();
    ledger.reserve(key.id, 2, &PURPOSE).unwrap().unwrap();
    let last = ledger.reserve(key.id, 1, &PURPOSE).unwrap().unwrap();
    ledger.settle(&last, 1).unwrap();
    let other = Connection::open(&path).unwrap();
    let age =
        "UPDATE charges SET ended = '2020-01-01T00:00:00Z' WHERE state <> 'reserved' AND id <> 3";
    other.execute(age, []).unwrap();
    let before = ledger.balance(key.id).unwrap();
    assert_eq!(before, balance(10, 1, 2, 7));
    has(&failure(ledger.prune(0)), &["days is 0"]);
    assert_eq!(ledger.prune(30).unwrap(), 3);
    // The recent one, the open one, and the key's latest.
    let left: Vec<i64> = ledger
        .usage(None, 9)
        .unwrap()
        .iter()
        .map(|u| u.amount)
        .collect();
    assert_eq!(left, [1, 2, 3]);
    assert_eq!(ledger.prune(30).unwrap(), 0);
    assert_eq!(ledger.balance(key.id).unwrap(), before);
    ledger.check().unwrap();
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
fn the_check_finds_what_was_tampered_with() {
    let tampered = [
        ("UPDATE keys SET remaining = 15", "remaining 15"),
        ("UPDATE keys SET granted = 15, remaining = 15", "granted 15"),
        (
            "UPDATE charges SET amount = 9 WHERE state = 'spent'",
            "spent 9",
        ),
        (
            "UPDATE charges SET amount = 9 WHERE state = 'reserved'",
            "reserved 9",
        ),
        ("DELETE FROM grants", "granted 0"),
    ];
    for (change, figure) in tampered {
        let (_folder, path, ledger, key) = ledger();
        let charge = ledger.reserve(key.id, 2, &PURPOSE).unwrap().unwrap();
        ledger.settle(&charge, charge.amount).unwrap();
        ledger.reserve(key.id, 3, &PURPOSE).unwrap().unwrap();
        ledger.check().unwrap();
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch("PRAGMA ignore_check_constraints = 1")
            .unwrap();
        other.execute(change, []).unwrap();
        has(&failure(ledger.check()), &["\"ada\"", figure, "granted 10"]);
        drop(ledger);
        has(&failure(Ledger::serve(&path)), &["\"ada\"", figure]);
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
fn only_the_right_secret_opens() {
    let (_folder, _, ledger, key) = ledger();
    let secret = ledger.add(" bob's key ", 0).unwrap();
    let bob = ledger.authenticate(Some(&secret)).unwrap().unwrap();
    assert_eq!((bob.name.as_str(), bob.id != key.id), ("bob's key", true));
    let longer = format!("{secret}{}", " ".repeat(300));
    let swapped = secret.to_uppercase();
    for wrong in ["", "calo_", &secret[1..], &swapped, &longer, "\0"] {
        assert_eq!(ledger.authenticate(Some(wrong)).unwrap(), None, "{wrong}");
    }
    assert_eq!(ledger.authenticate(None).unwrap(), None);
}

#[test]
fn a_revoked_key_opens_nothing_but_ends_its_jobs() {
    let (_folder, _, ledger, key) = ledger();
    let secret = ledger.add("bob", 5).unwrap();
    let bob = ledger.authenticate(Some(&secret)).unwrap().unwrap();
    let charge = ledger.reserve(bob.id, 2, &PURPOSE).unwrap().unwrap();
    ledger.revoke("bob").unwrap();
    let revoked = ledger.list().unwrap()[1].revoked.clone();
    assert!(revoked.is_some());
    ledger.revoke("bob").unwrap();
    assert_eq!(ledger.list().unwrap()[1].revoked, revoked);
    assert_eq!(ledger.authenticate(Some(&secret)).unwrap(), None);
    assert_eq!(ledger.reserve(bob.id, 1, &PURPOSE).unwrap(), None);
    assert_eq!(
        ledger.settle(&charge, charge.amount).unwrap(),
        balance(5, 3, 0, 2)
    );
    has(&failure(ledger.grant("bob", 1)), &["\"bob\"", "revoked"]);
    has(&failure(ledger.add("bob", 1)), &["\"bob\"", "already"]);
    assert!(ledger.reserve(key.id, 1, &PURPOSE).unwrap().is_some());
    ledger.check().unwrap();
}

#[test]
fn names_and_amounts_have_limits() {
    let (_folder, _, ledger, _) = ledger();
    let long = "x".repeat(65);
    for name in ["", " ", "a\nb", "\u{202e}b", "a\u{1b}[2J", &long] {
        has(&failure(ledger.add(name, 1)), &["name is", "1 to 64"]);
    }
    for name in [&long[1..], "o'hara \"\\\"", "अनुपम", "雪"] {
        ledger.add(name, 1).unwrap();
    }
    has(&failure(ledger.add(" ada ", 1)), &["\"ada\"", "already"]);
    for credits in [-1, MOST_CREDITS + 1, i64::MAX, i64::MIN] {
        has(
            &failure(ledger.add("bob", credits)),
            &["credits is", "from 0"],
        );
    }
    for credits in [0, -1, MOST_CREDITS + 1] {
        has(&failure(ledger.grant("ada", credits)), &["from 1 to"]);
    }
    has(
        &failure(ledger.grant("ada", MOST_CREDITS - 9)),
        &["granted 10 already"],
    );
    let all = balance(MOST_CREDITS, MOST_CREDITS, 0, 0);
    assert_eq!(ledger.grant("ada", MOST_CREDITS - 10).unwrap(), all);
    has(&failure(ledger.grant("adda", 1)), &["\"adda\"", "ada"]);
    has(&failure(ledger.revoke("nobody")), &["\"nobody\""]);
    ledger.check().unwrap();
}

#[test]
fn usage_is_the_latest_first() {
    let (_folder, _, ledger, key) = ledger();
    ledger.add("bob", 5).unwrap();
    for request_id in ["one", "two", "three"] {
        let purpose = Purpose {
            request_id,
            ..PURPOSE
        };
        ledger.reserve(key.id, 1, &purpose).unwrap().unwrap();
    }
    let latest = ledger.usage(Some("ada"), 2).unwrap();
    let ids: Vec<_> = latest
        .iter()
        .map(|usage| usage.request_id.as_str())
        .collect();
    assert_eq!(ids, ["three", "two"]);
    let expected = Usage {
        created: latest[0].created.clone(),
        key: "ada".into(),
        route: "/v1/sdxl-torch".into(),
        request_id: "three".into(),
        samples: 2,
        steps: 25,
        width: 1024,
        height: 768,
        refiner: true,
        amount: 1,
        state: "reserved".into(),
    };
    assert_eq!(latest[0], expected);
    assert_eq!(ledger.usage(None, usize::MAX).unwrap().len(), 3);
    assert!(ledger.usage(Some("bob"), 9).unwrap().is_empty());
    has(&failure(ledger.usage(Some("eve"), 9)), &["\"eve\""]);
    let keys = ledger.list().unwrap();
    assert_eq!(keys[0].last_used.as_ref(), Some(&latest[0].created));
    assert_eq!(keys[1].last_used, None);
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
    let message = |name: &str| failure(Ledger::open(&folder.path().join(name)));
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
    has(&failure(Ledger::open(Path::new(""))), &["keys is empty"]);
    #[cfg(unix)]
    has(&failure(Ledger::open(Path::new("/dev/null"))), &["regular"]);
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
        &failure(Ledger::open(&path)),
        &["is no file of calotype's keys"],
    );
    assert_eq!(fs::read(&path).unwrap(), before);

    let path = folder.path().join("later.db");
    drop(Ledger::open(&path).unwrap());
    let other = Connection::open(&path).unwrap();
    other.pragma_update(None, "user_version", 3).unwrap();
    has(
        &failure(Ledger::open(&path)),
        &["version 3", "newer calotype"],
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
                    Ledger::open(path).unwrap().add(name, 1).unwrap();
                });
            }
        });
        assert_eq!(Ledger::open(&path).unwrap().list().unwrap().len(), 4);
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
