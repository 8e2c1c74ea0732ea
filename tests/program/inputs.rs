//! What users bring, as they have it: texts with byte order marks, seeds of 64 bits,
//! soft masks, tags of adapters; on the command line and at every front door.

use crate::folder::copy;
use crate::server::{Answer, Server};
use calotype::picture::{Format, Picture};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const SMALL: [&str; 8] = [
    "--width", "64", "--height", "64", "--steps", "1", "--out", "x.png",
];
const MOST_SEED: u64 = u64::MAX;

fn generate(folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .arg("generate")
        .args(args)
        .current_dir(folder)
        .env_remove("CALOTYPE_MODEL")
        .env_remove("CALOTYPE_LOG")
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Draws a small picture; gives it, the run's report and what stderr says.
fn drawn(folder: &Path, args: &[&str], input: &[u8]) -> (Picture, Value, String) {
    let args = [args, &SMALL, &["--json"]].concat();
    let output = generate(folder, &args, input);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {message}");
    let report = serde_json::from_slice(&output.stdout).unwrap();
    (
        Picture::open(folder.join("x.png")).unwrap(),
        report,
        message,
    )
}

fn refused(folder: &Path, code: i32, args: &[&str]) -> String {
    let output = generate(folder, args, b"");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(
        message.starts_with("error: ") && message.lines().count() == 1,
        "{message}"
    );
    message
}

fn utf16(text: &str, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let marked = format!("\u{feff}{text}");
    marked.encode_utf16().flat_map(order).collect()
}

#[test]
fn byte_order_marks_are_no_part_of_texts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.join(name), bytes).unwrap();
    };
    let seed = ["--seed", "1"];
    let (plain, report, _) = drawn(folder, &[&["a red circle"], &seed[..]].concat(), b"");
    assert_eq!(report["settings"]["prompt"], "a red circle");
    let marked = "\u{feff}a red circle\r\n".as_bytes();
    let files: [(&str, Vec<u8>); 3] = [
        ("8.txt", marked.to_vec()),
        ("le.txt", utf16("a red circle\r\n", u16::to_le_bytes)),
        ("be.txt", utf16("a red circle\n", u16::to_be_bytes)),
    ];
    for (name, bytes) in &files {
        write(name, bytes);
        let args = [&["--prompt-file", name], &seed[..]].concat();
        let (picture, report, _) = drawn(folder, &args, b"");
        assert_eq!(report["settings"]["prompt"], "a red circle", "{name}");
        assert_eq!(picture, plain, "{name}");
    }
    let (picture, ..) = drawn(folder, &[&["-"], &seed[..]].concat(), marked);
    assert_eq!(picture, plain);
    // As a shell hands over a file's text.
    let args = [&["\u{feff}a red circle"], &seed[..]].concat();
    assert_eq!(drawn(folder, &args, b"").0, plain);
    write("32.txt", b"\xff\xfe\0\0a\0\0\0");
    let message = refused(folder, 2, &["--prompt-file", "32.txt"]);
    assert!(
        message.contains("prompt is UTF-32: must be text; save it as UTF-8"),
        "{message}"
    );
    write("latin.txt", b"caf\xe9");
    let message = refused(folder, 2, &["--prompt-file", "latin.txt"]);
    assert!(message.contains("not UTF-8 (byte 4)"), "{message}");
    write("latin.csv", b"name,prompt\ncaf\xe9,a\n");
    let message = refused(folder, 1, &["x", "--styles-file", "latin.csv"]);
    assert!(message.contains("save it as UTF-8"), "{message}");
}

/// A copy of the embedded base model's folder.
fn model(folder: &Path) -> PathBuf {
    let to = folder.join("model");
    copy(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/base"),
        &to,
    );
    to
}

