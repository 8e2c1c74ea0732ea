//! The service over HTTP: codes and their bodies, credits, cancelling, stopping.

#[path = "common/server.rs"]
mod server;

use serde_json::{Value, json};
use server::{Answer, Server, keys, quick, wait_until};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const API: &str = "/v1/sdxl-torch";

/// Some ten seconds of work, in steps of a tenth each.
fn long() -> Value {
    json!({ "prompt": "a red circle", "num_inference_steps": 100, "seed": 7 })
}

fn serve(more: &[&str]) -> Server {
    Server::start(&[&["--api-min-steps", "1"], more].concat())
}

fn usage(file: &Path) -> Vec<Value> {
    let text = keys(file, &["usage", "--json"]);
    let all: Value = serde_json::from_str(&text).unwrap();
    all["charges"].as_array().unwrap().clone()
}

/// The value of a figure, which is named with its labels.
fn figure(server: &Server, name: &str) -> f64 {
    let text = String::from_utf8(server.get("/metrics").1).unwrap();
    let line = text.lines().find(|l| l.starts_with(&format!("{name} ")));
    line.and_then(|l| l.split(' ').nth(1)?.parse().ok())
        .unwrap_or_else(|| panic!("{name} in {text}"))
}

fn method(server: &Server, method: &str, path: &str) -> Answer {
    let url = format!("{}{path}", server.url);
    let request = ureq::http::Request::builder().method(method).uri(url);
    server.send(request.body(Vec::new()).unwrap())
}

/// Sends a request and goes away without waiting for the answer.
fn abandoned(server: &Server, key: &str, body: &Value) -> TcpStream {
    use std::io::Write;
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    let body = body.to_string();
    write!(
        stream,
        "POST {API} HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

#[test]
fn bad_requests_are_told_what_is_wrong() {
    let server = serve(&["--max-body", "100000"]);
    let post = |body: Value| server.post(API, &body, None);
    for (change, message) in [
        (json!({"prompt": null}), "prompt is null: must be text"),
        (json!({"samples": 0}), "samples is 0: must be from 1 to 4"),
        (
            json!({"seed": -2}),
            "seed is -2: must be from -1 to 999999999999999",
        ),
        (
            json!({"strength": "0.05"}),
            "strength is 0.05: must be from 0.1 to 1",
        ),
        (
            json!({"guidance_scale": 26}),
            "guidance_scale is 26: must be from 1 to 25",
        ),
        (
            json!({"num_inference_steps": 101}),
            "num_inference_steps is 101: must be from 1 to 100",
        ),
        (
            json!({"img_height": 512}),
            "img_height is 512: must be 128, this model's size, or 1024 for it",
        ),
        (
            json!({"high_noise_fraction": 2}),
            "high_noise_fraction is 2: must be from 0 to 1",
        ),
        (
            json!({"refiner": "perhaps"}),
            "refiner is \"perhaps\": must be true or false",
        ),
        (
            json!({"style": "film nuar"}),
            "style is \"film nuar\": no such name; did you mean",
        ),
    ] {
        let mut body = quick();
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let answer = post(body);
        assert_eq!(answer.status, 400, "{change}");
        assert!(answer.error().starts_with(message), "{}", answer.error());
    }
    for (body, message) in [
        ("{", "the body is not JSON"),
        ("[1]", "the body is [1]: send a JSON object"),
        ("{}", "prompt is missing"),
    ] {
        let url = format!("{}{API}", server.url);
        let request = ureq::http::Request::post(url).header("content-type", "application/json");
        let answer = server.send(request.body(body.into()).unwrap());
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.error().starts_with(message), "{}", answer.error());
    }

    let answer = method(&server, "GET", "/v1/nowhere");
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (404, "there is no such path")
    );
    let answer = method(&server, "DELETE", API);
    assert_eq!(answer.status, 405);
    assert_eq!(answer.header("allow"), Some("POST"));
    assert!(answer.error().contains("method"));
    let answer = post(json!({ "prompt": "x".repeat(200_000) }));
    assert_eq!(answer.status, 413);
    assert!(
        answer.error().contains("at most 100000"),
        "{}",
        answer.error()
    );
    // Nothing of it has hurt.
    assert_eq!(post(quick()).status, 200);
}

