//! What outlives a restart, a crash or trouble with the ledger's file.

#[cfg(unix)]
#[path = "../src/server/ledger/postgres/tests/cluster.rs"]
#[allow(dead_code, reason = "this file uses a part")]
mod cluster;
#[path = "common/server.rs"]
mod server;

use serde_json::{Value, json};
use server::{Server, keys, quick, wait_until};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn look(server: &Server, key: Option<&str>, id: &str) -> server::Answer {
    let mut request = ureq::http::Request::get(format!("{}/v1/jobs/{id}", server.url));
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    server.send(request.body(Vec::new()).unwrap())
}

/// Draws a picture as a job, and gives the job when it is done.
fn done(server: &Server, key: Option<&str>, body: &Value) -> Value {
    let job = server.post("/v1/jobs", body, key);
    assert_eq!(job.status, 202, "{}", job.error());
    let id = job.json()["id"].as_str().unwrap().to_owned();
    let mut job = Value::Null;
    wait_until("the job ends", || {
        job = look(server, key, &id).json();
        !["queued", "running"].contains(&job["status"].as_str().unwrap_or_default())
    });
    assert_eq!(job["status"], "done", "{job}");
    job
}

fn id(job: &Value) -> &str {
    job["id"].as_str().unwrap()
}

fn url(job: &Value) -> &str {
    job["images"][0]["url"].as_str().unwrap()
}

#[test]
#[cfg(unix)]
fn results_outlive_stops_crashes_and_a_second_start() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, results) = (folder.path().join("keys.db"), folder.path().join("results"));
    let key = keys(&ledger, &["add", "ada", "--credits", "100"]);
    let other = keys(&ledger, &["add", "bob", "--credits", "100"]);
    let args = [
        "--keys",
        ledger.to_str().unwrap(),
        "--results",
        results.to_str().unwrap(),
    ];
    let key = Some(&key[..]);
    let mut server = Server::start(&args);
    let first = done(&server, key, &quick());
    let (status, picture) = server.get(url(&first));
    assert_eq!(status, 200);

    // A second start fails, on the same address or another, and harms nothing.
    let address = server.url.trim_start_matches("http://");
    for (listen, folder) in [(address, "other.db"), ("127.0.0.1:0", "other.db")] {
        let other = results.with_file_name(folder);
        let output = Command::new(env!("CARGO_BIN_EXE_calotype"))
            .args(["serve", "--listen", listen, "--keys"])
            .arg(other)
            .args(&args[2..])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        let why = [
            "Address already in use",
            "another service keeps its results here",
        ];
        assert!(why.iter().any(|why| said.contains(why)), "{said}");
        assert_eq!(server.get(url(&first)), (200, picture.clone()));
    }

    // One that runs when the service is asked to stop is finished, paid for, and there.
    let long = json!({ "prompt": "a", "num_inference_steps": 20 });
    let running = server.post("/v1/jobs", &long, key).json();
    wait_until("it runs", || {
        look(&server, key, id(&running)).json()["step"].as_u64() > Some(0)
    });
    server.signal("TERM");
    assert!(server.child.wait().unwrap().success());
    let mut server = Server::start(&args);
    let mut seen = Vec::new();
    for job in [&first, &running] {
        let again = look(&server, key, id(job)).json();
        assert_eq!(again["status"], "done", "{again}");
        assert_eq!(
            (&again["cost"], &again["seed"]),
            (&job["cost"], &job["seed"])
        );
        assert_eq!(again["created"], job["created"]);
        assert_eq!(server.get(url(&again)).0, 200);
        assert_eq!(look(&server, Some(&other), id(job)).status, 404);
        seen.push(again);
    }
    assert_eq!(seen[0], first);

    let second = done(&server, key, &quick());
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let server = Server::start(&args);
    for job in [&first, &second] {
        assert_eq!(look(&server, key, id(job)).json(), *job);
        assert_eq!(server.get(url(job)), (200, picture.clone()));
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o077;
    let name = url(&first).rsplit('/').next().unwrap();
    assert_eq!([mode(&results), mode(&results.join(name))], [0, 0]);
}

