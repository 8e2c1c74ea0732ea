//! A checkpoint in a single file: in the layout of the original SDXL release
//! (`model.diffusion_model.*`, `first_stage_model.*`, `conditioner.embedders.*`), or with
//! all of diffusers' parts in one (`unet.*`, `vae.*`, `text_encoder.*`).

mod diffusion;
mod kind;
mod names;
mod shapes;
mod source;
mod taesd;
mod unet;
mod vae;

use super::architecture;
use super::config::{Autoencoder, UNetConfig};
use super::fields::Fields;
use super::file::TensorFile;
use super::tensor::{Part, TensorSource};
use super::{Checkpoint, Layout, Sources};
use crate::schedule;
use crate::text::Tokenizer;
use crate::{Error, Result};
pub(super) use names::{Change, Names};
use serde_json::{Map, Value, json};
use shapes::has;
use source::Single;
use std::path::Path;
use std::sync::Arc;

pub(super) use vae::open as open_vae;

/// Key of the header's metadata under which a converter may keep what shapes
/// cannot tell: an object of configuration objects, by component.
pub(super) const CONFIG: &str = "calotype.config";

/// Where base and refiner keep their text encoders.
const CLIP: &str = "conditioner.embedders.0.transformer.";
const OPEN_CLIP_BASE: &str = "conditioner.embedders.1.model.";
const OPEN_CLIP_REFINER: &str = "conditioner.embedders.0.model.";

/// Where they are in a file of all of diffusers' parts.
const PART: &str = "text_encoder.";
const PART_2: &str = "text_encoder_2.";

/// Where a file keeps its text encoders.
struct Encoders {
    first: Option<&'static str>,
    second: &'static str,
    /// Whether the second is under Hugging Face's names, not OpenCLIP's.
    is_hugging_face: bool,
}

impl Encoders {
    fn find(file: &TensorFile) -> Option<Self> {
        let open = |prefix: &str| has(file, &format!("{prefix}token_embedding.weight"));
        let plain = |prefix: &str| {
            has(
                file,
                &format!("{prefix}text_model.embeddings.token_embedding.weight"),
            )
        };
        let encoders = |first, second, is_hugging_face| Encoders {
            first,
            second,
            is_hugging_face,
        };
        if open(OPEN_CLIP_BASE) {
            Some(encoders(Some(CLIP), OPEN_CLIP_BASE, false))
        } else if open(OPEN_CLIP_REFINER) {
            Some(encoders(None, OPEN_CLIP_REFINER, false))
        } else if plain(PART_2) {
            let first = plain(PART).then_some(PART);
            Some(encoders(first, PART_2, true))
        } else {
            None
        }
    }

    /// Numbers of the micro-conditioning: the refiner's are five.
    fn numbers(&self) -> usize {
        match self.first {
            Some(_) => 6,
            None => 5,
        }
    }

    fn second(&self, file: &TensorFile) -> Result<(Map<String, Value>, Names)> {
        let prefix = self.second.to_string();
        Ok(match self.is_hugging_face {
            true => (
                shapes::clip_with_projection(file, self.second)?,
                Names::Plain { prefix },
            ),
            false => (
                shapes::open_clip(file, self.second)?,
                Names::OpenClip { prefix },
            ),
        })
    }
}

