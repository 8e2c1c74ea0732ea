//! The server refuses, is away, or hangs.

use super::certificate::certificate;
use super::cluster::{Cluster, PASSWORD};
use super::database::{Database, execute};
use crate::server::ledger::postgres::{Postgres, Url};
use crate::server::ledger::tests::helpers::{Home, PURPOSE, balance, failure, has, ledger, paid};
use crate::server::ledger::{Charges, Keys, Place, Upkeep};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn refused(url: &str) -> String {
    let message = failure(Place::from(url).open());
    assert!(!message.contains(PASSWORD), "{message}");
    message
}

#[test]
fn what_the_server_refuses_is_said_without_the_password() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let right = cluster.url("postgres", "");
    let wrong = right.replace(PASSWORD, "wr0ng");
    let message = refused(&wrong);
    has(
        &message,
        &[
            "postgres://postgres@127.0.0.1",
            "password authentication failed",
        ],
    );
    has(&message, &["see the user and the password"]);
    assert!(!message.contains("wr0ng"));
    let none = refused(&cluster.url("nowhere", ""));
    has(&none, &["\"nowhere\" does not exist", "make the database"]);
    let secret = refused(&cluster.url("postgres", "?sslmode=require"));
    has(&secret, &["does not support TLS", "sslmode=disable"]);
}

#[test]
fn a_server_that_is_away_or_silent_is_said_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://ada:{PASSWORD}@127.0.0.1:{port}/keys");
    let start = Instant::now();
    has(&refused(&url), &["did not answer within 3 s"]);
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(listener);
    has(
        &refused(&url),
        &["cannot be reached", "refused", "see that the server runs"],
    );
    has(
        &refused("postgres://ada@nowhere.invalid/keys"),
        &["cannot be reached"],
    );
}

#[test]
fn a_unix_socket_is_a_way_too() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let database = Database::of(cluster);
    let way = format!(
        "/{}?host={}&port=",
        database.name(),
        cluster.folder().display()
    );
    let url = database.0.replace(
        &format!("127.0.0.1:{}/{}", cluster.port, database.name()),
        &way,
    );
    let url = format!("{url}{}", cluster.port);
    Place::from(&url[..]).open().unwrap().add("ada", 1).unwrap();
    has(
        &refused(&format!("{url}&sslmode=require")),
        &["does not support TLS"],
    );
}

#[test]
fn a_role_needs_the_schema() {
    let Some(database) = Database::new() else {
        return;
    };
    database.execute(&format!(
        "CREATE ROLE poor LOGIN PASSWORD '{PASSWORD}'; REVOKE CREATE ON DATABASE {} FROM public",
        database.name()
    ));
    let poor = database.0.replace("//postgres:", "//poor:");
    has(
        &refused(&poor),
        &["permission denied", "CREATE SCHEMA calotype"],
    );
    database.execute("CREATE SCHEMA calotype AUTHORIZATION poor");
    Place::from(&poor[..])
        .open()
        .unwrap()
        .add("ada", 1)
        .unwrap();
}

#[test]
fn tables_of_others_and_of_later_versions_are_left_alone() {
    let Some(database) = Database::new() else {
        return;
    };
    // Those of other schemas are in nobody's way.
    database.execute("CREATE TABLE public.keys (name text); CREATE SCHEMA calotype");
    has(
        &failure(database.place().open_existing()),
        &["holds no keys", "keys add"],
    );
    database.place().open().unwrap().add("ada", 1).unwrap();
    database.place().open_existing().unwrap().list().unwrap();
    database.execute("UPDATE version SET version = 2");
    has(
        &failure(database.place().open()),
        &["version 2", "newer calotype"],
    );
    for tables in [
        "CREATE TABLE calotype.keys (name text)",
        "CREATE TABLE calotype.version (version text)",
        "CREATE TABLE calotype.version (application integer, version integer)",
    ] {
        let database = Database::new().unwrap();
        database.execute(&format!("CREATE SCHEMA calotype; {tables}"));
        has(
            &failure(database.place().open()),
            &["tables of another program"],
        );
    }
    let name = format!("{}_ascii", database.name());
    let ascii = format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0");
    database.execute(&ascii);
    let url = database.0.replace(database.name(), &name);
    has(&refused(&url), &["encoding is SQL_ASCII", "UTF8"]);
}

