//! What requests ask of a pipeline: batches, prompts of any length, weights,
//! guidance, previews, presets.

use crate::case::{fixtures, generate, load, relative, small_vae};
use crate::forms::is_long;
use calotype::picture::{Mask, Picture};
use calotype::pipeline::{
    Cancel, Dtype, Event, LoadOptions, Observer, PRESETS, Pipeline, RawRequest, Trace,
};
use calotype::text::{Styles, Tokenizer};
use std::sync::Arc;

fn options() -> LoadOptions {
    LoadOptions {
        model: "demo".into(),
        refiner: Some("demo".into()),
        ..Default::default()
    }
}

fn demo() -> Pipeline {
    load(&options()).unwrap()
}

/// Small and short.
fn raw(prompt: &str) -> RawRequest {
    RawRequest {
        prompt: Some(prompt.into()),
        width: Some(64),
        height: Some(72),
        steps: Some(4),
        seed: Some(7),
        refiner: Some(false),
        ..Default::default()
    }
}

fn star() -> Arc<Picture> {
    let path = fixtures().join("pictures/yellow-star-64.png");
    Arc::new(Picture::open(path).unwrap())
}

fn circle() -> Mask {
    Mask::open(fixtures().join("pictures/mask-circle-64.png")).unwrap()
}

/// As many at a time as there are, fewer with a rest, one by one: all the same, in every
/// way to run and with every kernel.
#[test]
fn a_batch_is_its_pictures_one_by_one() {
    let ways = [
        raw("a green heart on a white background"),
        RawRequest {
            scheduler: Some("Euler a".into()),
            refiner: Some(true),
            high_noise_fraction: Some(0.5),
            guidance_rescale: Some(0.5),
            ..raw("a green heart on a white background")
        },
        RawRequest {
            image: Some(star()),
            strength: Some(0.8),
            scheduler: Some("DDPM".into()),
            ..raw("a green heart on a white background")
        },
        RawRequest {
            cache_interval: Some(2),
            guidance_end: Some(0.6),
            refiner: Some(true),
            high_noise_fraction: Some(0.5),
            scheduler: Some("Heun".into()),
            ..raw("a green heart on a white background")
        },
    ];
    for kernels in crate::case::every_kernel() {
        let load = |batch| {
            let options = LoadOptions {
                kernels,
                batch: Some(batch),
                vae: Some(small_vae()),
                ..options()
            };
            load(&options).unwrap()
        };
        let mut pipelines = [1, 2, 8].map(load);
        let ways = match kernels.is_none() || is_long() {
            true => &ways[..],
            false => &ways[1..2],
        };
        for way in ways {
            let several = RawRequest {
                samples: Some(3),
                ..way.clone()
            };
            let all = pipelines
                .each_mut()
                .map(|pipeline| generate(pipeline, several.clone(), None));
            for other in &all[1..] {
                assert!(other.pictures == all[0].pictures, "{way:?} {kernels:?}");
            }
            assert_ne!(all[0].pictures[0], all[0].pictures[1]);
            let last = RawRequest {
                seed: Some(9),
                ..way.clone()
            };
            let alone = generate(&mut pipelines[0], last, None);
            assert!(
                alone.pictures[0] == all[0].pictures[2],
                "{way:?} {kernels:?}"
            );
        }
    }
}

#[test]
fn low_memory_changes_nothing_that_is_seen() {
    let plain = RawRequest {
        refiner: Some(true),
        samples: Some(2),
        ..raw("a green heart on a white background")
    };
    let cached = RawRequest {
        cache_interval: Some(3),
        guidance_start: Some(0.3),
        steps: Some(8),
        ..plain.clone()
    };
    let painted = RawRequest {
        cache_interval: Some(2),
        image: Some(star()),
        mask: Some(Arc::new(circle())),
        strength: Some(0.8),
        height: Some(64),
        steps: Some(8),
        ..plain.clone()
    };
    let decoded = |request: &RawRequest, low_memory| {
        let options = LoadOptions {
            low_memory,
            dtype: Dtype::F32,
            vae: Some(small_vae()),
            ..options()
        };
        let mut trace = Trace::new();
        generate(
            &mut load(&options).unwrap(),
            request.clone(),
            Some(&mut trace),
        );
        trace.f32s("decoded").unwrap().1
    };
    for request in [plain, cached, painted] {
        let error = relative(&decoded(&request, true), &decoded(&request, false));
        println!("{error:.1e}");
        assert!(error <= 1e-5, "{request:?}: {error:e}");
    }
}

