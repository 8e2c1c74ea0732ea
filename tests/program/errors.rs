//! What every error keeps to: no flag in the engine's words, the user's own names of
//! fields and values on the command line and at each door.

use crate::server::Server;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The rooms below the command line and the service.
const ROOMS: [&str; 11] = [
    "checkpoint",
    "error",
    "gpu",
    "graph",
    "kernel",
    "model",
    "picture",
    "pipeline",
    "schedule",
    "shaders",
    "text",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Whether text names a flag, such as `--width`.
fn names_flag(text: &str) -> bool {
    text.match_indices("--").any(|(at, _)| {
        let after = text[at + 2..].chars().next();
        after.is_some_and(|c| c.is_ascii_lowercase())
    })
}

/// The literals that name a flag; comments are none, and documentation is passed over.
fn flags(tokens: TokenStream, found: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let first = group.stream().into_iter().next();
                let documents = matches!(&first, Some(TokenTree::Ident(name)) if name == "doc");
                if !(documents && group.delimiter() == Delimiter::Bracket) {
                    flags(group.stream(), found);
                }
            }
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                if names_flag(&text) {
                    found.push(text);
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

fn flags_of(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    flags(source.parse().unwrap(), &mut found);
    found
}

#[test]
fn no_string_below_the_command_line_names_a_flag() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for room in ROOMS {
        match src.join(room).is_dir() {
            true => sources(&src.join(room), &mut files),
            false => files.push(src.join(room).with_extension("rs")),
        }
    }
    files.push(src.join("error.rs"));
    assert!(files.len() > 100, "{} files", files.len());
    for file in files {
        let found = flags_of(&std::fs::read_to_string(&file).unwrap());
        assert!(found.is_empty(), "{}: {found:?}", file.display());
    }
}

#[test]
fn a_flag_in_a_string_is_found_and_one_in_a_comment_is_not() {
    let source = r##"
        //! Says `--width`.
        /// See "--height".
        fn f<'a>(x: &'a str) -> String { /* "--seed" */ format!("lower --dtype {x}", x = r#"--vae"#) }
    "##;
    assert_eq!(
        flags_of(source),
        [r#""lower --dtype {x}""#, r##"r#"--vae"#"##]
    );
    assert!(flags_of(r#"const RULE: &str = "a -- b ---";"#).is_empty());
}

/// Runs `calotype generate` in `folder`.
fn generate(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calotype"))
        .arg("generate")
        .args(args)
        .current_dir(folder)
        .env_remove("CALOTYPE_MODEL")
        .output()
        .unwrap()
}

fn told(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    (output.status.code(), text)
}

/// A picture of one pixel that says `parameters`, as AUTOMATIC1111's program writes it.
fn picture(path: &Path, parameters: &str) {
    let file = std::fs::File::create(path).unwrap();
    let mut encoder = png::Encoder::new(file, 1, 1);
    encoder
        .add_text_chunk("parameters".into(), parameters.into())
        .unwrap();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0]).unwrap();
}

#[test]
fn a_pictures_setting_is_named_and_not_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let shot = folder.path().join("shot.png");
    for (parameters, wanted) in [
        (
            "Steps: 2, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 16x960",
            "error: shot.png: Size is 16x960: too small or too large to be drawn; give --width and \
             --height; or give the settings as flags\n",
        ),
        (
            "Steps: 5000, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512",
            "error: Steps of shot.png is 5000: must be from 1 to 1000; overrule it by --steps\n",
        ),
        (
            "Steps: 2, Sampler: Euler a, CFG scale: 700, Seed: 1, Size: 512x512",
            "error: CFG scale of shot.png is 700: must be a number from 0 to 100; \
             1 or less switches guidance off; overrule it by --guidance-scale\n",
        ),
    ] {
        picture(&shot, &format!("a cat\n{parameters}"));
        let output = generate(folder.path(), &["--like", "shot.png", "--quiet"]);
        let code = if wanted.starts_with("error: shot.png") {
            1
        } else {
            2
        };
        assert_eq!(told(&output), (Some(code), wanted.into()), "{parameters}");
    }
    // A flag that was given is named as one.
    picture(
        &shot,
        "a cat\nSteps: 2, Sampler: Euler a, Seed: 1, Size: 540x960",
    );
    let output = generate(
        folder.path(),
        &["--like", "shot.png", "--width", "130", "--height", "128"],
    );
    let wanted = "error: --width is 130: must be a multiple of 8 from 64 to 8192, such as 128\n";
    assert_eq!(told(&output), (Some(2), wanted.into()));
}

#[test]
fn a_style_of_ones_own_in_a_picture_asks_for_the_file_of_styles() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("mine.csv"),
        "name,prompt,negative_prompt\nfog,\"{prompt}, fog\",\n",
    )
    .unwrap();
    let small = ["--width", "64", "--height", "64", "--steps", "1"];
    let styled = [
        "a cat",
        "--style",
        "fog",
        "--styles-file",
        "mine.csv",
        "--out",
        "fog.png",
    ];
    let output = generate(folder.path(), &[&styled[..], &small].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = generate(folder.path(), &["--like", "fog.png", "--quiet"]);
    let (code, text) = told(&output);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.starts_with("error: style of fog.png is \"fog\": "),
        "{text}"
    );
    let remedy = "; give the file that holds it by --styles-file, or overrule it by --style\n";
    assert!(text.ends_with(remedy), "{text}");
}

