//! Many clients at once, and many requests one after another. `CALOTYPE_LOAD` says how
//! many requests (by default few, for CI's sake; 1000 of the first and 5000 of the second
//! are the whole).

#[path = "common/server.rs"]
mod server;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use server::{SMALL_VAE, Server, wait_until};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 50;
const SEEDS: usize = 10;

/// How many requests are asked for.
fn wanted() -> Option<usize> {
    let text = std::env::var("CALOTYPE_LOAD").ok()?;
    Some(text.parse().expect("CALOTYPE_LOAD is a number"))
}

/// Small ones in the short form.
fn request(seed: usize) -> Value {
    let side = if wanted().is_some() { 128 } else { 64 };
    json!({ "prompt": "a red circle", "num_inference_steps": 1, "seed": seed, "base64": false,
            "img_width": side, "img_height": side })
}

/// Resident memory in KiB.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The longest that `/healthz` took until `end`, and how often it was asked.
fn slowest_health(server: &Server, end: &AtomicBool) -> (Duration, usize) {
    let mut slowest = Duration::ZERO;
    let mut asked = 0;
    while !end.load(Ordering::Relaxed) {
        let start = Instant::now();
        assert_eq!(server.get("/healthz").0, 200);
        slowest = slowest.max(start.elapsed());
        asked += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    (slowest, asked)
}

#[test]
#[cfg(target_os = "linux")]
fn fifty_clients_get_their_own_pictures_or_are_told_to_wait() {
    let wanted = wanted();
    let args = [
        "--api-min-steps",
        "1",
        "--api-any-size",
        "--queue",
        "40",
        "--vae",
        SMALL_VAE,
    ];
    // The model's own VAE in the long form.
    let args = if wanted.is_some() {
        &args[..5]
    } else {
        &args[..]
    };
    let server = Server::start(args);
    let post = |seed| server.post("/v1/sdxl-torch", &request(seed), None);
    let single: Vec<Vec<u8>> = (0..SEEDS).map(|seed| post(seed).body).collect();
    let taken = AtomicUsize::new(0);
    let served = AtomicUsize::new(0);
    // Every thread of the service has worked once before memory is measured.
    let round = |requests: usize| {
        taken.store(0, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    loop {
                        let number = taken.fetch_add(1, Ordering::Relaxed);
                        if number >= requests {
                            return;
                        }
                        let seed = number % SEEDS;
                        let answer = post(seed);
                        match answer.status {
                            200 => {
                                assert!(
                                    answer.body == single[seed],
                                    "seed {seed}: another picture"
                                );
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                            429 => {
                                let wait = answer.header("retry-after").unwrap();
                                std::thread::sleep(Duration::from_secs(wait.parse().unwrap()));
                            }
                            other => panic!("{other}: {}", String::from_utf8_lossy(&answer.body)),
                        }
                    }
                });
            }
        });
    };
    let wanted = wanted.unwrap_or(60);
    round(CLIENTS);
    let before = resident(&server);
    let end = AtomicBool::new(false);
    let (slowest, asked) = std::thread::scope(|scope| {
        let health = scope.spawn(|| slowest_health(&server, &end));
        round(wanted);
        end.store(true, Ordering::Relaxed);
        health.join().unwrap()
    });
    let after = resident(&server);
    println!(
        "{wanted} requests, {} served in all; memory {before} -> {after} KiB; \
         slowest of {asked} health answers {slowest:?}",
        served.load(Ordering::Relaxed)
    );
    assert!(served.load(Ordering::Relaxed) > 0);
    assert!(
        after as f64 <= before as f64 * 1.1,
        "{before} -> {after} KiB"
    );
    // A blocked runtime would not answer at all; the figure above is for people.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

/// Asks for request `number` of a round over the doors, over a picture where the door takes
/// one, and reads what was drawn.
#[cfg(target_os = "linux")]
fn ask(server: &Server, picture: &str, number: usize) {
    let size = 64;
    let post = |path, body| {
        let answer = server.post(path, &body, None);
        assert!(answer.status < 300, "{path}: {}", answer.error());
        answer.json()
    };
    match number % 4 {
        0 => {
            let answer = post(
                "/sdapi/v1/img2img",
                json!({ "prompt": "a red circle", "steps": 1, "seed": number, "width": size,
                        "height": size, "init_images": [picture], "mask": picture,
                        "mask_blur": 4, "denoising_strength": 1 }),
            );
            assert!(answer["images"][0].is_string());
        }
        1 => {
            let answer = post(
                "/v1/sdxl-img2img",
                json!({ "prompt": "a red circle", "num_inference_steps": 1, "seed": number,
                        "image": picture, "strength": 1, "base64": true }),
            );
            assert!(answer["image"].is_string(), "{answer}");
        }
        2 => {
            let answer = post(
                "/v1/images/generations",
                json!({ "prompt": "a red circle", "seed": number, "size": "64x64" }),
            );
            assert!(answer["data"][0]["b64_json"].is_string());
        }
        _ => {
            let job = post(
                "/v1/jobs",
                json!({ "prompt": "a red circle", "num_inference_steps": 1, "seed": number,
                        "image": picture, "strength": 1, "previews": true,
                        "img_width": size, "img_height": size }),
            );
            let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
            let mut url = String::new();
            wait_until("the job is done", || {
                let job: Value = serde_json::from_slice(&server.get(&path).1).unwrap();
                url = job["images"][0]["url"].as_str().unwrap_or_default().into();
                job["status"] == "done"
            });
            assert_eq!(server.get(&url).0, 200);
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn memory_stays_as_it_was_after_the_first_requests() {
    let is_long = wanted().is_some();
    let (first, wanted, most) = match wanted() {
        Some(wanted) => (100, wanted, 1.05),
        None => (24, 48, 1.1),
    };
    // The small VAE in the long form: it is the service's memory that is looked at.
    let args = [
        "--api-min-steps",
        "1",
        "--api-any-size",
        "--default-steps",
        "1",
        "--vae",
        SMALL_VAE,
    ];
    let args = if is_long { &args[..] } else { &args[..5] };
    let server = Server::start(args);
    let picture = image::RgbImage::from_fn(64, 64, |x, y| {
        let mixed = (x * 7 + y * 13) ^ (x * y);
        image::Rgb([mixed as u8, (mixed >> 3) as u8, (mixed >> 5) as u8])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    let picture = STANDARD.encode(bytes.into_inner());
    // Two at a time, so that one is decoded while another is drawn.
    let round = |from: usize, to: usize| {
        let next = AtomicUsize::new(from);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        match next.fetch_add(1, Ordering::Relaxed) {
                            number if number < to => ask(&server, &picture, number),
                            _ => return,
                        }
                    }
                });
            }
        });
    };
    let start = Instant::now();
    round(0, first);
    let before = resident(&server);
    // What it came to on the way, for people.
    for part in 0..10 {
        let at = |part: usize| first + (wanted - first) * part / 10;
        round(at(part), at(part + 1));
        let seconds = start.elapsed().as_secs();
        println!(
            "{} requests, {seconds} s: {} KiB",
            at(part + 1),
            resident(&server)
        );
    }
    let after = resident(&server);
    println!("memory after {first} and {wanted} requests: {before} -> {after} KiB");
    assert!(
        after as f64 <= before as f64 * most,
        "{before} -> {after} KiB"
    );
}