#[test]
fn a_models_texts_and_the_services_settings_may_be_marked() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let mut marked = 0;
    let mut folders = vec![model.clone()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let is_text = path.extension().is_some_and(|e| e == "json" || e == "txt");
            match path.is_dir() {
                true => folders.push(path),
                false if is_text => {
                    let text = fs::read(&path).unwrap();
                    fs::write(&path, [b"\xef\xbb\xbf", &text[..]].concat()).unwrap();
                    marked += 1;
                }
                false => {}
            }
        }
    }
    assert!(marked >= 8, "{marked}");
    let model = model.to_str().unwrap();
    let seed = ["x", "--seed", "1", "--model"];
    let (plain, ..) = drawn(folder.path(), &[&seed[..], &["demo"]].concat(), b"");
    let (found, ..) = drawn(folder.path(), &[&seed[..], &[model]].concat(), b"");
    assert_eq!(found, plain);

    let config = folder.path().join("serve.toml");
    fs::write(&config, "\u{feff}api-min-steps = 1\nmax-steps = 3\n").unwrap();
    let server = Server::start(&["--config", config.to_str().unwrap()]);
    let answer = server.post(
        "/v1/jobs",
        &json!({"prompt": "a", "num_inference_steps": 4}),
        None,
    );
    assert_eq!(answer.status, 400);
    assert!(
        answer.error().ends_with("must be from 1 to 3"),
        "{}",
        answer.error()
    );
}

fn post(server: &Server, path: &str, body: Vec<u8>) -> Answer {
    let request = ureq::http::Request::post(format!("{}{path}", server.url))
        .header("content-type", "application/json")
        .header("accept", "application/json");
    server.send(request.body(body).unwrap())
}

/// A small picture of each front door, with `more` in the place for it.
fn bodies(prompt: &str, more: Value) -> Vec<(&'static str, Value)> {
    let mut bodies = vec![
        (
            "/sdapi/v1/txt2img",
            json!({"prompt": prompt, "steps": 1, "width": 64, "height": 64}),
        ),
        (
            "/v1/sdxl-torch",
            json!({"prompt": prompt, "num_inference_steps": 1}),
        ),
        (
            "/v1/images/generations",
            json!({"prompt": prompt, "steps": 1, "size": "512x512"}),
        ),
        (
            "/v1/generation/sdxl/text-to-image",
            json!({"text_prompts": [{"text": prompt}], "steps": 10}),
        ),
        (
            "/v1/jobs",
            json!({"prompt": prompt, "num_inference_steps": 1, "img_width": 64, "img_height": 64}),
        ),
    ];
    for (_, body) in &mut bodies {
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
    }
    let mut parameters = json!({"num_inference_steps": 1, "width": 64, "height": 64});
    parameters
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    bodies.push(("/", json!({"inputs": prompt, "parameters": parameters})));
    bodies
}

