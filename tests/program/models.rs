//! A service with several models, and models that share a device.

use crate::case::with_observer;
use crate::server::Server;
use calotype::pipeline::{LoadOptions, MemoryLimit, Models, Pipeline, RawRequest, Request};
use calotype::text::Styles;
use serde_json::{Value, json};

fn folder() -> String {
    format!("{}/models/demo", env!("CARGO_MANIFEST_DIR"))
}

/// The settings of the job that `body` asks for.
fn drawn(server: &Server, body: &Value) -> Value {
    let answer = server.post("/v1/jobs", body, None);
    assert_eq!(answer.status, 202, "{}", answer.json());
    let job = answer.json();
    server.get(job["links"]["events"].as_str().unwrap());
    let (_, done) = server.get(job["links"]["self"].as_str().unwrap());
    let done: Value = serde_json::from_slice(&done).unwrap();
    assert_eq!(done["status"], "done", "{done}");
    done["settings"].clone()
}

/// Two models, one of them from a folder of checkpoints, of which the refiner is left out:
/// every door draws with the one that is named.
#[test]
fn requests_name_the_model_that_draws() {
    let server = Server::start(&["--model", "demo", "--model", &folder()]);
    assert!(
        server.log().contains("refiner is left out"),
        "{}",
        server.log()
    );
    let (_, info) = server.get("/v1/info");
    let info: Value = serde_json::from_slice(&info).unwrap();
    assert_eq!(info["model"], "demo");
    assert_eq!(info["models"], json!(["demo", "base"]));

    let quick = |more: Value| {
        let mut body = json!({
            "prompt": "a red circle", "num_inference_steps": 1, "seed": 7,
            "img_width": 64, "img_height": 64, "refiner": false,
        });
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        body
    };
    for (named, drew) in [
        (json!({}), "demo"),
        (json!({"model": "base"}), "base"),
        (json!({"model": "xl/BASE.safetensors [31e35c80fc]"}), "base"),
        (json!({"model": "demo"}), "demo"),
    ] {
        assert_eq!(drawn(&server, &quick(named))["model"], drew);
    }
    let unknown = server.post("/v1/jobs", &quick(json!({"model": "other"})), None);
    assert_eq!(unknown.status, 400);
    let error = unknown.error();
    assert!(
        error.contains("other") && error.contains("demo, base"),
        "{error}"
    );

    // Clients of other services name theirs, which the first stands for.
    let (_, list) = server.get("/v1/models");
    let list: Value = serde_json::from_slice(&list).unwrap();
    let ids: Vec<&Value> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert_eq!(ids, ["demo", "base"]);
    for model in ["base", "dall-e-3"] {
        let body = json!({"model": model, "prompt": "a", "steps": 1, "size": "64x64"});
        let answer = server.post("/v1/images/generations", &body, None);
        assert_eq!(answer.status, 200, "{model}: {}", answer.json());
    }
    let body = json!({
        "prompt": "a", "steps": 1, "width": 64, "height": 64,
        "override_settings": {"sd_model_checkpoint": "base"},
    });
    let answer = server.post("/sdapi/v1/txt2img", &body, None).json();
    assert!(
        answer["info"].as_str().unwrap().contains("Model: base"),
        "{}",
        answer["info"]
    );
    for path in ["/models/me/base", "/models/me/whatever"] {
        let body = json!({"inputs": "a", "parameters": {
            "width": 64, "height": 64, "num_inference_steps": 1,
        }});
        assert_eq!(server.post(path, &body, None).status, 200, "{path}");
    }
}

fn request(pipeline: &Pipeline) -> Request {
    let raw = RawRequest {
        prompt: Some("a red circle".into()),
        seed: Some(7.into()),
        steps: Some(2),
        width: Some(64),
        height: Some(64),
        ..Default::default()
    };
    pipeline.resolve(raw, &Styles::builtin()).unwrap()
}

/// With memory for one, the other leaves; with memory for both, both stay. The pictures are
/// the same.
#[test]
fn the_model_that_was_not_used_leaves_when_memory_asks() {
    let base = format!("{}/base", folder());
    let options = |limit: u64| {
        ["demo", &base].map(|model| LoadOptions {
            model: model.into(),
            max_memory: MemoryLimit::Bytes(limit),
            ..Default::default()
        })
    };
    let peak = with_observer(|observer| {
        let pipeline = Pipeline::load(&options(1 << 40)[0], observer).unwrap();
        pipeline.memory_plan(&request(&pipeline)).peak()
    });
    let mut pictures = Vec::new();
    for (limit, both) in [(1 << 40, true), (peak + (1 << 20), false)] {
        with_observer(|observer| {
            let mut models = Models::open(options(limit).to_vec(), observer).unwrap();
            let names: Vec<String> = models.facts().map(|facts| facts.name.clone()).collect();
            assert_eq!(names, ["demo", "base"]);
            assert!(models.is_loaded(0) && !models.is_loaded(1));
            for model in [0, 1, 0] {
                let request = request(models.pipeline(model, observer).unwrap());
                let output = models.generate(model, &request, observer).unwrap();
                assert!(models.device_bytes() <= limit);
                assert!(models.is_loaded(model));
                pictures.extend(output.pictures);
            }
            assert_eq!(models.is_loaded(1), both, "{limit}");
        });
    }
    assert!(pictures.iter().all(|picture| *picture == pictures[0]));
    let twice = vec![options(1 << 40)[0].clone(); 2];
    let error = with_observer(|observer| Models::open(twice, observer).err().unwrap());
    assert!(error.to_string().contains("different names"), "{error}");
}