#[test]
fn what_takes_too_long_fails_and_is_not_paid() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let key = keys(&file, &["add", "me", "--credits", "100"]);
    let server = serve(&["--timeout", "1", "--keys", file.to_str().unwrap()]);
    let answer = server.post(API, &long(), Some(&key));
    assert_eq!(answer.status, 500);
    assert!(
        answer.error().contains("longer than 1 s"),
        "{}",
        answer.error()
    );
    let body = answer.json();
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"));
    // A stream has begun by then: it ends with an event that says so.
    let streamed = json!({ "prompt": "a red circle", "steps": 100, "stream": true });
    let answer = server.post("/v1/images/generations", &streamed, Some(&key));
    let text = String::from_utf8(answer.body).unwrap();
    let end = text.trim_end().rsplit("\n\n").next().unwrap();
    let data = end.strip_prefix("event: error\ndata: ").expect(&text);
    let body: Value = serde_json::from_str(data).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(body["error"]["type"], "server_error", "{text}");
    let credits = server.send(
        ureq::http::Request::get(format!("{}/v1/get-user-credits", server.url))
            .header("authorization", format!("Bearer {key}"))
            .body(Vec::new())
            .unwrap(),
    );
    assert_eq!(credits.json(), json!({ "credits": 100 }));
}

#[test]
fn keys_are_asked_for_and_credits_are_paid() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let key = keys(&file, &["add", "me", "--credits", "5"]);
    let gone = keys(&file, &["add", "gone", "--credits", "5"]);
    keys(&file, &["revoke", "gone"]);
    let server = serve(&["--keys", file.to_str().unwrap()]);
    for wrong in [None, Some("calo_wrong"), Some(gone.as_str())] {
        let answer = server.post(API, &quick(), wrong);
        assert_eq!(answer.status, 401);
        assert!(
            answer.error().starts_with("no valid API key"),
            "{}",
            answer.error()
        );
    }
    let answer = server.post(API, &quick(), Some(&key));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-cost"), Some("1"));
    assert_eq!(answer.header("x-remaining-credits"), Some("4"));

    // 4 samples of 25 steps with the refiner: ceil(4 * 0.04 * 25 * 1.25).
    let mut dear = quick();
    dear["num_inference_steps"] = 25.into();
    dear["samples"] = 4.into();
    let answer = server.post(API, &dear, Some(&key));
    assert_eq!(answer.status, 406);
    assert_eq!(answer.error(), "not enough credits: this costs 5, 4 remain");
    // A bad request costs nothing.
    let mut bad = quick();
    bad["samples"] = 9.into();
    assert_eq!(server.post(API, &bad, Some(&key)).status, 400);
    let states: Vec<Value> = usage(&file).iter().map(|u| u["state"].clone()).collect();
    assert_eq!(states, ["spent"]);
    // No secret in the log.
    assert!(!server.log().contains(&key[5..]));
    assert!(server.log().contains("/v1/sdxl-torch"));
}

#[test]
fn of_two_that_together_cost_too_much_one_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let key = keys(&file, &["add", "me", "--credits", "1"]);
    let server = serve(&["--keys", file.to_str().unwrap()]);
    for _ in 0..3 {
        let mut codes: Vec<u16> = std::thread::scope(|scope| {
            let both =
                [0, 1].map(|_| scope.spawn(|| server.post(API, &quick(), Some(&key)).status));
            both.map(|thread| thread.join().unwrap()).to_vec()
        });
        codes.sort_unstable();
        assert_eq!(codes, [200, 406]);
        keys(&file, &["grant", "me", "--credits", "1"]);
    }
}