#[test]
fn every_front_door_takes_what_users_bring() {
    let server = Server::start(&["--api-min-steps", "1"]);
    // Byte order marks around the body and before the prompt.
    for (path, body) in bodies("a red circle", json!({})) {
        let text = body.to_string();
        for marked in [
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            utf16(&text, u16::to_le_bytes),
        ] {
            let answer = post(&server, path, marked);
            assert!(answer.status < 300, "{path}: {}", answer.json());
        }
        let wide = [&[0, 0, 0xfe, 0xff][..], text.as_bytes()].concat();
        let answer = post(&server, path, wide);
        let message = answer.json().to_string();
        assert!(
            answer.status == 400 && message.contains("UTF-32"),
            "{path}: {message}"
        );
    }
    let info = |prompt: &str| -> Value {
        let body = json!({"prompt": prompt, "steps": 1, "width": 64, "height": 64, "seed": 3});
        let answer = server.post("/sdapi/v1/txt2img", &body, None).json();
        answer["images"][0].clone()
    };
    assert_eq!(info("\u{feff}a red circle"), info("a red circle"));

    // Seeds.
    for (path, body) in bodies("a", json!({"seed": MOST_SEED})) {
        // These APIs have narrower seeds, which they document.
        if path == "/v1/sdxl-torch" || path.starts_with("/v1/generation") {
            continue;
        }
        let answer = server.post(path, &body, None);
        assert!(answer.status < 300, "{path}: {}", answer.json());
        let headers = answer.header("x-seed-value").unwrap_or_default().to_owned();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let named = headers + &text;
        assert!(named.contains(&MOST_SEED.to_string()), "{path}");
    }
    for (seed, first) in [
        (json!("18446744073709551614"), MOST_SEED - 1),
        (json!(-2), MOST_SEED - 1),
        (json!(9007199254740993u64), 9007199254740993),
    ] {
        let body = json!({"prompt": "a", "steps": 1, "width": 64, "height": 64, "seed": seed, "n_iter": 2});
        let answer = server.post("/sdapi/v1/txt2img", &body, None).json();
        let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
        assert_eq!(info["all_seeds"], json!([first, first + 1]), "{seed}");
    }
    for (seed, message) in [
        (json!(MOST_SEED), "to 18446744073709551614 for 2 pictures"),
        (json!("18446744073709551616"), "-2^63"),
    ] {
        let body = json!({"prompt": "a", "steps": 1, "seed": seed, "n_iter": 2});
        let answer = server.post("/sdapi/v1/txt2img", &body, None);
        assert_eq!(answer.status, 400, "{seed}");
        assert!(answer.error().contains(message), "{}", answer.error());
    }

    // Tags of adapters without a folder of them.
    for tag in ["<lora:x:1>", "<lyco:x:1>"] {
        for (path, body) in bodies(&format!("a red circle{tag}"), json!({})) {
            let answer = server.post(path, &body, None);
            let message = answer.json().to_string();
            assert_eq!(answer.status, 400, "{path}: {message}");
            for part in ["x", "there is no folder of LoRAs here"] {
                assert!(message.contains(part), "{path}: {message}");
            }
        }
    }
    for (path, body) in bodies("a <hypernet:x:1>", json!({})) {
        let answer = server.post(path, &body, None);
        let message = answer.json().to_string();
        assert!(
            answer.status == 400 && message.contains("hypernetworks"),
            "{path}: {message}"
        );
    }
    let body = json!({"prompt": "a", "negative_prompt": "<lora:x:1>", "steps": 1, "width": 64, "height": 64});
    let answer = server.post("/sdapi/v1/txt2img", &body, None).json();
    assert!(
        answer["info"]
            .as_str()
            .unwrap()
            .contains("negative_prompt holds a tag"),
        "{answer}"
    );
}

#[test]
fn an_adapter_that_is_not_there_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let message = refused(folder.path(), 2, &["a <lora:x:1>"]);
    assert!(
        message.contains("\"x\": the folder of LoRAs holds no .safetensors file"),
        "{message}"
    );
    let message = refused(folder.path(), 2, &["a <hypernet:x:1>"]);
    assert!(message.contains("hypernetworks"), "{message}");
    fs::write(
        folder.path().join("s.csv"),
        "name,prompt\nsharp,\"{prompt}, <lora:x:0.5>\"\n",
    )
    .unwrap();
    let style = ["a", "--styles-file", "s.csv", "--style", "sharp"];
    let message = refused(folder.path(), 2, &style);
    assert!(message.contains("\"x\": the folder of LoRAs"), "{message}");
    let server = Server::start(&["--lora-dir", folder.path().to_str().unwrap()]);
    let body = json!({"prompt": "a <lora:x:1>", "steps": 1});
    let answer = server.post("/sdapi/v1/txt2img", &body, None);
    assert_eq!(answer.status, 400);
    assert!(
        answer
            .error()
            .contains("\"x\": the folder of LoRAs holds no"),
        "{}",
        answer.error()
    );
}

#[test]
fn a_seed_of_64_bits_is_drawn_named_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let most = MOST_SEED.to_string();
    let (picture, report, _) = drawn(folder, &["a", "--seed", &most], b"");
    assert_eq!(report["seeds"], json!([MOST_SEED]));
    fs::rename(folder.join("x.png"), folder.join("first.png")).unwrap();
    let (again, report, _) = drawn(folder, &["--like", "first.png"], b"");
    assert_eq!(report["settings"]["seed"], json!(MOST_SEED));
    assert_eq!(again, picture);
    // What torch makes of -2; -1 draws one.
    let (_, report, _) = drawn(folder, &["a", "--seed", "-2"], b"");
    assert_eq!(report["seeds"], json!([MOST_SEED - 1]));
    let two = ["a", "--seed", &most, "--samples", "2"];
    let message = refused(folder, 2, &two);
    assert!(
        message.contains("18446744073709551614 for 2 pictures"),
        "{message}"
    );
    let message = refused(folder, 2, &["a", "--seed", "18446744073709551616"]);
    assert!(
        message.contains("from -2^63 to 18446744073709551615"),
        "{message}"
    );
}