#[test]
fn tables_are_made_once_whoever_comes_first() {
    let Some(database) = Database::new() else {
        return;
    };
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let place = database.place();
            scope.spawn(move || place.open().unwrap().add(name, 1).unwrap());
        }
    });
    assert_eq!(database.place().open().unwrap().list().unwrap().len(), 4);
}

#[test]
fn the_server_refuses_a_balance_that_does_not_add_up() {
    let Some(database) = Database::new() else {
        return;
    };
    let (_ledger, _) = ledger(&database);
    for change in ["remaining = 11", "remaining = -1, spent = 11"] {
        let sql = format!("UPDATE keys SET {change}");
        let run = std::panic::catch_unwind(|| execute(&database.0, &sql));
        let message = run.unwrap_err().downcast::<String>().unwrap();
        has(&message, &["violates check constraint"]);
    }
}

#[test]
fn a_service_that_was_away_for_too_long_is_another_one() {
    let Some(database) = Database::new() else {
        return;
    };
    let (away, key) = ledger(&database);
    let url = Url::recognize(&database.0).unwrap();
    let mut other = Postgres::serve(&url).unwrap();
    let charge = away.reserve(key.id, 3, &PURPOSE).unwrap().unwrap();
    assert_eq!(other.refund_dead().unwrap(), 0);
    other.life = Duration::from_millis(50);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(other.refund_dead().unwrap(), 1);
    // It draws on, and is told at the end.
    has(
        &format!("{:?}", away.settle(&charge, 0, 3).unwrap()),
        &["Refused", "Refunded"],
    );
    assert_eq!(away.balance(key.id).unwrap(), balance(10, 10, 0, 0));
    // What it reserves from now on is of one that lives.
    let charge = away.reserve(key.id, 2, &PURPOSE).unwrap().unwrap();
    other.life = Duration::from_secs(60);
    assert_eq!(other.refund_dead().unwrap(), 0);
    assert_eq!(paid(away.settle(&charge, 0, 2)), balance(10, 8, 0, 2));
}

#[test]
fn a_service_that_is_back_declares_nobody_dead_at_once() {
    let Some(database) = Database::new() else {
        return;
    };
    let url = Url::recognize(&database.0).unwrap();
    let (quiet, key) = ledger(&database);
    quiet.reserve(key.id, 3, &PURPOSE).unwrap().unwrap();
    let mut back = Postgres::serve(&url).unwrap();
    let first = back.instance().unwrap();
    back.life = Duration::ZERO;
    database.execute("UPDATE instances SET seen = seen - interval '30 s'");
    back.renew().unwrap();
    assert_eq!(back.refund_dead().unwrap(), 0);
    *back.returned.lock().unwrap() = None;
    assert_eq!(back.refund_dead().unwrap(), 1);
    assert_eq!(back.instance().unwrap(), first);
    // One that is held for dead takes a new name when it says that it lives.
    database.execute("UPDATE instances SET died = now()");
    back.renew().unwrap();
    assert_ne!(back.instance().unwrap(), first);
    drop(quiet);
}

#[test]
fn a_lock_that_another_session_holds_ends_the_wait() {
    let Some(database) = Database::new() else {
        return;
    };
    let (ledger, key) = ledger(&database);
    let url = database.0.clone();
    let held = "BEGIN; LOCK TABLE keys; SELECT pg_sleep(2.6); COMMIT";
    let holder = std::thread::spawn(move || {
        execute(&url, &format!("SET statement_timeout = 0; {held}"));
    });
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    let message = failure(ledger.reserve(key.id, 1, &PURPOSE));
    assert!(start.elapsed() < Duration::from_secs(3));
    has(&message, &["lock timeout", "pg_stat_activity"]);
    assert!(!ledger.is_well());
    holder.join().unwrap();
    ledger.probe().unwrap();
    assert!(ledger.is_well());
    assert!(ledger.reserve(key.id, 1, &PURPOSE).unwrap().is_some());
}

