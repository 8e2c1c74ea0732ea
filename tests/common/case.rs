//! Recorded runs of diffusers, and comparison with a trace of ours.

// Not every test binary uses all of it.
#![allow(dead_code)]

use calotype::gpu::{AdapterChoice, Gpu};
use calotype::kernel::product::Family;
use calotype::picture::{Mask, Picture};
use calotype::pipeline::{
    Cancel, Event, LoadOptions, Observer, Output, Pipeline, RawRequest, Trace,
};
use calotype::text::Styles;
use calotype::{Error, Result};
use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype as FileDtype;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A VAE that decodes in no time, for tests of what comes before it.
pub fn small_vae() -> String {
    fixtures().join("taesd").to_str().unwrap().into()
}

/// A recorded run.
pub struct Case {
    bytes: Vec<u8>,
    pub meta: Value,
}

impl Case {
    pub fn open(name: &str) -> Self {
        Self::open_in("cases", name)
    }

    /// One of a folder of the fixtures.
    pub fn open_in(folder: &str, name: &str) -> Self {
        let path = fixtures().join(folder).join(name);
        let bytes = std::fs::read(path.with_extension("safetensors")).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let meta = header.metadata().as_ref().unwrap()["meta"].clone();
        Case {
            meta: serde_json::from_str(&meta).unwrap(),
            bytes,
        }
    }

    pub fn flag(&self, key: &str) -> bool {
        self.meta[key].as_bool().unwrap_or(false)
    }

    pub fn model(&self) -> String {
        match self.flag("refiner_alone") {
            true => "demo-refiner".into(),
            false => "demo".into(),
        }
    }

    /// What loads the models of the case.
    pub fn options(&self, options: &LoadOptions) -> LoadOptions {
        LoadOptions {
            model: self.model(),
            refiner: self.flag("refiner").then(|| "demo".into()),
            ..options.clone()
        }
    }

    pub fn raw(&self) -> RawRequest {
        let text = |key: &str| self.meta[key].as_str().map(str::to_owned);
        let whole = |key: &str| self.meta[key].as_i64();
        let number = |key: &str| self.meta[key].as_f64();
        let pair = |key: &str| serde_json::from_value(self.meta[key].clone()).unwrap_or(None);
        let file = |key: &str| text(key).map(|name| fixtures().join("pictures").join(name));
        let star = fixtures().join("../../models/demo/pictures/yellow-star.png");
        let image = file("image").map(|path| if path.exists() { path } else { star });
        RawRequest {
            prompt: text("prompt"),
            prompt_2: text("prompt_2"),
            negative_prompt: text("negative_prompt"),
            negative_prompt_2: text("negative_prompt_2"),
            width: whole("width"),
            height: whole("height"),
            steps: whole("steps"),
            scheduler: text("scheduler").or(Some("Euler".into())),
            scheduler_options: match &self.meta["scheduler_config"] {
                Value::Object(options) => options.clone(),
                _ => Map::new(),
            },
            guidance_scale: number("guidance_scale"),
            guidance_rescale: number("guidance_rescale"),
            cache_interval: whole("cache_interval"),
            seed: whole("seed").map(i128::from),
            samples: whole("samples"),
            high_noise_fraction: number("high_noise_fraction")
                .filter(|_| number("refiner_strength").is_none()),
            refiner_strength: number("refiner_strength"),
            aesthetic_score: number("aesthetic_score"),
            negative_aesthetic_score: number("negative_aesthetic_score"),
            clip_skip: whole("clip_skip"),
            original_size: pair("original_size"),
            crops_coords_top_left: pair("crops_coords_top_left"),
            target_size: pair("target_size"),
            negative_original_size: pair("negative_original_size"),
            negative_crops_coords_top_left: pair("negative_crops_coords_top_left"),
            negative_target_size: pair("negative_target_size"),
            strength: number("strength"),
            image: image.map(|path| Arc::new(Picture::open(path).unwrap())),
            mask: file("mask").map(|path| Arc::new(Mask::open(path).unwrap())),
            ..Default::default()
        }
    }

    /// Draws it as far as it was recorded.
    pub fn draw(&self, pipeline: &mut Pipeline) -> Trace {
        let mut trace = Trace::new();
        match self.names().iter().any(|name| name == "decoded") {
            true => drop(generate(pipeline, self.raw(), Some(&mut trace))),
            false => denoise(pipeline, self.raw(), &mut trace),
        }
        trace
    }

    /// Shape and values of a tensor.
    pub fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
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

    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let mut names: Vec<_> = file.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    }
}

/// Largest relative errors, and the least PSNR in dB.
pub struct Limits {
    pub embeds: f64,
    /// Of the first predictions of each part.
    pub noise: f64,
    /// Of the last latents of each part.
    pub latents: f64,
    pub decoded: f64,
    /// Of what no arithmetic of the models has touched.
    pub exact: f64,
}

pub const F32: Limits = Limits {
    embeds: 1e-4,
    noise: 2e-4,
    latents: 1e-3,
    decoded: 50.0,
    exact: 1e-6,
};

pub const F16: Limits = Limits {
    embeds: 1e-2,
    noise: 1e-2,
    latents: f64::INFINITY,
    decoded: 35.0,
    exact: 1e-6,
};

pub fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let off: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let all: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    (off / all).sqrt()
}

/// In dB, of values from -1 to 1.
pub fn psnr(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let off: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    10.0 * (4.0 * found.len() as f64 / off).log10()
}

