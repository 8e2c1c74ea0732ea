//! A checkpoint and a device, ready to draw.

use super::condition;
use super::denoise::{self, Denoiser, Latents};
use super::preview::Previews;
use super::vae::Vae;
use super::{Cancel, Dtype, Event, LoopStats, Observer, Output, Request, Seconds};
use crate::checkpoint::{Checkpoint, Part, open_vae};
use crate::gpu::{AdapterChoice, Gpu};
use crate::kernel::product::WeightStorage;
use crate::kernel::{Storage, Tuning};
use crate::model::{self, Loaded, clip, unet};
use crate::picture::Picture;
use crate::schedule::Plan;
use crate::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Whether the VAE works on tiles with blended seams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tiling {
    /// Where memory or the adapter's largest buffer asks for it.
    #[default]
    Auto,
    Always,
    Never,
}

/// Which model on which device.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoadOptions {
    /// A folder, a `.safetensors` file, `demo`, or `random:NAME`.
    pub model: String,
    /// An index or a part of an adapter's name.
    pub adapter: Option<String>,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: Option<String>,
    pub dtype: Dtype,
    /// Precision of the UNet's activations; `Auto` follows `dtype`, but keeps f32
    /// on CPU adapters, where f16 saves nothing.
    pub activations: Dtype,
    /// Which kernels; `None` follows the adapter. For benches and tests.
    pub direct_kernels: Option<bool>,
    /// Two UNet calls a guided step instead of one of twice the batch.
    pub low_memory: bool,
    pub vae_tiling: Tiling,
    /// A VAE in place of the model's own: a file or folder, TAESD too.
    pub vae: Option<String>,
    /// The VAE that previews are decoded with; without one they are estimated.
    pub preview_vae: Option<String>,
}

/// The precisions in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Precision {
    pub weights: WeightStorage,
    pub activations: Storage,
}

impl Precision {
    fn choose(options: &LoadOptions, gpu: &Gpu) -> Result<Self> {
        let c = gpu.capabilities();
        let dtype = match options.dtype {
            Dtype::Auto if c.shader_f16 && !c.is_cpu => Dtype::F16,
            Dtype::Auto => Dtype::F32,
            given => given,
        };
        let activations = match (options.activations, dtype) {
            (Dtype::Auto, Dtype::F16) if c.shader_f16 && !c.is_cpu => Storage::F16,
            (Dtype::Auto | Dtype::F32, _) => Storage::F32,
            (Dtype::F16, _) if c.shader_f16 => Storage::F16,
            (Dtype::F16, _) => {
                return Err(gpu.error(
                    "has no 16-bit floats in shaders (SHADER_F16)",
                    "use --activations f32; weights may still be f16",
                ));
            }
        };
        Ok(Self {
            weights: match dtype {
                Dtype::F16 => WeightStorage::F16,
                _ => WeightStorage::F32,
            },
            activations,
        })
    }
}

/// A loaded model.
pub struct Pipeline {
    pub(super) gpu: Arc<Gpu>,
    pub(super) tuning: Tuning,
    pub(super) checkpoint: Checkpoint,
    pub(super) precision: Precision,
    options: LoadOptions,
    pub(super) previews: Previews,
    pub(super) unet: Loaded,
    vae: Loaded,
    load_seconds: f64,
}

