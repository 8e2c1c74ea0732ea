//! What becomes of tasks.

use crate::broker::{Broker, PASSWORD};
use crate::server::{Server, keys, wait_until};
use crate::{MODEL, as_worker, calotype, worker};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

pub fn front(url: &str, more: &[&str]) -> Server {
    let args = [
        &["--broker", url, "--api-min-steps", "1", "--lease", "2"],
        &MODEL[..],
        more,
    ];
    Server::spawn(&args.concat())
}

pub fn order(seed: u64, samples: usize, steps: usize) -> Value {
    json!({
        "prompt": "a red circle", "num_inference_steps": steps, "seed": seed,
        "samples": samples, "img_width": 64, "img_height": 64, "refiner": false,
    })
}

/// The bytes of a job's pictures; the job goes with its warnings and settings.
pub fn drawn(server: &Server, order: &Value, key: Option<&str>) -> (Value, Vec<Vec<u8>>) {
    let answer = server.post("/v1/jobs", order, key);
    assert_eq!(answer.status, 202, "{}", answer.json());
    ended(server, &answer.json(), key)
}

fn ended(server: &Server, job: &Value, key: Option<&str>) -> (Value, Vec<Vec<u8>>) {
    let get = |path: &Value| {
        let request = ureq::http::Request::get(format!("{}{}", server.url, path.as_str().unwrap()));
        let request = request.header("x-api-key", key.unwrap_or_default());
        server.send(request.body(Vec::new()).unwrap())
    };
    get(&job["links"]["events"]);
    let done = get(&job["links"]["self"]).json();
    assert_eq!(done["status"], "done", "{done}\n{}", server.log());
    let images = done["images"].as_array().unwrap().iter();
    let bytes = images.map(|image| {
        let answer = get(&image["url"]);
        assert_eq!(answer.status, 200);
        answer.body
    });
    (done.clone(), bytes.collect())
}

pub fn figure(server: &Server, name: &str) -> f64 {
    let text = String::from_utf8(server.get("/metrics").1).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |rest| rest.trim().parse().unwrap())
}

/// A front end on `broker` with so many workers, all there.
fn fleet(broker: &Broker, workers: usize, more: &[&str]) -> (Server, Vec<Server>) {
    let front = front(&broker.url(), more);
    let workers: Vec<Server> = (0..workers).map(|_| worker(&broker.url())).collect();
    wait_for(&front, workers.len());
    (front, workers)
}

fn wait_for(front: &Server, workers: usize) {
    wait_until("the workers are there", || {
        figure(front, "calotype_workers ") == workers as f64
    });
}

fn usage(file: &Path) -> Vec<Value> {
    let all: Value = serde_json::from_str(&keys(file, &["usage", "--json"])).unwrap();
    all["charges"].as_array().unwrap().clone()
}

fn states(file: &Path) -> Vec<String> {
    let states = usage(file).into_iter();
    states
        .map(|charge| charge["state"].as_str().unwrap().to_owned())
        .collect()
}

/// The pictures are those that a service alone draws, wherever they are drawn, also where
/// they start from a picture; progress comes through, and a worker tells how it is.
#[test]
fn workers_draw_what_a_service_alone_draws() {
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let (front, workers) = fleet(&broker, 2, &[]);
    let alone = Server::start(&[&["--api-min-steps", "1"], &MODEL[..]].concat());
    let (expected, pictures) = drawn(&alone, &order(7, 4, 3), None);
    let (done, same) = drawn(&front, &order(7, 4, 3), None);
    assert!(same == pictures, "the pictures differ");
    for field in ["settings", "warnings", "step", "steps", "cost"] {
        assert_eq!(done[field], expected[field], "{field}");
    }
    let made = |worker: &Server| figure(worker, "calotype_pictures_total{device=\"0\"} ");
    assert_eq!(workers.iter().map(made).sum::<f64>(), 4.0);
    assert!(workers.iter().all(|worker| made(worker) > 0.0));

    let mut over = order(3, 2, 2);
    over["image"] = json!(base64_of(&pictures[0]));
    over["mask"] = json!(base64_of(&pictures[1]));
    over["mask_blur"] = json!(2);
    over["keep_unmasked"] = json!(true);
    over["strength"] = json!(0.7);
    for padding in [None, Some(8)] {
        over["padding_mask_crop"] = json!(padding);
        let [there, here] = [&front, &alone].map(|server| drawn(server, &over, None));
        assert!(there.1 == here.1, "{padding:?}");
        assert_eq!(there.0["settings"]["strength"], 0.7);
        assert_eq!(there.0["settings"], here.0["settings"]);
    }

    // A request that the model cannot draw is told so as it is there.
    let wrong = json!({ "prompt": "a", "num_inference_steps": 1, "scheduler": "LCM",
        "scheduler_options": { "timesteps": [5, 9] } });
    let refused = [&alone, &front].map(|server| server.post("/v1/jobs", &wrong, None).json());
    assert_eq!(refused[0]["error"], refused[1]["error"]);
    assert_eq!(workers[0].get("/readyz").0, 200);
    assert_eq!(
        workers[0].post("/v1/jobs", &order(1, 1, 1), None).status,
        404
    );
}

