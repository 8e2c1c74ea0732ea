//! Files to named tensors and configurations. Knows nothing of GPUs.

mod architecture;
mod autoencoder;
mod builtin;
mod catalogue;
pub mod config;
pub mod convert;
mod demo;
mod dtype;
pub mod embedding;
mod expected;
mod fields;
mod file;
mod fingerprint;
mod folder;
pub mod hub;
pub mod inspect;
pub mod lora;
mod random;
mod single;
pub mod tensor;
mod tree;
mod unet_file;
mod weights;

pub use autoencoder::{VaeFile, open_vae};
pub use catalogue::{catalogue, is_catalogue};
pub use config::{Activation, Autoencoder, ClipConfig, Middle, TinyConfig, UNetConfig, VaeConfig};
pub use dtype::{Block, DType};
pub use inspect::Report;
pub use lora::{LoraFile, LoraReport, LoraUse};
pub use tensor::{Extent, Part, TensorSource, TensorView};

use crate::schedule;
use crate::text::Tokenizer;
use crate::{Error, Field, Remedy, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a checkpoint's tensors come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// A folder as diffusers writes it.
    DiffusersFolder,
    /// One file in the layout of the original SDXL release.
    SingleFile,
    /// The demonstration checkpoint inside the program.
    Embedded,
    /// Made on the spot.
    Random,
}

/// An SDXL checkpoint: configurations, tokenizers, and tensors that are read
/// when asked for. Base and refiner alike.
pub struct Checkpoint {
    /// The folder's or file's name without its path, or the built-in name.
    pub name: String,
    pub layout: Layout,
    pub unet: UNetConfig,
    pub vae: Autoencoder,
    /// The first text encoder; the refiner has none.
    pub text_encoder: Option<ClipConfig>,
    /// The second text encoder, the one with a projection.
    pub text_encoder_2: ClipConfig,
    pub scheduler: schedule::Config,
    /// An absent negative prompt is embedded as zeros rather than as the empty text.
    pub force_zeros_for_empty_prompt: bool,
    /// The micro-conditioning ends with an aesthetic score, as the refiner's does.
    pub requires_aesthetics_score: bool,
    /// Tokenizer of the first text encoder.
    pub tokenizer: Option<Tokenizer>,
    pub tokenizer_2: Tokenizer,
    files: Vec<(PathBuf, u64)>,
    /// Configuration objects by component, as far as tensors do not tell.
    described: Map<String, Value>,
    sources: Sources,
}

/// The tensors of each part.
struct Sources {
    text_encoder: Arc<dyn TensorSource>,
    text_encoder_2: Arc<dyn TensorSource>,
    unet: Arc<dyn TensorSource>,
    vae: Arc<dyn TensorSource>,
    has_vae: bool,
    /// What is merged into the others, on reading.
    adapters: lora::Adapters,
}

impl Sources {
    fn new(
        text_encoder: Option<Arc<dyn TensorSource>>,
        text_encoder_2: Arc<dyn TensorSource>,
        unet: Arc<dyn TensorSource>,
        vae: Option<Arc<dyn TensorSource>>,
    ) -> Self {
        let absent = |what| Arc::new(Absent(what)) as _;
        Self {
            text_encoder: text_encoder.unwrap_or_else(|| absent("first text encoder")),
            text_encoder_2,
            unet,
            has_vae: vae.is_some(),
            vae: vae.unwrap_or_else(|| absent("VAE")),
            adapters: lora::Adapters::default(),
        }
    }

    /// A part's tensors as its files have them.
    fn plain(&self, part: Part) -> &Arc<dyn TensorSource> {
        match part {
            Part::TextEncoder => &self.text_encoder,
            Part::TextEncoder2 => &self.text_encoder_2,
            Part::UNet => &self.unet,
            Part::Vae => &self.vae,
        }
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint")
            .field("name", &self.name)
            .field("layout", &self.layout)
            .field("refiner", &self.is_refiner())
            .finish_non_exhaustive()
    }
}

/// Names that are no paths.
const BUILT_IN: &str = "`demo`, `demo-refiner`, `random:sdxl-base`, `random:sdxl-refiner`";

