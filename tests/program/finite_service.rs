//! Numbers that are not finite, over every front door: 500 with the stage named, and
//! nothing is paid.

use crate::server::{Answer, Server, keys};
use crate::spoilt::{ENCODER, Model, UNET, VAE};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const TO_K: &str = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";

/// Makes a key with 100 credits.
fn key(file: &Path) -> String {
    keys(file, &["add", "me", "--credits", "100"])
}

fn credits(server: &Server, key: &str) -> Value {
    let request = ureq::http::Request::get(format!("{}/v1/get-user-credits", server.url));
    let request = request.header("authorization", format!("Bearer {key}"));
    server.send(request.body(Vec::new()).unwrap()).json()["credits"].clone()
}

/// The answer of a job once it has ended.
fn ended(server: &Server, key: &str, id: &str) -> Value {
    let start = Instant::now();
    loop {
        let request = ureq::http::Request::get(format!("{}/v1/jobs/{id}", server.url));
        let request = request.header("x-api-key", key);
        let job = server.send(request.body(Vec::new()).unwrap()).json();
        if !["queued", "running"].contains(&job["status"].as_str().unwrap()) {
            return job;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{job}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What each front door answers, by name; the job's error as if it were an answer.
fn doors(server: &Server, key: &str, refiner: Option<&str>) -> Vec<(&'static str, u16, String)> {
    let text = |answer: Answer| {
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        (answer.status, body)
    };
    let post = |path: &str, body: Value| text(server.post(path, &body, Some(key)));
    // Enough for some of them to be the refiner's.
    let steps = if refiner.is_some() { 10 } else { 2 };
    let torch = json!({ "prompt": "x", "num_inference_steps": steps });
    let mut automatic = json!({ "prompt": "x", "steps": steps, "width": 64, "height": 64 });
    if let Some(refiner) = refiner {
        automatic["refiner_checkpoint"] = refiner.into();
    }
    let mut all = Vec::new();
    for (door, path, body) in [
        ("sdxl_torch", "/v1/sdxl-torch", torch.clone()),
        (
            "openai",
            "/v1/images/generations",
            json!({ "prompt": "x", "steps": steps }),
        ),
        ("automatic1111", "/sdapi/v1/txt2img", automatic),
        (
            "hugging_face",
            "/",
            json!({ "inputs": "x", "parameters": { "num_inference_steps": steps } }),
        ),
        (
            "stability",
            "/v1/generation/sdxl/text-to-image",
            json!({ "text_prompts": [{ "text": "x" }], "steps": 10 }),
        ),
    ] {
        let (status, body) = post(path, body);
        all.push((door, status, body));
    }
    let job = server.post("/v1/jobs", &torch, Some(key));
    assert_eq!(job.status, 202);
    let job = ended(server, key, job.json()["id"].as_str().unwrap());
    assert_eq!(job["status"], "failed", "{job}");
    assert_eq!(job["images"], json!([]), "{job}");
    all.push(("jobs", 500, job["error"].to_string()));
    all
}

fn check(model: &Model, refiner: Option<&Model>, stage: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let key = key(&file);
    let mut args = vec!["--model", model.path(), "--api-min-steps", "1"];
    args.extend(["--keys", file.to_str().unwrap()]);
    if let Some(refiner) = refiner {
        args.extend(["--refiner", refiner.path()]);
    }
    // The warm-up meets the same numbers, and the service goes on.
    let server = Server::start(&args);
    let name = refiner.map(|model| Path::new(model.path()).file_name().unwrap());
    let name = name.map(|name| name.to_str().unwrap());
    for (door, status, body) in doors(&server, &key, name) {
        println!("{door}: {status} {body}");
        assert_eq!(status, 500, "{door}: {body}");
        assert!(body.contains(stage), "{door}: {body}");
        assert!(body.contains("not finite"), "{door}: {body}");
        assert_eq!(credits(&server, &key), 100, "{door}");
    }
    let log = server.log();
    // The two steps of the warm-up leave the refiner none.
    if refiner.is_none() {
        assert!(log.contains("warming up: ") && log.contains(stage), "{log}");
    }
    assert_eq!(server.get("/readyz").0, 200);
}

#[test]
fn a_text_encoder() {
    let tensor = "text_model.encoder.layers.0.self_attn.k_proj.weight";
    let model = Model::base().with_nan(ENCODER, tensor);
    check(&model, None, "the base model's first text encoder");
}

#[test]
fn the_unet_of_the_base() {
    let model = Model::base().with_nan(UNET, TO_K);
    check(&model, None, "the base model's UNet at step 1 of ");
}

#[test]
fn the_unet_of_the_refiner() {
    let refiner = Model::refiner().with_nan(UNET, TO_K);
    check(
        &Model::base(),
        Some(&refiner),
        "the refiner's UNet at step 1 of ",
    );
}

#[test]
fn the_vae() {
    let model = Model::base().with_nan(VAE, "decoder.conv_in.weight");
    check(&model, None, "the VAE's decoder");
}