/// Two services on one file of keys, each with results of its own.
#[test]
#[cfg(unix)]
fn services_share_a_ledger_through_a_rolling_restart_and_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let key = keys(&path, &["add", "ada", "--credits", "100000"]);
    let key = Some(&key[..]);
    let start = |results: &str| {
        let results = folder.path().join(results);
        let [ledger, results] = [&path, &results].map(|path| path.to_str().unwrap());
        Server::start(&["--keys", ledger, "--results", results])
    };
    let balance = || -> Value {
        let list: Value = serde_json::from_str(&keys(&path, &["list", "--json"])).unwrap();
        let key = &list["keys"][0];
        json!([key["remaining"], key["reserved"], key["spent"]])
    };
    let draws = |server: &Server, samples| {
        let long = json!({ "prompt": "a", "num_inference_steps": 150, "width": 192,
                           "height": 192, "samples": samples });
        let job = server.post("/v1/jobs", &long, key);
        assert_eq!(job.status, 202, "{}", job.error());
        let job = job.json();
        wait_until("it runs", || {
            look(server, key, id(&job)).json()["step"].as_u64() > Some(0)
        });
        job
    };
    let mut old = start("old");
    let job = draws(&old, 1);
    let cost = job["cost"].as_i64().unwrap();
    // The new one starts while the old one draws, and is used at once.
    let mut new = start("new");
    assert_eq!(balance(), json!([100_000 - cost, cost, 0]));
    old.signal("TERM");
    let quick_cost = done(&new, key, &quick())["cost"].as_i64().unwrap();
    assert!(old.child.wait().unwrap().success());
    let spent = cost + quick_cost;
    assert_eq!(balance(), json!([100_000 - spent, 0, spent]));

    // One that is killed takes nothing from the other.
    let third = start("old");
    assert_eq!(look(&third, key, id(&job)).json()["status"], "done");
    let lives = draws(&third, 10);
    let dies = draws(&new, 10);
    let [lives, dies] = [lives, dies].map(|job| job["cost"].as_i64().unwrap());
    assert_eq!(
        balance(),
        json!([100_000 - spent - lives - dies, lives + dies, spent])
    );
    new.child.kill().unwrap();
    new.child.wait().unwrap();
    wait_until("what the dead one held is refunded", || {
        balance() != json!([100_000 - spent - lives - dies, lives + dies, spent])
    });
    assert_eq!(balance(), json!([100_000 - spent - lives, lives, spent]));
    keys(&path, &["grant", "ada", "--credits", "1"]);
    let again = start("new");
    assert_eq!(balance(), json!([100_001 - spent - lives, lives, spent]));
    assert_eq!(again.post("/v1/jobs", &quick(), key).status, 202);
}

#[test]
fn results_are_kept_from_the_end_of_their_job_and_no_longer() {
    let server = Server::start(&["--results-for", "2"]);
    // Longer than that from its arrival to its end.
    let body = json!({ "prompt": "a", "num_inference_steps": 60, "width": 256, "height": 256 });
    let start = Instant::now();
    let job = done(&server, None, &body);
    assert!(
        start.elapsed() > Duration::from_secs(2),
        "the job is too short for this test"
    );
    assert_eq!(server.get(url(&job)).0, 200);
    // Nobody asks for anything else.
    std::thread::sleep(Duration::from_millis(3800));
    assert_eq!(server.get(url(&job)).0, 404);
    assert_eq!(look(&server, None, id(&job)).status, 404);
}

#[test]
fn a_locked_ledger_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let key = keys(&path, &["add", "ada", "--credits", "100"]);
    let server = Server::start(&["--keys", path.to_str().unwrap()]);
    let running = json!({ "prompt": "a", "num_inference_steps": 10 });
    let running = server.post("/v1/jobs", &running, Some(&key)).json();
    wait_until("it runs", || {
        look(&server, Some(&key), id(&running)).json()["status"] == "running"
    });
    let lock = rusqlite::Connection::open(&path).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let start = Instant::now();
                let answer = server.post("/v1/jobs", &quick(), Some(&key));
                assert_eq!(answer.status, 503, "{}", answer.error());
                assert_eq!(answer.header("retry-after"), Some("5"));
                assert!(
                    start.elapsed() < Duration::from_secs(5),
                    "{:?}",
                    start.elapsed()
                );
            });
        }
        std::thread::sleep(Duration::from_millis(100));
        for _ in 0..10 {
            let start = Instant::now();
            assert_eq!(server.post("/v1/jobs", &quick(), Some("wrong")).status, 401);
            assert!(
                start.elapsed() < Duration::from_millis(50),
                "{:?}",
                start.elapsed()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(server.get("/readyz").0, 503);
        assert_eq!(server.get("/healthz").0, 200);
    });
    // What was drawn meanwhile is answered, and paid for later.
    wait_until("it is done", || {
        look(&server, Some(&key), id(&running)).json()["status"] == "done"
    });
    lock.execute_batch("ROLLBACK").unwrap();
    wait_until("it is paid", || {
        keys(&path, &["usage", "--json"]).contains("\"spent\"")
    });
    assert_eq!(server.get("/readyz").0, 200);
    assert_eq!(server.post("/v1/jobs", &quick(), Some(&key)).status, 202);
}