#[test]
fn a_restart_of_the_server_is_survived() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let database = Database::of(&cluster);
    let (ledger, key) = ledger(&database);
    let charge = ledger.reserve(key.id, 4, &PURPOSE).unwrap().unwrap();
    cluster.stop();
    has(
        &failure(ledger.settle(&charge, 0, 4)),
        &["cannot be reached"],
    );
    assert!(!ledger.is_well());
    let start = Instant::now();
    failure(ledger.probe());
    assert!(start.elapsed() < Duration::from_secs(4));
    cluster.run();
    assert_eq!(paid(ledger.settle(&charge, 0, 4)), balance(10, 6, 0, 4));
    assert!(ledger.is_well());
    ledger.check().unwrap();
}

#[test]
fn tls_is_checked_as_it_was_asked_for() {
    let lines = "ssl = on\nssl_cert_file = 'cert.pem'\nssl_key_file = 'key.pem'";
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    cluster.stop();
    let data = cluster.folder().join("data");
    let Some(()) = certificate(&data, "calotype") else {
        return;
    };
    cluster.hand_over(&data.join("key.pem"));
    cluster.hand_over(&data.join("cert.pem"));
    cluster.configure(lines);
    cluster.run();
    let root = data.join("cert.pem");
    let root = root.to_str().unwrap();
    for query in [
        String::new(),
        "?sslmode=require".into(),
        format!("?sslmode=verify-full&sslrootcert={root}"),
        format!("?sslrootcert={root}"),
    ] {
        let url = cluster.url("postgres", &query);
        Place::from(&url[..]).open().unwrap();
        let secret = "DO $$ BEGIN ASSERT (SELECT ssl FROM pg_stat_ssl
                          WHERE pid = pg_backend_pid()); END $$";
        execute(&url, secret);
    }
    let unknown = refused(&cluster.url("postgres", "?sslmode=verify-full"));
    has(&unknown, &["TLS fails", "certificate", "sslrootcert"]);
    let other = cluster.url("postgres", &format!("?sslrootcert={root}"));
    let other = refused(&other.replace("127.0.0.1", "localhost"));
    has(&other, &["TLS fails", "certificate"]);
    let none = refused(&cluster.url("postgres", "?sslrootcert=/none.pem"));
    has(&none, &["/none.pem", "PEM file"]);
}

#[test]
fn it_may_be_called_from_any_thread() {
    let Some(database) = Database::new() else {
        return;
    };
    let (ledger, key) = ledger(&database);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let task = tokio::spawn(async move {
            assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 10, 0, 0));
            drop(ledger);
        });
        task.await.unwrap();
    });
}

#[test]
fn a_panic_changes_nothing_and_shuts_nobody_out() {
    let Some(database) = Database::new() else {
        return;
    };
    let (_ledger, key) = ledger(&database);
    let ledger = Postgres::open(&Url::recognize(&database.0).unwrap()).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ledger.write(async |books| {
            books
                .execute("UPDATE keys SET remaining = 0, spent = 10", &[])
                .await?;
            if books.query("SELECT 1", &[]).await?.len() == 1 {
                panic!("amid a transaction");
            }
            Ok(())
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(ledger.balance(key.id).unwrap(), balance(10, 10, 0, 0));
    assert!(ledger.reserve(key.id, 10, &PURPOSE).unwrap().is_some());
}

#[test]
fn a_copy_is_for_the_servers_own_tools() {
    let Some(database) = Database::new() else {
        return;
    };
    let ledger = database.place().open().unwrap();
    let message = failure(ledger.backup("copy.db".as_ref()));
    has(&message, &["in no file", "pg_dump --schema=calotype"]);
}