/// What may differ in a tensor: `None` for pictures, which have a PSNR.
fn allowed(name: &str, limits: &Limits, from_noise: bool) -> Option<f64> {
    let own = name.strip_prefix("refiner.").unwrap_or(name);
    match own {
        "decoded" => None,
        // Stored as f16.
        "init_image" | "mask" => Some(1e-3),
        own if own.contains("embeds") => Some(limits.embeds),
        own if own.starts_with("noise_pred.") => Some(match name == own {
            true => limits.noise,
            // It starts from what the base made.
            false => limits.noise.max(limits.latents),
        }),
        // Nothing but noise, or a picture that the VAE has seen.
        "latents.000" if name == own && from_noise => Some(limits.exact),
        "latents.000" if name == own => Some(limits.embeds),
        own if own.contains("latents") => Some(limits.latents),
        _ => Some(limits.exact),
    }
}

/// Fails where a tensor of the case is missing from `trace` or too far off.
pub fn compare(label: &str, case: &Case, trace: &Trace, limits: &Limits) {
    let mut line = label.to_owned();
    let from_noise = case.meta["image"].is_null();
    for name in &case.names() {
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
        let Some(allowed) = allowed(name, limits, from_noise) else {
            let psnr = psnr(&found, &expected);
            line += &format!(", {name} {psnr:.1} dB");
            assert!(psnr >= limits.decoded, "{line}");
            continue;
        };
        let error = match expected.iter().any(|x| *x != 0.0) {
            true => relative(&found, &expected),
            false => found.iter().fold(0.0, |most, x| x.abs().max(most)).into(),
        };
        if allowed > limits.exact {
            line += &format!(", {name} {error:.1e}");
        }
        assert!(error <= allowed, "{line}; {name} {error:e}");
    }
    println!("{line}");
}

/// A device that no other pipeline uses. What was compiled for those before it is there.
fn idle_device() -> Arc<Gpu> {
    static OPEN: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_idle = |gpu: &&Arc<Gpu>| Arc::strong_count(gpu) == 1 && gpu.check().is_ok();
    if let Some(gpu) = open.iter().find(is_idle) {
        return gpu.clone();
    }
    let gpu = Gpu::open(&AdapterChoice::default()).unwrap();
    open.push(gpu.clone());
    gpu
}

/// A pipeline on a device that others have used.
pub fn load(options: &LoadOptions) -> Result<Pipeline> {
    assert_eq!((&options.adapter, &options.backend), (&None, &None));
    with_observer(|observer| Pipeline::load_on(idle_device(), options, observer))
}

/// A pipeline on a new device, whose counters are at zero.
pub fn load_alone(options: &LoadOptions) -> Result<Pipeline> {
    with_observer(|observer| Pipeline::load(options, observer))
}

/// Runs `run` with an observer that nothing hears of and nobody cancels.
pub fn with_observer<T>(run: impl FnOnce(&mut Observer<'_>) -> T) -> T {
    run(&mut Observer {
        events: &mut |_| {},
        cancel: &Cancel::default(),
        trace: None,
        preview_every: 0,
    })
}

/// Kernels to ask for by name: on a CPU without the direct ones, which it uses by itself.
pub fn other_kernels() -> &'static [Family] {
    let gpu = Gpu::open(&AdapterChoice::default()).unwrap();
    match gpu.capabilities().is_cpu {
        true => &[Family::Scalar16],
        false => &[Family::Scalar16, Family::Direct],
    }
}

/// The adapter's own kernels, which have no name here, and the others.
pub fn every_kernel() -> impl Iterator<Item = Option<Family>> {
    let others = other_kernels().iter().copied();
    std::iter::once(None).chain(others.map(Some))
}

pub fn generate(pipeline: &mut Pipeline, raw: RawRequest, trace: Option<&mut Trace>) -> Output {
    let request = pipeline.resolve(raw, &Styles::builtin()).unwrap();
    let mut observer = Observer {
        events: &mut |_| {},
        cancel: &Cancel::default(),
        trace,
        preview_every: 0,
    };
    pipeline.generate(&request, &mut observer).unwrap()
}

/// Draws the picture up to its last latents; it is not decoded.
pub fn denoise(pipeline: &mut Pipeline, raw: RawRequest, trace: &mut Trace) {
    let request = pipeline.resolve(raw, &Styles::builtin()).unwrap();
    let cancel = Cancel::default();
    let mut observer = Observer {
        events: &mut |event| {
            if let Event::Decoding { .. } = event {
                cancel.cancel();
            }
        },
        cancel: &cancel,
        trace: Some(trace),
        preview_every: 0,
    };
    let stopped = pipeline.generate(&request, &mut observer);
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
}

/// Draws cases as far as they were recorded, and compares them.
pub fn hold(names: &[&str], options: &LoadOptions, limits: &Limits) {
    let mut pipelines: Vec<(LoadOptions, Pipeline)> = Vec::new();
    for name in names {
        let case = Case::open(name);
        let options = case.options(options);
        let at = pipelines.iter().position(|(of, _)| *of == options);
        let at = at.unwrap_or_else(|| {
            pipelines.push((options.clone(), load(&options).unwrap()));
            pipelines.len() - 1
        });
        let pipeline = &mut pipelines[at].1;
        let kernels = options
            .kernels
            .map_or("own kernels", |family| family.name());
        compare(
            &format!("{name}, {kernels}"),
            &case,
            &case.draw(pipeline),
            limits,
        );
    }
}