/// Each request is drawn with the model that it names, whatever the order of the worker's.
#[test]
fn a_worker_with_several_models_draws_with_each() {
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small.gguf");
    let mut command = calotype();
    let command = command
        .args(["convert", "demo", "--weights", "q8"])
        .stdout(Stdio::null());
    assert!(command.arg(&small).status().unwrap().success());
    let none = ["--refiner", "none"];
    let demo = ["--model", "demo"];
    let small = ["--model", small.to_str().unwrap()];
    let front = front(&broker.url(), &[demo, small, none].concat());
    let alone =
        Server::start(&[&demo[..], &small, &none, &MODEL, &["--api-min-steps", "1"]].concat());
    let with = |more: &[[&str; 2]]| {
        Server::launch(&mut as_worker(calotype(), &broker.url(), &more.concat()))
    };
    let _part = with(&[small, none]);
    wait_for(&front, 1);
    let answer = front.post("/v1/jobs", &order(1, 1, 1), None);
    assert_eq!(answer.status, 503);
    let said = answer.error();
    assert!(said.contains("no worker has this model"), "{said}");
    // The refiner makes another model of the first, which is not the front end's.
    let _other = with(&[demo, small]);
    let _worker = with(&[small, demo, none]);
    wait_until("the front end says so", || {
        front.log().contains("draws a part")
    });
    wait_for(&front, 3);
    let mut pictures = Vec::new();
    for (seed, model) in [(1, "demo"), (1, "small"), (2, "demo"), (2, "small")] {
        let mut order = order(seed, 1, 1);
        order["model"] = json!(model);
        let [there, here] = [&front, &alone].map(|server| drawn(server, &order, None));
        assert!(there.1 == here.1, "{model}, {seed}");
        assert_eq!(there.0["settings"], here.0["settings"]);
        assert_eq!(there.0["settings"]["model"], model);
        pictures.push(there.1);
    }
    assert!(pictures[0] != pictures[1], "the models are one");
}

/// A worker that dies is not paid, the next one is; one that was only paused comes too late.
#[test]
fn a_task_is_paid_once_whatever_becomes_of_its_worker() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let key = keys(&file, &["add", "ada", "--credits", "100"]);
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let args = ["--keys", file.to_str().unwrap()];
    let (front, mut workers) = fleet(&broker, 1, &args);
    let begun = |seed| {
        let answer = front.post("/v1/jobs", &order(seed, 1, 40), Some(&key));
        assert_eq!(answer.status, 202, "{}", answer.json());
        let job = answer.json();
        wait_until("it is drawn", || {
            let path = job["links"]["self"].as_str().unwrap();
            let request = ureq::http::Request::get(format!("{}{path}", front.url));
            let request = request.header("x-api-key", &key).body(Vec::new()).unwrap();
            front.send(request).json()["step"].as_u64().unwrap_or(0) > 2
        });
        job
    };
    let job = begun(1);
    workers.remove(0).signal("KILL");
    workers.push(worker(&broker.url()));
    ended(&front, &job, Some(&key));
    assert_eq!(states(&file), ["spent"]);

    // Longer than its lease.
    let job = begun(2);
    workers[0].signal("STOP");
    workers.push(worker(&broker.url()));
    ended(&front, &job, Some(&key));
    workers[0].signal("CONT");
    assert_eq!(states(&file), ["spent", "spent"]);
    // The first worker leaves it, and goes on with others.
    wait_for(&front, 2);
    let (_, four) = drawn(&front, &order(3, 4, 1), Some(&key));
    assert_eq!(four.len(), 4);
    assert_eq!(states(&file), ["spent", "spent", "spent"]);
}