#[test]
fn a_client_that_goes_away_stops_its_job_and_pays_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let key = keys(&file, &["add", "me", "--credits", "100"]);
    let server = serve(&["--keys", file.to_str().unwrap()]);
    let running = abandoned(&server, &key, &long());
    wait_until("it is reserved", || usage(&file).len() == 1);
    let waiting = abandoned(&server, &key, &long());
    wait_until("both are reserved", || usage(&file).len() == 2);
    drop(waiting);
    drop(running);
    wait_until("both are refunded", || {
        usage(&file)
            .iter()
            .all(|charge| charge["state"] == "refunded")
    });
    // The device is free: none of the hundred steps is waited for.
    assert_eq!(server.post(API, &quick(), Some(&key)).status, 200);
    assert_eq!(
        figure(&server, "calotype_pictures_total{device=\"0\"}"),
        1.0
    );
}

#[test]
fn a_full_queue_says_when_to_try_again() {
    let server = &serve(&["--queue", "1"]);
    std::thread::scope(|scope| {
        let some = json!({ "prompt": "a red circle", "num_inference_steps": 40 });
        let first = scope.spawn(move || server.post(API, &some, None));
        std::thread::sleep(Duration::from_millis(500));
        let codes: Vec<Answer> = {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| server.post(API, &quick(), None)))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        };
        let (served, refused): (Vec<_>, Vec<_>) = codes.iter().partition(|a| a.status == 200);
        assert!(!served.is_empty() && !refused.is_empty());
        for answer in refused {
            assert_eq!(answer.status, 429);
            assert!(
                answer
                    .header("retry-after")
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
                    >= 1
            );
            assert!(
                answer.error().starts_with("the queue is full"),
                "{}",
                answer.error()
            );
        }
        assert_eq!(first.join().unwrap().status, 200);
    });
}

#[test]
fn a_stop_finishes_what_runs_and_turns_away_what_waits() {
    let mut server = serve(&[]);
    let (running, waiting) = std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            server.post(
                API,
                &json!({"prompt": "a", "num_inference_steps": 40}),
                None,
            )
        });
        std::thread::sleep(Duration::from_millis(500));
        let waiting = scope.spawn(|| server.post(API, &quick(), None));
        wait_until("it waits", || {
            figure(&server, "calotype_queue_length") == 1.0
        });
        server.signal("TERM");
        let waiting = waiting.join().unwrap();
        let late = server.post(API, &quick(), None);
        assert_eq!(late.status, 503);
        assert_eq!(server.get("/readyz").0, 503);
        assert_eq!(server.get("/healthz").0, 200);
        (running.join().unwrap(), waiting)
    });
    assert_eq!(running.status, 200);
    assert_eq!(waiting.status, 503);
    assert!(waiting.header("retry-after").is_some());
    assert!(
        waiting.error().contains("shutting down"),
        "{}",
        waiting.error()
    );
    let status = server.child.wait().unwrap();
    assert!(status.success(), "{status}: {}", server.log());
}

#[test]
fn a_second_signal_does_not_wait_for_what_runs() {
    use std::io::Read;
    let mut server = serve(&[]);
    let mut body = long();
    body["samples"] = 4.into();
    let mut running = abandoned(&server, "", &body);
    std::thread::sleep(Duration::from_millis(500));
    server.signal("TERM");
    wait_until("it stops", || server.get("/readyz").0 == 503);
    server.signal("TERM");
    let start = Instant::now();
    assert!(server.child.wait().unwrap().success());
    // Less than the ten seconds that last answers are given, and far less than the run.
    assert!(start.elapsed() < Duration::from_secs(8));
    let mut answer = String::new();
    // The connection may also be reset.
    let _ = running.read_to_string(&mut answer);
    assert_eq!(answer, "");
}

