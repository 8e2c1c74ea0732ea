//! Checkpoints and a device, ready to draw.

use super::adapters::Merged;
use super::memory::Question;
use super::preview::Previews;
use super::vae::Vae;
use super::{
    Context, Dtype, Event, MemoryLimit, MemoryPlan, Observer, Preset, RawRequest, Request,
    TuningSource, WeightFormat,
};
use crate::checkpoint::embedding::Embeddings;
use crate::checkpoint::{Checkpoint, Part, open_vae};
use crate::gpu::{AdapterChoice, Gpu};
use crate::kernel::product::Family;
use crate::kernel::product::WeightStorage;
use crate::kernel::{self, Storage};
use crate::model::{self, Loaded, clip, time, unet};
use crate::text::Styles;
use crate::{Error, Field, Remedy, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use web_time::Instant;

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
    /// A refiner for it, named as `model` is; `demo` is the embedded one.
    pub refiner: Option<String>,
    /// Go on where a LoRA has keys that match nothing.
    pub lora_allow_unmatched: bool,
    /// Textual inversions: files, and folders of them, which are listed at every request.
    pub embeddings: Vec<PathBuf>,
    /// An index or a part of an adapter's name.
    pub adapter: Option<String>,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: Option<String>,
    pub dtype: Dtype,
    /// Precision of the UNet's activations; `Auto` follows `dtype`, but keeps f32
    /// on CPU adapters, where f16 saves nothing.
    pub activations: Dtype,
    /// The family of kernels to begin with, those after it serving what it cannot;
    /// `None` follows the adapter.
    pub kernels: Option<Family>,
    /// The table of the fastest kernels.
    pub tuning: TuningSource,
    /// Pictures that go through the UNet at a time, at the most; `None` chooses.
    pub batch: Option<usize>,
    /// One picture at a time, two UNet calls a guided step instead of one of twice
    /// the batch, and one UNet on the device at a time.
    pub low_memory: bool,
    /// How the UNet's weights are kept on the device.
    pub weights: WeightFormat,
    /// How much of the device's memory may be used.
    pub max_memory: MemoryLimit,
    pub vae_tiling: Tiling,
    /// A UNet in place of the model's own: a file or folder.
    pub unet: Option<String>,
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
                    Remedy::FULL_ACTIVATIONS,
                ));
            }
        };
        let asked = match (dtype, options.weights) {
            (Dtype::F16, _) => Some((Field::Dtype, "f32")),
            (_, WeightFormat::Q8 | WeightFormat::Q4) => Some((Field::Weights, "f16")),
            _ => None,
        };
        if let (Some((field, value)), false) = (asked, c.half_words) {
            let problem = "reads no 16-bit floats from memory (SHADER_F16_IN_F32)";
            let value = value.into();
            return Err(gpu.error(problem, Remedy::Set { field, value }));
        }
        Ok(Self {
            weights: match dtype {
                Dtype::F16 => WeightStorage::F16,
                _ => WeightStorage::F32,
            },
            activations,
        })
    }
}

/// A checkpoint and what of its UNet is on the device.
pub(super) struct Model {
    pub checkpoint: Checkpoint,
    pub unet: Loaded,
    /// Of the text encoders, where they stay.
    pub texts: [Loaded; 2],
}

impl Model {
    /// The model that draws.
    fn base(options: &LoadOptions) -> Result<Self> {
        Self::checked(base_checkpoint(options)?)
    }

    fn checked(checkpoint: Checkpoint) -> Result<Self> {
        check(&checkpoint)?;
        Ok(Self {
            checkpoint,
            unet: Loaded::default(),
            texts: Default::default(),
        })
    }
}

/// The checkpoint that draws; others take the place of its parts.
pub(super) fn base_checkpoint(options: &LoadOptions) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::open(&options.model)?;
    if let Some(path) = &options.vae {
        checkpoint.replace_vae(open_vae(path)?)?;
    }
    if let Some(path) = &options.unet {
        checkpoint.replace_unet(path)?;
    }
    if !checkpoint.has_vae() {
        let remedy = Remedy::give(Field::Vae, "one that was made for SDXL");
        let problem = "no VAE in this checkpoint";
        return Err(Error::file(&options.model, problem, remedy));
    }
    Ok(checkpoint)
}

/// A refiner by the base's word for it: that for the embedded model means its own refiner.
pub(super) fn refiner_name(name: &str) -> &str {
    match name {
        "demo" => "demo-refiner",
        other => other,
    }
}

/// The refiner of a pipeline.
pub(super) struct Refiner {
    pub model: Model,
    /// Its text encoder is the base's second, so that its prompts are encoded once.
    pub shares_encoder: bool,
}

impl Refiner {
    fn open(name: &str, base: &Checkpoint) -> Result<Self> {
        let name = refiner_name(name);
        let model = Model::checked(Checkpoint::open(name)?)?;
        let checkpoint = &model.checkpoint;
        let wrong = |problem: String| {
            let remedy = "use a refiner that was made for this base model";
            Err(Error::file(name, problem, remedy))
        };
        if !checkpoint.is_refiner() {
            return wrong("is no refiner: it has two text encoders".into());
        }
        let channels = [checkpoint.unet.in_channels, base.vae.latent_channels()];
        if channels[0] != channels[1] {
            return wrong(format!(
                "its UNet has {} latent channels, the base's VAE has {}",
                channels[0], channels[1]
            ));
        }
        if checkpoint.vae.latents_mean_std() != base.vae.latents_mean_std() {
            return wrong("its latents have another mean and deviation than the base's".into());
        }
        if checkpoint.vae_scale() != base.vae_scale() {
            return wrong("its latents are of another size than the base's".into());
        }
        Ok(Self {
            shares_encoder: checkpoint.shares(base, Part::TextEncoder2),
            model,
        })
    }
}

