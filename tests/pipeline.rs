//! Prompt to picture against diffusers in float32, stage by stage, on whatever
//! adapter there is. The cases are diffusers' own runs, cut down by
//! `tools/make_case_fixture.py`; `refiner` is from `tools/record_refiner.py`.

use calotype::pipeline::{
    Cancel, Dtype, Event, LoadOptions, Observer, Output, Pipeline, RawRequest, Request, Trace,
};
use calotype::text::Styles;
use calotype::{Error, Result};
use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype as FileDtype;
use serde_json::Value;
use std::path::Path;

const CASES: [&str; 5] = [
    "red-circle",
    "white-cross-two-samples",
    "squares",
    "unguided",
    "refiner",
];

/// A recorded run of diffusers.
struct Case {
    bytes: Vec<u8>,
    meta: Value,
}

impl Case {
    fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases");
        let bytes = std::fs::read(folder.join(name).with_extension("safetensors")).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let meta = header.metadata().as_ref().unwrap()["meta"].clone();
        Case {
            meta: serde_json::from_str(&meta).unwrap(),
            bytes,
        }
    }

    fn model(&self) -> String {
        match self.meta["refiner_alone"].as_bool() {
            Some(true) => "demo-refiner".into(),
            _ => "demo".into(),
        }
    }

    fn raw(&self) -> RawRequest {
        let text = |key: &str| self.meta[key].as_str().map(str::to_owned);
        let number = |key: &str| self.meta[key].as_i64();
        RawRequest {
            prompt: text("prompt"),
            negative_prompt: text("negative_prompt"),
            width: number("width"),
            height: number("height"),
            steps: number("steps"),
            scheduler: Some("Euler".into()),
            guidance_scale: self.meta["guidance_scale"].as_f64(),
            seed: number("seed"),
            samples: number("samples"),
            ..Default::default()
        }
    }

    /// Shape and values of a tensor.
    fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let data = tensor.data();
        let values = match tensor.dtype() {
            FileDtype::F16 => data
                .chunks_exact(2)
                .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            FileDtype::I32 => bytemuck::pod_collect_to_vec::<u8, i32>(data)
                .into_iter()
                .map(|i| i as f32)
                .collect(),
            _ => bytemuck::pod_collect_to_vec(data),
        };
        (tensor.shape().to_vec(), values)
    }

    fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.names().into_iter().map(str::to_owned).collect()
    }
}

/// Largest relative errors, and the least PSNR in dB.
struct Limits {
    embeds: f64,
    noise: f64,
    latents: f64,
    decoded: f64,
}

const F32: Limits = Limits {
    embeds: 1e-4,
    noise: 2e-4,
    latents: 1e-3,
    decoded: 50.0,
};

const F16: Limits = Limits {
    embeds: 1e-2,
    noise: 1e-2,
    latents: f64::INFINITY,
    decoded: 35.0,
};

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let off: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let all: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    (off / all).sqrt()
}

/// In dB, of values from -1 to 1.
fn psnr(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let off: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    10.0 * (4.0 * found.len() as f64 / off).log10()
}

fn compare(label: &str, case: &Case, trace: &Trace, limits: &Limits) {
    let mut names = case.names();
    names.sort();
    let last = names
        .iter()
        .rfind(|n| n.starts_with("latents."))
        .unwrap()
        .clone();
    let mut line = label.to_owned();
    for name in &names {
        let (shape, expected) = case.get(name);
        if name.contains("input_ids") {
            let (found_shape, found) = trace.i32s(name).expect(name);
            assert_eq!(found_shape, shape, "{label} {name}");
            assert!(
                found.iter().map(|i| *i as f32).eq(expected),
                "{label} {name}"
            );
            continue;
        }
        let (found_shape, found) = trace.f32s(name).expect(name);
        assert_eq!(found_shape, shape, "{label} {name}");
        if name == "decoded" {
            let psnr = psnr(&found, &expected);
            line += &format!(", decoded {psnr:.1} dB");
            assert!(psnr >= limits.decoded, "{line}");
            continue;
        }
        let allowed = match name.as_str() {
            name if name.contains("embeds") => limits.embeds,
            "noise_pred.000" => limits.noise,
            name if *name == last => limits.latents,
            _ => 1e-6,
        };
        let error = relative(&found, &expected);
        if allowed > 1e-6 {
            line += &format!(", {name} {error:.1e}");
        }
        assert!(error <= allowed, "{line}; {name} {error:e}");
    }
    println!("{line}");
}

fn load(options: &LoadOptions) -> Result<Pipeline> {
    Pipeline::load(
        options,
        &mut Observer {
            events: &mut |_| {},
            cancel: &Cancel::default(),
            trace: None,
            preview_every: 0,
        },
    )
}

fn generate(pipeline: &mut Pipeline, raw: RawRequest, trace: Option<&mut Trace>) -> Output {
    let request = pipeline.resolve(raw, &Styles::builtin()).unwrap();
    let mut observer = Observer {
        events: &mut |_| {},
        cancel: &Cancel::default(),
        trace,
        preview_every: 0,
    };
    pipeline.generate(&request, &mut observer).unwrap()
}

fn in_f32() -> LoadOptions {
    LoadOptions {
        dtype: Dtype::F32,
        ..Default::default()
    }
}

fn hold(cases: &[&str], label: &str, options: &LoadOptions, limits: &Limits) {
    for name in cases {
        let case = Case::open(name);
        let options = LoadOptions {
            model: case.model(),
            ..options.clone()
        };
        let mut pipeline = load(&options).unwrap();
        let mut trace = Trace::new();
        generate(&mut pipeline, case.raw(), Some(&mut trace));
        compare(&format!("{label}: {name}"), &case, &trace, limits);
    }
}

#[test]
fn every_stage_is_diffusers() {
    hold(&CASES, "f32", &in_f32(), &F32);
}

#[test]
fn every_stage_is_diffusers_with_every_kernel() {
    for direct in [false, true] {
        let options = LoadOptions {
            direct_kernels: Some(direct),
            ..in_f32()
        };
        let label = if direct { "direct" } else { "tiled" };
        hold(&["squares", "unguided", "refiner"], label, &options, &F32);
    }
}

#[test]
fn half_precision_is_close_to_diffusers() {
    for direct in [None, Some(false)] {
        let options = LoadOptions {
            model: "demo".into(),
            dtype: Dtype::F16,
            activations: Dtype::F16,
            direct_kernels: direct,
            ..Default::default()
        };
        match load(&options) {
            Err(e) if e.to_string().contains("SHADER_F16") => return println!("skipped: {e}"),
            other => drop(other.unwrap()),
        }
        let cases = match direct {
            None => &CASES[..],
            Some(_) => &CASES[2..],
        };
        hold(cases, &format!("f16 {direct:?}"), &options, &F16);
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
    let mut pipeline = load(&options).unwrap();
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