impl Checkpoint {
    /// Opens a checkpoint: a diffusers folder or one of Hugging Face's cache, also by
    /// its name `OWNER/NAME`; a single file (safetensors, GGUF or PyTorch's) in the
    /// original SDXL layout or with all of diffusers' parts; or one of the built-in
    /// names `demo`, `demo-refiner`, `random:sdxl-base` and `random:sdxl-refiner`.
    /// Configurations and headers are checked, values are not read.
    pub fn open(spec: &str) -> Result<Self> {
        let name = spec.to_string();
        match spec {
            "demo" => folder::open(&demo::base(), name, Layout::Embedded),
            "demo-refiner" => folder::open(&demo::refiner(), name, Layout::Embedded),
            "random:sdxl-base" => builtin::random_base(),
            "random:sdxl-refiner" => builtin::random_refiner(),
            _ if spec.starts_with("random:") => {
                let allowed = format!("a folder, a .safetensors file, or one of {BUILT_IN}");
                Err(Error::invalid(Field::Model, spec, allowed))
            }
            path => open_path(Path::new(path)),
        }
    }

    /// What the configuration says by component, as a single file keeps it in its header:
    /// what tensors cannot tell.
    fn configurations(&self) -> Value {
        Value::Object(self.described.clone())
    }

    /// Whether this is a refiner: it has the second text encoder alone.
    pub fn is_refiner(&self) -> bool {
        self.text_encoder.is_none()
    }

    /// Whether it has a VAE of its own, or has been given one. Without, [`Self::vae`]
    /// says what SDXL's latents are.
    pub fn has_vae(&self) -> bool {
        self.sources.has_vae
    }

    /// The tensors of one part, adapters merged in. The refiner's
    /// [`Part::TextEncoder`] has none.
    pub fn source(&self, part: Part) -> &dyn TensorSource {
        match self.sources.adapters.source(part) {
            Some(merged) => merged,
            None => self.sources.plain(part).as_ref(),
        }
    }

    /// Whether a guidance scale means two predictions a step; a consistency model is
    /// told the scale instead.
    pub fn guides(&self, scale: f64) -> bool {
        scale > 1.0 && self.unet.time_cond_proj_dim.is_none()
    }

    /// Whether a text encoder is the same as another checkpoint's: the same
    /// configuration and, as far as the first and last values of every tensor tell,
    /// the same weights.
    pub fn shares(&self, other: &Checkpoint, part: Part) -> bool {
        const ENDS: usize = 64;
        let config = |c: &Checkpoint| match part {
            Part::TextEncoder => c.text_encoder.clone(),
            _ => Some(c.text_encoder_2.clone()),
        };
        if config(self) != config(other) || self.tokenizer_2.pad() != other.tokenizer_2.pad() {
            return false;
        }
        if self.layout == Layout::Random && other.layout == Layout::Random {
            return true;
        }
        let ends = |c: &Checkpoint, name: &str, shape: &[usize]| {
            let tensor = c.source(part).read(name, shape).ok()?;
            let n = tensor.data.len().min(ENDS);
            let (first, last) = (&tensor.data[..n], &tensor.data[tensor.data.len() - n..]);
            Some((tensor.dtype, tensor.scale, [first, last].concat()))
        };
        self.expected(part).iter().all(|(name, shape)| {
            let own = ends(self, name, shape);
            own.is_some() && own == ends(other, name, shape)
        })
    }

    /// Numbers of the UNet's micro-conditioning: sizes and crop, six; the
    /// refiner's five end with an aesthetic score.
    pub fn time_id_count(&self) -> usize {
        if self.requires_aesthetics_score { 5 } else { 6 }
    }

    /// Picture pixels along one latent pixel: 8.
    pub fn vae_scale(&self) -> usize {
        self.vae.scale()
    }

    /// Width and height of the pictures that the checkpoint was trained for.
    pub fn native_size(&self) -> usize {
        self.unet.sample_size * self.vae_scale()
    }

