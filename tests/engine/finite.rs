//! Numbers that are not finite: which stage is named, that nothing is written, and
//! what goes on all the same.

use crate::spoilt::{ENCODER, ENCODER_2, Model, UNET, VAE, widen};
use crate::tensors::{Tensors, relative};
use calotype::checkpoint::Checkpoint;
use calotype::gpu::{AdapterChoice, Gpu};
use calotype::pipeline::{
    Cancel, Dtype, Event, LoadOptions, Observer, Output, Pipeline, RawRequest, Tiling, Trace,
};
use calotype::text::Styles;
use std::path::Path;
use std::process::Command;

const TO_K: &str = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";

/// Runs `generate` in an empty folder: the exit code, stderr, and the files there after.
fn generate(args: &[&str]) -> (Option<i32>, String, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .args([
            "generate",
            "a red circle",
            "--width",
            "64",
            "--height",
            "64",
        ])
        .args(["--steps", "2", "--seed", "1", "--out", "x.png"])
        .args(args)
        .current_dir(folder.path())
        .env_remove("CALOTYPE_MODEL")
        .env_remove("CALOTYPE_LOG")
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let files = std::fs::read_dir(folder.path()).unwrap();
    let files = files.map(|f| f.unwrap().file_name().into_string().unwrap());
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said, files.collect())
}

fn picture() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("models/demo/pictures/red-circle.png");
    path.to_str().unwrap().to_owned()
}

/// Some of these weights reach what kernels would swallow: keys whose scores are all
/// NaN give an even attention.
#[test]
fn one_weight_that_is_nan_is_an_error_that_names_the_stage() {
    let key = "text_model.encoder.layers.0.self_attn.k_proj.weight";
    let refiner = Model::refiner().with_nan(UNET, TO_K);
    // At the ends of tensors it is seen that the encoder is not the base's.
    let bias = "text_model.encoder.layers.0.self_attn.k_proj.bias";
    let own_encoder = Model::refiner().with_nan_at(ENCODER_2, bias, |_| 0);
    let picture = picture();
    let start = ["--strength", "1", "--image", &picture];
    for (model, more, stage, tensor) in [
        (
            Model::base().with_nan(ENCODER, key),
            &[][..],
            "the base model's first text encoder",
            key,
        ),
        (
            Model::base().with_nan(ENCODER_2, "text_projection.weight"),
            &[],
            "the base model's second text encoder",
            "text_projection.weight",
        ),
        (
            Model::base().with_nan(ENCODER, "text_model.embeddings.position_embedding.weight"),
            &[],
            "the base model's first text encoder",
            "position_embedding",
        ),
        (
            Model::base().with_nan(UNET, TO_K),
            &["--preview", "1", "--trace", "trace.safetensors"],
            "the base model's UNet at step 1 of 2",
            TO_K,
        ),
        (
            Model::base(),
            &["--refiner", refiner.path(), "--high-noise-fraction", "0.5"],
            "the refiner's UNet at step 1 of 1",
            TO_K,
        ),
        (
            Model::base(),
            &[
                "--refiner",
                own_encoder.path(),
                "--high-noise-fraction",
                "0.5",
            ],
            "the refiner's text encoder",
            bias,
        ),
        (
            Model::base().with_nan(VAE, "decoder.mid_block.attentions.0.to_k.weight"),
            &["--preview", "1"],
            "the VAE's decoder",
            "to_k",
        ),
        (
            Model::base().with_nan(VAE, "encoder.conv_norm_out.bias"),
            &start,
            "the VAE's encoder",
            "encoder.conv_norm_out.bias",
        ),
    ] {
        let args = [&["--model", model.path()], more].concat();
        let (code, said, files) = generate(&args);
        println!("{said}");
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.starts_with(&format!("error: {stage}")),
            "{stage}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.contains(tensor) && said.contains("not finite"),
            "{said}"
        );
        assert!(files.is_empty(), "{files:?}");
    }
    // What a picture does not need does not matter.
    let encoder = Model::base().with_nan(VAE, "encoder.conv_norm_out.bias");
    let (code, said, files) = generate(&["--model", encoder.path()]);
    assert_eq!((code, files), (Some(0), vec!["x.png".into()]), "{said}");
}

