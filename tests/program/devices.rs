//! A service that draws on several devices.

use crate::server::{SMALL_VAE, Server};
use serde_json::{Value, json};

const SIZE: [&str; 2] = ["--vae", SMALL_VAE];

fn on(adapters: &[&str]) -> Server {
    let adapters = adapters.iter().flat_map(|adapter| ["--adapter", adapter]);
    let args: Vec<&str> = adapters.chain(SIZE).collect();
    Server::start(&args)
}

fn order(seed: u64, samples: usize, steps: usize) -> Value {
    json!({
        "prompt": "a red circle", "num_inference_steps": steps, "seed": seed,
        "samples": samples, "img_width": 64, "img_height": 64, "refiner": false,
    })
}

/// A job that is done, and the bytes of its pictures.
fn drawn(server: &Server, order: &Value) -> (Value, Vec<Vec<u8>>) {
    let answer = server.post("/v1/jobs", order, None);
    assert_eq!(answer.status, 202, "{}", answer.json());
    ended(server, &answer.json())
}

/// What came of a job, and the bytes of its pictures.
fn ended(server: &Server, job: &Value) -> (Value, Vec<Vec<u8>>) {
    let links = job["links"].clone();
    server.get(links["events"].as_str().unwrap());
    let (_, done) = server.get(links["self"].as_str().unwrap());
    let done: Value = serde_json::from_slice(&done).unwrap();
    assert_eq!(done["status"], "done", "{done}");
    let images = done["images"].as_array().unwrap().iter();
    let bytes = images.map(|image| {
        let (status, bytes) = server.get(image["url"].as_str().unwrap());
        assert_eq!(status, 200);
        bytes
    });
    (done.clone(), bytes.collect())
}

/// A figure of a device.
fn of_device(server: &Server, name: &str, device: usize) -> f64 {
    let text = String::from_utf8(server.get("/metrics").1).unwrap();
    let start = format!("{name}{{device=\"{device}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0.0, |figure| figure.parse().unwrap())
}

/// The pictures of a request are spread over the devices, and are those that one device
/// draws, in their order.
#[test]
fn devices_share_the_pictures_of_a_request() {
    let one = on(&["0"]);
    let two = on(&["0", "0"]);
    let (alone, expected) = drawn(&one, &order(7, 4, 3));
    // The second device may be ready after the first.
    crate::server::wait_until("both are ready", || {
        of_device(&two, "calotype_device_up", 1) == 1.0
    });
    let (done, pictures) = drawn(&two, &order(7, 4, 3));
    assert_eq!(pictures.len(), 4);
    assert!(pictures == expected, "the pictures differ");
    for field in ["settings", "warnings"] {
        assert_eq!(done[field], alone[field]);
    }
    let made = [0, 1].map(|device| of_device(&two, "calotype_pictures_total", device));
    assert_eq!(made.iter().sum::<f64>(), 4.0);
    assert!(made.iter().all(|made| *made > 0.0), "{made:?}");
    let busy = of_device(&two, "calotype_device_busy_seconds_total", 1);
    assert!(busy > 0.0);
    assert_eq!(of_device(&one, "calotype_pictures_total", 0), 4.0);
}

/// Requests of several clients are drawn at the same time.
#[test]
fn devices_draw_different_requests() {
    let server = &on(&["0", "0"]);
    let seeds = [1, 2, 3, 4, 5, 6];
    let all: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let draw = |seed| scope.spawn(move || drawn(server, &order(seed, 1, 2)).1.remove(0));
        let threads: Vec<_> = seeds.into_iter().map(draw).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let again = |seed| drawn(server, &order(seed, 1, 2)).1.remove(0);
    for (seed, bytes) in seeds.into_iter().zip(&all) {
        assert!(again(seed) == *bytes, "{seed}");
    }
}

#[test]
fn adapters_that_are_not_there_are_named() {
    let told = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_calotype"));
        let output = command.args(args).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let serve = ["serve", "--listen", "127.0.0.1:0", "--adapter"];
    let said = told(&[&serve[..], &["0", "--adapter", "99"]].concat());
    assert!(
        said.contains("99") && said.contains("there are: 0 ("),
        "{said}"
    );
    let said = told(&[&serve[..], &["all", "--adapter", "1"]].concat());
    assert!(said.contains("give all alone"), "{said}");
    let said = told(&["tune", "--adapter", "0", "--adapter", "1"]);
    assert!(
        said.contains("only `calotype serve` draws on several"),
        "{said}"
    );
}

/// Requests of one shape that wait are drawn together where that is asked for, and are those
/// that are drawn alone.
#[test]
fn waiting_requests_share_a_batch() {
    let start = |batch| {
        let args = ["--batch", batch, "--vae", SMALL_VAE, "--queue", "16"];
        Server::start(&args)
    };
    let (alone, together) = (start("1"), start("4"));
    let figure = |server: &Server| {
        let text = String::from_utf8(server.get("/metrics").1).unwrap();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("calotype_requests_joined_total "));
        line.unwrap().parse::<usize>().unwrap()
    };
    let orders: Vec<Value> = (0..6)
        .map(|seed| {
            let mut order = order(seed, 1, 2);
            order["prompt"] = json!(format!("a red circle number {seed}"));
            order
        })
        .collect();
    let all = |server: &Server| -> Vec<Vec<u8>> {
        // While the first is drawn, the others come.
        let jobs = [order(9, 1, 20)].into_iter().chain(orders.clone());
        let jobs = jobs.map(|order| server.post("/v1/jobs", &order, None).json());
        let jobs: Vec<Value> = jobs.collect();
        let ended = jobs
            .iter()
            .skip(1)
            .map(|job| ended(server, job).1.remove(0));
        ended.collect()
    };
    let expected = all(&alone);
    assert!(all(&together) == expected, "the pictures differ");
    assert_eq!(figure(&alone), 0);
    assert!(figure(&together) >= 3, "{}", figure(&together));
}
