//! Prompt to picture against diffusers in float32, stage by stage, on whatever
//! adapter there is. The cases are diffusers' own runs, cut down by
//! `tools/make_case_fixture.py`; `refiner` is from `tools/record_refiner.py`.

use crate::case::{Case, F16, F32, compare, generate, hold, load, load_alone, relative};
use crate::forms::is_long;
use calotype::Error;
use calotype::pipeline::{Cancel, Dtype, Event, LoadOptions, Observer, RawRequest, Trace};
use calotype::text::Styles;

const CASES: [&str; 5] = [
    "red-circle",
    "white-cross-two-samples",
    "squares",
    "unguided",
    "refiner",
];

fn in_f32() -> LoadOptions {
    LoadOptions {
        dtype: Dtype::F32,
        ..Default::default()
    }
}

/// Those for other kernels and in half precision.
fn few() -> &'static [&'static str] {
    match is_long() {
        true => &CASES,
        false => &["squares", "refiner"],
    }
}

#[test]
fn every_stage_is_diffusers() {
    hold(&CASES, &in_f32(), &F32);
}

#[test]
fn every_stage_is_diffusers_with_other_kernels() {
    for kernels in crate::case::other_kernels() {
        let options = LoadOptions {
            kernels: Some(*kernels),
            ..in_f32()
        };
        hold(few(), &options, &F32);
    }
}

#[test]
fn half_precision_is_close_to_diffusers() {
    for kernels in crate::case::every_kernel() {
        let options = LoadOptions {
            model: "demo".into(),
            dtype: Dtype::F16,
            activations: Dtype::F16,
            kernels,
            ..Default::default()
        };
        match load(&options) {
            Err(e) if e.to_string().contains("SHADER_F16") => return println!("skipped: {e}"),
            other => drop(other.unwrap()),
        }
        hold(few(), &options, &F16);
    }
}

#[test]
fn two_calls_a_step_make_the_same_picture() {
    for name in ["squares", "refiner"] {
        let case = Case::open(name);
        let decoded = |low_memory| {
            let options = LoadOptions {
                model: case.model(),
                low_memory,
                ..in_f32()
            };
            let mut trace = Trace::new();
            generate(&mut load(&options).unwrap(), case.raw(), Some(&mut trace));
            trace.f32s("decoded").unwrap().1
        };
        let error = relative(&decoded(true), &decoded(false));
        println!("low memory: {name} {error:.1e}");
        assert!(error <= 1e-5, "{name}: {error:e}");
    }
}

#[test]
fn pictures_do_not_depend_on_their_company_and_steps_make_nothing() {
    let options = LoadOptions {
        model: "demo".into(),
        ..Default::default()
    };
    let mut pipeline = load_alone(&options).unwrap();
    let raw = |seed, samples| RawRequest {
        prompt: Some("a green heart on a white background".into()),
        width: Some(72),
        height: Some(64),
        steps: Some(4),
        seed: Some(seed),
        samples: Some(samples),
        ..Default::default()
    };
    let both = generate(&mut pipeline, raw(9, 2), None);
    assert_eq!(both.seeds, [9, 10]);
    assert_ne!(both.pictures[0], both.pictures[1]);
    for (i, seed) in [9, 10].into_iter().enumerate() {
        let alone = generate(&mut pipeline, raw(seed, 1), None);
        assert!(alone.pictures[0] == both.pictures[i], "seed {seed}");
        assert_eq!(alone.stats.loop_buffers_created, 0);
        assert_eq!(alone.stats.loop_pipelines_created, 0);
    }
    assert_eq!(both.stats.loop_buffers_created, 0);
    assert_eq!(both.stats.loop_pipelines_created, 0);
}

#[test]
fn a_run_stops_when_asked_and_the_next_is_whole() {
    let options = LoadOptions {
        model: "demo".into(),
        ..in_f32()
    };
    let mut pipeline = load(&options).unwrap();
    let case = Case::open("squares");
    let request = pipeline.resolve(case.raw(), &Styles::builtin()).unwrap();
    for at in [0, 2] {
        let cancel = Cancel::default();
        let mut seen = 0;
        let stopped = pipeline.generate(
            &request,
            &mut Observer {
                events: &mut |event| {
                    if let Event::Step { index, .. } = event {
                        seen = index;
                        if index == at {
                            cancel.cancel();
                        }
                    }
                },
                cancel: &cancel,
                trace: None,
                preview_every: 0,
            },
        );
        assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
        assert_eq!(seen, at);
    }
    let mut trace = Trace::new();
    generate(&mut pipeline, case.raw(), Some(&mut trace));
    compare("after a stop", &case, &trace, &F32);
}