fn observer<'a>(
    events: &'a mut dyn FnMut(Event),
    cancel: &'a Cancel,
    trace: Option<&'a mut Trace>,
) -> Observer<'a> {
    Observer {
        events,
        cancel,
        trace,
        preview_every: 0,
    }
}

fn load(model: &Model, options: LoadOptions) -> Pipeline {
    let options = LoadOptions {
        model: model.path().into(),
        ..options
    };
    crate::case::load(&options).unwrap()
}

fn draw(pipeline: &mut Pipeline, raw: RawRequest, trace: &mut Trace) -> calotype::Result<Output> {
    let raw = RawRequest {
        prompt: Some("a red circle".into()),
        width: Some(64),
        height: Some(64),
        seed: Some(3),
        ..raw
    };
    let request = pipeline.resolve(raw, &Styles::builtin()).unwrap();
    let cancel = Cancel::default();
    pipeline.generate(&request, &mut observer(&mut |_| {}, &cancel, Some(trace)))
}

fn steps(steps: i64) -> RawRequest {
    RawRequest {
        steps: Some(steps),
        scheduler: Some("Euler".into()),
        ..Default::default()
    }
}

/// Everything in f32.
fn full() -> LoadOptions {
    LoadOptions {
        dtype: Dtype::F32,
        activations: Dtype::F32,
        ..Default::default()
    }
}

fn has_f16() -> bool {
    let gpu = Gpu::open(&AdapterChoice::default()).unwrap();
    let has = gpu.capabilities().shader_f16;
    if !has {
        eprintln!("skipped: the adapter has no f16");
    }
    has
}

/// A UNet of finite weights whose time embedding overflows where the timestep is
/// below 400: the sine of the lowest frequency grows with the timestep.
fn overflows_late(tensors: &mut Tensors) {
    const WIDTH: usize = 32;
    let half = (WIDTH / 2) as f32;
    let frequency = 10_000f32.powf(-(half - 1.0) / half);
    let limit = (400.0 * frequency).sin();
    let big = 3e37;
    widen(tensors, "time_embedding.linear_1.weight", |i, x| match i {
        i if i == WIDTH - 1 => -big,
        i if i < WIDTH => 0.0,
        _ => x,
    });
    widen(tensors, "time_embedding.linear_1.bias", |i, x| match i {
        0 => big * limit,
        _ => x,
    });
    widen(tensors, "time_embedding.linear_2.weight", |i, x| {
        match i % 128 {
            0 => 1e6,
            _ => x,
        }
    });
}

#[test]
fn the_first_step_that_overflows_is_named() {
    let model = Model::base().change(UNET, overflows_late);
    let mut pipeline = load(&model, full());
    // Timesteps 751, 501, 251 and 1.
    let error = draw(&mut pipeline, steps(4), &mut Trace::new()).unwrap_err();
    let said = error.to_string();
    assert!(
        said.starts_with("the base model's UNet at step 3 of 4 made"),
        "{said}"
    );
    assert!(said.contains("inspect"), "{said}");
    // Two pictures that go through one at a time.
    let mut one_by_one = load(
        &model,
        LoadOptions {
            batch: Some(1),
            ..full()
        },
    );
    let raw = RawRequest {
        samples: Some(2),
        ..steps(4)
    };
    let error = draw(&mut one_by_one, raw, &mut Trace::new()).unwrap_err();
    assert!(error.is_not_finite() && error.to_string().contains("step 3 of 4"));
    // The pipeline lives on: a model is not spoilt by what it has drawn.
    let strength = RawRequest {
        samples: Some(1),
        ..steps(1)
    };
    let drawn = draw(&mut pipeline, strength, &mut Trace::new());
    assert!(drawn.is_err() || drawn.is_ok_and(|o| o.pictures.len() == 1));
}

