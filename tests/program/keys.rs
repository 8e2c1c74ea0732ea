//! `calotype keys` as an operator meets it.

use calotype::server::ledger::{Ledger, Place, Purpose};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

fn calotype(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calotype"));
    command
        .arg("keys")
        .args(args)
        .current_dir(folder)
        .env_remove("CALOTYPE_KEYS")
        .env_remove("CALOTYPE_LEDGER")
        .env_remove("CALOTYPE_LOG")
        .env_remove("RUST_LOG");
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = calotype(folder, args);
    command.env("CALOTYPE_KEYS", "keys.db").output().unwrap()
}

fn open(folder: &Path) -> Box<dyn Ledger> {
    Place::from(&*folder.join("keys.db")).open().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a command that must succeed says on stdout.
fn says(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    text(&output.stdout)
}

fn json(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&says(folder, args)).unwrap()
}

/// Checks an output: the exit code, nothing on stdout, one line on stderr.
fn failed(output: &Output, code: i32, named: &[&str]) {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(output.stdout.is_empty(), "{message}");
    assert!(message.starts_with("error: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    for part in named {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

fn refuses(folder: &Path, code: i32, args: &[&str], named: &[&str]) {
    failed(&run(folder, args), code, named);
}

/// A folder with a file of one key, and the key's secret.
fn with_key() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let secret = says(folder.path(), &["add", "ada", "--credits", "100"]);
    (folder, secret)
}

#[test]
fn the_secret_alone_is_on_stdout() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["add", "ada", "--credits", "100"]);
    let secret = text(&output.stdout);
    assert!(secret.starts_with("calo_") && secret.ends_with('\n'));
    assert_eq!(secret.len(), 49);
    let note = text(&output.stderr);
    assert!(note.contains("not shown again"), "{note}");
    assert!(!note.contains(secret.trim()), "{note}");
    let ledger = open(folder.path());
    let key = ledger.authenticate(Some(secret.trim())).unwrap();
    assert_eq!(key.unwrap().name, "ada");
}

