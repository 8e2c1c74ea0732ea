//! A PostgreSQL server for the tests, of the programs that are installed.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const PASSWORD: &str = "pa55-w0rd";

/// Runs the server until its input ends, which it does however this process ends. Removes
/// its folder then, unless it was told to keep it.
const KEEPER: &str = r#"
trap '' INT
"$1/postgres" -D "$2" >>"$2/log" 2>&1 &
server=$!
read -r order
kill -QUIT $server
wait $server
[ "$order" = keep ] || rm -rf "$3"
"#;

/// A server with data of its own.
pub struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    user: Option<(u32, u32)>,
    pub port: u16,
    keeper: Option<Child>,
}

impl Cluster {
    /// One for all tests. `None` where no server is installed, which is a failure where the
    /// clients of `tools/setup-clients` are required.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// Another one.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            let required = ["CALOTYPE_REQUIRE_CLIENTS", "CALOTYPE_REQUIRE_SERVERS"];
            assert!(
                required.iter().all(|name| std::env::var_os(name).is_none()),
                "PostgreSQL's server is missing; run tools/setup-clients"
            );
            eprintln!("skipped: tools/setup-clients installs the PostgreSQL that this needs");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let user = other_user();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut cluster = Self {
            folder,
            programs,
            user,
            port,
            keeper: None,
        };
        cluster.initialize();
        cluster.run();
        Some(cluster)
    }

    /// Its folder, which it owns.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The URL of a database, with more parameters.
    pub fn url(&self, database: &str, more: &str) -> String {
        let port = self.port;
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{port}/{database}{more}")
    }

    /// Gives a file of the folder to the server.
    pub fn hand_over(&self, path: &Path) {
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }

    fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(self.folder()).env_remove("PGPASSWORD");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    fn initialize(&self) {
        let password = self.folder().join("password");
        fs::write(&password, PASSWORD).unwrap();
        self.hand_over(&password);
        self.hand_over(self.folder());
        let made = self
            .command(self.programs.join("initdb"))
            .args([
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
            ])
            .args(["--locale=C", "--no-sync", "--no-instructions"])
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(self.data())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        self.configure(&format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             fsync = off\nfull_page_writes = off\nshared_buffers = 16MB\n\
             max_connections = 300",
            self.port,
            self.folder().display()
        ));
    }

    /// Adds lines to its configuration, for its next start.
    pub fn configure(&self, lines: &str) {
        let mut options = fs::OpenOptions::new();
        let file = options
            .append(true)
            .open(self.data().join("postgresql.conf"));
        writeln!(file.unwrap(), "{lines}").unwrap();
    }

    /// Starts it, and waits until it answers.
    pub fn run(&mut self) {
        let mut command = self.command("sh");
        command.args(["-c", KEEPER, "sh"]);
        command
            .arg(&self.programs)
            .arg(self.data())
            .arg(self.folder());
        self.keeper = Some(command.stdin(Stdio::piped()).spawn().unwrap());
        let start = Instant::now();
        while !self.is_ready() {
            let log = || fs::read_to_string(self.data().join("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(20), "{}", log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let ready = |log: String| {
            let starts = log.rfind("starting PostgreSQL");
            starts.is_some_and(|at| log[at..].contains("ready to accept connections"))
        };
        fs::read_to_string(self.data().join("log")).is_ok_and(ready)
            && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    /// Stops it at once, as a crash does.
    pub fn stop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(mut orders) = keeper.stdin.take() {
                orders.write_all(b"keep\n").unwrap();
            }
            keeper.wait().unwrap();
            // The new log alone says that it is ready.
            fs::remove_file(self.data().join("log")).unwrap();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The folder of the newest server's programs.
fn programs() -> Option<PathBuf> {
    let version = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.parse::<u32>().ok())
    };
    let debian = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = debian.map(|entry| entry.path()).max_by_key(version);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = newest.map(|path| path.join("bin")).into_iter();
    let mut folders = folders.chain(std::env::split_paths(&path));
    folders.find(|folder| {
        ["initdb", "postgres"]
            .iter()
            .all(|name| folder.join(name).exists())
    })
}

/// Whom it runs as: it refuses root.
fn other_user() -> Option<(u32, u32)> {
    let id = |args: &[&str]| {
        let output = Command::new("id").args(args).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    let of = |name: &str| Some((id(&["-u", name])?, id(&["-g", name])?));
    Some(of("postgres").or_else(|| of("nobody")).unwrap())
}
