//! Every scheduler, alone, with the refiner and over a picture, against the last
//! latents of diffusers in float32: `tests/fixtures/grid.safetensors`, which
//! `tools/record_grid.py` recorded.

use crate::forms::is_long;
use calotype::picture::Picture;
use calotype::pipeline::{Dtype, LoadOptions, Pipeline, RawRequest, Trace};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Map;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Relative error of the last latents; the recorded cases change by at most a
/// tenth of this if 1e-5 of noise is put on every prediction.
const LATENTS: f64 = 2e-3;
/// Of timesteps, of which there are a thousand.
const TIMESTEP: f32 = 0.01;
/// Of runs of more steps one in eighteen is made by default, and of those over a picture one
/// of three strengths for each scheduler, in turn; `CALOTYPE_LONG=1` asks for all.
const SHORT: i64 = 7;
/// How many were recorded.
const CASES: usize = 180;

#[derive(Deserialize)]
struct Case {
    prompt: String,
    negative_prompt: Option<String>,
    width: i64,
    height: i64,
    steps: i64,
    scheduler: String,
    guidance_scale: f64,
    seed: i64,
    #[serde(default)]
    refiner: bool,
    image: Option<String>,
    strength: Option<f64>,
    /// Its noise is torchsde's Brownian tree, seeded as the picture is.
    #[serde(default)]
    brownian: bool,
    /// Of the UNet, in the base's part and in the refiner's.
    calls: [usize; 2],
}

impl Case {
    fn label(&self) -> String {
        let how = match (&self.image, self.refiner) {
            (Some(_), _) => format!("over a picture, strength {}", self.strength.unwrap()),
            (None, true) => "with the refiner".into(),
            (None, false) => "alone".into(),
        };
        format!("{}, {} steps, {how}", self.scheduler, self.steps)
    }

    /// Whether it is run when not all are; `index` counts all of them.
    fn is_chosen(&self, index: usize) -> bool {
        match (self.steps > SHORT, self.image.is_some()) {
            (true, _) => index.is_multiple_of(36),
            // Ten cases a scheduler, of which six, two a strength, are over a picture.
            (false, true) => index / 2 % 3 == index / 10 % 3,
            (false, false) => true,
        }
    }

    fn raw(&self) -> RawRequest {
        let picture =
            |name| Arc::new(Picture::open(fixtures().join("pictures").join(name)).unwrap());
        RawRequest {
            prompt: Some(self.prompt.clone()),
            negative_prompt: self.negative_prompt.clone(),
            width: Some(self.width),
            height: Some(self.height),
            steps: Some(self.steps),
            scheduler: Some(self.scheduler.clone()),
            scheduler_options: match self.brownian {
                true => Map::from_iter([("noise_sampler_seed".into(), self.seed.into())]),
                false => Map::new(),
            },
            guidance_scale: Some(self.guidance_scale),
            seed: Some(self.seed.into()),
            refiner: Some(self.refiner),
            high_noise_fraction: Some(0.8),
            image: self.image.as_ref().map(picture),
            strength: self.strength,
            ..Default::default()
        }
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn load() -> Pipeline {
    let options = LoadOptions {
        model: "demo".into(),
        refiner: Some("demo-refiner".into()),
        dtype: Dtype::F32,
        ..Default::default()
    };
    crate::case::load(&options).unwrap()
}

fn trace(pipeline: &mut Pipeline, raw: RawRequest) -> Trace {
    let mut trace = Trace::new();
    crate::case::denoise(pipeline, raw, &mut trace);
    trace
}

/// The timesteps that a part visited: the first of the schedule, or the last.
fn visited(trace: &Trace, prefix: &str, first: bool) -> Vec<f32> {
    let predictions = format!("{prefix}noise_pred.");
    let calls = trace
        .names()
        .filter(|n| n.starts_with(&predictions))
        .count();
    let (_, all) = trace.f32s(&format!("{prefix}timesteps")).unwrap();
    match first {
        true => all[..calls].to_vec(),
        false => all[all.len() - calls..].to_vec(),
    }
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let off: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let all: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    (off / all).sqrt()
}

/// What is wrong with a run, if anything, and the error of its latents.
fn judge(case: &Case, trace: &Trace, latents: &[f32], timesteps: &[f32]) -> (f64, Option<String>) {
    let mut found = visited(trace, "", case.refiner);
    let (mut last, mut calls) = (format!("latents.{:03}", found.len()), [found.len(), 0]);
    if case.refiner {
        let more = visited(trace, "refiner.", false);
        (last, calls[1]) = (format!("refiner.latents.{:03}", more.len()), more.len());
        found.extend(more);
    }
    if calls != case.calls {
        let text = format!("{calls:?} calls of the UNet instead of {:?}", case.calls);
        return (f64::NAN, Some(text));
    }
    if let Some((a, b)) = found
        .iter()
        .zip(timesteps)
        .find(|(a, b)| (*a - *b).abs() > TIMESTEP)
    {
        return (f64::NAN, Some(format!("timestep {a} instead of {b}")));
    }
    let error = relative(&trace.f32s(&last).unwrap().1, latents);
    // Not a number is wrong as well.
    let wrong = error.is_nan() || error > LATENTS;
    (error, wrong.then(|| format!("latents are {error:.1e} off")))
}

/// Runs the cases of one way to run.
fn all_are_diffusers(this: fn(&Case) -> bool) {
    let bytes = std::fs::read(fixtures().join("grid.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let cases: Vec<Case> =
        serde_json::from_str(&header.metadata().as_ref().unwrap()["cases"]).unwrap();
    assert_eq!(cases.len(), CASES);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |name| bytemuck::pod_collect_to_vec::<u8, f32>(file.tensor(name).unwrap().data());
    let (latents, timesteps) = (values("latents"), values("timesteps"));
    let each = latents.len() / cases.len();

    let mut pipeline = load();
    let all = is_long();
    let (mut wrong, mut at, mut ran) = (Vec::new(), 0, 0);
    for (index, (case, latents)) in cases.iter().zip(latents.chunks_exact(each)).enumerate() {
        let calls = case.calls.iter().sum::<usize>();
        let left_out = !all && !case.is_chosen(index);
        if left_out || !this(case) {
            at += calls;
            continue;
        }
        ran += 1;
        let trace = trace(&mut pipeline, case.raw());
        let (error, problem) = judge(case, &trace, latents, &timesteps[at..at + calls]);
        at += calls;
        println!("{}: {error:.1e}", case.label());
        wrong.extend(problem.map(|problem| format!("{}: {problem}", case.label())));
    }
    assert!(ran >= 18, "{ran}");
    println!("{} of {ran} are right", ran - wrong.len());
    assert!(
        wrong.is_empty(),
        "{} of {ran}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_scheduler_is_diffusers_alone() {
    all_are_diffusers(|case| !case.refiner && case.image.is_none());
}

#[test]
fn every_scheduler_is_diffusers_with_the_refiner() {
    all_are_diffusers(|case| case.refiner);
}

#[test]
fn every_scheduler_is_diffusers_over_a_picture() {
    all_are_diffusers(|case| case.image.is_some());
}