#[test]
fn styles_in_latin_1_are_told_to_be_saved_as_utf_8() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = b"name,prompt,negative_prompt\ncaf\xe9,{prompt} caf\xe9,\n";
    std::fs::write(folder.path().join("styles.csv"), bytes).unwrap();
    let output = generate(folder.path(), &["a cat", "--styles-file", "styles.csv"]);
    let wanted = "error: styles.csv: its text is not UTF-8 (byte 32); save it as UTF-8\n";
    assert_eq!(told(&output), (Some(1), wanted.into()));
}

#[test]
fn errors_are_json_where_results_are() {
    let folder = tempfile::tempdir().unwrap();
    for (args, wanted) in [
        (
            &["a cat", "--width", "130", "--json"][..],
            json!({
                "code": "invalid_value", "field": "width",
                "message": "--width is 130: must be a multiple of 8 from 64 to 8192, such as 128",
            }),
        ),
        (
            &["a cat", "--model", "absent", "--json"],
            json!({
                "code": "unusable_file",
                "message": "absent: no such file or folder; point --model at a diffusers folder \
                            or a .safetensors file, or use one of `demo`, `demo-refiner`, \
                            `random:sdxl-base`, `random:sdxl-refiner`",
            }),
        ),
        (
            &["a cat", "--steps", "many", "--json"],
            json!({
                "code": "invalid_usage",
                "message": "invalid value 'many' for '--steps <N>': must be a whole number below \
                            2^63; see --help",
            }),
        ),
    ] {
        let output = generate(folder.path(), args);
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed, json!({ "error": wanted }));
        let (_, text) = told(&output);
        let message = wanted["message"].as_str().unwrap();
        assert_eq!(text, format!("error: {message}\n"));
    }
}

#[test]
fn each_door_answers_with_its_own_fields_and_what_was_sent() {
    let loras = tempfile::tempdir().unwrap();
    let folder = loras.path().to_str().unwrap();
    let server = Server::start(&["--lora-dir", folder]);
    for (path, body, message, wanted) in [
        (
            "/v1/jobs",
            json!({"prompt": "a cat", "scheduler": "DDIM", "scheduler_options": {"eta": 2}}),
            "/error",
            "scheduler_options is eta=2: allowed is a number from 0 to 1",
        ),
        (
            "/v1/jobs",
            json!({"prompt": "a cat", "prompt_weighting": "x"}),
            "/error",
            "prompt_weighting is \"x\": choose one of default, no-norm, comfy, off",
        ),
        (
            "/v1/sdxl-torch",
            json!({"prompt": "a cat", "img_width": 54}),
            "/error",
            "img_width is 54: must be 128, this model's size, or 1024 for it",
        ),
        (
            "/v1/sdxl-torch",
            json!({"prompt": "a cat <lora:x:1>"}),
            "/error",
            "a LoRA tag of prompt is \"x\": the folder of LoRAs holds no .safetensors file; put it \
             there, or take the tag out",
        ),
        (
            "/sdapi/v1/txt2img",
            json!({"prompt": "a cat", "width": 54, "height": 64}),
            "/detail",
            "width is 54: must be a multiple of 8 from 64 to 8192, such as 64",
        ),
        (
            "/sdapi/v1/txt2img",
            json!({"prompt": "a cat", "width": 8192, "height": 8192}),
            "/detail",
            "width x height is 8192x8192 (1024x1024 on this model): must be at most 65536 pixels \
             in all, such as 128x128",
        ),
        (
            "/sdapi/v1/txt2img",
            json!({"prompt": "a cat", "cfg_scale": 200}),
            "/detail",
            "cfg_scale is 200: must be a number from 0 to 100; 1 or less switches guidance off",
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a cat", "size": "8192x8192"}),
            "/error/message",
            "size is 8192x8192 (1024x1024 on this model): must be at most 65536 pixels in all, \
             such as 128x128",
        ),
        (
            "/v1/generation/any/text-to-image",
            json!({"text_prompts": [{"text": "a cat"}], "cfg_scale": 200}),
            "/message",
            "cfg_scale is 200: must be from 0 to 35",
        ),
        (
            "/models/any",
            json!({"inputs": "a cat", "parameters": {"scheduler": "Eula"}}),
            "/error",
            "parameters.scheduler is \"Eula\": no such name; did you mean Euler or Euler a?",
        ),
    ] {
        let answer = server.post(path, &body, None);
        assert_eq!(answer.status, 400, "{path}");
        let told = answer.json();
        let text = told.pointer(message).and_then(Value::as_str);
        assert_eq!(text, Some(wanted), "{path} {told}");
        let code = told.get("code").or_else(|| told.pointer("/error/code"));
        assert_eq!(code, Some(&json!("invalid_value")), "{path} {told}");
    }
}
