//! The flags of `calotype generate`, and what they ask the library for.

use super::super::checked_model;
use super::super::device::DeviceArgs;
use anyhow::{Context as _, Result};
use calotype::pipeline::{LoadOptions, Lora, RawRequest, Tiling};
use calotype::{Error, encoding};
use serde_json::{Map, Value};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Draw a picture from words
#[derive(clap::Args)]
pub struct Args {
    /// What to draw; - reads it from standard input
    pub prompt: Option<String>,

    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub picture: PictureArgs,
    #[command(flatten)]
    pub refiner: RefinerArgs,
    #[command(flatten)]
    pub sizes: SizeArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Text")]
pub struct TextArgs {
    /// Read the prompt from this file
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,

    /// What not to draw; leaving it out is not the same as ""
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,

    /// A prompt of its own for the second text encoder
    #[arg(long = "prompt-2", value_name = "TEXT")]
    prompt_2: Option<String>,

    /// A negative prompt of its own for the second text encoder
    #[arg(long = "negative-prompt-2", value_name = "TEXT")]
    negative_prompt_2: Option<String>,

    /// A named template around the prompt; `calotype styles` lists them
    #[arg(long, value_name = "NAME")]
    style: Option<String>,

    /// More styles, .json or .csv: name, prompt, negative_prompt
    #[arg(long, value_name = "FILE")]
    pub styles_file: Option<PathBuf>,

    /// What (a:1.3) and [a] mean: default, no-norm, comfy, or off
    #[arg(long, value_name = "MODE")]
    prompt_weighting: Option<String>,

    /// Read pasted text as ftfy cleans it: straight quotes, usual widths [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    normalise_prompt: Option<bool>,

    /// Layers skipped before the second to last, diffusers' count [default: 0]
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    clip_skip: Option<i64>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Defaults of few-step checkpoints: turbo, lightning-1, -2, -4, -8, lcm
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,

    /// Denoising steps, 1 to 1000 [default: 25]
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    steps: Option<i64>,

    /// The solver; `calotype schedulers` lists them [default: UniPC]
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,

    /// An option of the solver, such as sigmas=karras; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    scheduler_option: Vec<(String, String)>,

    /// How closely to follow the prompt; 1 or less switches guidance off [default: 7.5]
    #[arg(long, value_name = "S", value_parser = number, allow_negative_numbers = true)]
    guidance_scale: Option<f64>,

    /// How far to bring the guided contrast back, 0 to 1 [default: 0]
    #[arg(long, value_name = "PHI", value_parser = number, allow_negative_numbers = true)]
    guidance_rescale: Option<f64>,

    /// Share of the way at which guidance begins [default: 0]
    #[arg(long, value_name = "F", value_parser = number, allow_negative_numbers = true)]
    guidance_start: Option<f64>,

    /// Share of the way at which guidance ends [default: 1]
    #[arg(long, value_name = "F", value_parser = number, allow_negative_numbers = true)]
    guidance_end: Option<f64>,

    /// Run the whole UNet at every Nth step only, 1 to 20: faster, another picture [default: 1]
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    cache_interval: Option<i64>,

    /// Of the first picture, the next ones count up; -1 draws one [default: -1]
    #[arg(long, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    seed: Option<i128>,

    /// Whose random numbers: cpu (diffusers, ComfyUI) or cuda (AUTOMATIC1111) [default: cpu]
    #[arg(long, value_name = "KIND")]
    rng: Option<String>,

    /// How many pictures, 1 to 64 [default: 1]
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    samples: Option<i64>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "From a picture")]
pub struct PictureArgs {
    /// Start from this picture, .png, .jpg or .webp
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,

    /// Paint anew where this picture is white; of the size of --image
    #[arg(long, value_name = "FILE", requires = "image")]
    pub mask: Option<PathBuf>,

    /// How much of the picture is drawn anew, above 0 to 1 [default: 0.3]
    #[arg(long, value_name = "F", value_parser = number, allow_negative_numbers = true)]
    strength: Option<f64>,

    /// How --image and --mask come to the size: stretch, crop, or pad [default: stretch]
    #[arg(long, value_name = "HOW")]
    fit: Option<String>,

    /// Soften the mask's edge by this many pixels: from the middle grey up it paints;
    /// see --keep-unmasked for a soft edge in the result
    #[arg(long, value_name = "PIXELS", value_parser = number, allow_negative_numbers = true, requires = "mask")]
    pub mask_blur: Option<f64>,

