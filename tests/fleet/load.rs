//! A fleet under load, and under faults. `CALOTYPE_LOAD` says how many requests, and
//! `CALOTYPE_FAULTS` how many faults (by default few, for CI's sake; 10000 and 100 are the
//! whole).

use crate::adversity::{Clock, Network};
use crate::broker::Broker;
use crate::proxy::{Proxy, free_port};
use crate::server::{Server, keys, wait_until};
use crate::{MODEL, calotype, worker, worker_by};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const CREDITS: i64 = 1_000_000;
const SEEDS: usize = 8;

fn number(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

fn order(seed: usize) -> Value {
    json!({
        "prompt": "a red circle", "num_inference_steps": 1, "seed": seed, "base64": true,
        "img_width": 64, "img_height": 64,
    })
}

fn front(url: &str, books: &str) -> Server {
    front_by(calotype(), 0, url, books)
}

fn front_by(mut command: Command, port: u16, url: &str, books: &str) -> Server {
    command
        .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
        .args(["--broker", url])
        .args(["--ledger", books, "--api-min-steps", "1", "--api-any-size"])
        .args(["--queue", "64", "--queue-per-key", "16", "--lease", "2"])
        .args(["--timeout", "120", "--max-connections-per-address", "1024"])
        .args(MODEL);
    Server::launch(&mut command)
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    codes: Mutex<BTreeMap<u16, usize>>,
    /// The connection ended without an answer.
    cut: AtomicUsize,
    wrong: AtomicUsize,
}

impl Seen {
    fn count(&self, code: u16) {
        *self.codes.lock().unwrap().entry(code).or_default() += 1;
    }
}

/// Asks once; gives up where the service is away.
fn ask(url: &str, key: &str, seed: usize) -> Option<(u16, Value, u64)> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into();
    let request = agent
        .post(format!("{url}/v1/sdxl-torch"))
        .header("x-api-key", key);
    let request = request.header("content-type", "application/json");
    let mut answer = request.send(order(seed).to_string()).ok()?;
    let code = answer.status().as_u16();
    let wait = answer
        .headers()
        .get("retry-after")
        .and_then(|v| v.to_str().ok()?.parse().ok());
    let text = answer.body_mut().read_to_string().ok()?;
    let body = serde_json::from_str(&text).ok()?;
    Some((code, body, wait.unwrap_or(1)))
}

/// The picture in an answer.
fn picture(body: &Value) -> Vec<u8> {
    let text = body["image"]
        .as_str()
        .or_else(|| body["images"][0].as_str());
    STANDARD
        .decode(text.unwrap_or_default())
        .unwrap_or_default()
}

