//! `calotype pull` from a hub that cuts connections, refuses, and sends what is wrong.

use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub does, and what it was asked.
#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    /// Bytes after which a file's connections are cut, the next one first.
    cuts: HashMap<String, Vec<usize>>,
    token: Option<String>,
    /// Bytes that are sent in place of a file's.
    wrong: HashMap<String, Vec<u8>>,
    takes_no_ranges: bool,
    /// Answers of this status come first.
    busy: usize,
    /// Paths and ranges.
    asked: Vec<(String, Option<usize>)>,
}

/// A hub with one repository, `someone/tiny-xl`.
struct TestHub {
    url: String,
    state: Arc<Mutex<State>>,
    home: tempfile::TempDir,
}

impl TestHub {
    fn new(files: HashMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            files,
            ..State::default()
        }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = shared.clone();
                std::thread::spawn(move || answer(stream.unwrap(), &state));
            }
        });
        let home = tempfile::tempdir().unwrap();
        Self { url, state, home }
    }

    /// The demonstration model's base, with a large file's name for a hash.
    fn with_demo() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/base");
        let mut files = HashMap::new();
        collect(&root, "", &mut files);
        files.insert("README.md".into(), b"not read".to_vec());
        files.insert("unet/model.onnx".into(), b"nor this".to_vec());
        Self::new(files)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn run(&self, args: &[&str], token: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_calotype"));
        command
            .args(args)
            .current_dir(self.home.path())
            .env("HF_ENDPOINT", &self.url)
            .env("HF_HOME", self.home.path())
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_TOKEN")
            .env("NO_PROXY", "127.0.0.1");
        if let Some(token) = token {
            command.env("HF_TOKEN", token);
        }
        command.output().unwrap()
    }

    fn pull(&self, more: &[&str]) -> Output {
        self.run(&[&["pull", "someone/tiny-xl"], more].concat(), None)
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("hub/models--someone--tiny-xl")
    }

    /// Fails with one line, and leaves nothing under a final name.
    fn refuses(&self, more: &[&str], named: &[&str]) {
        let output = self.pull(more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{said}"
        );
        for part in named {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!self.folder().join("snapshots").exists(), "{said}");
        assert!(!self.folder().join("refs").exists());
        for blob in std::fs::read_dir(self.folder().join("blobs"))
            .into_iter()
            .flatten()
        {
            let name = blob.unwrap().file_name().into_string().unwrap();
            let whole = self.state().files.values().any(|bytes| hash(bytes) == name);
            assert!(whole || name.ends_with(".incomplete"), "{name}");
        }
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn collect(folder: &Path, below: &str, files: &mut HashMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{below}{}", path.file_name().unwrap().to_str().unwrap());
        match path.is_dir() {
            true => collect(&path, &format!("{name}/"), files),
            false => drop(files.insert(name, std::fs::read(&path).unwrap())),
        }
    }
}