#[test]
fn keys_are_listed_granted_and_revoked_beside_a_service() {
    let (folder, secret) = with_key();
    let folder = folder.path();
    let service = Place::from(&*folder.join("keys.db")).serve().unwrap();
    let balance = "150 remaining, 0 reserved, 0 spent, 150 granted\n";
    assert_eq!(says(folder, &["grant", "ada", "--credits", "50"]), balance);
    assert_eq!(says(folder, &["revoke", "ada"]), "");
    assert_eq!(service.authenticate(Some(secret.trim())).unwrap(), None);
    says(folder, &["add", "eve", "--credits", "0"]);

    let keys = json(folder, &["list", "--json"]);
    let [ada, eve] = keys["keys"].as_array().unwrap().as_slice() else {
        panic!("{keys}");
    };
    assert_eq!(ada["name"], "ada");
    assert_eq!(ada["granted"], 150);
    assert!(ada["revoked"].as_str().unwrap().ends_with('Z'), "{keys}");
    assert_eq!(eve["remaining"], 0);
    assert!(eve["revoked"].is_null() && eve["last_used"].is_null());

    let table = says(folder, &["list"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split("  ").collect()).collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert_eq!(lines[0][0], "name", "{table}");
    let column = |line: &str, what| line.find(what).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(column(lines[0], "remaining"), column(lines[1], "150"));
    assert!(!table.contains("calo_"));
}

#[test]
fn usage_shows_the_latest_charges() {
    let (folder, secret) = with_key();
    let folder = folder.path();
    let ledger = open(folder);
    let key = ledger.authenticate(Some(secret.trim())).unwrap().unwrap();
    for request_id in ["one", "two\u{1b}[2J"] {
        let purpose = Purpose {
            route: "/v1/sdxl-torch",
            request_id,
            samples: 2,
            steps: 25,
            width: 1024,
            height: 768,
            refiner: false,
            job: None,
        };
        let charge = ledger.reserve(key.id, 7, &purpose).unwrap().unwrap();
        let _ = ledger.settle(&charge, 0, charge.amount).unwrap();
    }
    let charges = json(folder, &["usage", "ada", "--json"]);
    assert_eq!(charges["charges"][1]["request_id"], "one");
    assert_eq!(charges["charges"][1]["state"], "spent");
    assert_eq!(charges["charges"].as_array().unwrap().len(), 2);

    let table = says(folder, &["usage", "--last", "1"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    for part in ["ada", "7", "1024x768", "/v1/sdxl-torch", "two\\u{1b}[2J"] {
        assert!(table.contains(part), "{part:?} is not in {table:?}");
    }
    refuses(folder, 2, &["usage", "eve"], &["name is \"eve\"", "ada"]);
    refuses(folder, 2, &["usage", "--last", "-1"], &["--last"]);
}

#[test]
fn wrong_names_and_amounts_are_refused() {
    let (folder, _) = with_key();
    let folder = folder.path();
    let add = |name, credits| ["add", name, "--credits", credits];
    refuses(folder, 2, &add("ada", "1"), &["name is \"ada\"", "already"]);
    refuses(folder, 2, &add("", "1"), &["name is \"\"", "1 to 64"]);
    refuses(folder, 2, &add("eve", "-1"), &["--credits is -1", "from 0"]);
    refuses(folder, 2, &add("eve", "many"), &["many", "whole number"]);
    let grant = |name, credits| ["grant", name, "--credits", credits];
    refuses(folder, 2, &grant("ada", "0"), &["--credits is 0", "from 1"]);
    refuses(folder, 2, &grant("eve", "1"), &["name is \"eve\"", "ada"]);
    refuses(folder, 2, &["revoke", "eve"], &["name is \"eve\"", "ada"]);
    refuses(folder, 2, &["add", "eve"], &["--credits"]);
    refuses(
        folder,
        2,
        &[],
        &["missing", "add, list, revoke, grant, usage"],
    );
}

#[test]
fn the_file_is_named_and_made_by_add_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let without = calotype(path, &["list"]).output().unwrap();
    failed(&without, 2, &["--ledger is missing", "CALOTYPE_LEDGER"]);
    let empty = calotype(path, &["list"]).env("CALOTYPE_KEYS", "").output();
    failed(&empty.unwrap(), 2, &["--ledger is empty"]);
    refuses(path, 1, &["list"], &["keys.db: no such file", "keys add"]);
    refuses(path, 1, &["grant", "ada", "--credits", "1"], &["no such"]);
    refuses(path, 2, &["add", "\n", "--credits", "1"], &["name is"]);
    refuses(path, 1, &["list", "--keys", "."], &["is a folder"]);
    let none = ["add", "ada", "--credits", "1", "--keys", "none/k.db"];
    refuses(path, 1, &none, &["none/k.db", "make the folder first"]);
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);

    std::fs::write(path.join("words"), "no database ".repeat(99)).unwrap();
    let named = ["words: is no file of calotype's keys"];
    refuses(path, 1, &["list", "--keys", "words"], &named);
    let before = ["--keys", "own.db", "add", "ada", "--credits", "1"];
    says(path, &before);
    assert!(path.join("own.db").exists());
}

#[test]
fn the_newer_name_wins_over_the_older_and_a_flag_over_both() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let add = |more: &[&str]| {
        let args = [&["add", "ada", "--credits", "1"], more].concat();
        let mut command = calotype(folder, &args);
        command.env("CALOTYPE_KEYS", "older.db");
        let output = command.env("CALOTYPE_LEDGER", "newer.db").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    add(&[]);
    add(&["--keys", "flag.db"]);
    let there = ["older.db", "newer.db", "flag.db"].map(|name| folder.join(name).exists());
    assert_eq!(there, [false, true, true]);
}

#[test]
fn a_database_is_named_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let list = |url: &str, code, named: &[&str]| {
        let output = calotype(folder, &["list", "--ledger", url]).output();
        let output = output.unwrap();
        failed(&output, code, named);
        assert!(!text(&output.stderr).contains("pa55"), "{output:?}");
    };
    let away = "postgres://ada@127.0.0.1:1/keys: cannot be reached";
    list("postgres://ada:pa55@127.0.0.1:1/keys", 1, &[away]);
    let loud = "--ledger is postgres://ada@db:5432/keys: sslmode=loud is unknown";
    list("postgres://ada:pa55@db/keys?sslmode=loud", 2, &[loud]);
    let help = calotype(folder, &["--help"])
        .env("CALOTYPE_LEDGER", "postgres://ada:pa55@db/keys")
        .output();
    let help = text(&help.unwrap().stdout);
    assert!(
        help.contains("CALOTYPE_LEDGER") && !help.contains("pa55"),
        "{help}"
    );
}
