//! What a stranger or a key without credits can do to others: nothing that they notice.
//! `CALOTYPE_LOAD` asks for the long forms.

#[path = "common/server.rs"]
mod server;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use server::{Answer, Server, keys, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Whether the long forms are asked for.
fn long() -> bool {
    std::env::var_os("CALOTYPE_LOAD").is_some()
}

fn address(server: &Server) -> &str {
    server.url.trim_start_matches("http://")
}

/// A PNG of one colour, which is small as a file.
fn png(side: u32) -> Vec<u8> {
    let picture = image::GrayImage::from_pixel(side, side, image::Luma([255]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A PNG that takes about as many bytes as pixels.
fn noise(side: u32) -> Vec<u8> {
    let mut state = 1u64;
    let picture = image::GrayImage::from_fn(side, side, |_, _| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        image::Luma([(state >> 33) as u8])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A figure of a process in `/proc`, in KiB.
#[cfg(target_os = "linux")]
fn memory(server: &Server, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find(|l| l.starts_with(figure)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// CPU-seconds that a process took so far, its threads together.
#[cfg(target_os = "linux")]
fn cpu_seconds(server: &Server) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", server.child.id())).unwrap();
    // Fields 14 and 15, in ticks of 10 ms; the name before may hold anything.
    let fields = text.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|n| n.parse::<u64>().unwrap())
        .sum();
    ticks as f64 / 100.0
}

/// A ledger with keys of so many credits; their secrets.
fn ledger<const N: usize>(path: &Path, credits: [i64; N]) -> [String; N] {
    let mut number = 0;
    credits.map(|credits| {
        number += 1;
        let name = format!("key{number}");
        keys(path, &["add", &name, "--credits", &credits.to_string()])
    })
}

fn credits(server: &Server, key: &str) -> i64 {
    let request = ureq::http::Request::get(format!("{}/v1/get-user-credits", server.url))
        .header("x-api-key", key);
    let answer = server.send(request.body(Vec::new()).unwrap());
    answer.json()["credits"].as_i64().unwrap()
}

/// Sends a request and does not wait for the answer.
fn sent(server: &Server, path: &str, key: &str, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(address(server)).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: here\r\nx-api-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    stream
}

fn cancel(server: &Server, key: &str, id: &str) -> Answer {
    let request = ureq::http::Request::delete(format!("{}/v1/jobs/{id}", server.url))
        .header("x-api-key", key);
    server.send(request.body(Vec::new()).unwrap())
}

/// `img2img` over a picture of 32 megapixels, under the widest blur.
fn heavy(picture: &str) -> Value {
    json!({ "prompt": "a", "steps": 1, "init_images": [picture], "mask": picture,
            "mask_blur": 256, "denoising_strength": 0.5 })
}

#[test]
fn a_key_without_credits_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let [poor, rich, other] = ledger(&path, [0, 1000, 1000]);
    let server = Server::start(&["--keys", path.to_str().unwrap()]);
    let large = STANDARD.encode(png(5792));
    let held: Vec<_> = (0..4)
        .map(|_| sent(&server, "/sdapi/v1/img2img", &poor, &heavy(&large)))
        .collect();
    let start = Instant::now();
    let job = server.post("/v1/jobs", &json!({ "prompt": "a" }), Some(&rich));
    assert_eq!(job.status, 202, "{}", job.error());
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    drop(held);

    // Who cannot pay is told so before anything is decoded; who can is told what is too much.
    let mut body = heavy(&large);
    let answer = server.post("/sdapi/v1/img2img", &body, Some(&poor));
    assert_eq!(answer.status, 406, "{}", answer.error());
    let answer = server.post("/sdapi/v1/img2img", &body, Some(&rich));
    assert_eq!(answer.status, 400);
    assert!(
        answer.error().contains("for a mask of 5792x5792"),
        "{}",
        answer.error()
    );

    // Nor do those who pay keep another's pictures waiting: each has its turn.
    body["mask_blur"] = json!(16);
    let _held: Vec<_> = (0..4)
        .map(|_| sent(&server, "/sdapi/v1/img2img", &rich, &body))
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    let small = json!({ "prompt": "a", "image": STANDARD.encode(png(64)) });
    let job = server.post("/v1/jobs", &small, Some(&other));
    assert_eq!(job.status, 202, "{}", job.error());
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

/// How a job stands.
fn look(server: &Server, key: &str, id: &str) -> Value {
    let request =
        ureq::http::Request::get(format!("{}/v1/jobs/{id}", server.url)).header("x-api-key", key);
    server.send(request.body(Vec::new()).unwrap()).json()
}

/// Attacks as long as `end` is false: four requests, each second dropped for four others.
fn attack(server: &Server, key: &str, body: &Value, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        let held: Vec<_> = (0..4)
            .map(|_| sent(server, "/sdapi/v1/img2img", key, body))
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        drop(held);
    }
}

/// Ends an attack when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_small_job_starts_soon_throughout_an_attack() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let [poor, paying, other] = ledger(&path, [0, 1_000_000, 1_000_000]);
    let server = Server::start(&["--keys", path.to_str().unwrap()]);
    let large = STANDARD.encode(png(5792));
    let refused = heavy(&large);
    let mut drawn = refused.clone();
    drawn["mask_blur"] = json!(16);
    let small = json!({ "prompt": "a", "num_inference_steps": 1, "strength": 1,
                        "image": STANDARD.encode(png(64)) });
    let time = Duration::from_secs(if long() { 120 } else { 5 });
    let end = AtomicBool::new(false);
    let mut waits = Vec::new();
    std::thread::scope(|scope| {
        for (key, body) in [(&poor, &refused), (&paying, &drawn)] {
            let (server, end) = (&server, &end);
            scope.spawn(move || attack(server, key, body, end));
        }
        // Also where an assertion fails.
        let _end = Ends(&end);
        let begin = Instant::now();
        while begin.elapsed() < time {
            let start = Instant::now();
            let job = server.post("/v1/jobs", &small, Some(&other));
            assert_eq!(job.status, 202, "{}", job.error());
            let id = job.json()["id"].as_str().unwrap().to_owned();
            while look(&server, &other, &id)["status"] == "queued" {
                std::thread::sleep(Duration::from_millis(10));
            }
            waits.push(start.elapsed());
            let mut job = Value::Null;
            wait_until("it ends", || {
                job = look(&server, &other, &id);
                job["status"] != "running"
            });
            assert_eq!(job["status"], "done", "{job}");
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    waits.sort_unstable();
    let slowest = waits[waits.len() - 1];
    eprintln!(
        "{} small jobs under attack: started after {:?} in the middle, {slowest:?} at most",
        waits.len(),
        waits[waits.len() / 2]
    );
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[test]
fn a_client_that_goes_away_has_its_credits_back_while_pictures_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let [key] = ledger(&path, [100]);
    let server = Server::start(&["--keys", path.to_str().unwrap()]);
    let mut body = heavy(&STANDARD.encode(png(5792)));
    body["mask_blur"] = json!(16);
    let stream = sent(&server, "/sdapi/v1/img2img", &key, &body);
    wait_until("it is reserved", || credits(&server, &key) < 100);
    let priced = 100 - credits(&server, &key);
    assert!(priced > 1, "67 megapixels are not free: {priced}");
    drop(stream);
    wait_until("it is given back", || credits(&server, &key) == 100);
    // A line in the log for who went away.
    wait_until("its line", || server.log().contains("code=499"));
}

#[test]
fn a_long_prompt_is_priced_and_one_without_end_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let [key] = ledger(&path, [100]);
    let server = Server::start(&["--keys", path.to_str().unwrap()]);
    let text = |bytes: usize| "cat dog, ".repeat(bytes / 9 + 1)[..bytes].to_owned();
    for (route, field) in [
        ("/v1/jobs", "prompt"),
        ("/v1/jobs", "negative_prompt"),
        ("/v1/jobs", "prompt_2"),
        ("/v1/images/generations", "prompt"),
        ("/sdapi/v1/txt2img", "negative_prompt"),
        ("/v1/sdxl-torch", "prompt"),
    ] {
        for bytes in [16_385, 100_000, 40_000_000] {
            if bytes > 100_000 && route != "/v1/jobs" && !long() {
                continue;
            }
            let mut body = json!({ "prompt": "a" });
            body[field] = json!(text(bytes));
            #[cfg(target_os = "linux")]
            let before = cpu_seconds(&server);
            let start = Instant::now();
            let answer = server.post(route, &body, Some(&key));
            assert_eq!(answer.status, 400, "{route} {field}");
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(said.contains("must be at most 16384 bytes"), "{said}");
            let took = start.elapsed();
            assert!(took < Duration::from_secs(2), "{took:?}");
            // Tokenising 100 KB takes 30 CPU-seconds.
            #[cfg(target_os = "linux")]
            {
                let took = cpu_seconds(&server) - before;
                eprintln!("{route} {field}: {bytes} bytes refused in {took:.2} CPU-s");
                assert!(took < 1.0, "{took} CPU-seconds");
            }
        }
    }
    assert_eq!(credits(&server, &key), 100);
    let cost = |prompt: String| {
        let body = json!({ "prompt": prompt, "num_inference_steps": 1 });
        let job = server.post("/v1/jobs", &body, Some(&key));
        assert_eq!(job.status, 202, "{}", job.error());
        let job = job.json();
        cancel(&server, &key, job["id"].as_str().unwrap());
        job["cost"].as_i64().unwrap()
    };
    assert_eq!([cost(text(1000)), cost(text(16_000))], [1, 3]);
}

#[test]
#[cfg(target_os = "linux")]
fn jobs_that_ended_hold_nothing_of_what_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let [key] = ledger(&path, [10_000]);
    let server = Server::start(&["--keys", path.to_str().unwrap(), "--max-pixels", "1048576"]);
    // What drawing takes is taken once.
    let mut large = json!({ "prompt": "a", "num_inference_steps": 1, "img_width": 512,
                            "img_height": 512 });
    let drawn = server.post("/v1/jobs", &large, Some(&key)).json();
    wait_until("it is drawn", || {
        look(&server, &key, drawn["id"].as_str().unwrap())["status"] == "done"
    });
    // The device is busy, so that those that come wait.
    large["num_inference_steps"] = json!(150);
    let busy = server.post("/v1/jobs", &large, Some(&key)).json();
    // As it is drawn it takes 3 MiB more.
    let body = json!({ "prompt": "a", "image": STANDARD.encode(noise(1024)),
                       "img_width": 1024, "img_height": 1024 });
    let round = || {
        let job = server.post("/v1/jobs", &body, Some(&key));
        assert_eq!(job.status, 202, "{}", job.error());
        let id = job.json()["id"].as_str().unwrap().to_owned();
        let answer = cancel(&server, &key, &id);
        assert_eq!(answer.json()["status"], "cancelled");
        id
    };
    // The allocator's own pools are filled once.
    wait_until("the device is busy", || {
        look(&server, &key, busy["id"].as_str().unwrap())["step"].as_u64() > Some(0)
    });
    for _ in 0..24 {
        round();
    }
    let before = memory(&server, "VmRSS");
    let ids: Vec<String> = (0..if long() { 1000 } else { 40 })
        .map(|_| round())
        .collect();
    let more = memory(&server, "VmRSS").saturating_sub(before) >> 10;
    eprintln!("{} cancelled jobs of 1 MB: {more} MiB more", ids.len());
    assert!(more < 20, "{more} MiB");
    // The last are known yet.
    let last = look(&server, &key, ids.last().unwrap());
    assert_eq!(last["status"], "cancelled", "{last}");
    cancel(&server, &key, busy["id"].as_str().unwrap());
}

/// Runs the service with at most `files` open files.
#[cfg(target_os = "linux")]
fn limited(files: u32, args: &[&str]) -> Server {
    let limit = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
    Server::launch(
        std::process::Command::new("sh")
            .args(["-c", &limit, env!("CARGO_BIN_EXE_calotype")])
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(args),
    )
}

#[test]
#[cfg(target_os = "linux")]
fn silent_connections_shut_nobody_out() {
    let (files, silent) = if long() { (1024, 2000) } else { (256, 400) };
    let server = limited(files, &[]);
    let mut slowest = Duration::ZERO;
    let mut ask = || {
        let start = Instant::now();
        assert_eq!(server.get("/healthz").0, 200);
        slowest = slowest.max(start.elapsed());
    };
    let mut held = Vec::new();
    for number in 0..silent {
        let mut stream = TcpStream::connect(address(&server)).unwrap();
        // Some say the beginning of something.
        let start: &[u8] = match number % 4 {
            0 => b"",
            1 => b"P",
            2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _ => b"GET / HTTP/1.1\r\nhost: h",
        };
        let _ = stream.write_all(start);
        held.push(stream);
        if number % 50 == 0 {
            ask();
        }
    }
    // As long as any of them is waited for.
    let begin = Instant::now();
    let time = Duration::from_secs(if long() { 40 } else { 0 });
    for number in 0.. {
        ask();
        if number >= 20 && begin.elapsed() >= time {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("{silent} silent connections at {files} files: healthz in {slowest:?} at most");
    assert!(slowest < Duration::from_millis(100), "{slowest:?}");
}

/// How long it takes until the service closes a connection that sent `start`.
#[cfg(target_os = "linux")]
fn closed_after(server: &Server, start: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(address(server)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(start).unwrap();
    let begin = Instant::now();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    begin.elapsed()
}

#[test]
#[cfg(target_os = "linux")]
fn connections_that_ask_for_nothing_are_closed() {
    let server = Server::spawn(&["--read-timeout", "2"]);
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    std::thread::scope(|scope| {
        for start in [
            &b""[..],
            b"G",
            b"PRI * HTTP/2.0\r\n",
            settings,
            b"GET / HTTP/1.1\r\nhost: h",
            b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n",
        ] {
            let server = &server;
            scope.spawn(move || {
                let after = closed_after(server, start);
                let said = String::from_utf8_lossy(start);
                assert!(after < Duration::from_secs(5), "{said:?}: {after:?}");
                assert!(after > Duration::from_secs(1), "{said:?}: {after:?}");
            });
        }
    });
}

/// Frames that each have an answer keep a connection as little as silence does.
#[test]
fn floods_of_frames_end_with_their_connection() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0 floods ";
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    let server = Server::spawn(&["--read-timeout", "2"]);
    std::thread::scope(|scope| {
        for frame in [PING, SETTINGS] {
            let server = &server;
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address(server)).unwrap();
                let mut answers = stream.try_clone().unwrap();
                std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
                stream.write_all(PREFACE).unwrap();
                let (begin, some) = (Instant::now(), frame.repeat(1000));
                while stream.write_all(&some).is_ok() {
                    assert!(begin.elapsed() < Duration::from_secs(10), "{frame:?}");
                }
                assert!(begin.elapsed() > Duration::from_secs(1), "{frame:?}");
            });
        }
    });
}

/// Bytes of bodies in memory, as the service counts them.
#[cfg(target_os = "linux")]
fn in_bodies(server: &Server) -> usize {
    let text = String::from_utf8(server.get("/metrics").1).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("calotype_bodies_bytes "));
    line.unwrap().parse().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn held_uploads_stay_within_their_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let [poor, first, second] = ledger(&path, [0, 10, 10]);
    // The default of --max-bodies, or less.
    let (count, budget, patience) = match long() {
        true => (64, 512 << 20, "10"),
        false => (12, 64 << 20, "2"),
    };
    let server = Server::start(&[
        "--keys",
        path.to_str().unwrap(),
        "--max-bodies",
        &budget.to_string(),
        "--read-timeout",
        patience,
    ]);
    let before = memory(&server, "VmHWM");
    let piece = vec![b' '; 1 << 20];
    let length = 47_000_000;
    let upload = |key: &str, chunked: bool| {
        let mut stream = TcpStream::connect(address(&server)).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let how = match chunked {
            true => "transfer-encoding: chunked".to_owned(),
            false => format!("content-length: {length}"),
        };
        let head =
            format!("POST /v1/jobs HTTP/1.1\r\nhost: h\r\nx-api-key: {key}\r\n{how}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..44 {
            let sent = match chunked {
                true => write!(stream, "{:x}\r\n", piece.len())
                    .and_then(|()| stream.write_all(&piece))
                    .and_then(|()| stream.write_all(b"\r\n")),
                false => stream.write_all(&piece),
            };
            if sent.is_err() {
                break;
            }
        }
        stream
    };
    let mut most = 0;
    let held: Vec<TcpStream> = std::thread::scope(|scope| {
        let upload = &upload;
        let uploads = (0..count).map(|n| {
            let key = [&poor, &first, &second][n % 3];
            scope.spawn(move || upload(key, n % 2 == 1))
        });
        let uploads: Vec<_> = uploads.collect();
        while uploads.iter().any(|upload| !upload.is_finished()) {
            most = most.max(in_bodies(&server));
            std::thread::sleep(Duration::from_millis(20));
        }
        most = most.max(in_bodies(&server));
        uploads.into_iter().map(|u| u.join().unwrap()).collect()
    });
    let more = memory(&server, "VmHWM").saturating_sub(before) >> 10;
    eprintln!(
        "{count} held uploads of 47 MB: {} MiB of bodies, {more} MiB more, of {} MiB",
        most >> 20,
        budget >> 20
    );
    assert!(most > budget / 2 && most <= budget, "{most}");
    // What connections read ahead comes on top.
    let most = (budget as u64 >> 20) + 32;
    assert!(more < most, "{more} of {most} MiB");
    // They are cut off, although a little comes now and then.
    wait_until("uploads end", || {
        for mut stream in &held {
            let _ = stream.write_all(b" ");
        }
        in_bodies(&server) == 0
    });
    // Before a body, who cannot pay is told so.
    let mut stream = TcpStream::connect(address(&server)).unwrap();
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: h\r\nx-api-key: {poor}\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 406");
}
