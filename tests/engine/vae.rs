//! VAEs in place of the checkpoint's own, and the encoder's posterior.

use crate::case::{load, load_alone};
use crate::common::write_sparse;
use crate::tensors::{Tensors, floats, read, relative, renamed, write};
use calotype::checkpoint::open_vae;
use calotype::pipeline::{Cancel, Dtype, LoadOptions, Observer, Pipeline, RawRequest, Tiling};
use calotype::schedule::{NoiseGenerator, TorchCpuGenerator};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE: &str = "diffusion_pytorch_model.safetensors";

fn here(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

fn options(vae: Option<&Path>) -> LoadOptions {
    LoadOptions {
        model: "demo".into(),
        vae: vae.map(|path| path.to_str().unwrap().into()),
        dtype: Dtype::F32,
        ..Default::default()
    }
}

/// The planes of a picture, -1 to 1.
fn planes(path: &Path) -> (Vec<f32>, [usize; 2]) {
    let picture = image::open(path).unwrap().into_rgb8();
    let (w, h) = picture.dimensions();
    let channel = |c: usize| picture.pixels().map(move |p| f32::from(p.0[c]) / 255.0);
    let values = (0..3).flat_map(channel).map(|x| x * 2.0 - 1.0).collect();
    (values, [h as usize, w as usize])
}

#[test]
fn the_posterior_is_diffusers() {
    let cases = read(&here("tests/fixtures/taesd/cases.safetensors"));
    let (picture, size) = planes(&here("models/demo/pictures/red-circle.png"));
    let pipeline = load(&options(None)).unwrap();
    let vae = pipeline.vae(Tiling::Auto);
    let posterior = vae
        .encode_distribution(&picture, size, &Cancel::default())
        .unwrap();
    let std = posterior.std.as_ref().unwrap();
    let mean = relative(&posterior.mean, &floats(&cases, "mean"));
    let spread = relative(std, &floats(&cases, "std"));
    println!("mean {mean:.1e}, std {spread:.1e}");
    assert!(mean <= 1e-4 && spread <= 1e-4, "{mean:e} {spread:e}");
    let sample = posterior.sample(&vec![2.0; std.len()]);
    assert_eq!(sample[7], posterior.mean[7] + std[7] * 2.0);
}

#[test]
fn pictures_that_do_not_fit_are_refused() {
    let pipeline = load(&options(None)).unwrap();
    let (vae, cancel) = (pipeline.vae(Tiling::Auto), Cancel::default());
    for (values, size, named) in [
        (3 * 60 * 64, [60, 64], "64x60"),
        (3 * 64 * 64 - 1, [64, 64], "12287"),
        (0, [0, 64], "[0, 64]"),
    ] {
        let refused = vae.encode_distribution(&vec![0.0; values], size, &cancel);
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    }
    let decoder = vae.decoder([8, 8]).unwrap();
    assert!(decoder.decode(&[0.0; 4 * 63], &cancel).is_err());
}

/// The name in the original release of a tensor of a VAE of `levels`.
fn original(name: &str, levels: usize) -> String {
    let mut name = name
        .replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
        .replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
        .replace("mid_block.attentions.0.to_", "mid.attn_1.")
        .replace("mid_block.resnets.0", "mid.block_1")
        .replace("mid_block.resnets.1", "mid.block_2")
        .replace(".downsamplers.0.", ".downsample.")
        .replace(".upsamplers.0.", ".upsample.")
        .replace(".resnets.", ".block.")
        .replace("conv_shortcut", "nin_shortcut")
        .replace("conv_norm_out", "norm_out");
    for i in 0..levels {
        let up = format!("up.{}.", levels - 1 - i);
        name = name.replace(&format!("down_blocks.{i}."), &format!("down.{i}."));
        name = name.replace(&format!("up_blocks.{i}."), &up);
    }
    name
}

/// The embedded model's VAE under the original release's names.
fn original_demo(prefix: &str) -> Tensors {
    let weights = read(&here("models/demo/base/vae").join(FILE));
    let mut all = renamed(&weights, |name| {
        Some(format!("{prefix}{}", original(name, 4)))
    });
    for (name, tensor) in &mut all {
        if name.contains("attn_1") && tensor.1.len() == 2 {
            tensor.1.extend([1, 1]);
        }
    }
    all
}

/// Decoded latents, and the posterior of a picture.
fn coded(pipeline: &Pipeline) -> [Vec<f32>; 3] {
    let (vae, cancel) = (pipeline.vae(Tiling::Never), Cancel::default());
    let latents = TorchCpuGenerator::new(2).randn(4 * 8 * 9);
    let decoded = vae.decoder([8, 9]).unwrap().decode(&latents, &cancel);
    let picture = TorchCpuGenerator::new(3).randn(3 * 32 * 40);
    let posterior = vae
        .encode_distribution(&picture, [32, 40], &cancel)
        .unwrap();
    [decoded.unwrap(), posterior.mean, posterior.std.unwrap()]
}

#[test]
fn the_models_own_vae_from_a_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let own = here("models/demo/base/vae");
    let config: Value =
        serde_json::from_slice(&std::fs::read(own.join("config.json")).unwrap()).unwrap();
    // Norms of 8 groups, which shapes do not tell.
    let config = json!({"vae": config});
    write(
        &at("diffusers.safetensors"),
        &read(&own.join(FILE)),
        Some(&config),
    );
    for (name, prefix) in [
        ("plain", ""),
        ("whole", "first_stage_model."),
        ("vae", "vae."),
    ] {
        let path = at(&format!("{name}.safetensors"));
        write(&path, &original_demo(prefix), Some(&config));
    }
    let mut paths = vec![own.clone(), own.join(FILE), here("models/demo/base")];
    paths.extend(["diffusers", "plain", "whole", "vae"].map(|n| at(&format!("{n}.safetensors"))));
    let known = load(&options(None)).unwrap();
    let want = coded(&known);
    for path in &paths {
        let pipeline = load(&options(Some(path))).unwrap();
        assert!(coded(&pipeline) == want, "{}", path.display());
    }
    let drawn = |mut pipeline: Pipeline| {
        let raw = RawRequest {
            prompt: Some("a red circle".into()),
            width: Some(64),
            height: Some(72),
            steps: Some(2),
            seed: Some(1),
            ..Default::default()
        };
        let request = pipeline
            .resolve(raw, &calotype::text::Styles::builtin())
            .unwrap();
        let mut observer = Observer {
            events: &mut |_| {},
            cancel: &Cancel::default(),
            trace: None,
            preview_every: 0,
        };
        pipeline.generate(&request, &mut observer).unwrap().pictures
    };
    let from_file = load(&options(Some(&at("plain.safetensors")))).unwrap();
    assert!(drawn(from_file) == drawn(known));
}