/// What its owner stops is stopped on the worker, and refunded.
#[test]
fn a_job_is_cancelled_wherever_it_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let key = keys(&file, &["add", "ada", "--credits", "100"]);
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let args = ["--keys", file.to_str().unwrap()];
    let (front, workers) = fleet(&broker, 1, &args);
    let long = order(1, 1, 100);
    let answer = front.post("/v1/jobs", &long, Some(&key)).json();
    let path = answer["links"]["self"].as_str().unwrap().to_owned();
    let ask = |method: &str| {
        let request = ureq::http::Request::builder().method(method);
        let request = request
            .uri(format!("{}{path}", front.url))
            .header("x-api-key", &key);
        front.send(request.body(Vec::new()).unwrap())
    };
    wait_until("it is drawn", || {
        ask("GET").json()["step"].as_u64().unwrap_or(0) > 2
    });
    ask("DELETE");
    wait_until("it is refunded", || states(&file) == ["refunded"]);
    // The worker is free at once.
    drawn(&front, &order(2, 1, 1), Some(&key));
    assert_eq!(
        figure(&workers[0], "calotype_pictures_total{device=\"0\"} "),
        1.0
    );
}

/// The broker's crash loses nothing, nor does the loss of all that it kept.
#[test]
fn work_goes_on_when_the_broker_is_back() {
    let Some(mut broker) = Broker::start(false) else {
        return;
    };
    let (front, _workers) = fleet(&broker, 1, &[]);
    let job = front.post("/v1/jobs", &order(1, 1, 30), None).json();
    std::thread::sleep(Duration::from_millis(500));
    broker.kill();
    std::thread::sleep(Duration::from_millis(500));
    broker.run();
    ended(&front, &job, None);
    drawn(&front, &order(2, 1, 1), None);
    let job = front.post("/v1/jobs", &order(3, 1, 30), None).json();
    std::thread::sleep(Duration::from_millis(300));
    broker.kill();
    broker.wipe();
    broker.run();
    ended(&front, &job, None);
    drawn(&front, &order(4, 1, 1), None);
}

