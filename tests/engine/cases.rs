//! Feature by feature against diffusers in float32: the refiner both ways, pictures
//! to start from, masks, conditioning. `tools/record_cases.py` recorded the cases.

use crate::case::{Case, F16, F32, Limits, compare, denoise, load};
use crate::forms::is_long;
use calotype::kernel::product::Family;
use calotype::pipeline::{Cancel, Dtype, LoadOptions, Observer, RawRequest, Trace};
use calotype::text::Styles;

fn in_f32() -> LoadOptions {
    LoadOptions {
        dtype: Dtype::F32,
        ..Default::default()
    }
}

fn hold(names: &[&str], options: &LoadOptions) {
    crate::case::hold(names, options, &F32);
}

#[test]
fn the_refiner_takes_over() {
    let names = [
        "refined-unipc",
        "refined-heun",
        "refined-two-samples",
        "refined-unguided",
        "refiner-from-noise",
        "conditioning-refined",
    ];
    hold(&names, &in_f32());
}

#[test]
fn the_refiner_makes_a_second_pass() {
    hold(&["second-pass", "second-pass-ancestral"], &in_f32());
}

#[test]
fn pictures_come_from_pictures() {
    let names = [
        "image",
        "image-resized",
        "image-ddpm",
        "image-two-samples",
        "image-refined",
        "image-refiner-only",
        "conditioning-image",
    ];
    hold(&names, &in_f32());
}

#[test]
fn masks_say_what_is_painted_anew() {
    let names = [
        "inpaint",
        "inpaint-whole",
        "inpaint-ancestral",
        "inpaint-ancestral-whole",
        "inpaint-ddim",
        "inpaint-heun",
        "inpaint-unipc",
        "inpaint-refined",
    ];
    hold(&names, &in_f32());
}

#[test]
fn prompts_and_sizes_reach_the_unet() {
    let names = [
        "clip-skip-1",
        "clip-skip-2",
        "second-prompts",
        "conditioning",
        "conditioning-positive",
        "guidance-rescale",
        "wide",
        "zero-snr",
    ];
    hold(&names, &in_f32());
}

/// DeepCache, as its authors' package has it.
#[test]
fn features_are_reused_from_step_to_step() {
    let names = ["cached", "cached-two-samples", "cached-unguided"];
    hold(&names, &in_f32());
}

#[test]
fn other_kernels_do_it_all() {
    let names = [
        "refined-two-samples",
        "inpaint-ancestral",
        "guidance-rescale",
    ];
    for kernels in crate::case::other_kernels() {
        let options = LoadOptions {
            kernels: Some(*kernels),
            ..in_f32()
        };
        hold(&names, &options);
    }
}

/// Logits that reach 500 and more in the UNet, 150 in the text encoders and the VAE,
/// over 77 and 81 keys: whatever lies beside a row's keys must not come into it. Such a
/// UNet enlarges small differences two hundred times over the steps (`sensitivity`).
#[test]
fn attention_logits_of_hundreds() {
    let folder = tempfile::tempdir().unwrap();
    crate::variant::sharp_attention(folder.path());
    let case = Case::open("sharp-attention");
    for (part, limit) in [
        ("text_encoder", 150),
        ("text_encoder_2", 150),
        ("unet", 500),
        ("vae", 150),
    ] {
        let [low, high] = [0, 1].map(|i| case.meta["logits"][part][i].as_i64().unwrap());
        assert!(low <= -limit && high >= limit, "{part}: {low} to {high}");
    }
    for direct in [true, false] {
        let options = LoadOptions {
            model: folder.path().to_str().unwrap().into(),
            kernels: Some(Family::of_direct(direct)),
            ..in_f32()
        };
        let trace = case.draw(&mut load(&options).unwrap());
        let label = format!("sharp-attention, direct {direct}");
        let limits = Limits {
            latents: 5e-3,
            ..F32
        };
        compare(&label, &case, &trace, &limits);
    }
}

#[test]
fn half_precision_does_it_all() {
    let names = ["refined-unipc", "image", "inpaint", "guidance-rescale"];
    for kernels in crate::case::every_kernel() {
        let options = LoadOptions {
            kernels,
            dtype: Dtype::F16,
            activations: Dtype::F16,
            ..Default::default()
        };
        let first = Case::open(names[0]).options(&options);
        match load(&first) {
            Err(e) if e.to_string().contains("SHADER_F16") => return println!("skipped: {e}"),
            other => drop(other.unwrap()),
        }
        let names = match kernels.is_none() || is_long() {
            true => &names[..],
            false => &names[2..],
        };
        crate::case::hold(names, &options, &F16);
    }
}

#[test]
fn an_inpainting_unet_sees_mask_and_picture() {
    let folder = tempfile::tempdir().unwrap();
    crate::variant::inpainting(folder.path());
    let options = LoadOptions {
        model: folder.path().to_str().unwrap().into(),
        ..in_f32()
    };
    let mut pipeline = load(&options).unwrap();
    for name in ["inpaint-9", "inpaint-9-whole", "inpaint-9-two-samples"] {
        let case = Case::open(name);
        compare(name, &case, &case.draw(&mut pipeline), &F32);
    }
}

#[test]
fn a_consistency_model_is_told_its_guidance_scale() {
    let folder = tempfile::tempdir().unwrap();
    crate::variant::embedded_guidance(folder.path());
    let case = Case::open("embedded-guidance");
    let options = LoadOptions {
        model: folder.path().to_str().unwrap().into(),
        ..in_f32()
    };
    let mut pipeline = load(&options).unwrap();
    assert_eq!(pipeline.preset().scheduler, "LCM");
    assert_eq!(pipeline.preset().guidance_scale, 8.0);
    compare("embedded-guidance", &case, &case.draw(&mut pipeline), &F32);
}