    /// Paint anew where the mask is black
    #[arg(long, requires = "mask")]
    pub mask_invert: bool,

    /// Lay the original over the result where the mask keeps it, through the mask's
    /// soft edge
    #[arg(long, requires = "mask")]
    pub keep_unmasked: bool,

    /// Draw only the part that the mask paints, and so many pixels around it, at the
    /// full size, and put it back into the original
    #[arg(long, value_name = "PIXELS", value_parser = whole, allow_negative_numbers = true, requires = "mask")]
    pub padding_mask_crop: Option<i64>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Refiner")]
pub struct RefinerArgs {
    /// A refiner: named as --model is, demo (the embedded one), or none [default: none]
    #[arg(long, value_name = "NAME")]
    refiner: Option<String>,

    /// Share of the way after which the refiner takes over [default: 0.8]
    #[arg(long, value_name = "F", value_parser = number, allow_negative_numbers = true)]
    high_noise_fraction: Option<f64>,

    /// Let the refiner draw over the finished picture, this much of the way
    #[arg(long, value_name = "F", value_parser = number, allow_negative_numbers = true, conflicts_with = "high_noise_fraction")]
    refiner_strength: Option<f64>,

    /// The beauty that the refiner is told of, 0 to 10 [default: 6]
    #[arg(long, value_name = "N", value_parser = number, allow_negative_numbers = true)]
    aesthetic_score: Option<f64>,

    /// The same for the negative prompt [default: 2.5]
    #[arg(long, value_name = "N", value_parser = number, allow_negative_numbers = true)]
    negative_aesthetic_score: Option<f64>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Sizes")]
pub struct SizeArgs {
    /// Pixels, a multiple of 8 from 64 up [default: the model's own]
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    width: Option<i64>,

    /// Pixels, a multiple of 8 from 64 up [default: the model's own]
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    height: Option<i64>,

    /// Size that the UNet is told the picture had [default: its size]
    #[arg(long, value_name = "WxH", value_parser = size)]
    original_size: Option<[i64; 2]>,

    /// Crop that the UNet is told of [default: 0,0]
    #[arg(long, value_name = "TOP,LEFT", value_parser = crop)]
    crop: Option<[i64; 2]>,

    /// Size that the UNet is told to aim at [default: its size]
    #[arg(long, value_name = "WxH", value_parser = size)]
    target_size: Option<[i64; 2]>,

    /// The same three for the negative prompt [default: the prompt's]
    #[arg(long, value_name = "WxH", value_parser = size)]
    negative_original_size: Option<[i64; 2]>,

    /// See --negative-original-size
    #[arg(long, value_name = "TOP,LEFT", value_parser = crop)]
    negative_crop: Option<[i64; 2]>,

    /// See --negative-original-size
    #[arg(long, value_name = "WxH", value_parser = size)]
    negative_target_size: Option<[i64; 2]>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Model and device")]
pub struct ModelArgs {
    /// A checkpoint: a diffusers folder, a .safetensors file, demo (the embedded
    /// model), or random:sdxl-base [default: $CALOTYPE_MODEL, else demo]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Another UNet, as SDXL-Lightning's: a file or folder
    #[arg(long, value_name = "FILE")]
    unet: Option<String>,

    /// Another VAE, or a small decoder (TAESD): a file or folder
    #[arg(long, value_name = "FILE")]
    vae: Option<String>,

    /// A LoRA to merge, its weight 1 where none is given; may be repeated
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    lora: Vec<String>,

    /// Where <lora:name:weight> in a prompt finds its files [default: here]
    #[arg(long, value_name = "FOLDER")]
    lora_dir: Option<PathBuf>,

    /// Go on where a LoRA has keys that match nothing
    #[arg(long)]
    lora_allow_unmatched: bool,

    /// A textual inversion, or a folder of them, for its name or embedding:NAME in
    /// prompts; may be repeated
    #[arg(long, value_name = "FILE")]
    embedding: Vec<PathBuf>,

    #[command(flatten)]
    device: DeviceArgs,

    /// Pictures at a time, at the most [default: as memory allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    batch: Option<u64>,

    /// One picture at a time, two UNet calls a guided step, one UNet on the device
    #[arg(long)]
    low_memory: bool,

    /// Encode and decode in tiles with blended seams; auto where memory asks for it
    #[arg(long, default_value = "auto", value_parser = ["auto", "on", "off"])]
    vae_tiling: String,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// The file, .png, .jpg or .webp, replaced if it is there; several samples
    /// become NAME-0.EXT, NAME-1.EXT, ... [default: calotype-SEED.png, never
    /// replacing a file]
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,