#[test]
fn jobs_are_followed_and_their_results_kept() {
    let server = serve(&[]);
    let body = json!({
        "prompt": "a red circle", "num_inference_steps": 4, "seed": 7, "samples": 2,
        "format": "png", "previews": true,
    });
    let answer = server.post("/v1/jobs", &body, None);
    assert_eq!(answer.status, 202);
    let job = answer.json();
    let path = job["links"]["self"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), Some(path.as_str()));
    // The stream ends with the job.
    let (status, events) = server.get(job["links"]["events"].as_str().unwrap());
    let events = String::from_utf8(events).unwrap();
    assert_eq!(status, 200);
    for name in ["event: step", "event: preview", "event: done"] {
        assert!(events.contains(name), "{name}: {events}");
    }
    let done: Value = serde_json::from_slice(&server.get(&path).1).unwrap();
    assert_eq!(done["status"], "done");
    assert_eq!(done["step"], done["steps"]);
    let images = done["images"].as_array().unwrap();
    let seeds: Vec<&Value> = images.iter().map(|image| &image["seed"]).collect();
    assert_eq!(seeds, [7, 8]);
    let (status, png) = server.get(images[1]["url"].as_str().unwrap());
    assert_eq!((status, &png[..4]), (200, &b"\x89PNG"[..]));
    // The picture is the one that its seed makes alone, and says so.
    let mut alone = body.clone();
    alone["samples"] = 1.into();
    alone["seed"] = 8.into();
    let job = server.post("/v1/jobs", &alone, None).json();
    server.get(job["links"]["events"].as_str().unwrap());
    let job: Value =
        serde_json::from_slice(&server.get(job["links"]["self"].as_str().unwrap()).1).unwrap();
    let (_, single) = server.get(job["images"][0]["url"].as_str().unwrap());
    assert_eq!(single, png);

    let job = server
        .post(
            "/v1/jobs",
            &json!({"prompt": "a", "num_inference_steps": 100}),
            None,
        )
        .json();
    let path = job["links"]["self"].as_str().unwrap();
    let cancelled = method(&server, "DELETE", path);
    assert_eq!(cancelled.json()["status"], "cancelled");
    assert_eq!(method(&server, "GET", "/v1/jobs/none").status, 404);
    assert_eq!(server.get("/v1/results/..%2Fkeys.db").0, 404);
}

