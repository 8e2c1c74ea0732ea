//! A single `.safetensors` file in the layout of the original SDXL release:
//! `model.diffusion_model.*`, `first_stage_model.*`, `conditioner.embedders.*`.

mod diffusion;
mod names;
mod shapes;
mod source;
mod taesd;
mod vae;

use super::architecture;
use super::config::{Autoencoder, UNetConfig};
use super::fields::Fields;
use super::file::TensorFile;
use super::tensor::TensorSource;
use super::{Checkpoint, Layout, Sources};
use crate::schedule;
use crate::text::Tokenizer;
use crate::{Error, Field, Remedy, Result};
use names::Names;
use serde_json::{Map, Value, json};
use source::Single;
use std::path::Path;
use std::sync::Arc;

pub(super) use vae::open as open_vae;

/// Key of the header's metadata under which a converter may keep what shapes
/// cannot tell: an object of configuration objects, by component.
const CONFIG: &str = "calotype.config";

/// Where base and refiner keep their text encoders.
const CLIP: &str = "conditioner.embedders.0.transformer.";
const OPEN_CLIP_BASE: &str = "conditioner.embedders.1.model.";
const OPEN_CLIP_REFINER: &str = "conditioner.embedders.0.model.";

/// Reads the header and finds the architecture. Reads no values.
pub(super) fn open(path: &Path, name: String) -> Result<Checkpoint> {
    let file = Arc::new(TensorFile::open(path)?);
    let known = Known::read(&file)?;
    let base = is_base(&file)?;
    let open_clip = if base {
        OPEN_CLIP_BASE
    } else {
        OPEN_CLIP_REFINER
    };
    let second = known.fields("text_encoder_2", shapes::open_clip(&file, open_clip)?);
    let text_encoder_2 = architecture::clip(&second, true)?;
    let text_encoder = match base {
        true => Some(architecture::clip(
            &known.fields("text_encoder", shapes::clip(&file, CLIP)?),
            false,
        )?),
        false => None,
    };
    let pooled = text_encoder_2.projection_dim.unwrap_or(0);
    let unet = shapes::unet(&file, pooled, if base { 6 } else { 5 })?;
    let unet = architecture::unet(&known.fields("unet", unet))?;
    let mut vae = vae::config(&file, vae::PREFIX, false)?;
    diffusion::latents(&file, &mut vae)?;
    let vae = architecture::vae(&known.fields("vae", vae))?;
    let index = known.fields("model_index", Map::new());
    let part = |names: Names| -> Arc<dyn TensorSource> {
        let file = file.clone();
        Arc::new(Single { file, names })
    };
    let prefixed = |prefix: &str| prefix.to_string();
    let sources = Sources::new(
        base.then(|| {
            part(Names::Clip {
                prefix: prefixed(CLIP),
            })
        }),
        part(Names::OpenClip {
            prefix: prefixed(open_clip),
        }),
        part(Names::unet(&unet)),
        part(Names::Vae {
            prefix: prefixed(vae::PREFIX),
            levels: vae.block_out_channels.len(),
        }),
    );
    let checkpoint = Checkpoint {
        name,
        layout: Layout::SingleFile,
        scheduler: scheduler(&file, &known, &unet)?,
        force_zeros_for_empty_prompt: index.flag("force_zeros_for_empty_prompt", base)?,
        requires_aesthetics_score: index.flag("requires_aesthetics_score", !base)?,
        tokenizer: match &text_encoder {
            Some(config) => {
                Some(known.tokenizer("tokenizer", config.vocab_size, "<|endoftext|>")?)
            }
            None => None,
        },
        tokenizer_2: known.tokenizer("tokenizer_2", text_encoder_2.vocab_size, "!")?,
        files: vec![(path.to_path_buf(), file.size())],
        sources,
        unet,
        vae: Autoencoder::Kl(vae),
        text_encoder,
        text_encoder_2,
    };
    checkpoint.check(path)?;
    Ok(checkpoint)
}

/// What the original release calls a module of the UNet that diffusers' name is given of.
pub(super) fn unet_names(config: &UNetConfig) -> impl Fn(&str) -> Option<String> + use<> {
    let names = Names::unet(config);
    move |module| {
        let original = names.original(&format!("{module}.weight"))?;
        let module = original.key.strip_suffix(".weight")?;
        Some(module.strip_prefix("model.diffusion_model.")?.to_string())
    }
}

/// Whether this is a base checkpoint rather than a refiner; an error that says
/// what the file is instead where it is neither.
fn is_base(file: &TensorFile) -> Result<bool> {
    let has = |prefix: &str| {
        file.entry(&format!("{prefix}token_embedding.weight"))
            .is_some()
    };
    if has(OPEN_CLIP_BASE) || has(OPEN_CLIP_REFINER) {
        return Ok(has(OPEN_CLIP_BASE));
    }
    let names = file.names();
    let any = |starts: &[&str]| {
        names
            .iter()
            .any(|n| starts.iter().any(|s| n.starts_with(s)))
    };
    let sdxl = "an SDXL checkpoint";
    let (problem, wanted) = if any(&["cond_stage_model."]) {
        ("a Stable Diffusion 1 or 2 checkpoint, not SDXL", sdxl)
    } else if any(&["lora_", "unet.", "text_encoder."]) {
        ("an adapter (LoRA), not a checkpoint", sdxl)
    } else if any(&["down_blocks.", "text_model.", "encoder.down_blocks."]) {
        (
            "one part of a diffusers checkpoint",
            "the folder that holds model_index.json",
        )
    } else {
        (
            "not an SDXL checkpoint: it has no conditioner.embedders.*.model.token_embedding.weight",
            sdxl,
        )
    };
    Err(Error::file(
        file.path(),
        problem,
        Remedy::give(Field::Model, wanted),
    ))
}

/// What the file's marks say, and over it what a converter kept in the header.
fn scheduler(file: &TensorFile, known: &Known, unet: &UNetConfig) -> Result<schedule::Config> {
    let config = diffusion::scheduler(file, unet.time_cond_proj_dim.is_some())?;
    let said = known.fields("scheduler", Map::new());
    config.overlaid(said.path(), &said.value())
}

/// What the header's metadata knows of the configuration.
struct Known {
    fields: Fields,
}

impl Known {
    fn read(file: &TensorFile) -> Result<Self> {
        let text = file.metadata(CONFIG).unwrap_or("{}");
        let fields = Fields::parse(text, file.path())?;
        Ok(Self { fields })
    }

    /// `found` with the keys that the metadata has of `component` laid over it.
    fn fields(&self, component: &str, mut found: Map<String, Value>) -> Fields {
        let known = self.fields.get(component).and_then(Value::as_object);
        for (key, value) in known.into_iter().flatten() {
            found.insert(key.clone(), value.clone());
        }
        Fields::new(found, self.fields.path())
    }

    /// The tokenizer with the first `size` entries of CLIP's vocabulary.
    fn tokenizer(&self, component: &str, size: usize, pad: &str) -> Result<Tokenizer> {
        let mut default = Map::new();
        default.insert("pad_token".to_string(), json!(pad));
        let config = self.fields(component, default);
        let config = Value::Object(config.map().clone()).to_string();
        Tokenizer::clip_with_config(size, &config).map_err(|e| {
            Error::file(
                self.fields.path(),
                format!("{component}: {e}"),
                "use the diffusers folder of this checkpoint",
            )
        })
    }
}