#[test]
fn a_unet_that_overflows_in_f16_is_told_to_use_f32() {
    if !has_f16() {
        return;
    }
    let large = |tensors: &mut Tensors| {
        for end in ["weight", "bias"] {
            widen(tensors, &format!("conv_in.{end}"), |_, x| 1e5 * x);
        }
    };
    let model = Model::base().change(UNET, large);
    let half = LoadOptions {
        activations: Dtype::F16,
        ..full()
    };
    let error = draw(&mut load(&model, half), steps(1), &mut Trace::new()).unwrap_err();
    let said = error.to_string();
    assert!(
        said.starts_with("the base model's UNet at step 1 of 1 made"),
        "{said}"
    );
    assert!(
        said.contains("activations") && said.contains("f32"),
        "{said}"
    );
    let drawn = draw(&mut load(&model, full()), steps(1), &mut Trace::new()).unwrap();
    assert!(drawn.warnings.is_empty(), "{:?}", drawn.warnings);
}

/// A VAE whose activations reach a million, which says that f16 would do.
fn overflows_in_f16(tensors: &mut Tensors) {
    for half in ["encoder", "decoder"] {
        for end in ["weight", "bias"] {
            widen(tensors, &format!("{half}.conv_in.{end}"), |_, x| 1e6 * x);
        }
    }
}

#[test]
fn a_vae_that_overflows_in_f16_is_decoded_again() {
    if !has_f16() {
        return;
    }
    let model = Model::base().change(VAE, overflows_in_f16);
    for tiling in [Tiling::Auto, Tiling::Always] {
        let half = LoadOptions {
            activations: Dtype::F16,
            vae_tiling: tiling,
            ..full()
        };
        let mut trace = Trace::new();
        let raw = RawRequest {
            samples: Some(2),
            // More than a tile of latents.
            width: (tiling == Tiling::Always).then_some(800),
            ..steps(1)
        };
        let mut pipeline = load(&model, half);
        let request = RawRequest {
            prompt: Some("a red circle".into()),
            width: raw.width.or(Some(64)),
            height: Some(64),
            seed: Some(3),
            ..raw
        };
        let request = pipeline.resolve(request, &Styles::builtin()).unwrap();
        let cancel = Cancel::default();
        let output = pipeline
            .generate(
                &request,
                &mut observer(&mut |_| {}, &cancel, Some(&mut trace)),
            )
            .unwrap();
        assert_eq!(output.warnings.len(), 1, "{:?}", output.warnings);
        let warning = &output.warnings[0];
        assert!(
            warning.contains("VAE's decoder overflowed in f16"),
            "{warning}"
        );
        assert!(warning.contains("2 pictures"), "{warning}");
        // As a VAE in f32 has it, but for the rounding of operands.
        let (shape, latents) = trace.f32s("base_latents").unwrap();
        let [h, w] = [shape[2], shape[3]];
        let (_, decoded) = trace.f32s("decoded").unwrap();
        let other = load(&model, full());
        let decoder = other.vae(tiling).decoder([h, w]).unwrap();
        let known: Vec<f32> = latents
            .chunks(latents.len() / 2)
            .flat_map(|one| decoder.decode(one, &cancel).unwrap())
            .collect();
        let error = relative(&decoded, &known);
        assert!(error < 2e-3, "{error:e}");
    }
}

#[test]
fn an_encoder_that_overflows_in_f16_encodes_again() {
    if !has_f16() {
        return;
    }
    let model = Model::base().change(VAE, overflows_in_f16);
    let half = ["--dtype", "f32", "--activations", "f16"];
    let picture = picture();
    let start = ["--strength", "1", "--image", &picture];
    let args = [&["--model", model.path()], &half[..], &start].concat();
    let (code, said, files) = generate(&args);
    assert_eq!((code, files), (Some(0), vec!["x.png".into()]), "{said}");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].starts_with("warning: the VAE's encoder overflowed in f16"),
        "{said}"
    );
    assert!(
        lines[1].starts_with("warning: the VAE's decoder overflowed in f16"),
        "{said}"
    );
}

