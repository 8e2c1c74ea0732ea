//! Many clients at once. `CALOTYPE_LOAD` says how many requests (by default few, for
//! CI's sake; 1000 for the whole).

#[path = "common/server.rs"]
mod server;

use serde_json::{Value, json};
use server::Server;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 50;
const SEEDS: usize = 20;

fn request(seed: usize) -> Value {
    json!({ "prompt": "a red circle", "num_inference_steps": 1, "seed": seed, "base64": false })
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
    let wanted: usize = std::env::var("CALOTYPE_LOAD")
        .map_or(100, |n| n.parse().expect("CALOTYPE_LOAD is a number"));
    let server = Server::start(&["--api-min-steps", "1", "--queue", "40"]);
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