#[test]
fn what_is_no_vae_for_sdxl_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let message = |what: &str, named: &[&str]| {
        let message = open_vae(&path).unwrap_err().to_string();
        println!("{what}: {message}");
        assert!(!message.contains('\n'), "{message}");
        for part in [&["other.safetensors"], named].concat() {
            assert!(message.contains(part), "{what} lacks {part}: {message}");
        }
    };
    message("nothing", &["point vae at"]);
    let conv = |name: &str, shape: &[usize]| (name.to_string(), "F16", shape.to_vec());
    write_sparse(&path, &[conv("lora_unet_x.lora_up.weight", &[4, 4])]);
    message("an adapter", &["LoRA", "point vae at"]);
    write_sparse(
        &path,
        &[conv("down_blocks.0.resnets.0.conv1.weight", &[4, 4, 3, 3])],
    );
    message("a UNet", &["another part"]);
    write_sparse(&path, &[conv("something", &[1])]);
    message("something else", &["no VAE"]);

    // TAESD of Stable Diffusion 3 and Flux.
    let mut wide = read(&here("tests/fixtures/taesd").join(FILE));
    let (_, shape, bytes) = wide.get_mut("decoder.layers.0.weight").unwrap();
    shape[1] = 16;
    *bytes = bytes.repeat(4);
    wide.retain(|name, _| name.starts_with("decoder"));
    write(&path, &wide, None);
    message("16 latent channels", &["16 latent channels", "4"]);
    // Their VAE.
    let mut wide = original_demo("");
    for (name, axis) in [
        ("decoder.conv_in.weight", 1),
        ("encoder.conv_out.weight", 0),
    ] {
        let (_, shape, bytes) = wide.get_mut(name).unwrap();
        shape[axis] *= 4;
        *bytes = bytes.repeat(4);
    }
    wide.retain(|name, _| !name.contains("quant_conv"));
    write(&path, &wide, Some(&json!({"vae": {"norm_num_groups": 8}})));
    message("16 latent channels", &["16 latent channels", "4"]);

    let mut tensors = original_demo("");
    tensors.retain(|name, _| !name.starts_with("encoder.down"));
    write(&path, &tensors, None);
    message(
        "no encoder",
        &["encoder.down.0.block.0.conv1.weight", "missing"],
    );
    std::fs::write(&path, "no weights").unwrap();
    message("a text", &["a text"]);
    let empty = tempfile::tempdir().unwrap();
    let refused = open_vae(empty.path()).unwrap_err().to_string();
    assert!(refused.contains("config.json"), "{refused}");
}