#[test]
fn strangers_are_refused_on_both_sides() {
    let Some(broker) = Broker::start(true) else {
        return;
    };
    let front = front(&broker.url_of("front", PASSWORD), &[]);
    let refused = |url: &str, more: &[&str]| {
        let output = calotype()
            .args(["worker", "--listen", "127.0.0.1:0", "--broker", url])
            .args(more)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for url in [broker.url(), broker.url_of("worker", "gu3ss")] {
        let said = refused(&url, &MODEL);
        assert!(said.contains("authorization violation"), "{said}");
        assert!(
            said.contains("--broker-credentials") && !said.contains("gu3ss"),
            "{said}"
        );
    }
    assert!(
        broker.log().contains("authentication error"),
        "{}",
        broker.log()
    );
    // Another VAE draws other pictures.
    let url = broker.url_of("worker", PASSWORD);
    let said = refused(&url, &["--warm-up", "false"]);
    assert!(said.contains("the front end refuses this worker"), "{said}");
    assert!(said.contains("its model demo is another"), "{said}");
    wait_until("the front end says so", || {
        front.log().contains("its model demo is another")
    });
    assert!(!front.log().contains(PASSWORD) && !said.contains(PASSWORD));
    assert_eq!(front.get("/readyz").0, 503);
    let answer = front.post("/v1/jobs", &order(1, 1, 1), None);
    assert_eq!(answer.status, 503);
    assert!(
        answer.error().contains("no worker is there"),
        "{}",
        answer.error()
    );
}

/// Does something with a connection to the broker.
fn with<T>(broker: &Broker, work: impl AsyncFnOnce(async_nats::Client) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { work(async_nats::connect(broker.url()).await.unwrap()).await })
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn bytes_of(value: &Value) -> bytes::Bytes {
    value.to_string().into_bytes().into()
}

/// What a worker's card says, and where the cards are.
async fn card(client: &async_nats::Client) -> (Value, async_nats::jetstream::kv::Store) {
    let jetstream = async_nats::jetstream::new(client.clone());
    let cards = jetstream.get_key_value("calotype-workers").await.unwrap();
    let name = cards.keys().await.unwrap().next().await.unwrap().unwrap();
    let card = json_of(&cards.get(name).await.unwrap().unwrap());
    (card, cards)
}

/// What brings tasks for the model of a card.
async fn tasks(
    client: &async_nats::Client,
    card: &Value,
) -> async_nats::jetstream::consumer::pull::Stream {
    let stream = async_nats::jetstream::new(client.clone());
    let stream = stream.get_stream("CALOTYPE_WORK").await.unwrap();
    let print = card["models"][0][1].as_str().unwrap();
    let version = env!("CARGO_PKG_VERSION").replace('.', "_");
    let consumer = stream
        .get_consumer(&format!("work-{version}-{print}"))
        .await;
    let consumer: async_nats::jetstream::consumer::PullConsumer = consumer.unwrap();
    consumer.messages().await.unwrap()
}

/// What `calotype jobs` says.
fn jobs(broker: &Broker, args: &[&str]) -> (bool, String, String) {
    let mut command = calotype();
    command
        .arg("jobs")
        .args(args)
        .args(["--broker", &broker.url()]);
    let output = command.output().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
    (output.status.success(), out, error)
}

/// The tasks that `calotype jobs list` or `dead` shows.
fn listed(broker: &Broker, which: &str) -> Value {
    json_of(jobs(broker, &[which, "--json"]).1.as_bytes())["tasks"].clone()
}

/// A worker of another version is refused, and hears why.
#[test]
fn workers_of_other_versions_are_refused() {
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let (front, workers) = fleet(&broker, 1, &[]);
    with(&broker, async |client| {
        let (mut card, cards) = card(&client).await;
        card["version"] = json!("0.0.9");
        card["worker"] = json!("old");
        let asked = client
            .request("calotype.join", bytes_of(&card))
            .await
            .unwrap();
        let said = json_of(&asked.payload)["no"].as_str().unwrap().to_owned();
        assert!(said.contains("it is calotype 0.0.9"), "{said}");
        // Nor does its card alone count.
        cards.put("old", bytes_of(&card)).await.unwrap();
    });
    assert!(
        front
            .log()
            .contains("worker old is refused: it is calotype 0.0.9")
    );
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(figure(&front, "calotype_workers "), 1.0);
    drop((front, workers));
    // The other side, with a front end that wants another one.
    let said = with(&broker, async |client| {
        let mut asked = client.subscribe("calotype.join").await.unwrap();
        let answering = tokio::spawn(async move {
            while let Some(message) = asked.next().await {
                let no = bytes_of(&json!({ "no": "it is too old" }));
                client.publish(message.reply.unwrap(), no).await.unwrap();
            }
        });
        let url = broker.url();
        let worker = tokio::task::spawn_blocking(move || {
            let mut command = calotype();
            let args = ["worker", "--listen", "127.0.0.1:0", "--broker", &url];
            command.args(args).args(MODEL).output().unwrap()
        });
        let output = worker.await.unwrap();
        answering.abort();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    });
    assert!(
        said.contains("the front end refuses this worker: it is too old"),
        "{said}"
    );
}

/// What a worker sends is looked at before it is paid for: another one draws it.
#[test]
fn what_is_no_picture_is_drawn_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let key = keys(&file, &["add", "ada", "--credits", "100"]);
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let (front, workers) = fleet(&broker, 1, &["--keys", file.to_str().unwrap()]);
    let (_, expected) = drawn(&front, &order(7, 1, 1), Some(&key));
    let honest = std::cell::RefCell::new(workers);
    let job = with(&broker, async |client| {
        let jetstream = async_nats::jetstream::new(client.clone());
        let (mut card, cards) = card(&client).await;
        card["worker"] = json!("liar");
        cards.put("liar", bytes_of(&card)).await.unwrap();
        honest.borrow_mut().clear();
        let answer = front.post("/v1/jobs", &order(7, 1, 1), Some(&key));
        assert_eq!(answer.status, 202, "{}", answer.json());
        let mut tasks = tasks(&client, &card).await;
        let task = json_of(&tasks.next().await.unwrap().unwrap().payload);
        let (name, front) = (
            task["task"].as_str().unwrap(),
            task["front"].as_str().unwrap(),
        );
        let sign = json!({ "task": name, "fence": 1, "worker": "liar", "steps": null });
        let word = client
            .request(format!("calotype.front.{front}"), bytes_of(&sign))
            .await;
        assert_eq!(json_of(&word.unwrap().payload)["go"], "on");
        let objects = jetstream
            .get_object_store("calotype-pictures")
            .await
            .unwrap();
        objects
            .put("garbage", &mut &b"no picture"[..])
            .await
            .unwrap();
        let report = json!({ "task": name, "fence": 1, "worker": "liar", "end": { "drawn": {
            "pictures": [{ "seed": 7, "infotext": "", "object": "garbage" }],
            "interrupted": false, "settings": {}, "warnings": [],
        } } });
        let sent = jetstream
            .publish(format!("calotype.result.{front}"), bytes_of(&report))
            .await;
        sent.unwrap().await.unwrap();
        cards.delete("liar").await.unwrap();
        answer.json()
    });
    let _honest = worker(&broker.url());
    let (_, pictures) = ended(&front, &job, Some(&key));
    assert!(pictures == expected);
    assert!(
        front.log().contains("worker liar sent what is no picture"),
        "{}",
        front.log()
    );
    assert_eq!(states(&file), ["spent", "spent"]);
}

