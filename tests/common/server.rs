//! The service as a process of its own, and the real clients that talk to it.

#![allow(dead_code, reason = "each test file uses a part")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Decodes in no time, for tests that do not look at what is drawn.
pub const SMALL_VAE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/taesd");

/// Runs `calotype keys` on the ledger in `file`, and gives what it prints.
pub fn keys(file: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .arg("keys")
        .args(args)
        .arg("--keys")
        .arg(file)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {text}");
    text.trim().to_owned()
}

/// A job of one step.
pub fn quick() -> serde_json::Value {
    serde_json::json!({ "prompt": "a red circle", "num_inference_steps": 1, "seed": 7 })
}

/// Waits until something holds; `what` says what did not.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running `calotype serve`, killed when dropped.
pub struct Server {
    pub child: Child,
    /// Such as `http://127.0.0.1:40123`.
    pub url: String,
    pub log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts it with `args` on a free port, and waits until it draws.
    pub fn start(args: &[&str]) -> Self {
        let server = Self::spawn(args);
        server.wait_ready();
        server
    }

    /// Starts it with `args` on a free port, and waits until it listens.
    pub fn spawn(args: &[&str]) -> Self {
        Self::launch(
            Command::new(env!("CARGO_BIN_EXE_calotype"))
                .args(["serve", "--listen", "127.0.0.1:0"])
                .args(args),
        )
    }

    /// Starts `command`, which runs the service, and waits until that listens.
    pub fn launch(command: &mut Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut child = command
            .env_remove("CALOTYPE_MODEL")
            // Results of a service that is killed go with this folder.
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{line:?}: {}", std::fs::read_to_string(&log).unwrap()));
        Self {
            child,
            url: url.to_owned(),
            log,
            _folder: folder,
        }
    }

    pub fn wait_ready(&self) {
        let start = Instant::now();
        while self.get("/readyz").0 != 200 {
            assert!(start.elapsed() < Duration::from_secs(120), "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends `signal`, such as `TERM`.
    pub fn signal(&self, signal: &str) {
        assert!(kill(signal, self.child.id()));
    }

    /// Status, headers and body.
    pub fn send(&self, request: ureq::http::Request<Vec<u8>>) -> Answer {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build()
            .into();
        let response = agent.run(request).unwrap();
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(1 << 30).read_to_vec().unwrap();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    pub fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let request = ureq::http::Request::get(format!("{}{path}", self.url));
        let answer = self.send(request.body(Vec::new()).unwrap());
        (answer.status, answer.body)
    }

    /// Posts JSON, with a key if any.
    pub fn post(&self, path: &str, body: &serde_json::Value, key: Option<&str>) -> Answer {
        let mut request = ureq::http::Request::post(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        self.send(request.body(body.to_string().into_bytes()).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer, read to its end.
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The message of `{"error": ...}`.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

/// The folder of `tools/setup-clients`. `None` where it did not run, which is a
/// failure where `CALOTYPE_REQUIRE_CLIENTS` is set, as it is in CI.
pub fn clients() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients");
    if folder.join("python/.wanted").exists() && folder.join("node_modules").exists() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CALOTYPE_REQUIRE_CLIENTS").is_none(),
        "the clients are missing; run tools/setup-clients"
    );
    eprintln!("skipped: tools/setup-clients installs the clients that this needs");
    None
}

/// Sends `signal`, such as `TERM`, by the shell's own `kill`: small systems have no other.
pub fn kill(signal: &str, process: u32) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -\"$0\" \"$1\"", signal, &process.to_string()]);
    shell.status().is_ok_and(|status| status.success())
}

/// Runs a script of `tests/clients` with `args`: Python, or JavaScript by Node.js.
pub fn run_client(script: &str, args: &[&str]) {
    let Some(folder) = clients() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(script);
    let program = match script.ends_with(".py") {
        true => folder.join("python/bin/python"),
        false => PathBuf::from("node"),
    };
    let output = Command::new(program)
        .arg(path)
        .args(args)
        .env("NODE_PATH", folder.join("node_modules"))
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
