//! The program as a user meets it: exit codes, what goes where, what is left behind.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn calotype(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calotype"));
    command
        .args(args)
        .current_dir(folder)
        .env_remove("CALOTYPE_MODEL")
        .env_remove("CALOTYPE_LOG")
        .env_remove("RUST_LOG");
    command
}

fn run(folder: &Path, args: &[&str]) -> Output {
    calotype(folder, args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Runs in an empty folder and checks: the exit code, nothing on stdout, one line
/// on stderr that holds `named`, no file left behind.
fn refuses(code: i32, args: &[&str], named: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), args);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert!(message.starts_with("error: "), "{args:?}: {message}");
    assert_eq!(message.lines().count(), 1, "{args:?}: {message}");
    for part in named {
        assert!(message.contains(part), "{args:?}: {message}");
    }
    assert!(names(folder.path()).is_empty(), "{args:?}");
}

fn refuses_request(extra: &[&str], named: &[&str]) {
    let mut args = vec!["generate", "a red circle"];
    args.extend(extra);
    refuses(2, &args, named);
}

#[test]
fn wrong_values_are_named_with_what_is_allowed() {
    refuses_request(
        &["--width", "130"],
        &["--width is 130", "multiple of 8", "128"],
    );
    refuses_request(&["--height", "-8"], &["--height is -8"]);
    refuses_request(&["--height", "99999999"], &["--height is 99999999", "8192"]);
    refuses_request(&["--steps", "0"], &["--steps is 0", "from 1 to 1000"]);
    refuses_request(
        &["--guidance-scale", "nan"],
        &["--guidance-scale is NaN", "from 0 to 100"],
    );
    refuses_request(&["--guidance-scale=inf"], &["--guidance-scale is inf"]);
    refuses_request(&["--guidance-scale", "-1"], &["--guidance-scale is -1"]);
    refuses_request(
        &["--seed", "-9223372036854775809"],
        &["-9223372036854775809", "--seed", "-2^63", "-1 draws one"],
    );
    refuses_request(&["--samples", "0"], &["--samples is 0"]);
    refuses_request(
        &["--cache-interval", "21"],
        &["--cache-interval is 21", "from 1 to 20"],
    );
    refuses_request(
        &["--scheduler", "Eula"],
        &["--scheduler is \"Eula\"", "Euler"],
    );
}

#[test]
fn wrong_arguments_are_one_line() {
    refuses(2, &[], &["generate", "--help"]);
    refuses(2, &["develop"], &["develop"]);
    refuses(2, &["generate"], &["prompt is missing"]);
    refuses(2, &["inspect"], &["<CHECKPOINT>"]);
    refuses_request(&["--widht", "64"], &["--widht", "--width"]);
    refuses_request(&["--width", "many"], &["many", "--width", "whole number"]);
    refuses_request(
        &["--seed", "18446744073709551616"],
        &["--seed", "from -2^63 to 18446744073709551615"],
    );
    refuses_request(&["--dtype", "f64"], &["f64", "auto, f32, f16"]);
    refuses_request(&["--backend", "opengl"], &["opengl", "vulkan, metal, dx12"]);
    refuses_request(&["--steps", "5", "--steps", "6"], &["--steps"]);
}

#[test]
fn output_names_are_checked_before_any_work() {
    refuses_request(&["--out", "x.gif"], &["--out is x.gif", ".png"]);
    refuses_request(&["--out", "x"], &["--out is x", ".webp"]);
    refuses(
        1,
        &["generate", "x", "--out", "none/x.png"],
        &["none: ", "make the folder first"],
    );
    refuses(1, &["generate", "x", "--out", "."], &["is a folder"]);
    refuses(
        1,
        &["generate", "x", "--trace", "none/t.safetensors"],
        &["none: "],
    );
    refuses(1, &["generate", "x", "--trace", "."], &["is a folder"]);
}

#[test]
fn a_missing_model_is_named() {
    refuses(
        1,
        &["generate", "x", "--model", "no/such/model"],
        &["no/such/model"],
    );
    refuses_request(&["--model", ""], &["--model is empty"]);
    refuses(1, &["inspect", "no/such/model"], &["no/such/model"]);
}

#[test]
fn the_model_may_come_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let output = calotype(folder.path(), &["generate", "x"])
        .env("CALOTYPE_MODEL", "from/the/environment")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("from/the/environment"));
}