/// A text of this many tokens for the demonstration model's tokenizer.
fn words(count: usize) -> String {
    let tokenizer = Tokenizer::clip(2514, "!").unwrap();
    let all = ["red", "circle", "blue", "star", "on", "a", "green", "white"];
    let single = |word: &&str| tokenizer.tokens(word).unwrap().len() == 1;
    let single: Vec<&str> = all.into_iter().filter(single).collect();
    assert!(single.len() > 3);
    let word = |i: usize| single[(i * 5 + i / 8) % single.len()];
    let text = (0..count).map(word).collect::<Vec<_>>().join(" ");
    assert_eq!(tokenizer.tokens(&text).unwrap().len(), count);
    text
}

#[test]
fn prompts_of_any_length_are_read() {
    let mut pipeline = demo();
    for (count, chunks) in [(1, 1), (75, 1), (76, 2), (150, 2), (400, 6)] {
        let mut trace = Trace::new();
        let request = RawRequest {
            negative_prompt: Some("blurry".into()),
            steps: Some(2),
            refiner: Some(true),
            high_noise_fraction: Some(0.5),
            ..raw(&words(count))
        };
        let output = generate(&mut pipeline, request, Some(&mut trace));
        assert!(output.warnings.is_empty());
        for name in ["prompt_embeds", "negative_prompt_embeds"] {
            for prefix in ["", "refiner."] {
                let (shape, values) = trace.f32s(&format!("{prefix}{name}")).unwrap();
                assert_eq!(shape[1], 77 * chunks, "{count} {name}");
                assert!(values.iter().all(|x| x.is_finite()));
            }
        }
        let (shape, ids) = trace.i32s("input_ids").unwrap();
        assert_eq!(shape, [1, 77 * chunks]);
        assert_eq!(ids.iter().filter(|id| **id == 2512).count(), chunks);
    }
}

#[test]
fn weights_change_the_prompt_and_plain_text_has_none() {
    let mut pipeline = demo();
    let mut embeds = |prompt: &str, mode: &str| {
        let mut trace = Trace::new();
        let request = RawRequest {
            prompt_weighting: Some(mode.into()),
            steps: Some(1),
            ..raw(prompt)
        };
        generate(&mut pipeline, request, Some(&mut trace));
        trace.f32s("prompt_embeds").unwrap().1
    };
    let plain = embeds("a red circle", "default");
    for mode in ["no-norm", "comfy", "off"] {
        assert_eq!(embeds("a red circle", mode), plain);
    }
    let weighted = ["default", "no-norm", "comfy"].map(|mode| embeds("a (red:1.4) circle", mode));
    for (i, one) in weighted.iter().enumerate() {
        let change = relative(one, &plain);
        assert!(change > 0.01, "{change}");
        assert!(weighted[..i].iter().all(|other| other != one));
    }
    assert_eq!(embeds("a (red:1.0) circle", "default"), plain);
}

#[test]
fn guidance_is_on_where_it_is_asked_for() {
    let mut pipeline = demo();
    let mut picture = |change: RawRequest| generate(&mut pipeline, change, None).pictures;
    let prompt = "a blue square on a yellow background";
    let guided = picture(raw(prompt));
    let never = RawRequest {
        guidance_start: Some(1.0),
        guidance_end: Some(1.0),
        ..raw(prompt)
    };
    let off = RawRequest {
        guidance_scale: Some(1.0),
        ..raw(prompt)
    };
    let half = RawRequest {
        guidance_end: Some(0.4),
        ..raw(prompt)
    };
    let (never, off, half) = (picture(never), picture(off), picture(half));
    assert_eq!(never, off);
    assert_ne!(half, off);
    assert_ne!(half, guided);
}

