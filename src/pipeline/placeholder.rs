//! Stands in for the engine: the types that the front doors need, and a pipeline
//! whose pictures are plain noise.

use super::{Cancel, Dtype, Event, Request, Trace};
use crate::picture::Picture;
use crate::schedule::{NoiseGenerator, TorchCpuGenerator};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Which model on which device.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    /// A folder, a `.safetensors` file, `demo`, or `random:NAME`.
    pub model: String,
    /// An index or a part of an adapter's name.
    pub adapter: Option<String>,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: Option<String>,
    pub dtype: Dtype,
}

/// Who watches a run.
pub struct Observer<'a> {
    /// Hears every event.
    pub events: &'a mut dyn FnMut(Event),
    /// Stops the run.
    pub cancel: &'a Cancel,
    /// Where the tensors of every stage go, if anywhere.
    pub trace: Option<&'a mut Trace>,
}

/// Wall time of each stage, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Seconds {
    pub load: f64,
    pub encode: f64,
    pub denoise: f64,
    pub decode: f64,
}

/// What the denoising loop did to the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LoopStats {
    /// Share of the loop's wall time inside dispatches; `None` without timestamps.
    pub gpu_busy: Option<f64>,
    pub loop_buffers_created: u64,
    pub loop_pipelines_created: u64,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// In the order of `seeds`.
    pub pictures: Vec<Picture>,
    pub seeds: Vec<u64>,
    pub seconds: Seconds,
    pub adapter: String,
    pub backend: String,
    /// The precision in use, `f32` or `f16`.
    pub dtype: String,
    pub peak_device_bytes: u64,
    pub stats: LoopStats,
    pub warnings: Vec<String>,
}

/// A loaded model.
pub struct Pipeline {
    options: LoadOptions,
    load: Duration,
}

impl Pipeline {
    /// Loads a model onto a device.
    pub fn load(options: &LoadOptions, observer: &mut Observer<'_>) -> Result<Self> {
        let start = Instant::now();
        (observer.events)(Event::Loading {
            part: "unet".into(),
        });
        observer.cancel.check()?;
        if !matches!(options.model.as_str(), "demo") {
            return Err(Error::file(
                &options.model,
                "does not exist",
                "give a folder or file",
            ));
        }
        Ok(Pipeline {
            options: options.clone(),
            load: start.elapsed(),
        })
    }

    /// Width and height in pixels that the model was trained for.
    pub fn native_size(&self) -> (usize, usize) {
        (128, 128)
    }

    /// Carries out a request.
    pub fn generate(&mut self, request: &Request, observer: &mut Observer<'_>) -> Result<Output> {
        let start = Instant::now();
        (observer.events)(Event::Encoding);
        for index in 0..=request.steps {
            observer.cancel.check()?;
            (observer.events)(Event::Step {
                index,
                total: request.steps,
            });
            std::thread::sleep(Duration::from_millis(20));
        }
        let denoise = start.elapsed().as_secs_f64();
        let n = request.width * request.height * 3;
        let pictures = request
            .seeds()
            .iter()
            .map(|seed| {
                let noise = TorchCpuGenerator::new(*seed).randn(n);
                Picture::from_planar(request.width, request.height, &noise)
            })
            .collect::<Result<Vec<_>>>()?;
        if let Some(trace) = &mut observer.trace {
            trace.put_f32("timesteps", &[1], &[1.0]);
        }
        Ok(Output {
            pictures,
            seeds: request.seeds(),
            seconds: Seconds {
                load: self.load.as_secs_f64(),
                denoise,
                ..Seconds::default()
            },
            adapter: "none".into(),
            backend: "none".into(),
            dtype: self.options.dtype.to_string(),
            peak_device_bytes: 0,
            stats: LoopStats::default(),
            warnings: Vec::new(),
        })
    }
}

/// One adapter of this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Device {
    /// What `--adapter` takes.
    pub index: usize,
    pub name: String,
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub kind: String,
    pub driver: String,
    pub limits: BTreeMap<String, u64>,
    pub features: Vec<String>,
    /// The kernel variants that it would use, by kernel.
    pub variants: BTreeMap<String, String>,
}

/// All adapters, in the order of their indices. Fails where there is none.
pub fn devices() -> Result<Vec<Device>> {
    Err(Error::NoAdapter {
        problem: "the engine is not in place".into(),
        remedy: "build it".into(),
    })
}

/// What a checkpoint is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Such as `SDXL base`.
    pub kind: String,
    /// Such as `diffusers folder` or `single file`.
    pub layout: String,
    pub parts: Vec<Part>,
}

/// One part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// Such as `unet`.
    pub name: String,
    pub tensors: usize,
    pub parameters: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// Such as `f16`.
    pub dtype: String,
    /// The architecture in a few words.
    pub architecture: String,
}

/// Says what the checkpoint `model` is.
pub fn inspect(model: &str) -> Result<Inspection> {
    Err(Error::file(
        model,
        "cannot be read yet",
        "build the checkpoint room",
    ))
}
