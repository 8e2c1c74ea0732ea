//! `--like` of other programs' pictures: the same pixels as AUTOMATIC1111's API draws
//! for the same request, or what cannot be done, named.

use crate::forms::is_long;
use crate::server::Server;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use calotype::picture::{Format, Parameters, Picture};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(name)
}

fn generate(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calotype"))
        .args(["generate", "--out", "out.png"])
        .args(args)
        .current_dir(folder)
        .env_remove("CALOTYPE_MODEL")
        .env_remove("CALOTYPE_LOG")
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

/// The picture like `file`, and the warnings.
fn drawn_like(folder: &Path, file: &Path, more: &[&str]) -> (Picture, String) {
    let args = [&["--like", file.to_str().unwrap()], more].concat();
    let output = generate(folder, &args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}: {said}", file.display());
    let warned: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("warning"))
        .collect();
    let picture = Picture::open(folder.join("out.png")).unwrap();
    (picture, warned.join("\n"))
}

/// A small picture with this text as other programs write it.
fn with_text(folder: &Path, text: &str) -> PathBuf {
    let picture = Picture {
        width: 8,
        height: 8,
        rgb: vec![7; 192],
    };
    let bytes = Format::Png
        .encode(&picture, Some(&Parameters::parse(text)))
        .unwrap();
    let path = folder.join("like.png");
    std::fs::write(&path, bytes).unwrap();
    path
}

fn drawn_by_the_door(server: &Server, request: &Value) -> Picture {
    let route = match request.get("init_images") {
        Some(_) => "/sdapi/v1/img2img",
        None => "/sdapi/v1/txt2img",
    };
    let answer = server.post(route, request, None);
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer.status, 200, "{request}: {body}");
    let image = STANDARD
        .decode(body["images"][0].as_str().unwrap())
        .unwrap();
    Picture::from_bytes("image", &image).unwrap()
}

fn merged(base: &Value, more: Value) -> Value {
    let mut all = base.as_object().unwrap().clone();
    all.extend(more.as_object().unwrap().clone());
    all.into()
}

#[test]
fn pixels_are_those_of_the_api() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let six = json!({"prompt": "a red circle", "negative_prompt": "blue", "steps": 6, "cfg_scale": 7,
                     "seed": 5, "width": 128, "height": 128});
    let four = json!({"prompt": "a red circle", "steps": 4, "cfg_scale": 7, "seed": 5,
                      "width": 128, "height": 128, "sampler_name": "Euler"});
    let start = STANDARD.encode(std::fs::read(fixture("pictures/yellow-star-64.png")).unwrap());
    let names = |sampler: &str, scheduler: &str| {
        merged(
            &six,
            json!({"sampler_name": sampler, "scheduler": scheduler}),
        )
    };
    // File, flags, the request, and what is named; nothing else may be.
    let cases = [
        (
            "like-2m-auto",
            &[][..],
            names("DPM++ 2M", "Automatic"),
            &[][..],
        ),
        ("like-euler-sgm", &[], names("Euler", "SGM Uniform"), &[]),
        ("like-euler", &[], names("Euler", "Automatic"), &[]),
        (
            "like-euler-ays",
            &[],
            names("Euler", "Align Your Steps"),
            &[],
        ),
        (
            "forge",
            &[],
            merged(&four, json!({"scheduler": "SGM Uniform"})),
            &["the VAE sdxl_vae"],
        ),
        (
            "hires",
            &[],
            four.clone(),
            &["Hires upscale: 2, Hires steps: 3"],
        ),
        (
            "img2img",
            &[],
            four.clone(),
            &["Denoising strength: 0.4", "Mask blur: 4"],
        ),
        (
            "img2img",
            &["--image", "star.png"],
            merged(
                &four,
                json!({"init_images": [start], "denoising_strength": 0.4}),
            ),
            &["Mask blur: 4"],
        ),
    ];
    // Two more of the same kind in the long form.
    for (file, flags, request, named) in cases.into_iter().skip(if is_long() { 0 } else { 2 }) {
        std::fs::copy(
            fixture("pictures/yellow-star-64.png"),
            folder.join("star.png"),
        )
        .unwrap();
        let (like, warned) = drawn_like(folder, &fixture(&format!("like/{file}.png")), flags);
        assert!(
            like == drawn_by_the_door(&server, &request),
            "{file} {flags:?}"
        );
        assert_eq!(warned.lines().count(), named.len(), "{file}: {warned}");
        for part in named {
            assert!(warned.contains(part), "{file}: {warned}");
        }
    }
    let small = json!({"prompt": "a (red:1.4) circle", "negative_prompt": "blue", "steps": 3,
                       "cfg_scale": 5, "seed": 9, "width": 68, "height": 72});
    for (text, more, warnings) in [
        (
            "Sampler: Euler a, Schedule type: Karras",
            json!({"sampler_name": "Euler a", "scheduler": "Karras"}),
            1,
        ),
        (
            "Sampler: DPM++ 2M Karras",
            json!({"sampler_name": "DPM++ 2M Karras"}),
            1,
        ),
        (
            "Sampler: euler_a karras, RNG: cuda",
            json!({"sampler_name": "Euler a", "scheduler": "Karras"}),
            1,
        ),
        (
            "Sampler: Heun, Schedule type: KL Optimal",
            json!({"sampler_name": "Heun", "scheduler": "KL Optimal"}),
            1,
        ),
        (
            "Sampler: DPM++ 3M SDE, Schedule type: Beta",
            json!({"sampler_name": "DPM++ 3M SDE", "scheduler": "Beta"}),
            2,
        ),
        (
            "Sampler: DPM2 a, Schedule type: Polyexponential",
            json!({"sampler_name": "DPM2 a", "scheduler": "Polyexponential"}),
            1,
        ),
        (
            "Sampler: LMS, Schedule type: Restless",
            json!({"sampler_name": "LMS", "scheduler": "Restless"}),
            2,
        ),
        (
            "Sampler: Euler, Emphasis: No norm, Clip skip: 3, RNG: CPU",
            json!({"sampler_name": "Euler", "override_settings":
                   {"emphasis": "No norm", "CLIP_stop_at_last_layers": 3, "randn_source": "CPU"}}),
            1,
        ),
    ] {
        // The size, which is rounded down, is named every time.
        let text = format!(
            "a (red:1.4) circle\nNegative prompt: blue\nSteps: 3, {text}, CFG scale: 5, Seed: 9, \
             Size: 68x72, Model hash: 31e35c80fc, Version: v1.10.1"
        );
        let (like, warned) = drawn_like(folder, &with_text(folder, &text), &[]);
        assert_eq!((like.width, like.height), (64, 72));
        assert!(
            like == drawn_by_the_door(&server, &merged(&small, more)),
            "{text}"
        );
        assert_eq!(warned.lines().count(), warnings, "{text}: {warned}");
        assert!(warned.contains("is 68x72 in its text"), "{warned}");
    }
}