/// A client asks until the requests are used up or it is told to end.
fn client(
    urls: &[Mutex<String>],
    place: usize,
    key: &str,
    left: &AtomicUsize,
    single: &[Vec<u8>],
    seen: &Seen,
) {
    let mut place = place;
    loop {
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        let Ok(taken) = taken else { return };
        let seed = taken % single.len();
        let url = urls[place % urls.len()].lock().unwrap().clone();
        match ask(&url, key, seed) {
            Some((200, body, _)) => {
                seen.count(200);
                if picture(&body) != single[seed] {
                    seen.wrong.fetch_add(1, Ordering::Relaxed);
                }
            }
            Some((code, _, wait)) => {
                seen.count(code);
                std::thread::sleep(Duration::from_secs(wait.min(3)));
            }
            None => {
                seen.cut.fetch_add(1, Ordering::Relaxed);
                place += 1;
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

/// Sums over all keys: granted, remaining, reserved, spent.
fn sums(books: &Path) -> [i64; 4] {
    let all: Value = serde_json::from_str(&keys(books, &["list", "--json"])).unwrap();
    let keys = all["keys"].as_array().unwrap();
    ["granted", "remaining", "reserved", "spent"]
        .map(|field| keys.iter().map(|key| key[field].as_i64().unwrap()).sum())
}

/// Every request is answered, every picture is the one of its seed, and the books show what
/// was answered.
#[test]
fn many_clients_are_served_by_several_workers() {
    let requests = number("CALOTYPE_LOAD").unwrap_or(40);
    let (clients, workers) = match number("CALOTYPE_LOAD") {
        Some(_) => (200, 4),
        None => (20, 2),
    };
    let folder = tempfile::tempdir().unwrap();
    let books = folder.path().join("keys.db");
    let name = |i: usize| format!("client-{i}");
    let credits = CREDITS.to_string();
    let add = |i| keys(&books, &["add", &name(i), "--credits", &credits]);
    let secrets: Vec<String> = (0..clients).map(add).collect();
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let front = front(&broker.url(), books.to_str().unwrap());
    let workers: Vec<Server> = (0..workers).map(|_| worker(&broker.url())).collect();
    front.wait_ready();
    let first = |seed| {
        let (code, body, _) = ask(&front.url, &secrets[0], seed).unwrap();
        assert_eq!(code, 200, "{body}");
        picture(&body)
    };
    let single: Vec<Vec<u8>> = (0..SEEDS).map(first).collect();
    let before = sums(&books);
    let (seen, left) = (Seen::default(), AtomicUsize::new(requests));
    let urls = [Mutex::new(front.url.clone())];
    std::thread::scope(|scope| {
        for (place, key) in secrets.iter().enumerate() {
            let (urls, left, single, seen) = (&urls, &left, &single, &seen);
            scope.spawn(move || client(urls, place, key, left, single, seen));
        }
    });
    let codes = seen.codes.lock().unwrap().clone();
    let cut = seen.cut.load(Ordering::Relaxed);
    println!(
        "{requests} requests of {clients} clients, {} workers: {codes:?}",
        workers.len()
    );
    assert_eq!((seen.wrong.load(Ordering::Relaxed), cut), (0, 0));
    assert!(
        codes.keys().all(|code| [200, 429].contains(code)),
        "{codes:?}"
    );
    let price = before[3] / SEEDS as i64;
    wait_until("nothing is reserved", || sums(&books)[2] == 0);
    let [granted, remaining, _, spent] = sums(&books);
    assert_eq!(granted, remaining + spent);
    assert_eq!(spent - before[3], price * codes[&200] as i64);
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillWorker,
    KillFront,
    KillBroker,
    /// Longer than a lease.
    PauseWorker,
    PauseBroker,
    /// Longer than a lease, between the broker and a worker.
    CutNetwork,
    /// Of a front end and a worker: an hour forth, and two back.
    StepClock,
}

/// The last ones need rights or libfaketime, and are in the long form alone.
const FAULTS: [Fault; 8] = [
    Fault::KillWorker,
    Fault::PauseWorker,
    Fault::KillFront,
    Fault::KillWorker,
    Fault::KillBroker,
    Fault::PauseBroker,
    Fault::CutNetwork,
    Fault::StepClock,
];

/// Nothing is paid twice, nothing that was paid is lost, and nothing stays reserved.
#[test]
fn the_books_balance_whatever_fails() {
    let (faults, kinds) = match number("CALOTYPE_FAULTS") {
        Some(faults) => (faults, FAULTS.len()),
        None => (6, 6),
    };
    let folder = tempfile::tempdir().unwrap();
    let books = folder.path().join("keys.db");
    let credits = CREDITS.to_string();
    let add = |i: usize| keys(&books, &["add", &format!("c{i}"), "--credits", &credits]);
    let secrets: Vec<String> = (0..8).map(add).collect();
    let Some(mut broker) = Broker::start(false) else {
        return;
    };
    let url = broker.url();
    let is_long = kinds == FAULTS.len();
    let clock = is_long.then(|| Clock::new(folder.path())).flatten();
    let network = is_long.then(Network::new).flatten();
    let clocked = || {
        let mut command = calotype();
        clock.iter().for_each(|clock| clock.of(&mut command));
        command
    };
    let make_front = |place| {
        let command = if place == 0 { clocked() } else { calotype() };
        front_by(command, 0, &url, books.to_str().unwrap())
    };
    let mut fronts: Vec<Server> = (0..2).map(make_front).collect();
    let mut workers: Vec<Server> = (0..2).map(|_| worker(&url)).collect();
    let _clocked = clock.as_ref().map(|_| worker_by(clocked(), &url));
    let _far = network.as_ref().map(|network| {
        let url = broker.url_at(&network.address);
        worker_by(network.command(env!("CARGO_BIN_EXE_calotype")), &url)
    });
    let mut done: BTreeMap<String, usize> = BTreeMap::new();
    fronts.iter().for_each(Server::wait_ready);
    let first = |seed| picture(&ask(&fronts[0].url, &secrets[0], seed).unwrap().1);
    let single: Vec<Vec<u8>> = (0..SEEDS).map(first).collect();
    let price = sums(&books)[3] / SEEDS as i64;
    let (seen, left) = (Seen::default(), AtomicUsize::new(usize::MAX));
    let urls: Vec<Mutex<String>> = fronts.iter().map(|f| Mutex::new(f.url.clone())).collect();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (place, key) in secrets.iter().enumerate() {
            let (urls, left, single, seen) = (&urls, &left, &single, &seen);
            scope.spawn(move || client(urls, place, key, left, single, seen));
        }
        for count in 0..faults {
            let fault = FAULTS[count % kinds];
            *done.entry(format!("{fault:?}")).or_default() += 1;
            std::thread::sleep(Duration::from_millis(500 + 37 * (count as u64 % 11)));
            match fault {
                Fault::KillWorker => {
                    let mut old = workers.remove(0);
                    let _ = old.child.kill();
                    let _ = old.child.wait();
                    workers.push(worker(&url));
                }
                Fault::PauseWorker => {
                    workers[0].signal("STOP");
                    std::thread::sleep(Duration::from_secs(4));
                    workers[0].signal("CONT");
                }
                Fault::KillFront => {
                    let place = count % 2;
                    let _ = fronts[place].child.kill();
                    let _ = fronts[place].child.wait();
                    fronts[place] = make_front(place);
                    *urls[place].lock().unwrap() = fronts[place].url.clone();
                }
                Fault::KillBroker => {
                    broker.kill();
                    std::thread::sleep(Duration::from_millis(300));
                    broker.run();
                }
                Fault::PauseBroker => {
                    broker.signal("STOP");
                    std::thread::sleep(Duration::from_secs(3));
                    broker.signal("CONT");
                }
                Fault::CutNetwork => match &network {
                    Some(network) => {
                        network.cut();
                        std::thread::sleep(Duration::from_secs(5));
                        network.mend();
                    }
                    None => println!("no network to cut"),
                },
                Fault::StepClock => match &clock {
                    Some(clock) => {
                        for offset in ["+3600", "-3600", "+0"] {
                            clock.step(offset);
                            std::thread::sleep(Duration::from_secs(2));
                        }
                    }
                    None => println!("no clock to step"),
                },
            }
        }
        left.store(0, Ordering::Relaxed);
        end.store(true, Ordering::Relaxed);
    });
    // What was under way ends: by its result, or by its timeout.
    wait_until("nothing is reserved", || sums(&books)[2] == 0);
    let [granted, remaining, _, spent] = sums(&books);
    let codes = seen.codes.lock().unwrap().clone();
    let (cut, wrong) = (
        seen.cut.load(Ordering::Relaxed),
        seen.wrong.load(Ordering::Relaxed),
    );
    println!("{done:?}: {codes:?}, {cut} connections cut; spent {spent} at {price} a picture");
    assert_eq!(granted, remaining + spent);
    assert_eq!(wrong, 0, "a picture of another seed");
    // What was paid was answered, but for what was cut on its way.
    let answered = price * (codes.get(&200).copied().unwrap_or(0) + SEEDS) as i64;
    assert!(
        spent >= answered,
        "{spent} of {answered}: pictures for nothing"
    );
    assert!(
        spent <= answered + price * cut as i64,
        "{spent}: paid twice"
    );
    // And all is well again.
    let served = || ask(&fronts[0].url, &secrets[0], 0).is_some_and(|(code, ..)| code == 200);
    wait_until("it draws", served);
}

/// Two front ends on one PostgreSQL are restarted one after the other, while clients ask
/// through nginx (tools/service/nginx.conf), or where there is none, each of the other front
/// end where one turns it away: no request fails.
#[test]
fn front_ends_are_restarted_in_turn() {
    let Some(cluster) = crate::cluster::Cluster::start() else {
        return;
    };
    let books = cluster.url("postgres", "?sslmode=disable");
    let books = Path::new(&books);
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let restarts = number("CALOTYPE_FAULTS").map_or(2, |faults| faults / 10);
    let key = keys(books, &["add", "ada", "--credits", "1000000"]);
    let url = broker.url();
    let ports = [free_port(), free_port()];
    let start = |port| {
        let front = front_by(calotype(), port, &url, books.to_str().unwrap());
        front.wait_ready();
        front
    };
    let _workers: Vec<Server> = (0..2).map(|_| worker(&url)).collect();
    let mut fronts = ports.map(start);
    let proxy = Proxy::start(ports);
    let urls = match &proxy {
        Some(proxy) => vec![proxy.url.clone()],
        None => fronts.each_ref().map(|front| front.url.clone()).to_vec(),
    };
    let end = AtomicBool::new(false);
    let (failed, served) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for place in 0..8 {
            let (urls, end, key, failed, served) = (&urls, &end, &key, &failed, &served);
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    let order = urls.iter().cycle().skip(place % urls.len());
                    let mut codes = order
                        .take(urls.len())
                        .map(|url| ask(url, key, place % SEEDS).map(|(code, ..)| code));
                    match codes.find(|code| !matches!(code, None | Some(503))) {
                        Some(Some(200)) => served.fetch_add(1, Ordering::Relaxed),
                        _ => failed.fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
        }
        for count in 0..restarts {
            std::thread::sleep(Duration::from_millis(1500));
            let place = count % 2;
            fronts[place].signal("TERM");
            let status = fronts[place].child.wait().unwrap();
            assert!(status.success(), "{}", fronts[place].log());
            fronts[place] = start(ports[place]);
        }
        end.store(true, Ordering::Relaxed);
    });
    let (served, failed) = (served.into_inner(), failed.into_inner());
    println!("{restarts} restarts: {served} served, {failed} failed");
    assert_eq!(failed, 0);
    assert!(served > 0);
    let all: Value = serde_json::from_str(&keys(books, &["list", "--json"])).unwrap();
    let ada = &all["keys"][0];
    assert_eq!(
        (ada["reserved"].as_i64(), ada["spent"].as_i64()),
        (Some(0), Some(served as i64))
    );
}