/// Stops every write with SQLite's own limit of pages, as a full disk does.
#[test]
#[cfg(target_os = "linux")]
fn a_ledger_that_cannot_grow_is_said_and_found_well_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let key = keys(&path, &["add", "ada", "--credits", "100"]);
    // No file grows beyond what the ledger and the log take.
    let limit = "ulimit -f 400 && trap '' XFSZ && exec \"$0\" \"$@\"";
    let server = Server::launch(
        Command::new("bash")
            .args(["-c", limit, env!("CARGO_BIN_EXE_calotype")])
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--log",
                "text",
                "--keys",
            ])
            .arg(&path),
    );
    server.wait_ready();
    // The journal fills up.
    let filler = rusqlite::Connection::open(&path).unwrap();
    let held = filler.prepare("SELECT * FROM keys").map(drop);
    held.unwrap();
    filler
        .execute_batch("PRAGMA wal_autocheckpoint = 0; BEGIN")
        .unwrap();
    filler
        .query_row("SELECT count(*) FROM keys", [], |row| row.get::<_, i64>(0))
        .unwrap();
    let writer = rusqlite::Connection::open(&path).unwrap();
    writer
        .execute_batch("PRAGMA wal_autocheckpoint = 0")
        .unwrap();
    let wal = folder.path().join("keys.db-wal");
    while wal.metadata().unwrap().len() < 405 << 10 {
        writer
            .execute("UPDATE keys SET created = created || 'x'", [])
            .unwrap();
    }
    let answer = server.post("/v1/jobs", &quick(), Some(&key));
    assert_eq!(answer.status, 503, "{}", answer.error());
    assert_eq!(server.get("/readyz").0, 503);
    assert_eq!(server.post("/v1/jobs", &quick(), Some("wrong")).status, 401);
    // There is room again.
    filler.execute_batch("COMMIT").unwrap();
    writer
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    wait_until("it is well", || server.get("/readyz").0 == 200);
    assert_eq!(server.post("/v1/jobs", &quick(), Some(&key)).status, 202);
}

/// Files that not even root can write, until this is dropped.
struct Immutable(Vec<std::path::PathBuf>);

impl Immutable {
    /// `None` where the user or the file system cannot do it.
    fn make(files: Vec<std::path::PathBuf>) -> Option<Self> {
        let immutable = Self(files);
        immutable.set("+i").then_some(immutable)
    }

    fn set(&self, flag: &str) -> bool {
        let output = Command::new("chattr").arg(flag).args(&self.0).output();
        output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        self.set("-i");
    }
}

#[test]
fn a_ledger_that_cannot_be_written_is_said_and_found_well_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let key = keys(&path, &["add", "ada", "--credits", "100"]);
    let server = Server::start(&["--keys", path.to_str().unwrap()]);
    let files = vec![path.clone(), path.with_extension("db-wal")];
    let Some(immutable) = Immutable::make(files) else {
        eprintln!("skipped: chattr +i needs root, and a file system that has it");
        return;
    };
    let answer = server.post("/v1/jobs", &quick(), Some(&key));
    assert_eq!(answer.status, 503, "{}", answer.error());
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(server.get("/readyz").0, 503);
    let start = Instant::now();
    assert_eq!(server.post("/v1/jobs", &quick(), Some("wrong")).status, 401);
    let took = start.elapsed();
    assert!(took < Duration::from_millis(50), "{took:?}");
    drop(immutable);
    wait_until("it is well", || server.get("/readyz").0 == 200);
    assert_eq!(server.post("/v1/jobs", &quick(), Some(&key)).status, 202);
}