fn save(folder: &Path, name: &str, side: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) {
    let places = (0..side * side).map(|at| (at % side, at / side));
    let picture = Picture {
        width: side,
        height: side,
        rgb: places.flat_map(|(x, y)| pixel(x, y)).collect(),
    };
    let bytes = Format::Png.encode(&picture, None).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}

#[test]
fn a_soft_mask_shows_in_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save(folder, "in.png", 64, |x, y| {
        [(x * 4) as u8, (y * 4) as u8, 90]
    });
    let middle = |x: usize, y: usize| (24..40).contains(&x) && (24..40).contains(&y);
    save(folder, "mask.png", 64, |x, y| {
        [255 * u8::from(middle(x, y)); 3]
    });
    let original = Picture::open(folder.join("in.png")).unwrap();
    let from = [
        "a",
        "--seed",
        "1",
        "--image",
        "in.png",
        "--mask",
        "mask.png",
        "--strength",
        "1",
    ];
    let painted = |more: &[&str]| drawn(folder, &[&from, more].concat(), b"");
    let pixel = |picture: &Picture, x: usize, y: usize| {
        let at = 3 * (y * 64 + x);
        picture.rgb[at..at + 3].to_vec()
    };
    // As diffusers has it: the whole goes through the VAE.
    let (plain, _, warning) = painted(&["--mask-blur", "4"]);
    assert_eq!(warning, "");
    let (soft, ..) = painted(&["--mask-blur", "4", "--keep-unmasked"]);
    assert_ne!(pixel(&plain, 2, 2), pixel(&original, 2, 2));
    let mut edge = 0;
    for (x, y) in (0..64).flat_map(|x| (0..64).map(move |y| (x, y))) {
        let near = (14..50).contains(&x) && (14..50).contains(&y);
        let (found, kept) = (pixel(&soft, x, y), pixel(&original, x, y));
        match (
            middle(x, y) && (28..36).contains(&x) && (28..36).contains(&y),
            near,
        ) {
            (true, _) => assert_eq!(found, pixel(&plain, x, y), "{x} {y}"),
            (_, false) => assert_eq!(found, kept, "{x} {y}"),
            _ => {
                // Between the two, in every channel.
                let drawn = pixel(&plain, x, y);
                for ((f, k), d) in found.iter().zip(&kept).zip(&drawn) {
                    assert!((k.min(d)..=k.max(d)).contains(&f), "{x} {y}");
                }
                edge += usize::from(found != kept && found != drawn);
            }
        }
    }
    assert!(edge > 100, "{edge}");
    // Once more from its own settings.
    fs::rename(folder.join("x.png"), folder.join("first.png")).unwrap();
    let like = [
        "--like",
        "first.png",
        "--image",
        "in.png",
        "--mask",
        "mask.png",
    ];
    assert_eq!(drawn(folder, &like, b"").0, soft);
    // The part alone, back in a picture of another size.
    save(folder, "large.png", 160, |x, y| [x as u8, y as u8, 90]);
    save(folder, "large-mask.png", 160, |x, y| {
        [255 * u8::from(x > 120 && y > 140); 3]
    });
    let part = [
        "a",
        "--image",
        "large.png",
        "--mask",
        "large-mask.png",
        "--padding-mask-crop",
        "4",
    ];
    let (part, ..) = drawn(folder, &[&part[..], &["--strength", "1"]].concat(), b"");
    let large = Picture::open(folder.join("large.png")).unwrap();
    assert_eq!((part.width, part.height), (160, 160));
    assert_eq!(part.rgb[..3 * 160 * 141], large.rgb[..3 * 160 * 141]);
    assert_ne!(part.rgb, large.rgb);

    let (_, _, warning) = painted(&["--mask-blur", "64"]);
    assert!(
        warning.starts_with("warning: the mask paints nothing: no pixel"),
        "{warning}"
    );
    save(folder, "mask.png", 64, |_, _| [127; 3]);
    let (_, _, warning) = painted(&[]);
    assert!(warning.contains("the mask paints nothing"), "{warning}");
    save(folder, "mask.png", 64, |x, y| {
        [255 * u8::from((x, y) == (3, 3)); 3]
    });
    let (_, _, warning) = painted(&[]);
    assert!(warning.contains("smaller than a latent"), "{warning}");
    let message = refused(folder, 2, &["a", "--keep-unmasked"]);
    assert!(message.contains("--mask"), "{message}");
}