/// Answers one request and closes.
fn answer(mut stream: TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let (mut from, mut token) = (None, None);
    for line in lines
        .map(Result::unwrap)
        .take_while(|line| !line.is_empty())
    {
        let (name, value) = line.split_once(": ").unwrap();
        match &name.to_lowercase()[..] {
            "range" => {
                from = value
                    .strip_prefix("bytes=")
                    .and_then(|v| v[..v.len() - 1].parse().ok())
            }
            "authorization" => token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    let mut state = state.lock().unwrap();
    state.asked.push((path.clone(), from));
    let mut send = |status: &str, headers: &str, body: &[u8], cut: Option<usize>| {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&body[..cut.unwrap_or(length).min(length)]);
    };
    if state.token.is_some() && token != state.token {
        return send("401 Unauthorized", "", b"{}", None);
    }
    if state.busy > 0 {
        state.busy -= 1;
        return send("503 Service Unavailable", "", b"", None);
    }
    if path == "/api/models/someone/tiny-xl/revision/main?blobs=true" {
        let file = |(name, bytes): (&String, &Vec<u8>)| {
            json!({ "rfilename": name, "size": bytes.len(),
                "lfs": { "sha256": hash(bytes), "size": bytes.len() } })
        };
        let siblings: Vec<_> = state.files.iter().map(file).collect();
        let listing = json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return send("200 OK", "", listing.as_bytes(), None);
    }
    let name = path.strip_prefix(&format!("/someone/tiny-xl/resolve/{COMMIT}/"));
    let known = name.and_then(|name| Some((name, state.files.get(name)?.clone())));
    let Some((name, mut bytes)) = known else {
        return send("404 Not Found", "", b"", None);
    };
    bytes = state.wrong.get(name).cloned().unwrap_or(bytes);
    let cuts = state.cuts.get_mut(name).filter(|cuts| !cuts.is_empty());
    let cut = cuts.map(|cuts| cuts.remove(0));
    match from.filter(|_| !state.takes_no_ranges) {
        Some(from) => {
            let range = format!(
                "content-range: bytes {from}-{}/{}\r\n",
                bytes.len() - 1,
                bytes.len()
            );
            send("206 Partial Content", &range, &bytes[from..], cut);
        }
        None => send("200 OK", "", &bytes, cut),
    }
}

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

#[test]
fn what_is_cut_off_is_gone_on_with_and_draws() {
    let hub = TestHub::with_demo();
    hub.state()
        .cuts
        .insert(UNET.into(), vec![100_000, 0, 300_000, 1]);
    let output = hub.pull(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let path = String::from_utf8(output.stdout).unwrap();
    let snapshot = hub.folder().join("snapshots").join(COMMIT);
    assert_eq!(Path::new(path.trim()), snapshot);
    let asked = std::mem::take(&mut hub.state().asked);
    let unet = asked.iter().filter(|(path, _)| path.ends_with(UNET));
    let ranges: Vec<_> = unet.map(|(_, from)| *from).collect();
    let places = [
        None,
        Some(100_000),
        Some(100_000),
        Some(400_000),
        Some(400_001),
    ];
    assert_eq!(ranges, places);
    assert!(
        asked
            .iter()
            .all(|(path, _)| !path.contains("README") && !path.contains("onnx"))
    );
    assert!(!snapshot.join("README.md").exists());
    assert_eq!(
        std::fs::read(snapshot.join(UNET)).unwrap(),
        hub.state().files[UNET]
    );

    // All is there: only the list is asked for.
    assert!(hub.pull(&[]).status.success());
    assert_eq!(hub.state().asked.len(), 1);
    let small = [
        "--steps", "1", "--width", "64", "--height", "64", "--out", "x.png",
    ];
    let drawn = hub.run(
        &[&["generate", "x", "--model", "someone/tiny-xl"], &small[..]].concat(),
        None,
    );
    assert!(
        drawn.status.success(),
        "{}",
        String::from_utf8_lossy(&drawn.stderr)
    );
}

#[test]
fn a_download_that_ended_is_gone_on_with_by_the_next() {
    let hub = TestHub::with_demo();
    hub.state()
        .cuts
        .insert(UNET.into(), vec![5000, 0, 0, 0, 0, 0]);
    hub.refuses(&[], &[UNET, "5000 of", "run it again"]);
    hub.state().cuts.clear();
    hub.state().asked.clear();
    // A hub that sends all from the start is no trouble either.
    hub.state().takes_no_ranges = true;
    assert!(hub.pull(&[]).status.success());
    assert!(
        hub.state()
            .asked
            .iter()
            .any(|(path, from)| path.ends_with(UNET) && *from == Some(5000))
    );
}

#[test]
fn other_bytes_than_the_hubs_are_not_kept() {
    let hub = TestHub::with_demo();
    let mut wrong = hub.state().files[UNET].clone();
    wrong[77] ^= 1;
    hub.state().wrong.insert(UNET.into(), wrong);
    hub.refuses(&[], &[UNET, "the hub says"]);
    hub.state().wrong.clear();
    assert!(hub.pull(&[]).status.success());
}

#[test]
fn what_the_hub_refuses_is_said() {
    let hub = TestHub::with_demo();
    hub.refuses(&["--revision", "absent"], &["404", "revision"]);
    hub.refuses(&["--revision", "../x"], &["revision is ../x"]);
    hub.refuses(
        &["--file", "absent.safetensors"],
        &["absent.safetensors", "model_index.json"],
    );
    hub.state().busy = 1;
    hub.refuses(&[], &["503", "try again"]);
    hub.state().token = Some("hf_s3cret".into());
    hub.refuses(&[], &["401", "HF_TOKEN"]);
    let args = ["pull", "someone/tiny-xl", "--file", "model_index.json"];
    let wrong = hub.run(&args, Some("hf_gu3ss"));
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        said.contains("token does not open it") && !said.contains("gu3ss"),
        "{said}"
    );
    let right = hub.run(&args, Some("hf_s3cret"));
    assert!(right.status.success());
    assert!(
        String::from_utf8(right.stdout)
            .unwrap()
            .trim()
            .ends_with("model_index.json")
    );

    let nowhere = hub.run(&["pull", "no-owner"], None);
    assert_eq!(nowhere.status.code(), Some(2));
}

/// As on a full disk: nothing is lost of what came, and it is said what helps.
#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_is_said() {
    let hub = TestHub::with_demo();
    let mut command = Command::new("sh");
    let run = "ulimit -f 200; exec \"$0\" pull someone/tiny-xl";
    command
        .args(["-c", run, env!("CARGO_BIN_EXE_calotype")])
        .env("HF_ENDPOINT", &hub.url)
        .env("HF_HOME", hub.home.path())
        .env("NO_PROXY", "127.0.0.1");
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("cannot be kept") && said.contains("make room"),
        "{said}"
    );
    assert!(!hub.folder().join("snapshots").exists());
    assert!(hub.pull(&[]).status.success());
}

/// A file system without room; where mounting one is not allowed, the test above stands for
/// it.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said() {
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "sh",
            "-c",
            script,
            env!("CARGO_BIN_EXE_calotype"),
        ]);
        command
    };
    let may_mount = "mount -t tmpfs none /mnt";
    if !unshared(may_mount)
        .output()
        .is_ok_and(|tried| tried.status.success())
    {
        eprintln!("skipped: no file system may be mounted here");
        return;
    }
    let hub = TestHub::with_demo();
    let script = "mount -t tmpfs -o size=300k none \"$HF_HOME\" || exit 9
        \"$0\" pull someone/tiny-xl
        code=$?
        find \"$HF_HOME\" -path '*snapshots*'
        exit $code";
    let output = unshared(script)
        .env("HF_ENDPOINT", &hub.url)
        .env("HF_HOME", hub.home.path())
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["cannot be kept", "No space left", "make room"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Nothing under a final name.
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
}