#[test]
fn models_over_noise_levels_are_drawn_as_such() {
    for name in [
        "edm-playground",
        "edm-playground-image",
        "edm-cosxl",
        "edm-cosxl-sde",
    ] {
        let case = Case::open(name);
        let folder = tempfile::tempdir().unwrap();
        crate::variant::edm(folder.path(), &case.meta["file"], &case.meta["vae"]);
        let options = LoadOptions {
            model: folder.path().to_str().unwrap().into(),
            ..in_f32()
        };
        let mut pipeline = load(&options).unwrap();
        let own = if name.contains("cosxl") {
            "Euler"
        } else {
            "DPM Multi"
        };
        assert_eq!(pipeline.preset().scheduler, own);
        compare(name, &case, &case.draw(&mut pipeline), &F32);
    }
}

/// Whether the message of an error names all of these.
fn refuses(folder: &std::path::Path, raw: RawRequest, refiner: bool, names: &[&str]) {
    let options = LoadOptions {
        model: folder.to_str().unwrap().into(),
        refiner: refiner.then(|| "demo".into()),
        ..in_f32()
    };
    let raw = RawRequest {
        prompt: Some("a".into()),
        width: Some(64),
        height: Some(64),
        ..raw
    };
    let found = load(&options).and_then(|mut pipeline| {
        let request = pipeline.resolve(raw, &Styles::builtin())?;
        let mut observer = Observer {
            events: &mut |_| {},
            cancel: &Cancel::default(),
            trace: None,
            preview_every: 0,
        };
        pipeline.generate(&request, &mut observer)
    });
    let message = found.expect_err("it is refused").to_string();
    let names_it = |name: &&str| message.contains(name);
    assert!(names.iter().all(names_it), "{names:?}: {message}");
}

#[test]
fn what_does_not_go_with_a_model_over_noise_levels_is_refused() {
    let case = Case::open("edm-cosxl");
    let folder = tempfile::tempdir().unwrap();
    crate::variant::edm(folder.path(), &case.meta["file"], &case.meta["vae"]);
    let raw = |scheduler: &str, options: serde_json::Value| RawRequest {
        scheduler: Some(scheduler.into()),
        scheduler_options: options.as_object().unwrap().clone(),
        ..Default::default()
    };
    let none = serde_json::json!({});
    let spacing = serde_json::json!({"timestep_spacing": "trailing"});
    for (request, refiner, names) in [
        (
            raw("UniPC", none.clone()),
            false,
            ["scheduler", "UniPC", "Euler or"],
        ),
        (
            raw("DDIM", none.clone()),
            false,
            ["scheduler", "DDIM", "Euler or"],
        ),
        (
            raw("Euler", spacing),
            false,
            ["timestep_spacing=trailing", "EDM", "sigma_max"],
        ),
        (
            raw("Euler", none),
            true,
            ["high_noise_fraction", "noise levels", "refiner_strength"],
        ),
    ] {
        refuses(folder.path(), request, refiner, &names);
    }
    // A refiner whose latents are another model's.
    let case = Case::open("edm-playground");
    crate::variant::edm(folder.path(), &case.meta["file"], &case.meta["vae"]);
    refuses(
        folder.path(),
        raw("Euler", serde_json::json!({})),
        true,
        &["mean and deviation"],
    );
}

#[test]
fn the_class_in_model_index_counts_too() {
    let case = Case::open("edm-cosxl");
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("model_index.json");
    let open = |class: &str, file: &serde_json::Value| {
        crate::variant::edm(folder.path(), file, &case.meta["vae"]);
        let mut value: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
        value["scheduler"] = serde_json::json!(["diffusers", class]);
        std::fs::write(&index, value.to_string()).unwrap();
        calotype::checkpoint::Checkpoint::open(folder.path().to_str().unwrap())
    };
    let mut file = case.meta["file"].clone();
    file.as_object_mut().unwrap().remove("_class_name");
    let checkpoint = open("EDMEulerScheduler", &file).unwrap();
    assert_eq!(checkpoint.scheduler.edm.unwrap().sigma_data, 1.0);
    let flow = open("FlowMatchEulerDiscreteScheduler", &file)
        .unwrap_err()
        .to_string();
    assert!(
        flow.contains("model_index.json") && flow.contains("FlowMatch"),
        "{flow}"
    );
}

#[test]
fn the_refiner_makes_a_second_pass_over_a_model_of_noise_levels() {
    let case = Case::open("edm-cosxl");
    let folder = tempfile::tempdir().unwrap();
    crate::variant::edm(folder.path(), &case.meta["file"], &case.meta["vae"]);
    let options = LoadOptions {
        model: folder.path().to_str().unwrap().into(),
        refiner: Some("demo".into()),
        ..in_f32()
    };
    let mut trace = Trace::new();
    let raw = RawRequest {
        refiner_strength: Some(0.3),
        ..case.raw()
    };
    denoise(&mut load(&options).unwrap(), raw, &mut trace);
    // The base's part is the same as without a refiner; the refiner's own is over its
    // timesteps.
    let (_, latents) = trace.f32s("base_latents").unwrap();
    assert!(crate::case::relative(&latents, &case.get("base_latents").1) <= F32.latents);
    let (_, timesteps) = trace.f32s("refiner.timesteps").unwrap();
    assert!(timesteps[0] > 100.0, "{timesteps:?}");
}