    /// Also write all samples side by side, as NAME-grid.EXT
    #[arg(long)]
    pub grid: bool,

    /// Write a preview every N steps, as NAME-preview.png
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub preview: Option<u64>,

    /// A small decoder (TAESD) for previews [default: colours fitted to the VAE]
    #[arg(long, value_name = "FILE", requires = "preview")]
    preview_vae: Option<String>,

    /// Show the result in this terminal
    #[arg(long)]
    pub show: bool,

    /// Take the settings from a picture's metadata, this program's,
    /// AUTOMATIC1111's or Fooocus'; other flags overrule them
    #[arg(long, value_name = "PICTURE")]
    pub like: Option<PathBuf>,

    /// Also write the tensors of every stage to this .safetensors file
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Say how the device's memory would be used, and draw nothing
    #[arg(long)]
    pub plan: bool,

    /// Print one JSON object about the run instead of the files' names
    #[arg(long)]
    pub json: bool,

    /// Show no progress and no warnings
    #[arg(short, long)]
    pub quiet: bool,
}

/// A whole number, for clap.
pub fn whole(text: &str) -> Result<i64, String> {
    text.trim()
        .parse()
        .map_err(|_| "must be a whole number below 2^63".to_owned())
}

/// A whole number of any size that a seed may have.
fn seed(text: &str) -> Result<i128, String> {
    text.trim()
        .parse()
        .map_err(|_| "must be a whole number from -2^63 to 2^64 - 1; -1 draws one".to_owned())
}

/// Any number, NaN and infinities too: the request says what it thinks of them.
fn number(text: &str) -> Result<f64, String> {
    text.trim()
        .parse()
        .map_err(|_| "must be a number such as 7.5".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("must be KEY=VALUE, such as sigmas=karras".to_owned()),
    }
}

/// `WxH` to `[height, width]`.
fn size(text: &str) -> Result<[i64; 2], String> {
    two(text, ['x', 'X'])
        .map(|[w, h]| [h, w])
        .ok_or_else(|| "must be WIDTHxHEIGHT, such as 1024x768".to_owned())
}

/// `TOP,LEFT`.
fn crop(text: &str) -> Result<[i64; 2], String> {
    two(text, [',', ',']).ok_or_else(|| "must be TOP,LEFT, such as 0,64".to_owned())
}

fn two(text: &str, at: [char; 2]) -> Option<[i64; 2]> {
    let (a, b) = text.split_once(at)?;
    Some([a.trim().parse().ok()?, b.trim().parse().ok()?])
}

impl Args {
    /// The request, without its pictures.
    pub fn request(&self) -> Result<RawRequest> {
        let (text, sampling, sizes) = (&self.text, &self.sampling, &self.sizes);
        let options = sampling.scheduler_option.iter();
        let scheduler_options: Map<String, Value> = options
            .map(|(key, value)| (key.clone(), Value::from(value.clone())))
            .collect();
        Ok(RawRequest {
            prompt: self.prompt()?,
            prompt_2: text.prompt_2.clone(),
            negative_prompt: text.negative_prompt.clone(),
            negative_prompt_2: text.negative_prompt_2.clone(),
            style: text.style.clone(),
            prompt_weighting: text.prompt_weighting.clone(),
            normalise_prompt: text.normalise_prompt,
            clip_skip: text.clip_skip,
            width: sizes.width,
            height: sizes.height,
            preset: sampling.preset.clone(),
            steps: sampling.steps,
            scheduler: sampling.scheduler.clone(),
            scheduler_options,
            guidance_scale: sampling.guidance_scale,
            guidance_rescale: sampling.guidance_rescale,
            guidance_start: sampling.guidance_start,
            guidance_end: sampling.guidance_end,
            cache_interval: sampling.cache_interval,
            seed: sampling.seed,
            rng: sampling.rng.clone(),
            samples: sampling.samples,
            refiner: None,
            high_noise_fraction: self.refiner.high_noise_fraction,
            refiner_strength: self.refiner.refiner_strength,
            aesthetic_score: self.refiner.aesthetic_score,
            negative_aesthetic_score: self.refiner.negative_aesthetic_score,
            original_size: sizes.original_size,
            crops_coords_top_left: sizes.crop,
            target_size: sizes.target_size,
            negative_original_size: sizes.negative_original_size,
            negative_crops_coords_top_left: sizes.negative_crop,
            negative_target_size: sizes.negative_target_size,
            strength: self.picture.strength,
            fit: self.picture.fit.clone(),
            loras: self.model.loras()?,
            strength_steps: None,
            image: None,
            mask: None,
            mask_invert: self.picture.mask_invert.then_some(true),
            mask_blur: self.picture.mask_blur.map(|radius| [radius; 2]),
            mask_stretch: false,
            masked_content: None,
            keep_unmasked: self.picture.keep_unmasked.then_some(true),
            padding_mask_crop: self.picture.padding_mask_crop,
        })
    }

