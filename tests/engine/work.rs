//! How much of the UNet a request runs, in multiply-adds: no more than it asks for.

use crate::case::{generate, load, load_alone, psnr, small_vae};
use calotype::checkpoint::Checkpoint;
use calotype::model::describe;
use calotype::pipeline::{LoadOptions, Pipeline, RawRequest};

const SIDE: usize = 64;

fn options() -> LoadOptions {
    LoadOptions {
        model: "demo".into(),
        vae: Some(small_vae()),
        ..Default::default()
    }
}

fn raw(steps: i64) -> RawRequest {
    RawRequest {
        prompt: Some("a red circle on a blue background".into()),
        width: Some(SIDE as i64),
        height: Some(SIDE as i64),
        steps: Some(steps),
        scheduler: Some("Euler".into()),
        guidance_scale: Some(5.0),
        seed: Some(3),
        ..Default::default()
    }
}

/// Multiply-adds for one prediction of one picture: the whole UNet's, and those of its
/// shallow layers.
fn one(model: &str) -> [u64; 2] {
    let checkpoint = Checkpoint::open(model).unwrap();
    ["unet", "unet-shallow"].map(|part| {
        let of_two = describe(&checkpoint, part, [SIDE; 2]).unwrap();
        of_two.multiply_adds() / 2
    })
}

fn work(pipeline: &mut Pipeline, raw: RawRequest) -> u64 {
    generate(pipeline, raw, None).stats.unet_multiply_adds
}

/// One call for both halves of guidance, or two: the same work, and half of it where
/// there is no guidance, at every step for which that is so.
#[test]
fn the_negative_half_is_computed_only_where_it_is_used() {
    let [whole, _] = one("demo");
    let scaled = |scale| RawRequest {
        guidance_scale: Some(scale),
        ..raw(5)
    };
    let between = |start, end| RawRequest {
        guidance_start: Some(start),
        guidance_end: Some(end),
        ..raw(5)
    };
    let parts = |prompt: &str, end| RawRequest {
        prompt: Some(prompt.into()),
        guidance_end: Some(end),
        ..raw(5)
    };
    let wanted = [
        (scaled(5.0), 10),
        (scaled(1.0), 5),
        (scaled(0.0), 5),
        // Steps begin at 0, 0.2, 0.4, 0.6 and 0.8 of the way.
        (between(0.0, 0.4), 6 + 2),
        (between(0.5, 1.0), 3 + 4),
        (between(0.3, 0.7), 1 + 4 + 2),
        (between(1.0, 1.0), 5),
        (parts("a circle AND a star", 1.0), 15),
        // The sum of the parts' differences needs it also at scale 1.
        (parts("a circle AND a star", 0.4), 15),
        (
            RawRequest {
                samples: Some(3),
                ..between(0.0, 0.4)
            },
            3 * (6 + 2),
        ),
        // Two calls a step, but for the last.
        (
            RawRequest {
                scheduler: Some("Heun".into()),
                ..raw(3)
            },
            10,
        ),
    ];
    for low_memory in [false, true] {
        let options = LoadOptions {
            low_memory,
            ..options()
        };
        let mut pipeline = load(&options).unwrap();
        for (request, rows) in &wanted {
            let made = work(&mut pipeline, request.clone());
            assert_eq!(made, rows * whole, "{low_memory} {request:?}");
        }
    }
}

/// With a cache interval of N the whole UNet runs at every Nth step, and sooner where what
/// is asked changes.
#[test]
fn between_whole_steps_only_the_shallow_layers_run() {
    let [whole, shallow] = one("demo");
    assert!(shallow * 10 < whole, "{shallow} of {whole}");
    let every = |interval, steps| RawRequest {
        cache_interval: Some(interval),
        ..raw(steps)
    };
    let wanted = [
        (every(1, 5), [10, 0]),
        (every(2, 5), [6, 4]),
        (every(3, 5), [4, 6]),
        (every(20, 5), [2, 8]),
        (
            RawRequest {
                guidance_scale: Some(1.0),
                samples: Some(3),
                ..every(2, 5)
            },
            [9, 6],
        ),
        // Guided steps 0 to 2, then two without.
        (
            RawRequest {
                guidance_end: Some(0.4),
                ..every(2, 5)
            },
            [4 + 1, 2 + 1],
        ),
        // Another text after three steps; and a, a, b, a, b.
        (
            RawRequest {
                prompt: Some("a [red:blue:2] circle".into()),
                ..every(20, 5)
            },
            [2 + 2, 2 + 4],
        ),
        (
            RawRequest {
                prompt: Some("a [red|blue] circle".into()),
                ..every(3, 5)
            },
            [8, 2],
        ),
        // Calls count: a corrector's may be shallow.
        (
            RawRequest {
                scheduler: Some("Heun".into()),
                ..every(2, 3)
            },
            [6, 4],
        ),
    ];
    for low_memory in [false, true] {
        let options = LoadOptions {
            low_memory,
            ..options()
        };
        let mut pipeline = load(&options).unwrap();
        for (request, [all, few]) in &wanted {
            let made = work(&mut pipeline, request.clone());
            let expected = all * whole + few * shallow;
            assert_eq!(made, expected, "{low_memory} {request:?}");
        }
    }
}

/// Each model counts from its own first step.
#[test]
fn the_refiner_reuses_features_of_its_own() {
    let options = LoadOptions {
        refiner: Some("demo".into()),
        ..options()
    };
    let request = RawRequest {
        high_noise_fraction: Some(0.5),
        cache_interval: Some(2),
        // Three of the base, four of the refiner.
        ..raw(7)
    };
    let made = work(&mut load(&options).unwrap(), request);
    let ([base, base_shallow], [refiner, refiner_shallow]) = (one("demo"), one("demo-refiner"));
    let of_base = 4 * base + 2 * base_shallow;
    let of_refiner = 4 * refiner + 4 * refiner_shallow;
    assert_eq!(made, of_base + of_refiner);
}

/// Another picture, but a near one; and from one to the next a loop makes nothing new.
#[test]
fn a_picture_of_reused_features_is_near() {
    let options = LoadOptions {
        vae: None,
        ..options()
    };
    let mut pipeline = load_alone(&options).unwrap();
    let mut drawn = |interval| {
        let request = RawRequest {
            cache_interval: interval,
            guidance_end: Some(0.8),
            ..raw(20)
        };
        let output = generate(&mut pipeline, request, None);
        assert_eq!(output.stats.loop_buffers_created, 0);
        assert_eq!(output.stats.loop_pipelines_created, 0);
        let values = output.pictures[0].rgb.iter();
        values
            .map(|x| f32::from(*x) / 127.5 - 1.0)
            .collect::<Vec<_>>()
    };
    let plain = drawn(None);
    assert!(plain == drawn(Some(1)));
    let near = [2, 3].map(|interval| psnr(&drawn(Some(interval)), &plain));
    println!("{near:.1?} dB");
    assert!(
        near[0].is_finite() && near[0] > near[1] && near[1] > 20.0,
        "{near:?}"
    );
}