#[test]
fn a_damaged_picture_is_drawn_over_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save(folder, "in.png", 64, |x, y| {
        [(x * 4) as u8, (y * 4) as u8, 90]
    });
    let whole = fs::read(folder.join("in.png")).unwrap();
    fs::write(folder.join("cut.png"), &whole[..whole.len() - 12]).unwrap();
    let over = |name| {
        drawn(
            folder,
            &["a", "--seed", "1", "--image", name, "--strength", "1"],
            b"",
        )
    };
    let (sound, _, warning) = over("in.png");
    assert_eq!(warning, "");
    let (cut, _, warning) = over("cut.png");
    assert_eq!(cut, sound);
    let expected = "warning: cut.png is damaged, but no pixel is lost: its end is missing\n";
    assert_eq!(warning, expected);
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&whole[..whole.len() - 12]);
    let server = Server::start(&[]);
    let body =
        json!({"prompt": "a", "steps": 2, "init_images": [encoded], "width": 64, "height": 64});
    let answer = server.post("/sdapi/v1/img2img", &body, None).json();
    let info = answer["info"].as_str().unwrap();
    assert!(
        info.contains("image is damaged, but no pixel is lost"),
        "{answer}"
    );
}

#[cfg(unix)]
#[test]
fn a_service_that_still_loads_ends_when_it_is_told_to() {
    // As if it were made for 1024 pixels, so that its warm-up takes long.
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let path = model.join("unet/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["sample_size"] = json!(config["sample_size"].as_u64().unwrap() * 8);
    fs::write(&path, config.to_string()).unwrap();
    let mut server = Server::spawn(&["--model", model.to_str().unwrap(), "--refiner", "none"]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(server.get("/readyz").0, 503);
    server.signal("TERM");
    let start = Instant::now();
    while server.child.try_wait().unwrap().is_none() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{}",
            server.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("ended after {:.1} s", start.elapsed().as_secs_f64());
}

#[test]
fn what_cannot_be_served_is_said_by_name() {
    let server = Server::start(&["--api-min-steps", "1"]);
    let images = |more: Value| {
        let mut body = json!({"prompt": "a", "steps": 1, "size": "512x512"});
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        server.post("/v1/images/generations", &body, None)
    };
    let unknown = images(json!({"model": "nope-9000"}));
    assert_eq!(unknown.status, 404);
    let error = &unknown.json()["error"];
    assert_eq!(
        [&error["code"], &error["param"]],
        ["model_not_found", "model"]
    );
    assert!(
        error["message"].as_str().unwrap().contains("nope-9000"),
        "{error}"
    );
    let model = |name: &str| {
        let (status, body) = server.get(&format!("/v1/models/{name}"));
        let body: Value = serde_json::from_slice(&body).unwrap();
        (status, body["id"].clone(), body["error"]["code"].clone())
    };
    for name in ["sdxl", "gpt-image-1", "demo"] {
        assert_eq!(images(json!({"model": name})).status, 200, "{name}");
        assert_eq!(model(name), (200, json!(name), Value::Null));
    }
    assert_eq!(
        model("nope-9000"),
        (404, Value::Null, json!("model_not_found"))
    );

    let clear = images(json!({"background": "transparent"}));
    assert_eq!(clear.status, 400);
    assert_eq!(clear.json()["error"]["param"], "background");
    assert_eq!(images(json!({"background": "opaque"})).status, 200);

    let (status, body) = server.get("/v1/jobs/%ff%fe");
    let said = String::from_utf8(body).unwrap();
    assert!(status == 400 && said.contains("UTF-8"), "{status} {said}");
    let body = json!({"prompt": "a", "num_inference_steps": 1, "guidance_scale": 1e308});
    let said = server.post("/v1/sdxl-torch", &body, None).error();
    assert!(said.contains("1e308") && said.len() < 120, "{said}");
}