    /// What to load.
    pub fn load_options(&self) -> Result<LoadOptions> {
        let refiner = self.refiner.refiner.clone();
        let mut options = self.model.load_options()?;
        options.refiner = refiner.filter(|name| !name.eq_ignore_ascii_case("none"));
        options.preview_vae = self.output.preview_vae.clone();
        Ok(options)
    }

    fn prompt(&self) -> Result<Option<String>> {
        match (self.prompt.as_deref(), &self.text.prompt_file) {
            (Some("-"), _) => {
                let context = "standard input cannot be read; give the prompt as an argument";
                Ok(Some(prompt_from(std::io::stdin().lock(), context)?))
            }
            (None, Some(path)) => {
                let remedy = "name a text file that can be read";
                let file = std::fs::File::open(path).map_err(|e| Error::file(path, e, remedy))?;
                Ok(Some(prompt_from(file, "the prompt's file cannot be read")?))
            }
            (given, _) => Ok(given.map(str::to_owned)),
        }
    }
}

impl ModelArgs {
    fn model(&self) -> Result<String> {
        if let Some(model) = &self.model {
            return Ok(checked_model(model)?.to_owned());
        }
        let named = std::env::var("CALOTYPE_MODEL").ok();
        Ok(named
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "demo".into()))
    }

    fn loras(&self) -> Result<Vec<Lora>> {
        self.lora.iter().map(|text| lora(text)).collect()
    }

    /// Whether a model was asked for.
    pub fn is_named(&self) -> bool {
        self.model.is_some()
    }

    /// Where LoRAs that are known by name are looked for.
    pub fn lora_folder(&self) -> &Path {
        self.lora_dir.as_deref().unwrap_or(Path::new("."))
    }

    fn load_options(&self) -> Result<LoadOptions> {
        Ok(LoadOptions {
            unet: self.unet.clone(),
            vae: self.vae.clone(),
            lora_allow_unmatched: self.lora_allow_unmatched,
            embeddings: self.embedding.clone(),
            batch: self.batch.map(|n| n as usize),
            low_memory: self.low_memory,
            vae_tiling: match self.vae_tiling.as_str() {
                "on" => Tiling::Always,
                "off" => Tiling::Never,
                _ => Tiling::Auto,
            },
            ..self.device.load_options(self.model()?)?
        })
    }
}

/// `FILE[:WEIGHT]`; a colon that no number follows belongs to the name.
fn lora(text: &str) -> Result<Lora> {
    let (path, weight) = match text.rsplit_once(':') {
        Some((path, weight)) if !Path::new(text).exists() => match weight.trim().parse::<f64>() {
            Ok(weight) => (path, weight),
            Err(_) => (text, 1.0),
        },
        _ => (text, 1.0),
    };
    if path.is_empty() {
        let allowed = "must be a file, or a file and a weight such as style.safetensors:0.8";
        return Err(Error::invalid("lora", format!("{text:?}"), allowed).into());
    }
    Ok(Lora {
        path: path.into(),
        unet_weight: weight,
        text_weight: weight,
    })
}

/// The most that is read as a prompt, in bytes.
const LONGEST_PROMPT: u64 = 1 << 20;

fn prompt_from(source: impl Read, context: &'static str) -> Result<String> {
    let mut bytes = Vec::new();
    source
        .take(LONGEST_PROMPT + 1)
        .read_to_end(&mut bytes)
        .context(context)?;
    if bytes.len() as u64 > LONGEST_PROMPT {
        let allowed = format!("must be at most {LONGEST_PROMPT}");
        return Err(Error::invalid("prompt's length in bytes", "more", allowed).into());
    }
    let text = encoding::text(&bytes).map_err(|what| {
        let allowed = format!("must be text; {}", encoding::REMEDY);
        Error::invalid("prompt", what, allowed)
    })?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}