#[test]
fn the_text_alone_draws_the_same_picture() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let drawing = [
        "a (red:1.3) circle",
        "--style",
        "film noir",
        "--scheduler",
        "Euler a",
        "--scheduler-option",
        "schedule_type=karras",
        "--rng",
        "cuda",
        "--prompt-weighting",
        "no-norm",
        "--width",
        "64",
        "--height",
        "64",
        "--steps",
        "3",
        "--cache-interval",
        "2",
        "--seed",
        "5",
    ];
    let output = generate(folder, &drawing);
    assert!(output.status.success(), "{output:?}");
    let made = folder.join("out.png");
    let (first, bytes) = (Picture::open(&made).unwrap(), std::fs::read(&made).unwrap());
    let mut found = Parameters::open(&made).unwrap().unwrap();
    let text = found.to_string();
    assert!(
        text.contains("a (red:1.3) circle in film noir, 1940s"),
        "{text}"
    );
    assert_eq!(found.get("Sampler"), Some("Euler a"));
    assert_eq!(found.get("Schedule type"), Some("Karras"));
    assert_eq!(found.get("Emphasis"), Some("No norm"));
    assert_eq!(found.get("Cache interval"), Some("2"));

    // All of it, by this program's own settings.
    let copy = folder.join("copy.png");
    std::fs::write(&copy, bytes).unwrap();
    let (again, warned) = drawn_like(folder, &copy, &[]);
    assert!(again == first && warned.is_empty(), "{warned}");
    assert_eq!(Parameters::open(&made).unwrap().unwrap().to_string(), text);
    // And by the text that other programs read.
    found.settings = None;
    let bytes = Format::Png.encode(&first, Some(&found)).unwrap();
    std::fs::write(&copy, bytes).unwrap();
    let (again, warned) = drawn_like(folder, &copy, &[]);
    assert!(again == first, "{text}");
    assert_eq!(warned, "");
}

#[test]
fn fooocus_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let size = ["--width", "64", "--height", "64"];
    let file = fixture("like/fooocus.png");
    let (like, warned) = drawn_like(folder, &file, &size);
    assert!(warned.contains("was drawn by Fooocus"), "{warned}");
    assert!(warned.contains("names no sampler"), "{warned}");
    let made = Parameters::open(folder.join("out.png")).unwrap().unwrap();
    assert_eq!(made.prompt, "a red circle");
    assert_eq!(
        (made.get("Steps"), made.get("Seed")),
        (Some("4"), Some("5"))
    );
    let plain = [
        "a red circle",
        "--negative-prompt",
        "",
        "--steps",
        "4",
        "--seed",
        "5",
    ];
    assert!(
        generate(folder, &[&plain[..], &size].concat())
            .status
            .success()
    );
    assert!(like == Picture::open(folder.join("out.png")).unwrap());
}

#[test]
fn what_says_nothing_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (keyword, text, named) in [
        (
            "prompt",
            "{\"3\": {\"class_type\": \"KSampler\"}}",
            "ComfyUI",
        ),
        ("workflow", "{\"nodes\": []}", "ComfyUI"),
        ("invokeai_metadata", "{}", "InvokeAI"),
        (
            "parameters",
            "{\"sui_image_params\": {\"prompt\": \"a\"}}",
            "SwarmUI",
        ),
        ("parameters", "{\"a\": 1}", "an unknown program"),
        ("parameters", "a red circle", "without a line of settings"),
        (
            "parameters",
            "a\nSeed: 5, Size: 64x64, Model: x",
            "without a line of settings",
        ),
        ("Comment", "a red circle", "holds no settings"),
    ] {
        let path = folder.join("like.png");
        let file = std::fs::File::create(&path).unwrap();
        let mut encoder = png::Encoder::new(file, 1, 1);
        encoder.add_text_chunk(keyword.into(), text.into()).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0]).unwrap();
        writer.finish().unwrap();
        let output = generate(folder, &["--like", "like.png"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(named), "{keyword} {text}: {said}");
        assert!(!folder.join("out.png").exists());
    }
}
