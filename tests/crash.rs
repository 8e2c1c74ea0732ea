//! The books after `kill -9`. `CALOTYPE_KILLS` says how often (by default few, for
//! CI's sake; 100 for the whole).

#[path = "common/server.rs"]
mod server;

use calotype::server::ledger::Place;
use serde_json::json;
use server::{Server, wait_until};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const CREDITS: i64 = 1_000_000;

/// Asks for pictures until `end`, whatever comes back, and counts those that come.
fn ask(url: &str, key: &str, end: &AtomicBool, served: &AtomicUsize) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into();
    let body = json!({ "prompt": "a", "num_inference_steps": 1, "base64": false }).to_string();
    while !end.load(Ordering::Relaxed) {
        let answer = agent
            .post(format!("{url}/v1/sdxl-torch"))
            .header("x-api-key", key)
            .send(&body);
        match answer {
            Ok(answer) if answer.status() == 200 => _ = served.fetch_add(1, Ordering::Relaxed),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn the_books_balance_after_kills_at_any_moment() {
    let kills: usize = std::env::var("CALOTYPE_KILLS")
        .map_or(6, |n| n.parse().expect("CALOTYPE_KILLS is a number"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let names: Vec<String> = (0..4).map(|i| format!("client {i}")).collect();
    let keys: Vec<String> = {
        let ledger = Place::from(&*file).open().unwrap();
        names
            .iter()
            .map(|name| ledger.add(name, CREDITS).unwrap())
            .collect()
    };
    let config = folder.path().join("calotype.toml");
    std::fs::write(&config, "warm-up = false\napi-min-steps = 1\n").unwrap();
    let (mut open, mut spent) = (0, 0);
    for kill in 0..kills {
        // Opening checks the books and refunds; it must never fail.
        let server = Server::start(&[
            "--keys",
            file.to_str().unwrap(),
            "--config",
            config.to_str().unwrap(),
        ]);
        let (end, served) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for key in keys.iter().chain(&keys) {
                scope.spawn(|| ask(&server.url, key, &end, &served));
            }
            // Every other one while pictures come, however slow the machine is.
            if kill % 2 == 1 {
                wait_until("no picture comes", || served.load(Ordering::Relaxed) > 0);
            }
            let millis = 100 + rand::random::<u64>() % 2900;
            std::thread::sleep(Duration::from_millis(millis));
            server.signal("KILL");
            end.store(true, Ordering::Relaxed);
        });
        drop(server);
        let ledger = Place::from(&*file).open().unwrap();
        ledger.check().unwrap();
        let all = ledger.list().unwrap();
        assert_eq!(all.len(), names.len());
        spent = 0;
        for info in &all {
            let b = info.balance;
            assert_eq!(b.granted, CREDITS);
            assert_eq!(b.granted, b.remaining + b.reserved + b.spent);
            open += i64::from(b.reserved > 0);
            spent += b.spent;
        }
        for key in &keys {
            assert!(ledger.authenticate(Some(key)).unwrap().is_some());
        }
    }
    // The last start refunds the last crash.
    drop(Server::start(&["--keys", file.to_str().unwrap()]));
    let ledger = Place::from(&*file).open().unwrap();
    ledger.check().unwrap();
    assert!(
        ledger
            .list()
            .unwrap()
            .iter()
            .all(|info| info.balance.reserved == 0)
    );
    println!("{kills} kills: {open} keys were caught with credits reserved; {spent} credits spent");
    assert!(open > 0 && spent > 0, "the kills caught nothing at work");
}