#[test]
fn help_and_version_go_to_stdout() {
    let folder = tempfile::tempdir().unwrap();
    for (args, holds) in [
        (&["--help"][..], "generate"),
        (&["generate", "--help"][..], "--guidance-scale"),
        (&["--version"][..], env!("CARGO_PKG_VERSION")),
    ] {
        let output = run(folder.path(), args);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains(holds), "{args:?}");
        assert!(output.stderr.is_empty());
    }
}

/// The commit and the features are told by the long form alone.
#[test]
fn the_version_tells_what_was_built() {
    let folder = tempfile::tempdir().unwrap();
    let said = |flag| text(&run(folder.path(), &[flag]).stdout);
    assert_eq!(
        said("-V"),
        concat!("calotype ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let long = said("--version");
    assert!(
        long.contains("(commit ") && long.contains("optional features: server"),
        "{long}"
    );
}

#[test]
fn shells_and_man_learn_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = run(folder.path(), &["completions", shell]);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{shell}"
        );
        let script = text(&output.stdout);
        assert!(
            script.contains("generate") && script.contains("guidance-scale"),
            "{shell}"
        );
    }
    refuses(2, &["completions", "tcsh"], &["tcsh", "bash"]);
    let page = text(&run(folder.path(), &["man"]).stdout);
    assert!(
        page.contains(".TH calotype 1") && page.contains("calotype\\-generate(1)"),
        "{page}"
    );
    let pages = folder.path().join("man1");
    let output = run(folder.path(), &["man", "--folder", pages.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty());
    let page = std::fs::read_to_string(pages.join("calotype-generate.1")).unwrap();
    assert!(page.contains("guidance\\-scale"));
    assert!(pages.join("calotype-keys-add.1").is_file());
    refuses(
        1,
        &["man", "--folder", "/proc/man1"],
        &["manual pages to /proc/man1"],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_takes_no_files_is_named() {
    // Nobody, root neither, can make files there.
    let named = ["/proc: cannot write to this folder", "choose a folder"];
    refuses(1, &["generate", "x", "--out", "/proc/x.png"], &named);
    refuses(
        1,
        &["generate", "x", "--trace", "/proc/x.safetensors"],
        &named,
    );
}

/// The smallest run there is.
const SMALL: [&str; 8] = [
    "generate",
    "a red circle",
    "--width",
    "64",
    "--height",
    "64",
    "--steps",
    "1",
];

fn draw(folder: &Path, extra: &[&str]) -> Output {
    let output = run(folder, &[&SMALL, extra].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

#[test]
fn default_names_never_replace_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for expected in [
        "calotype-7.png\n",
        "calotype-7-1.png\n",
        "calotype-7-2.png\n",
    ] {
        assert_eq!(
            text(&draw(folder.path(), &["--seed", "7"]).stdout),
            expected
        );
    }
    assert_eq!(names(folder.path()).len(), 3);
    let bytes = fs::read(folder.path().join("calotype-7.png")).unwrap();
    let reader = png::Decoder::new(std::io::Cursor::new(bytes))
        .read_info()
        .unwrap();
    let chunk = &reader.info().uncompressed_latin1_text[0];
    assert_eq!(chunk.keyword, "parameters");
    let expected = "a red circle\nSteps: 1, Sampler: UniPC, CFG scale: 7.5, Seed: 7, Size: 64x64, Model: demo, ";
    assert!(chunk.text.starts_with(expected), "{}", chunk.text);
}

#[test]
fn json_is_one_object_and_all_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let trace = ["--trace", "t.safetensors"];
    let extra = ["--seed", "5", "--samples", "2", "--out", "x.webp", "--json"];
    let output = draw(folder.path(), &[&extra[..], &trace].concat());
    assert!(output.stderr.is_empty());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["files"], serde_json::json!(["x-0.webp", "x-1.webp"]));
    assert_eq!(json["seeds"], serde_json::json!([5, 6]));
    assert_eq!(json["settings"]["width"], 64);
    assert_eq!(json["settings"]["negative_prompt"], serde_json::Value::Null);
    for key in [
        "adapter",
        "dtype",
        "peak_device_bytes",
        "gpu_busy",
        "loop_buffers_created",
        "unet_multiply_adds",
    ] {
        assert!(json.get(key).is_some(), "{key}");
    }
    for stage in ["load", "encode", "denoise", "decode", "write"] {
        assert!(json["seconds"][stage].is_number(), "{stage}");
    }
    assert_eq!(
        names(folder.path()),
        ["t.safetensors", "x-0.webp", "x-1.webp"]
    );
}

#[test]
fn a_prompt_may_come_from_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = calotype(
        folder.path(),
        &["generate", "-", "--steps", "1", "--json", "--seed", "1"],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all("a blue square\n".as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["settings"]["prompt"], "a blue square");
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let child = calotype(
        folder.path(),
        &[
            "generate",
            "x",
            "--steps",
            "999",
            "--trace",
            "t.safetensors",
        ],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(crate::server::kill("INT", child.id()));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr).lines().count(), 1);
    assert!(output.stdout.is_empty());
    assert!(names(folder.path()).is_empty());
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_grow_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let script = "ulimit -f 1; exec \"$0\" generate x --steps 1 --seed 1";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_calotype")])
        .env_remove("CALOTYPE_MODEL")
        .current_dir(folder.path())
        .output()
        .unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.starts_with("error: calotype-1.png: cannot be written"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1);
    assert!(names(folder.path()).is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = calotype(folder.path(), &[&SMALL[..], &["--seed", "1"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty());
    assert_eq!(names(folder.path()), ["calotype-1.png"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = calotype(folder.path(), &SMALL)
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(
        message.starts_with("error: stdout cannot be written"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1);
}

/// The tuning of products on a CPU adapter, whose kernels are told to be those of a GPU.
#[test]
fn a_table_of_the_fastest_kernels_is_measured_kept_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let calotype = |args: &[&str]| -> Output {
        let mut command = calotype(folder.path(), args);
        command.env("XDG_CACHE_HOME", &cache);
        // Mesa's compiled shaders are not what is tested.
        if let Some(home) = std::env::home_dir() {
            command.env("MESA_SHADER_CACHE_DIR", home.join(".cache"));
        }
        command.output().unwrap()
    };
    let size = [
        "--model", "demo", "--width", "64", "--height", "64", "--batch", "1",
    ];
    let tune = |extra: &[&str]| calotype(&[&["tune"], &size[..], extra].concat());
    let none = text(&tune(&["--kernels", "scalar32", "--tuning", "off"]).stdout);
    assert!(none.contains("nothing is measured"), "{none}");
    let direct = text(&tune(&["--kernels", "direct"]).stdout);
    assert!(direct.contains("nothing to choose"), "{direct}");
    let scalar = ["--kernels", "scalar32", "--output", "table.json"];
    let output = tune(&scalar);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(
        table.lines().count() > 5 && table.contains("scalar "),
        "{table}"
    );
    // What was measured is not measured again.
    let again = tune(&scalar);
    assert_eq!(text(&again.stdout), table);
    assert_eq!(text(&again.stderr), "");
    // A file is taken as it is; one that names no kernel is refused by its name.
    let draw = |table: &str| {
        calotype(&[
            "generate",
            "x",
            "--steps",
            "1",
            "--width",
            "64",
            "--height",
            "64",
            "--kernels",
            "scalar32",
            "--tuning",
            table,
            "-q",
        ])
    };
    let drawn = draw("table.json");
    assert!(drawn.status.success(), "{}", text(&drawn.stderr));
    let path = folder.path().join("table.json");
    let wrong = fs::read_to_string(&path)
        .unwrap()
        .replace("scalar ", "scaler ");
    fs::write(&path, wrong).unwrap();
    let refused = draw("table.json");
    let message = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(
        message.contains("table.json") && message.contains("scaler"),
        "{message}"
    );
}

#[test]
fn devices_say_which_kernels_passed_their_tests() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["devices", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for device in found["devices"].as_array().unwrap() {
        assert!(device["variants"].as_array().unwrap().len() > 3, "{device}");
        assert!(device["self_tests"]["passed"].is_u64(), "{device}");
        assert_eq!(
            device["self_tests"]["failed"],
            serde_json::json!([]),
            "{device}"
        );
    }
}

/// Where the lanes of a subgroup fail to load for one another, each loads for itself, and
/// the picture is the same to the bit. On a GPU, which has neither, nothing changes.
#[test]
fn lanes_that_cannot_share_load_for_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let mut pictures = Vec::new();
    for family in ["none", "direct"] {
        let asking = |args: &[&str]| {
            let mut command = calotype(folder.path(), args);
            let output = command.env("CALOTYPE_FAIL_SELF_TEST", family).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        let kernels = asking(&["devices"]);
        assert!(
            family == "none" || !kernels.contains("linear direct shared"),
            "{kernels}"
        );
        let size = ["--width", "64", "--height", "64", "--steps", "1"];
        let name = format!("{family}.png");
        let out = ["generate", "a red circle", "--seed", "3", "--out", &name];
        asking(&[&out[..], &size].concat());
        let picture = image::open(folder.path().join(&name)).unwrap();
        pictures.push(picture.into_rgb8().into_raw());
    }
    assert!(pictures[0] == pictures[1]);
}