    /// Checks that the parts fit one another; `place` is the checkpoint in messages.
    fn check(&self, place: &Path) -> Result<()> {
        let wrong = |problem: String| {
            Err(Error::file(
                place,
                problem,
                "use the parts of one SDXL checkpoint",
            ))
        };
        let (first, second) = (self.text_encoder.as_ref(), &self.text_encoder_2);
        let width = first.map_or(0, |c| c.hidden_size) + second.hidden_size;
        if self.unet.cross_attention_dim != width {
            let have = self.unet.cross_attention_dim;
            return wrong(format!(
                "unet: `cross_attention_dim` is {have}, the text encoders give {width}"
            ));
        }
        let numbers = if self.requires_aesthetics_score { 5 } else { 6 };
        let pooled = second.projection_dim.unwrap_or(0);
        let want = pooled + numbers * self.unet.addition_time_embed_dim;
        let have = self.unet.projection_class_embeddings_input_dim;
        if have != want {
            return wrong(format!(
                "unet: `projection_class_embeddings_input_dim` is {have}, the pooled text and {numbers} numbers give {want}"
            ));
        }
        let latent = self.vae.latent_channels();
        // Inpainting models take the mask and the picture beside the latents.
        let (takes, gives) = (self.unet.in_channels, self.unet.out_channels);
        if takes == 2 * latent {
            let problem = "an instruct-pix2pix model, whose UNet takes a second picture's latents";
            return Err(Error::file(
                place,
                problem,
                "there is no use for it here yet: use another SDXL model",
            ));
        }
        let fits = [latent, 2 * latent + 1].contains(&takes);
        let sides = [
            ("in_channels", takes, fits),
            ("out_channels", gives, gives == latent),
        ];
        if let Some((key, have, _)) = sides.into_iter().find(|(_, _, fits)| !fits) {
            return wrong(format!(
                "unet: `{key}` is {have}, the VAE has {latent} latent channels"
            ));
        }
        if !latent.is_multiple_of(4) {
            return wrong(format!(
                "vae: `latent_channels` is {latent}, must be a multiple of 4"
            ));
        }
        let pairs = [
            (self.tokenizer.as_ref(), first),
            (Some(&self.tokenizer_2), Some(second)),
        ];
        for (tokenizer, encoder) in pairs.iter().filter_map(|(t, e)| Some(((*t)?, (*e)?))) {
            let (id, size) = (tokenizer.largest_id() as usize, encoder.vocab_size);
            if id >= size {
                return wrong(format!(
                    "a tokenizer has id {id}, its text encoder {size} embeddings"
                ));
            }
            let (length, most) = (tokenizer.max_length(), encoder.max_position_embeddings);
            if length > most || length != self.tokenizer_2.max_length() {
                return wrong(format!(
                    "a tokenizer's `model_max_length` is {length}, its text encoder has {most} positions and both tokenizers must agree"
                ));
            }
        }
        Ok(())
    }
}

fn open_path(path: &Path) -> Result<Checkpoint> {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_string_lossy().into_owned();
    if path.is_dir() {
        return folder::open(&folder::on_disk(path)?, name, Layout::DiffusersFolder);
    }
    if !path.exists() {
        if let Some(found) = path.to_str().and_then(hub::find) {
            return folder::open(&folder::on_disk(&found?)?, name, Layout::DiffusersFolder);
        }
        let wanted = format!("a diffusers folder or a .safetensors file, or use one of {BUILT_IN}");
        let remedy = Remedy::give(Field::Model, wanted);
        return Err(Error::file(path, "no such file or folder", remedy));
    }
    single::open(path, name)
}

/// A part that the checkpoint does not have.
struct Absent(&'static str);

impl TensorSource for Absent {
    fn contains(&self, _name: &str) -> bool {
        false
    }

    fn check(&self, name: &str, _shape: &[usize]) -> Result<()> {
        Err(self.error(name))
    }

    fn read(&self, name: &str, _shape: &[usize]) -> Result<TensorView<'_>> {
        Err(self.error(name))
    }
}

impl Absent {
    fn error(&self, name: &str) -> Error {
        let problem = format!("{name} asked for, but there is no {}", self.0);
        Error::file("checkpoint", problem, "use a checkpoint that has this part")
    }
}
