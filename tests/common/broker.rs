//! A NATS server with JetStream for a test.

#![allow(dead_code, reason = "each test file uses a part")]

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running nats-server, killed when dropped.
pub struct Broker {
    child: Option<Child>,
    port: u16,
    config: PathBuf,
    folder: TempDir,
}

/// Who may connect: `worker` and `front`, each with this password.
pub const PASSWORD: &str = "s3cret";

impl Broker {
    /// Starts it. Who connects needs a password where it has `users`. `None` where no
    /// nats-server is installed, which is a failure where `CALOTYPE_REQUIRE_CLIENTS` or
    /// `CALOTYPE_REQUIRE_SERVERS` is set.
    pub fn start(users: bool) -> Option<Self> {
        let authorization = match users {
            true => format!(
                "authorization {{ users: [ {{ user: front, password: {PASSWORD} }}, \
                 {{ user: worker, password: {PASSWORD} }} ] }}\n"
            ),
            false => String::new(),
        };
        Self::start_with(&authorization)
    }

    /// Starts it with these lines in its configuration.
    pub fn start_with(lines: &str) -> Option<Self> {
        if Command::new("nats-server")
            .arg("--version")
            .output()
            .is_err()
        {
            let required = ["CALOTYPE_REQUIRE_CLIENTS", "CALOTYPE_REQUIRE_SERVERS"];
            assert!(
                required.iter().all(|name| std::env::var_os(name).is_none()),
                "nats-server is missing; run tools/setup-clients"
            );
            eprintln!("skipped: tools/setup-clients installs the nats-server that this needs");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = folder.path().join("nats.conf");
        let store = folder.path().join("store");
        let text =
            format!("listen: \"0.0.0.0:{port}\"\njetstream {{ store_dir: {store:?} }}\n{lines}\n");
        std::fs::write(&config, text).unwrap();
        let mut broker = Self {
            child: None,
            port,
            config,
            folder,
        };
        broker.run();
        Some(broker)
    }

    /// Starts it again with what it kept.
    pub fn run(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new("nats-server")
            .arg("-c")
            .arg(&self.config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nats-server runs: tools/setup-clients installs it");
        self.child = Some(child);
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As a crash ends it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends `signal`, such as `STOP`.
    pub fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("it runs");
        assert!(crate::server::kill(signal, child.id()));
    }

    /// What it kept is lost.
    pub fn wipe(&self) {
        std::fs::remove_dir_all(self.folder.path().join("store")).unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its address, for who needs no password.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its address from elsewhere.
    pub fn url_at(&self, host: &str) -> String {
        format!("nats://{host}:{}", self.port)
    }

    /// Its address for who asks for TLS.
    pub fn tls_url(&self) -> String {
        format!("tls://127.0.0.1:{}", self.port)
    }

    /// Its address for a user.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("nats://{user}:{password}@127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
