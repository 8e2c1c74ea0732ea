//! Bad input as a user meets it: one line of error that names the thing and the
//! remedy, the right exit code, no panic, no file left behind.

use crate::common::write_header;
use crate::folder::copy;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calotype"));
    command
        .current_dir(folder)
        .env_remove("CALOTYPE_MODEL")
        .env_remove("CALOTYPE_LOG")
        .env_remove("RUST_LOG")
        .env_remove("MESA_VK_DEVICE_SELECT");
    command
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn holds(what: &str, output: &Output, code: i32, named: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{what}: {message}");
    assert!(output.stdout.is_empty(), "{what}");
    assert!(message.starts_with("error: "), "{what}: {message}");
    assert_eq!(message.lines().count(), 1, "{what}: {message}");
    for part in named {
        assert!(message.contains(part), "{what} lacks {part}: {message}");
    }
    println!("{what}: {}", message.trim_end());
}

/// Runs `generate` in an empty folder.
fn refuses(what: &str, extra: &[&str], code: i32, named: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path())
        .args(["generate", "a red circle"])
        .args(extra)
        .output()
        .unwrap();
    holds(what, &output, code, named);
    assert!(names(folder.path()).is_empty(), "{what}");
}

/// The same with a model.
fn refuses_model(what: &str, model: &Path, named: &[&str]) {
    refuses(what, &["--model", model.to_str().unwrap()], 1, named);
}

/// A copy of the demo base that a test may damage.
struct Copy {
    _temp: tempfile::TempDir,
    folder: PathBuf,
}

impl Copy {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("copy");
        copy(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/base"),
            &folder,
        );
        Copy {
            _temp: temp,
            folder,
        }
    }

    fn set(&self, file: &str, key: &str, value: Value) {
        let path = self.folder.join(file);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json[key] = value;
        fs::write(&path, json.to_string()).unwrap();
    }

    /// Writes the UNet's tensors anew: `change` gives another shape, or none to
    /// leave one out.
    fn rewrite(&self, change: impl Fn(&str, Vec<usize>) -> Option<Vec<usize>>) {
        let path = self.folder.join("unet/diffusion_pytorch_model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors: Vec<_> = file
            .tensors()
            .into_iter()
            .filter_map(|(name, t)| {
                let shape = change(&name, t.shape().to_vec())?;
                let size = shape.iter().product::<usize>() * 2;
                let mut data = t.data().to_vec();
                data.resize(size, 0);
                Some((name, t.dtype(), shape, data))
            })
            .collect();
        let views = tensors
            .iter()
            .map(|(n, d, s, data)| (n.clone(), TensorView::new(*d, s.clone(), data).unwrap()));
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

#[test]
fn wrong_requests() {
    refuses("width", &["--width", "130"], 2, &["--width is 130", "128"]);
    refuses("steps", &["--steps", "0"], 2, &["--steps is 0", "from 1"]);
    let nan = ["--guidance-scale", "nan"];
    refuses("guidance", &nan, 2, &["--guidance-scale is NaN", "from 0"]);
    let backend = ["--backend", "opengl"];
    refuses("backend", &backend, 2, &["opengl", "vulkan"]);
    let adapter = ["--adapter", "no such gpu"];
    refuses("adapter", &adapter, 2, &["no such gpu", "there are"]);
}

#[test]
fn places_that_cannot_be_written() {
    let none = ["--out", "none/x.png"];
    refuses("no folder", &none, 1, &["none", "make the folder"]);
    if cfg!(target_os = "linux") {
        let proc = ["--out", "/proc/x.png"];
        refuses("unwritable", &proc, 1, &["/proc", "choose a folder"]);
    }
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let script = "ulimit -f 1; exec \"$0\" generate x --width 64 --height 64 --steps 1 --out x.png";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_calotype")])
        .env_remove("CALOTYPE_MODEL")
        .current_dir(folder.path())
        .output()
        .unwrap();
    holds("full disk", &output, 1, &["x.png: cannot be written"]);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn files_that_are_no_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    refuses_model("missing", &path, &["bad.safetensors", "--model"]);
    fs::write(&path, "This is a text, and no checkpoint at all.\n").unwrap();
    refuses_model("text", &path, &["bad.safetensors"]);
    write_header(&path, "");
    let mut bytes = (1u64 << 63).to_le_bytes().to_vec();
    bytes.extend(b"{}");
    fs::write(&path, bytes).unwrap();
    refuses_model("2^63", &path, &["bad.safetensors", "9223372036854775808"]);
    let whole = include_bytes!("../fixtures/single.safetensors");
    for keep in [0, 5, 100, whole.len() - 1] {
        fs::write(&path, &whole[..keep]).unwrap();
        refuses_model("truncated", &path, &["bad.safetensors"]);
    }
}

#[test]
fn configurations_that_cannot_be() {
    for (what, key, value, named) in [
        (
            "negative width",
            "block_out_channels",
            json!([-32, 64, 64]),
            "block_out_channels",
        ),
        ("channels", "in_channels", json!(7), "latent channels"),
    ] {
        let copy = Copy::new();
        copy.set("unet/config.json", key, value);
        refuses_model(what, &copy.folder, &[key, named]);
    }
}

#[test]
fn more_steps_than_the_model_was_trained_on() {
    let copy = Copy::new();
    let file = "scheduler/scheduler_config.json";
    copy.set(file, "num_train_timesteps", json!(10));
    let model = copy.folder.to_str().unwrap();
    let few = ["--model", model, "--steps", "25"];
    refuses("steps", &few, 2, &["--steps is 25", "from 1 to 9"]);
}

#[test]
fn tensors_that_are_missing_or_misshapen() {
    let name = "mid_block.attentions.0.proj_in.weight";
    let file = "diffusion_pytorch_model.safetensors";
    let missing = Copy::new();
    missing.rewrite(|n, shape| (n != name).then_some(shape));
    refuses_model("missing", &missing.folder, &[file, name, "missing"]);
    let misshapen = Copy::new();
    misshapen.rewrite(|n, mut shape| {
        if n == name {
            shape[0] += 8;
        }
        Some(shape)
    });
    refuses_model("shape", &misshapen.folder, &[file, name, "72"]);
    let truncated = Copy::new();
    let path = truncated.folder.join("unet").join(file);
    let length = fs::metadata(&path).unwrap().len();
    let open = fs::File::options().write(true).open(&path).unwrap();
    open.set_len(length / 2).unwrap();
    refuses_model("truncated", &truncated.folder, &[file]);
}

#[test]
fn a_prompt_of_any_characters_is_drawn_or_refused_in_one_line() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path())
        .args(["generate", "-", "--width", "64", "--height", "64"])
        .args(["--steps", "1", "--seed", "1", "-q"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"a red\0circle \x1b[2J").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(message.is_empty(), "{message}");
}

#[test]
fn a_driver_says_nothing_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path())
        .args(["generate", "x", "--width", "64", "--height", "64"])
        .args(["--steps", "1", "--seed", "1"])
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("WAYLAND_DISPLAY")
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(message.is_empty(), "{message}");
}