/// Features are reused as far as the operator allows, by jobs; the settings say so.
#[test]
fn reuse_of_features_has_a_limit() {
    let job = |interval: Value| {
        json!({
            "prompt": "a red circle", "num_inference_steps": 3, "seed": 7,
            "cache_interval": interval,
        })
    };
    for (most, over, message) in [
        ("2", 3, "cache_interval is 3: must be from 1 to 2"),
        (
            "1",
            2,
            "cache_interval is 2: must be 1: this service allows no other",
        ),
    ] {
        let server = serve(&["--max-cache-interval", most]);
        let refused = server.post("/v1/jobs", &job(over.into()), None);
        assert_eq!((refused.status, refused.error()), (400, message.into()));
        let refused = server.post("/v1/jobs", &job(0.into()), None);
        assert_eq!(refused.status, 400, "{most}");
        let info: Value = serde_json::from_slice(&server.get("/v1/info").1).unwrap();
        let most: i64 = most.parse().unwrap();
        assert_eq!(info["limits"]["cache_interval"], json!([1, most]));
        let made = server.post("/v1/jobs", &job(most.into()), None).json();
        server.get(made["links"]["events"].as_str().unwrap());
        let done = server.get(made["links"]["self"].as_str().unwrap()).1;
        let done: Value = serde_json::from_slice(&done).unwrap();
        assert_eq!(done["status"], "done");
        let said = &done["settings"]["cache_interval"];
        assert_eq!(*said, if most > 1 { json!(most) } else { Value::Null });
    }
    let refused = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .args(["serve", "--max-cache-interval", "0"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(
        text.contains("max-cache-interval is 0: must be from 1 to 20"),
        "{text}"
    );
}

#[test]
fn another_keys_job_is_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let mine = keys(&file, &["add", "me", "--credits", "9"]);
    let yours = keys(&file, &["add", "you", "--credits", "9"]);
    let server = serve(&["--keys", file.to_str().unwrap()]);
    let job = server.post("/v1/jobs", &quick(), Some(&mine)).json();
    let url = format!("{}{}", server.url, job["links"]["self"].as_str().unwrap());
    let look = |key: &str| {
        let request = ureq::http::Request::get(&url).header("x-api-key", key);
        server.send(request.body(Vec::new()).unwrap()).status
    };
    assert_eq!((look(&mine), look(&yours)), (200, 404));
}

#[test]
fn slow_clients_are_cut_off() {
    use std::io::{Read, Write};
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("calotype.toml");
    std::fs::write(&config, "read-timeout = 1\n").unwrap();
    let server = serve(&["--config", config.to_str().unwrap()]);
    let address = server.url.trim_start_matches("http://");
    let answer = |sent: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.write_all(sent.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    // Headers that never end, and bodies that never come, small and large.
    answer("POST /v1/sdxl-torch HTTP/1.1\r\nhost: x\r\n");
    for length in [10, 1_000_000] {
        let head = format!("POST {API} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        let text = answer(&head);
        assert!(text.starts_with("HTTP/1.1 408"), "{text}");
        assert!(text.contains("did not arrive in time"), "{text}");
    }
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("calotype.toml");
    for (text, args, message) in [
        (
            "",
            vec!["--listen", "0.0.0.0:0"],
            "is open to other machines",
        ),
        (
            "",
            vec!["--queue", "0"],
            "--queue is 0: must be from 1 to 10000",
        ),
        (
            "quue = 1",
            vec![],
            "key is \"quue\": no such name; did you mean queue",
        ),
        ("[price]\nstepp = 1", vec![], "\"price.stepp\""),
        ("queue = \"many\"", vec![], "queue"),
        (
            "queue = ",
            vec![],
            "calotype.toml: TOML parse error at line 1",
        ),
        ("[price]\nstep = -1.0", vec![], "price.step is -1"),
        ("", vec!["--model", "/nowhere"], "/nowhere"),
        ("", vec!["--image-host", "a b"], "image-host"),
    ] {
        std::fs::write(&config, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_calotype"))
            .args(["serve", "--config", config.to_str().unwrap()])
            .args(if args.contains(&"--listen") {
                &[][..]
            } else {
                &["--listen", "127.0.0.1:0"]
            })
            .args(&args)
            .output()
            .unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        let last = errors.lines().last().unwrap_or_default();
        assert!(!output.status.success(), "{text} {args:?}");
        assert!(
            last.starts_with("error: ") && last.contains(message),
            "{errors}"
        );
    }
}

#[test]
fn pages_of_other_sites_are_refused_unless_they_are_named() {
    let server = serve(&["--cors-origin", "https://friend.example"]);
    let from = |origin: &str| {
        let url = format!("{}{API}", server.url);
        let request = ureq::http::Request::post(url).header("origin", origin);
        server.send(request.body(quick().to_string().into_bytes()).unwrap())
    };
    assert_eq!(from("https://evil.example").status, 403);
    let answer = from("https://friend.example");
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://friend.example")
    );
    assert_eq!(from(&server.url).status, 200);
}

#[test]
fn the_page_brings_its_own_everything() {
    let server = serve(&[]);
    let answer = method(&server, "GET", "/");
    assert_eq!(answer.status, 200);
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let page = String::from_utf8(answer.body).unwrap();
    for asset in page.split("\"assets/").skip(1) {
        let name = asset.split('"').next().unwrap();
        assert_eq!(server.get(&format!("/assets/{name}")).0, 200, "{name}");
    }
    assert!(!page.contains("http://") && !page.contains("https://"));
}