#[test]
fn weights_beyond_f16_stay_f32_one_by_one() {
    let wide = "decoder.mid_block.attentions.0.to_k.weight";
    let change = |tensors: &mut Tensors| {
        // Keys beyond f16, and queries as much smaller.
        widen(tensors, wide, |_, x| 1e8 * x);
        widen(
            tensors,
            "decoder.mid_block.attentions.0.to_k.bias",
            |_, x| 1e8 * x,
        );
        widen(
            tensors,
            "decoder.mid_block.attentions.0.to_q.weight",
            |_, x| 1e-8 * x,
        );
        widen(
            tensors,
            "decoder.mid_block.attentions.0.to_q.bias",
            |_, x| 1e-8 * x,
        );
    };
    let model = Model::base().change(VAE, change);
    let f16 = LoadOptions {
        dtype: Dtype::F16,
        ..full()
    };
    let decoded = |model: &Model, options: &LoadOptions| {
        let mut pipeline = load(model, options.clone());
        let mut trace = Trace::new();
        let output = draw(&mut pipeline, steps(1), &mut trace).unwrap();
        (trace.f32s("decoded").unwrap().1, output.warnings)
    };
    let (found, warnings) = decoded(&model, &f16);
    let (known, none) = decoded(&Model::base(), &f16);
    assert!(none.is_empty(), "{none:?}");
    // q, k and v are one product: all three stayed f32, or q would have been 0.
    let error = relative(&found, &known);
    assert!(error < 1e-5, "{error:e}");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("beyond f16's range"), "{warnings:?}");
    assert!(warnings[0].contains(wide), "{warnings:?}");
    let (_, none) = decoded(&model, &full());
    assert!(none.is_empty(), "{none:?}");

    let report = Checkpoint::inspect(model.path()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.notes[0].contains(wide) && report.notes[0].starts_with("vae"));
}

/// Runs `inspect`: the exit code, stdout and stderr.
fn inspect(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .arg("inspect")
        .args(args)
        .output()
        .unwrap();
    let [out, said] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
    (output.status.code(), out, said)
}

#[test]
fn inspect_finds_values_that_are_not_finite() {
    let (code, out, said) = inspect(&["demo"]);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{out}");
    assert!(!out.contains("problem"), "{out}");

    let last = "text_model.final_layer_norm.weight";
    let model = Model::base().with_nan(UNET, TO_K).with_nan(ENCODER_2, last);
    let (code, out, said) = inspect(&[model.path()]);
    assert_eq!(code, Some(1), "{out}{said}");
    let problems: Vec<_> = out.lines().filter(|l| l.contains("problem: ")).collect();
    assert_eq!(problems.len(), 2, "{out}");
    assert!(
        problems[0].contains(&format!("text_encoder_2: tensor {last}: 1 of ")),
        "{out}"
    );
    assert!(
        problems[1].contains(&format!("unet: tensor {TO_K}: 1 of ")),
        "{out}"
    );
    assert!(
        said.starts_with("error: ") && said.lines().count() == 1,
        "{said}"
    );
    let (code, out, _) = inspect(&[model.path(), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, Some(1));
    assert_eq!(json["problems"].as_array().unwrap().len(), 2, "{out}");

    // Any other problem counts as well.
    let model = Model::base().change(UNET, |tensors| {
        tensors.get_mut("conv_in.bias").unwrap().0 = safetensors::tensor::Dtype::I16;
    });
    let (code, out, _) = inspect(&[model.path()]);
    assert_eq!(code, Some(1), "{out}");
    assert!(
        out.contains("problem: ") && out.contains("conv_in.bias"),
        "{out}"
    );
}

/// The VAE of previews is broken, the picture is not.
#[test]
fn previews_do_not_fail_the_run() {
    let vae = Model::base().with_nan(VAE, "decoder.conv_in.weight");
    let path = format!("{}/vae", vae.path());
    let (code, said, files) = generate(&["--preview", "1", "--preview-vae", &path]);
    assert_eq!((code, files), (Some(0), vec!["x.png".into()]), "{said}");
    assert!(
        said.starts_with("warning: no previews") && said.lines().count() == 1,
        "{said}"
    );
}