/// Reads the header and finds the architecture. Reads no values.
pub(super) fn open(path: &Path, name: String) -> Result<Checkpoint> {
    let file = Arc::new(TensorFile::open(path)?);
    let known = Known::read(&file)?;
    let (Some(encoders), Some(place)) = (Encoders::find(&file), unet::Place::find(&file)) else {
        return Err(kind::no_checkpoint(&file));
    };
    let base = encoders.first.is_some();
    let (second, second_names) = encoders.second(&file)?;
    let text_encoder_2 = architecture::clip(&known.fields("text_encoder_2", second), true)?;
    let text_encoder = match encoders.first {
        Some(prefix) => Some(architecture::clip(
            &known.fields("text_encoder", shapes::clip(&file, prefix)?),
            false,
        )?),
        None => None,
    };
    let pooled = text_encoder_2.projection_dim.unwrap_or(0);
    let unet = place.config(&file, pooled, encoders.numbers())?;
    let unet = architecture::unet(&known.fields("unet", unet))?;
    let vae = vae::Place::find(&file);
    let mut vae_config = match &vae {
        Some(vae) => vae.config(&file)?,
        // Another file's will take its place; the latents are SDXL's.
        None => vae::absent(),
    };
    diffusion::latents(&file, &mut vae_config)?;
    let mut vae_config = architecture::vae(&known.fields("vae", vae_config))?;
    if let Some(vae) = &vae {
        vae_config.has_encoder = vae.has_encoder(&file)?;
    }
    let index = known.fields("model_index", Map::new());
    let part = |names: Names| -> Arc<dyn TensorSource> {
        let file = file.clone();
        Arc::new(Single { file, names })
    };
    let sources = Sources::new(
        encoders.first.map(|prefix| {
            part(Names::Plain {
                prefix: prefix.to_string(),
            })
        }),
        part(second_names),
        part(place.names(&unet)),
        vae.map(|vae| part(vae.names(vae_config.block_out_channels.len()))),
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
        described: known.fields.map().clone(),
        sources,
        unet,
        vae: Autoencoder::Kl(vae_config),
        text_encoder,
        text_encoder_2,
    };
    checkpoint.check(path)?;
    Ok(checkpoint)
}

/// The original release's names of a part's tensors; `None` where the checkpoint has no
/// such part, or one that the original has not.
pub(super) fn original_names(checkpoint: &Checkpoint, part: Part) -> Option<Names> {
    let base = !checkpoint.is_refiner();
    match part {
        Part::UNet => Some(Names::unet(&checkpoint.unet, unet::PREFIX)),
        Part::Vae if !checkpoint.has_vae() => None,
        Part::Vae => match &checkpoint.vae {
            Autoencoder::Kl(config) => Some(Names::Vae {
                prefix: vae::PREFIX.to_string(),
                levels: config.block_out_channels.len(),
            }),
            Autoencoder::Tiny(_) => None,
        },
        Part::TextEncoder => base.then(|| Names::Plain {
            prefix: CLIP.to_string(),
        }),
        Part::TextEncoder2 => Some(Names::OpenClip {
            prefix: if base {
                OPEN_CLIP_BASE
            } else {
                OPEN_CLIP_REFINER
            }
            .to_string(),
        }),
    }
}

/// A UNet in a file by itself, or in a whole checkpoint: its configuration where
/// `pooled` and `numbers` are the conditioning's, its tensors, and what kind of
/// diffusion it is for, where its file says so.
pub(super) fn open_unet(
    file: TensorFile,
    [pooled, numbers]: [usize; 2],
) -> Result<(UNetConfig, Arc<dyn TensorSource>, Option<schedule::Config>)> {
    if let Some(error) = kind::other_than_unet(&file) {
        return Err(error);
    }
    let known = Known::read(&file)?;
    let place = unet::Place::find(&file).ok_or_else(|| kind::no_unet(&file))?;
    let config = known.fields("unet", place.config(&file, pooled, numbers)?);
    let config = architecture::unet(&config)?;
    let scheduler = match diffusion::is_marked(&file) || config.time_cond_proj_dim.is_some() {
        true => Some(scheduler(&file, &known, &config)?),
        false => None,
    };
    let names = place.names(&config);
    let file = Arc::new(file);
    Ok((config, Arc::new(Single { file, names }), scheduler))
}

/// What the original release calls a module of the UNet that diffusers' name is given of.
pub(super) fn unet_names(config: &UNetConfig) -> impl Fn(&str) -> Option<String> + use<> {
    let names = Names::unet(config, "");
    move |module| {
        let original = names.original(&format!("{module}.weight"))?;
        Some(original.key.strip_suffix(".weight")?.to_string())
    }
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