#[test]
fn generators_have_noise_of_their_own() {
    let mut pipeline = demo();
    let mut first = |rng: &str| {
        let mut trace = Trace::new();
        let request = RawRequest {
            rng: Some(rng.into()),
            seed: Some(0),
            steps: Some(1),
            ..raw("a red circle")
        };
        generate(&mut pipeline, request, Some(&mut trace));
        trace.f32s("latents.000").unwrap().1
    };
    let (cpu, cuda) = (first("cpu"), first("cuda"));
    for (found, known) in [(&cpu, [-1.1258, -1.1524]), (&cuda, [-0.92466, -0.42534])] {
        for (a, b) in found.iter().zip(known) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
}

#[test]
fn previews_come_every_few_steps() {
    let mut pipeline = demo();
    let request = RawRequest {
        samples: Some(2),
        steps: Some(5),
        refiner: Some(true),
        ..raw("a red circle on a blue background")
    };
    let request = pipeline.resolve(request, &Styles::builtin()).unwrap();
    let mut seen = Vec::new();
    let mut observer = Observer {
        events: &mut |event| {
            if let Event::Preview { index, picture } = event {
                assert_eq!((picture.width, picture.height), (64, 72));
                seen.push(index);
            }
        },
        cancel: &Cancel::default(),
        trace: None,
        preview_every: 2,
    };
    pipeline.generate(&request, &mut observer).unwrap();
    // Four steps of the base, one of the refiner, two pictures at a time.
    assert_eq!(seen, [0, 1, 0, 1]);
}

#[test]
fn presets_are_defaults() {
    let pipeline = demo();
    let resolve = |request| pipeline.resolve(request, &Styles::builtin());
    for name in PRESETS {
        let request = RawRequest {
            preset: Some(name.into()),
            steps: None,
            ..raw("x")
        };
        let request = resolve(request).unwrap();
        assert!(!request.guided(), "{name}");
        let few = name.rsplit('-').next().unwrap().parse().unwrap_or(4);
        assert!(request.steps <= few, "{name}");
    }
    let over = RawRequest {
        preset: Some("lightning-4".into()),
        steps: Some(9),
        scheduler: Some("DDIM".into()),
        ..raw("x")
    };
    let over = resolve(over).unwrap();
    assert_eq!((over.steps, over.scheduler), (9, "DDIM"));
    assert_eq!(over.scheduler_options["timestep_spacing"], "trailing");
    let message = resolve(RawRequest {
        preset: Some("lightening-4".into()),
        ..raw("x")
    });
    assert!(message.unwrap_err().to_string().contains("lightning-4"));
}

/// Every option of every scheduler that can change a picture runs on the device,
/// dynamic thresholding too.
#[test]
fn thresholding_runs_on_the_device() {
    let mut pipeline = demo();
    let mut latents = |on: bool| {
        let mut trace = Trace::new();
        let request = RawRequest {
            scheduler: Some("DPM Multi".into()),
            scheduler_options: serde_json::json!({
                "thresholding": on, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 4.0
            })
            .as_object()
            .unwrap()
            .clone(),
            samples: Some(2),
            ..raw("a red circle on a blue background")
        };
        generate(&mut pipeline, request, Some(&mut trace));
        trace.f32s("base_latents").unwrap().1
    };
    let (with, without) = (latents(true), latents(false));
    // Divided by the level, no value of the last picture is beyond 1.
    assert!(with.iter().all(|x| x.abs() <= 1.0 + 1e-5));
    assert!(without.iter().any(|x| x.abs() > 1.5));
}
