//! Every pipeline that a run makes is one of the kernels' permutations, which is what
//! `tests/shaders.rs` proves to be portable.

use crate::case::{fixtures, generate, load_alone, small_vae};
use crate::variant;
use calotype::gpu::PipelineKey;
use calotype::kernel::permutations;
use calotype::kernel::product::Family;
use calotype::picture::{Mask, Picture};
use calotype::pipeline::{Dtype, LoadOptions, RawRequest, Tiling, WeightFormat};
use calotype::schedule::names;
use serde_json::json;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

fn raw() -> RawRequest {
    RawRequest {
        prompt: Some("a green heart on a white background".into()),
        width: Some(72),
        height: Some(64),
        steps: Some(2),
        seed: Some(7),
        ..Default::default()
    }
}

fn painted() -> RawRequest {
    let star = Picture::open(fixtures().join("pictures/yellow-star-64.png")).unwrap();
    let half = |i: usize| 255 * u8::from(i % 64 < 32);
    let mask = Picture {
        width: 64,
        height: 64,
        rgb: (0..64 * 64).flat_map(|i| [half(i); 3]).collect(),
    };
    RawRequest {
        width: Some(64),
        image: Some(Arc::new(star)),
        mask: Some(Arc::new(Mask::from(&mask))),
        strength: Some(0.9),
        ..raw()
    }
}

/// The pipelines that the requests make on a device of their own.
fn made(options: &LoadOptions, requests: &[RawRequest]) -> HashSet<PipelineKey> {
    let mut pipeline = load_alone(options).unwrap();
    for request in requests {
        generate(&mut pipeline, request.clone(), None);
    }
    pipeline.gpu().pipelines_made().into_iter().collect()
}

#[test]
fn every_pipeline_that_runs_is_a_permutation() {
    let known: HashSet<PipelineKey> = permutations().into_iter().collect();
    let inpainting = tempfile::tempdir().unwrap();
    variant::inpainting(inpainting.path());
    let upcast_folder = tempfile::tempdir().unwrap();
    variant::upcast(upcast_folder.path());
    let taesd = small_vae();
    let rescaled = RawRequest {
        guidance_rescale: Some(0.7),
        ..raw()
    };
    let thresholded = RawRequest {
        scheduler: Some("DDIM".into()),
        scheduler_options: json!({"thresholding": true}).as_object().unwrap().clone(),
        ..raw()
    };
    let mut seen = HashSet::new();
    let mut has_f16 = false;
    for direct in [true, false] {
        let options = LoadOptions {
            model: "demo".into(),
            dtype: Dtype::F32,
            kernels: Some(Family::of_direct(direct)),
            ..Default::default()
        };
        let with_refiner = LoadOptions {
            refiner: Some("demo".into()),
            low_memory: true,
            preview_vae: Some(taesd.clone()),
            ..options.clone()
        };
        let mut requests = vec![rescaled.clone(), thresholded.clone(), painted()];
        if direct {
            requests.extend(names().map(|name| RawRequest {
                scheduler: Some(name.into()),
                width: Some(64),
                ..raw()
            }));
        }
        seen.extend(made(&options, &requests));
        seen.extend(made(&with_refiner, &[raw()]));
        let tiny = LoadOptions {
            vae: Some(taesd.clone()),
            vae_tiling: Tiling::Always,
            dtype: Dtype::F16,
            activations: Dtype::F32,
            ..options.clone()
        };
        seen.extend(made(&tiny, &[painted()]));
        for weights in [WeightFormat::Q8, WeightFormat::Q4] {
            let blocks = LoadOptions {
                weights,
                ..options.clone()
            };
            seen.extend(made(&blocks, &[raw()]));
        }
        let inpainting = LoadOptions {
            model: inpainting.path().to_str().unwrap().into(),
            ..options.clone()
        };
        seen.extend(made(&inpainting, &[painted()]));
        let halves = LoadOptions {
            dtype: Dtype::F16,
            activations: Dtype::F16,
            ..options
        };
        match load_alone(&halves) {
            Err(e) if e.to_string().contains("SHADER_F16") => println!("f16 skipped: {e}"),
            _ => {
                seen.extend(made(&halves, &[rescaled.clone(), painted()]));
                has_f16 = true;
                let upcast = LoadOptions {
                    model: upcast_folder.path().to_str().unwrap().into(),
                    ..halves
                };
                seen.extend(made(&upcast, &[painted()]));
            }
        }
    }
    for key in &seen {
        assert!(known.contains(key), "{} is no permutation", key.label());
    }
    // The runs went through every shader there is, but for what tables or adapters with
    // f16 or matrices alone run: nothing is asserted about nothing.
    let shaders = |keys: &HashSet<PipelineKey>| -> BTreeSet<&str> {
        keys.iter().map(|key| key.shader).collect()
    };
    let mut wanted = shaders(&known);
    let narrow = ["narrow", "narrow_factor", "narrow_largest"];
    wanted.retain(|shader| has_f16 || !narrow.contains(shader));
    for matrices in [
        "product_coop",
        "product_sum",
        "attention_coop",
        "subgroup_size",
    ] {
        if !seen.iter().any(|key| key.shader == matrices) {
            wanted.remove(matrices);
        }
    }
    assert_eq!(shaders(&seen), wanted);
    println!("{} of {} permutations ran", seen.len(), known.len());
}