#[test]
fn a_backup_has_what_the_running_service_wrote_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let key = keys(&path, &["add", "ada", "--credits", "100"]);
    let server = Server::start(&["--keys", path.to_str().unwrap()]);
    done(&server, Some(&key), &quick());
    let copy = folder.path().join("copy.db");
    keys(&path, &["backup", copy.to_str().unwrap()]);
    assert_eq!(
        keys(&copy, &["list", "--json"]),
        keys(&path, &["list", "--json"])
    );
    assert!(keys(&copy, &["list", "--json"]).contains("\"remaining\":99"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let output = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .args(["keys", "backup", copy.to_str().unwrap(), "--keys"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there already"));
}

#[test]
#[cfg(unix)]
fn a_hang_up_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let key = keys(&path, &["add", "ada", "--credits", "100"]);
    let server = Server::start(&["--keys", path.to_str().unwrap()]);
    let body = json!({ "prompt": "a", "num_inference_steps": 10 });
    let job = server.post("/v1/jobs", &body, Some(&key)).json();
    for _ in 0..3 {
        server.signal("HUP");
        std::thread::sleep(Duration::from_millis(50));
    }
    wait_until("it is done", || {
        look(&server, Some(&key), id(&job)).json()["status"] == "done"
    });
    assert!(server.log().contains("SIGHUP"));
    assert!(keys(&path, &["list", "--json"]).contains("\"reserved\":0"));
}

/// As a disk that fails, or an operator's `chattr +i`.
#[test]
#[cfg(target_os = "linux")]
fn a_ledger_that_becomes_read_only_is_said_and_found_well_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let key = keys(&path, &["add", "ada", "--credits", "100"]);
    let server = Server::start(&["--keys", path.to_str().unwrap()]);
    let files = [path.clone(), folder.path().join("keys.db-wal")];
    let chattr = |flag: &str| {
        let run = Command::new("chattr").arg(flag).args(&files).output();
        run.is_ok_and(|output| output.status.success())
    };
    if !chattr("+i") {
        eprintln!("skipped: this user or file system cannot make files immutable");
        return;
    }
    let answer = server.post("/v1/jobs", &quick(), Some(&key));
    let ready = server.get("/readyz").0;
    let start = Instant::now();
    let wrong = server.post("/v1/jobs", &quick(), Some("wrong")).status;
    let took = start.elapsed();
    // Before anything can fail, or the folder could not be removed.
    assert!(chattr("-i"));
    assert_eq!(answer.status, 503, "{}", answer.error());
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!([ready, 401], [503, wrong]);
    assert!(took < Duration::from_millis(50), "{took:?}");
    wait_until("it is well", || server.get("/readyz").0 == 200);
    assert_eq!(server.post("/v1/jobs", &quick(), Some(&key)).status, 202);
}

#[test]
#[cfg(unix)]
fn services_share_a_database_and_survive_its_restart() {
    let Some(mut cluster) = cluster::Cluster::start() else {
        return;
    };
    let ledger = cluster.url("postgres", "");
    let path = Path::new(&ledger);
    let key = keys(path, &["add", "ada", "--credits", "100"]);
    let services = [(); 2].map(|()| Server::start(&["--ledger", &ledger]));
    let remaining = |left: i64| format!("\"remaining\":{left},\"reserved\":0");
    for (service, left) in services.iter().zip([99, 98]) {
        done(service, Some(&key), &quick());
        wait_until("it is paid", || {
            keys(path, &["list", "--json"]).contains(&remaining(left))
        });
    }
    // What was drawn meanwhile is answered, and paid for later.
    let [service, other] = &services;
    let long = json!({ "prompt": "a", "num_inference_steps": 10 });
    let running = service.post("/v1/jobs", &long, Some(&key)).json();
    wait_until("it runs", || {
        look(service, Some(&key), id(&running)).json()["status"] == "running"
    });
    cluster.stop();
    let answer = other.post("/v1/jobs", &quick(), Some(&key));
    assert_eq!(answer.status, 503, "{}", answer.error());
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert!(!answer.error().contains("postgres"), "{}", answer.error());
    for service in &services {
        assert_eq!(service.get("/readyz").0, 503);
        assert_eq!(service.get("/healthz").0, 200);
    }
    // Nobody may look at the job either: its key cannot be recognized.
    wait_until("it ends unpaid", || {
        let log = service.log();
        let mut lines = log.lines();
        lines.any(|line| line.contains(id(&running)) && line.contains("done"))
    });
    assert!(service.log().contains("cannot be reached"));
    let refused = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("CALOTYPE_LEDGER", &ledger)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("postgres://postgres@127.0.0.1"), "{said}");
    cluster.run();
    wait_until("it is paid", || {
        keys(path, &["list", "--json"]).contains(&remaining(97))
    });
    done(other, Some(&key), &quick());
    for service in &services {
        service.wait_ready();
        let log = service.log();
        assert!(!log.contains(cluster::PASSWORD), "{log}");
    }
    let help = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .args(["serve", "--help"])
        .env("CALOTYPE_LEDGER", &ledger)
        .output()
        .unwrap();
    let shown = [said.as_bytes(), &help.stdout].concat();
    assert!(!String::from_utf8_lossy(&shown).contains(cluster::PASSWORD));
}