impl Pipeline {
    /// Opens the checkpoint, checks every tensor that will be wanted, and only
    /// then opens the device. Weights follow when they are first needed.
    pub fn load(options: &LoadOptions, observer: &mut Observer<'_>) -> Result<Self> {
        let start = Instant::now();
        (observer.events)(Event::Loading {
            part: "checkpoint".into(),
        });
        observer.cancel.check()?;
        let mut checkpoint = Checkpoint::open(&options.model)?;
        if let Some(path) = &options.vae {
            checkpoint.replace_vae(open_vae(path)?)?;
        }
        check(&checkpoint)?;
        let previews = Previews::open(options.preview_vae.as_deref(), &checkpoint)?;
        observer.cancel.check()?;
        let gpu = Gpu::open(&AdapterChoice {
            adapter: options.adapter.clone(),
            backend: options.backend.clone(),
            ..Default::default()
        })?;
        let precision = Precision::choose(options, &gpu)?;
        Ok(Self {
            tuning: match options.direct_kernels {
                Some(direct) => Tuning { direct },
                None => Tuning::of(gpu.capabilities()),
            },
            gpu,
            checkpoint,
            precision,
            options: options.clone(),
            previews,
            unet: Loaded::default(),
            vae: Loaded::default(),
            load_seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Width and height in pixels that the model was trained for.
    pub fn native_size(&self) -> (usize, usize) {
        let side = self.checkpoint.native_size();
        (side, side)
    }

    /// Carries out a request.
    pub fn generate(&mut self, request: &Request, observer: &mut Observer<'_>) -> Result<Output> {
        let scale = self.checkpoint.vae_scale();
        for (field, value) in [("width", request.width), ("height", request.height)] {
            if value % scale != 0 {
                let allowed = format!("this model's sizes are multiples of {scale} pixels");
                return Err(Error::invalid(field, value, allowed));
            }
        }
        // Before anything goes to the device.
        let plan = denoise::plan(&self.checkpoint, request)?;
        let mut seconds = Seconds {
            load: self.load_seconds,
            ..Default::default()
        };
        let mut watch = Stopwatch(Instant::now());
        let mut warnings = Vec::new();
        (observer.events)(Event::Encoding);
        let conditioning = condition::encode(self, request, observer, &mut warnings)?;
        seconds.encode = watch.lap();

        let (latents, stats) = {
            (observer.events)(Event::Loading {
                part: "unet".into(),
            });
            let mut denoiser = self.denoiser(&plan, request, &conditioning, observer.cancel)?;
            observer.cancel.check()?;
            seconds.load += watch.lap();
            let done = denoiser.run(request, observer)?;
            seconds.denoise = watch.lap();
            done
        };
        (observer.events)(Event::Loading { part: "vae".into() });
        let pictures = self.decode(request, &latents, observer, &mut watch, &mut seconds)?;
        self.gpu.save_pipeline_cache();
        Ok(self.output(request, pictures, seconds, stats, warnings))
    }

    /// The VAE by itself, whole or on tiles.
    pub fn vae(&self, tiling: Tiling) -> Vae<'_> {
        Vae::new(self, &self.vae, tiling)
    }

    fn denoiser(
        &self,
        plan: &Plan,
        request: &Request,
        conditioning: &condition::Conditioning,
        cancel: &Cancel,
    ) -> Result<Denoiser<'_>> {
        let batched = !self.options.low_memory;
        let make = |batched| {
            Denoiser::new(
                self,
                &self.unet,
                plan,
                request,
                conditioning,
                batched,
                cancel,
            )
        };
        match make(batched) {
            // Memory may suffice for two calls of half the batch.
            Err(e) if batched && request.guided() && e.is_out_of_memory() => {
                tracing::warn!("{e}: trying two UNet calls a step");
                make(false)
            }
            other => other,
        }
    }

    fn decode(
        &self,
        request: &Request,
        latents: &[Latents],
        observer: &mut Observer<'_>,
        watch: &mut Stopwatch,
        seconds: &mut Seconds,
    ) -> Result<Vec<Picture>> {
        let vae = self.vae(self.options.vae_tiling);
        let decoder = vae.decoder(latents.first().map_or([1, 1], |l| [l.h, l.w]))?;
        seconds.load += watch.lap();
        let total = latents.len();
        let mut pictures = Vec::new();
        let mut decoded = Vec::new();
        for (index, latents) in latents.iter().enumerate() {
            (observer.events)(Event::Decoding { index, total });
            let pixels = decoder.decode(&latents.values, observer.cancel)?;
            if observer.trace.is_some() {
                decoded.extend_from_slice(&pixels);
            }
            pictures.push(self.picture(request, &pixels)?);
        }
        if let Some(trace) = &mut observer.trace {
            let (c, h, w) = (
                self.checkpoint.vae.picture_channels(),
                request.height,
                request.width,
            );
            trace.put_f32("decoded", &[total, c, h, w], &decoded);
        }
        seconds.decode = watch.lap();
        Ok(pictures)
    }

    /// RGB from the VAE's planes; a model of one channel is grey.
    fn picture(&self, request: &Request, planes: &[f32]) -> Result<Picture> {
        let c = self.checkpoint.vae.picture_channels();
        let plane = request.width * request.height;
        let rgb: Vec<f32> = [0, 1.min(c - 1), 2.min(c - 1)]
            .iter()
            .flat_map(|i| &planes[i * plane..(i + 1) * plane])
            .copied()
            .collect();
        Picture::from_planar(request.width, request.height, &rgb)
    }

    fn output(
        &self,
        request: &Request,
        pictures: Vec<Picture>,
        seconds: Seconds,
        stats: LoopStats,
        warnings: Vec<String>,
    ) -> Output {
        let info = self.gpu.info();
        let name = |half: bool| if half { "f16" } else { "f32" }.to_string();
        Output {
            pictures,
            seeds: request.seeds(),
            seconds,
            adapter: info.name.clone(),
            backend: info.backend.to_string(),
            dtype: name(self.precision.weights == WeightStorage::F16),
            activations: name(self.precision.activations == Storage::F16),
            peak_device_bytes: self
                .gpu
                .counters()
                .peak_device_bytes
                .load(Ordering::Relaxed),
            stats,
            warnings,
        }
    }
}

/// Checks that every part has every tensor of its graph, in the right shape.
/// Nothing is read.
fn check(checkpoint: &Checkpoint) -> Result<()> {
    Part::ALL.into_iter().try_for_each(|part| {
        let source = checkpoint.source(part);
        let wanted = wanted(checkpoint, part);
        wanted
            .iter()
            .try_for_each(|(name, shape)| source.check(name, shape))
    })
}

/// Names and shapes of all tensors of a part that a run may read.
fn wanted(checkpoint: &Checkpoint, part: Part) -> Vec<(String, Vec<usize>)> {
    let encoder = |config| {
        let graph = clip::graph(config, 1, 0).optimise();
        [model::tensors(&graph), clip::embedding_tensors(config)].concat()
    };
    match part {
        Part::TextEncoder => checkpoint
            .text_encoder
            .as_ref()
            .map(encoder)
            .unwrap_or_default(),
        Part::TextEncoder2 => encoder(&checkpoint.text_encoder_2),
        Part::UNet => {
            let size = unet::Size {
                batch: 1,
                height: 64,
                width: 64,
                tokens: 1,
            };
            let ids = checkpoint.time_id_count();
            model::tensors(&unet::graph(&checkpoint.unet, ids, size))
        }
        Part::Vae => model::autoencoder::wanted(&checkpoint.vae),
    }
}

/// Seconds between calls.
struct Stopwatch(Instant);

impl Stopwatch {
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = now.duration_since(self.0).as_secs_f64();
        self.0 = now;
        seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// `inspect`'s list and the graphs' agree, but for what no picture needs: the
    /// last layer of the first text encoder and the norm after it.
    #[test]
    fn what_is_expected_is_what_the_graphs_read() {
        for model in [
            "demo",
            "demo-refiner",
            "random:sdxl-base",
            "random:sdxl-refiner",
        ] {
            let checkpoint = Checkpoint::open(model).unwrap();
            let last = checkpoint
                .text_encoder
                .as_ref()
                .map(|c| format!("encoder.layers.{}.", c.num_hidden_layers - 1));
            for part in Part::ALL {
                let unread = |name: &str| {
                    part == Part::TextEncoder
                        && (last.as_ref().is_some_and(|last| name.contains(last))
                            || name.contains("final_layer_norm"))
                };
                let expected: BTreeMap<_, _> = checkpoint
                    .expected(part)
                    .into_iter()
                    .filter(|(name, _)| !unread(name))
                    .collect();
                let read: BTreeMap<_, _> = wanted(&checkpoint, part).into_iter().collect();
                assert_eq!(expected, read, "{model} {part:?}");
            }
        }
    }
}