/// An operator sees what waits, and drops it; its request fails and is refunded.
#[test]
fn an_operator_drops_a_task() {
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let (front, workers) = fleet(&broker, 1, &[]);
    workers[0].signal("STOP");
    let job = front.post("/v1/jobs", &order(7, 1, 1), None).json();
    let list = || listed(&broker, "list");
    wait_until("it is listed", || {
        list().as_array().is_some_and(|all| all.len() == 1)
    });
    let task = list()[0]["task"].as_str().unwrap().to_owned();
    assert!(jobs(&broker, &["list"]).1.contains(&task));
    let (well, _, error) = jobs(&broker, &["drop", &task]);
    assert!(well, "{error}");
    let path = job["links"]["self"].as_str().unwrap();
    let failed = || json_of(&front.get(path).1);
    wait_until("it has failed", || failed()["status"] == "failed");
    assert!(
        failed().to_string().contains("the operator stopped this"),
        "{}",
        failed()
    );
    assert_eq!(list(), json!([]));
    let (well, _, error) = jobs(&broker, &["drop", &task]);
    assert!(!well && error.contains("no such task"), "{error}");
    assert_eq!(listed(&broker, "dead"), json!([]));
    workers[0].signal("CONT");
}

/// A task that the broker lost, or that somebody ended there, is published again.
#[test]
fn a_task_that_is_gone_is_published_again() {
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let (front, workers) = fleet(&broker, 1, &[]);
    workers[0].signal("STOP");
    // What it had asked for is over.
    std::thread::sleep(Duration::from_millis(1500));
    let job = front.post("/v1/jobs", &order(7, 1, 1), None).json();
    wait_until("it is listed", || listed(&broker, "list") != json!([]));
    with(&broker, async |client| {
        let stream = async_nats::jetstream::new(client)
            .get_stream("CALOTYPE_WORK")
            .await;
        stream.unwrap().purge().await.unwrap();
    });
    workers[0].signal("CONT");
    let start = std::time::Instant::now();
    ended(&front, &job, None);
    assert!(front.log().contains("published again"), "{}", front.log());
    // Within the time for which the broker takes it for a duplicate of the first.
    assert!(start.elapsed() < Duration::from_secs(60));
}

/// A task that no worker ends is dead: its request fails and is refunded. An operator draws
/// it again, also where it starts from a picture.
#[test]
fn a_task_that_was_given_out_too_often_is_dead() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let key = keys(&file, &["add", "ada", "--credits", "100"]);
    let Some(broker) = Broker::start(false) else {
        return;
    };
    let (front, workers) = fleet(&broker, 1, &["--keys", file.to_str().unwrap()]);
    let (_, first) = drawn(&front, &order(3, 1, 1), Some(&key));
    let mut over = order(7, 1, 2);
    over["image"] = json!(base64_of(&first[0]));
    over["strength"] = json!(0.7);
    let (_, expected) = drawn(&front, &over, Some(&key));
    workers[0].signal("STOP");
    // What it had asked for is over.
    std::thread::sleep(Duration::from_millis(1500));
    let job = with(&broker, async |client| {
        let (card, _) = card(&client).await;
        let answer = front.post("/v1/jobs", &over, Some(&key));
        assert_eq!(answer.status, 202, "{}", answer.json());
        // Workers that die with it.
        let mut deliveries = tasks(&client, &card).await;
        for count in 1..=5 {
            let message = deliveries.next().await.unwrap().unwrap();
            assert_eq!(message.info().unwrap().delivered, count);
        }
        answer.json()
    });
    workers[0].signal("CONT");
    wait_until("it is refunded", || {
        states(&file) == ["refunded", "spent", "spent"]
    });
    let path = job["links"]["self"].as_str().unwrap();
    let request = ureq::http::Request::get(format!("{}{path}", front.url));
    let failed = front.send(request.header("x-api-key", &key).body(Vec::new()).unwrap());
    let failed = failed.json().to_string();
    assert!(
        failed.contains("several workers were given this"),
        "{failed}"
    );
    let dead = listed(&broker, "dead");
    let why = dead[0]["why"].as_str().unwrap();
    assert!(why.contains("given out 5 times"), "{why}");
    let task = dead[0]["task"].as_str().unwrap();
    let out = folder.path().to_str().unwrap();
    let (well, made, error) = jobs(&broker, &["retry", task, "--out", out]);
    assert!(well, "{error}");
    assert!(std::fs::read(made.trim()).unwrap() == expected[0]);
    assert_eq!(listed(&broker, "dead"), json!([]));
    assert_eq!(states(&file), ["refunded", "spent", "spent"]);
}