/// A loaded model, with its refiner if it has one.
pub struct Pipeline {
    pub(super) gpu: Arc<Gpu>,
    pub(super) context: kernel::Context,
    pub(super) base: Model,
    pub(super) refiner: Option<Refiner>,
    pub(super) precision: Precision,
    pub(super) options: LoadOptions,
    pub(super) previews: Previews,
    pub(super) merged: Merged,
    pub(super) vae: Loaded,
    /// How the memory is used at the moment.
    pub(super) plan: MemoryPlan,
    /// The last ones that were made, the newest first.
    pub(super) planned: Mutex<Vec<(Question, MemoryPlan)>>,
    /// Bytes that were too many, once the device ran out of memory.
    pub(super) short_of: Option<u64>,
    pub(super) load_seconds: f64,
}

impl Pipeline {
    /// What it was loaded with.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// The device that it draws on.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Opens the checkpoints, checks every tensor that will be wanted, and only
    /// then opens the device. Weights follow when they are first needed.
    pub fn load(options: &LoadOptions, observer: &mut Observer<'_>) -> Result<Self> {
        Self::load_with(options, observer, || {
            Gpu::open(&AdapterChoice {
                adapter: options.adapter.clone(),
                backend: options.backend.clone(),
                ..Default::default()
            })
        })
    }

    /// As [`Self::load`], on a device that is open and may serve other pipelines; the
    /// options' `adapter` and `backend` are not looked at.
    ///
    /// # Errors
    /// As [`Self::load`], but for those of opening a device.
    pub fn load_on(
        gpu: Arc<Gpu>,
        options: &LoadOptions,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        Self::load_with(options, observer, || Ok(gpu))
    }

    fn load_with(
        options: &LoadOptions,
        observer: &mut Observer<'_>,
        open: impl FnOnce() -> Result<Arc<Gpu>>,
    ) -> Result<Self> {
        let start = Instant::now();
        (observer.events)(Event::Loading {
            part: "checkpoint".into(),
        });
        observer.cancel.check()?;
        let base = Model::base(options)?;
        let refiner = match &options.refiner {
            Some(name) => Some(Refiner::open(name, &base.checkpoint)?),
            None => None,
        };
        Embeddings::list(&options.embeddings)?;
        let previews = Previews::open(options.preview_vae.as_deref(), &base.checkpoint)?;
        observer.cancel.check()?;
        let gpu = open()?;
        let precision = Precision::choose(options, &gpu)?;
        let mut options = options.clone();
        if !gpu.capabilities().half_words {
            // What blocks are expanded to are such floats.
            options.weights = WeightFormat::F16;
        }
        Ok(Self {
            context: kernel::Context::of_family(&gpu, options.kernels)?
                .with_tuning(options.tuning.open(&gpu, options.kernels)?),
            gpu,
            base,
            refiner,
            precision,
            plan: MemoryPlan::of_format(options.weights),
            options,
            previews,
            merged: Merged::default(),
            vae: Loaded::default(),
            planned: Mutex::default(),
            short_of: None,
            load_seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Width and height in pixels that the model was trained for.
    pub fn native_size(&self) -> (usize, usize) {
        let side = self.base.checkpoint.native_size();
        (side, side)
    }

    /// Defaults of requests: what the model asks for.
    pub fn preset(&self) -> Preset {
        Preset::of_checkpoint(&self.base.checkpoint)
    }

    /// Whether a refiner is loaded.
    pub fn has_refiner(&self) -> bool {
        self.refiner.is_some()
    }

    /// Bytes of this pipeline's weights on the device.
    pub fn own_bytes(&self) -> u64 {
        let models = [Some(&self.base), self.refiner.as_ref().map(|r| &r.model)];
        let models = models.into_iter().flatten();
        let of = |model: &Model| {
            let texts: u64 = model.texts.iter().map(Loaded::bytes).sum();
            model.unet.bytes() + model.unet.shared_bytes() + texts
        };
        models.map(of).sum::<u64>() + self.vae.bytes()
    }

    /// Memory that is held on the device now, by this pipeline and others on it.
    pub fn device_bytes(&self) -> u64 {
        let counters = self.gpu.counters();
        counters
            .device_bytes
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    /// A request for this model: see [`Request::resolve`].
    pub fn resolve(&self, raw: RawRequest, styles: &Styles) -> Result<Request> {
        let context = Context {
            native: self.native_size(),
            preset: self.preset(),
            refiner: self.has_refiner(),
            styles,
        };
        Request::resolve(raw, &context)
    }

    /// The VAE by itself, whole or on tiles.
    pub fn vae(&self, tiling: Tiling) -> Vae<'_> {
        Vae::new(self, &self.vae, tiling)
    }
}

/// Checks that every part has every tensor of its graph, in the right shape.
/// Nothing is read.
fn check(checkpoint: &Checkpoint) -> Result<()> {
    let parts = Part::ALL.into_iter();
    // The refiner's own is never used.
    let mut parts = parts.filter(|part| *part != Part::Vae || checkpoint.has_vae());
    parts.try_for_each(|part| {
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
            let graphs = [
                unet::graph(&checkpoint.unet, size),
                time::graph(&checkpoint.unet, ids, 1),
            ];
            graphs.iter().flat_map(model::tensors).collect()
        }
        Part::Vae => model::autoencoder::wanted(&checkpoint.vae),
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