/// There is no such adapter, so that the error shows what is checked before it is
/// looked for.
#[test]
fn tensors_are_checked_before_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vae.safetensors");
    let missing = "decoder.mid.block_2.conv1.bias";
    let mut tensors = original_demo("");
    tensors.remove(missing);
    let groups = json!({"vae": {"norm_num_groups": 8}});
    write(&path, &tensors, Some(&groups));
    let nowhere = |vae: Option<&Path>, preview: Option<&Path>| {
        let options = LoadOptions {
            adapter: Some("no such adapter".into()),
            preview_vae: preview.map(|path| path.to_str().unwrap().into()),
            ..options(vae)
        };
        load_alone(&options).err().unwrap().to_string()
    };
    for message in [nowhere(Some(&path), None), nowhere(None, Some(&path))] {
        assert!(
            message.contains(missing) && message.contains("missing"),
            "{message}"
        );
    }
    let taesd = here("tests/fixtures/taesd");
    let mut tensors = read(&taesd.join(FILE));
    let (_, shape, bytes) = tensors.get_mut("decoder.layers.3.conv.2.weight").unwrap();
    shape[0] += 1;
    bytes.extend([0; 8 * 9 * 2]);
    write(&path, &tensors, None);
    let message = nowhere(Some(&path), None);
    assert!(
        message.contains("decoder.layers.3.conv.2.weight"),
        "{message}"
    );
    assert!(message.contains("[9, 8, 3, 3]"), "{message}");
    let message = nowhere(Some(&taesd), Some(&taesd));
    assert!(message.contains("no such adapter"), "{message}");
}

#[test]
fn the_command_takes_a_vae() {
    let folder = tempfile::tempdir().unwrap();
    let run = |vae: &Path| {
        Command::new(env!("CARGO_BIN_EXE_calotype"))
            .args([
                "generate",
                "a red circle",
                "--width",
                "64",
                "--height",
                "64",
            ])
            .args([
                "--steps", "1", "--seed", "1", "--out", "x.png", "--model", "demo",
            ])
            .arg("--vae")
            .arg(vae)
            .current_dir(folder.path())
            .env_remove("CALOTYPE_LOG")
            .env_remove("RUST_LOG")
            .output()
            .unwrap()
    };
    let output = run(&here("models/demo/base/unet"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.starts_with("error: ") && message.lines().count() == 1,
        "{message}"
    );
    assert!(message.contains("_class_name"), "{message}");
    let output = run(&here("tests/fixtures/taesd"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    let picture = image::open(folder.path().join("x.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (64, 64));
}
