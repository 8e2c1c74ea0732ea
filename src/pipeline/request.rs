//! What may be asked of the pipeline: checked, with the defaults filled in, once
//! for every front door.

use super::Preset;
use crate::checkpoint::lora;
use crate::picture::{Fit, LEAST_INPUT_SIDE, Mask, Picture};
use crate::schedule::{self, Choice, NoiseGenerator, PhiloxGenerator, TorchCpuGenerator};
use crate::text::{LoraTag, Style, Styles, Weighting, extract_loras};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Smallest and largest width and height, in pixels.
pub const SIZES: std::ops::RangeInclusive<usize> = 64..=8192;
/// Widths and heights are multiples of this: the VAE's reduction.
pub const SIZE_STEP: usize = 8;
/// Fewest and most denoising steps.
pub const STEPS: std::ops::RangeInclusive<usize> = 1..=1000;
/// Fewest and most pictures of one request.
pub const SAMPLES: std::ops::RangeInclusive<usize> = 1..=64;
/// How many layers before the second to last may be skipped.
pub const CLIP_SKIP: std::ops::RangeInclusive<usize> = 0..=10;
/// Largest guidance scale.
pub const GUIDANCE_MOST: f64 = 100.0;

/// Which precision weights and activations are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// f16 where the adapter has it, else f32.
    #[default]
    Auto,
    F32,
    /// f16 storage, f32 accumulation.
    F16,
}

impl Dtype {
    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Auto => "auto",
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Dtype::Auto, Dtype::F32, Dtype::F16]
            .into_iter()
            .find(|dtype| dtype.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                Error::invalid("dtype", format!("{text:?}"), "choose one of auto, f32, f16")
            })
    }
}

/// Whose random numbers a seed stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rng {
    /// `torch.Generator("cpu")`: diffusers on the CPU and ComfyUI.
    #[default]
    Cpu,
    /// CUDA's: AUTOMATIC1111's program on an NVIDIA card.
    Cuda,
}

impl Rng {
    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Rng::Cpu => "cpu",
            Rng::Cuda => "cuda",
        }
    }

    /// The generator of one picture.
    pub fn generator(self, seed: u64) -> Box<dyn NoiseGenerator> {
        match self {
            Rng::Cpu => Box::new(TorchCpuGenerator::new(seed)),
            Rng::Cuda => Box::new(PhiloxGenerator::new(seed)),
        }
    }
}

impl FromStr for Rng {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Rng::Cpu, Rng::Cuda]
            .into_iter()
            .find(|rng| rng.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| Error::unknown("rng", text, ["cpu", "cuda"]))
    }
}

/// What the refiner does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refinement {
    None,
    /// Takes over where this share of the way is done (diffusers' `denoising_end`
    /// and `denoising_start`).
    Ensemble {
        high_noise_fraction: f64,
    },
    /// Draws over the finished latents, this much of the way.
    SecondPass {
        strength: f64,
    },
}

/// Sizes and crop that the UNet is told of, in diffusers' order: `[height, width]`,
/// the crop `[top, left]`, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MicroConditioning {
    pub original_size: [usize; 2],
    pub crops_coords_top_left: [usize; 2],
    pub target_size: [usize; 2],
}

/// The same for the negative prompt, as far as the request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct NegativeMicro {
    pub original_size: Option<[usize; 2]>,
    pub crops_coords_top_left: Option<[usize; 2]>,
    pub target_size: Option<[usize; 2]>,
}

impl NegativeMicro {
    pub(super) fn has_both_sizes(&self) -> bool {
        self.original_size.is_some() && self.target_size.is_some()
    }

    /// Whether something is said that has no effect on a base model that starts
    /// from text alone, as in diffusers.
    pub(super) fn is_half_said(&self) -> bool {
        *self != Self::default() && !self.has_both_sizes()
    }
}

/// A LoRA that a request names, and how strongly it is merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// The file.
    pub path: PathBuf,
    /// Factor for the UNet.
    pub unet_weight: f64,
    /// Factor for both text encoders.
    pub text_weight: f64,
}

/// A request as it comes in: every field may be missing, nothing is checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RawRequest {
    pub prompt: Option<String>,
    /// For the second text encoder, where it is to read something else.
    pub prompt_2: Option<String>,
    pub negative_prompt: Option<String>,
    pub negative_prompt_2: Option<String>,
    pub style: Option<String>,
    pub prompt_weighting: Option<String>,
    pub clip_skip: Option<i64>,
    pub width: Option<i64>,
    pub height: Option<i64>,
    /// Of a few-step checkpoint: what it asks for, where the request is silent.
    pub preset: Option<String>,
    pub steps: Option<i64>,
    pub scheduler: Option<String>,
    /// diffusers' keys, or the short ones that `calotype schedulers` lists.
    pub scheduler_options: Map<String, Value>,
    pub guidance_scale: Option<f64>,
    pub guidance_rescale: Option<f64>,
    /// Shares of the way between which guidance is on.
    pub guidance_start: Option<f64>,
    pub guidance_end: Option<f64>,
    pub seed: Option<i64>,
    pub rng: Option<String>,
    pub samples: Option<i64>,
    /// Whether the loaded refiner is used; where silent, it is.
    pub refiner: Option<bool>,
    pub high_noise_fraction: Option<f64>,
    /// Makes the refiner a second pass of its own.
    pub refiner_strength: Option<f64>,
    pub aesthetic_score: Option<f64>,
    pub negative_aesthetic_score: Option<f64>,
    /// `[height, width]`, as the next ones.
    pub original_size: Option<[i64; 2]>,
    /// `[top, left]`.
    pub crops_coords_top_left: Option<[i64; 2]>,
    pub target_size: Option<[i64; 2]>,
    pub negative_original_size: Option<[i64; 2]>,
    pub negative_crops_coords_top_left: Option<[i64; 2]>,
    pub negative_target_size: Option<[i64; 2]>,
    pub strength: Option<f64>,
    /// The picture to start from.
    #[serde(skip)]
    pub image: Option<Arc<Picture>>,
    /// Where that picture is painted anew; of its size.
    #[serde(skip)]
    pub mask: Option<Arc<Mask>>,
    /// How picture and mask are brought to the request's size.
    pub fit: Option<String>,
    pub loras: Vec<Lora>,
}

impl RawRequest {
    /// Takes the tags `<lora:name:weight>` out of the prompts; the files that they
    /// name, which lie in `folder`, join `loras`.
    ///
    /// # Errors
    /// Where a tag is malformed, or names no file.
    pub fn take_lora_tags(&mut self, folder: &Path) -> Result<()> {
        let mut tags: Vec<LoraTag> = Vec::new();
        for prompt in [&mut self.prompt, &mut self.prompt_2] {
            let Some(text) = prompt else { continue };
            let (rest, found) = extract_loras(text)?;
            if !found.is_empty() {
                *prompt = Some(rest);
            }
            // The second encoder's prompt may repeat what the first one's says.
            tags.extend(
                found
                    .into_iter()
                    .filter(|tag| !tags.contains(tag))
                    .collect::<Vec<_>>(),
            );
        }
        for tag in tags {
            self.loras.push(Lora {
                path: lora::find(&tag.name, folder)?,
                unet_weight: tag.unet_weight,
                text_weight: tag.text_weight,
            });
        }
        Ok(())
    }
}

/// What a request's defaults depend on.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// Width and height that the model was trained for.
    pub native: (usize, usize),
    /// What the checkpoint asks for.
    pub preset: Preset,
    /// Whether a refiner is at hand.
    pub refiner: bool,
    pub styles: &'a Styles,
}

/// A request that can be carried out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Request {
    /// As given, without the style.
    pub prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_2: Option<String>,
    /// `None` and `""` differ: a model that forces zeros for an empty prompt does
    /// so for `None` only.
    pub negative_prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt_2: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style: Option<Style>,
    pub prompt_weighting: Weighting,
    /// diffusers' count: 0 is the hidden state before the last layer.
    pub clip_skip: usize,
    /// Pixels, a multiple of 8.
    pub width: usize,
    /// Pixels, a multiple of 8.
    pub height: usize,
    pub steps: usize,
    /// The scheduler's proper name.
    pub scheduler: &'static str,
    pub scheduler_options: Map<String, Value>,
    pub guidance_scale: f64,
    pub guidance_rescale: f64,
    pub guidance_start: f64,
    pub guidance_end: f64,
    /// Of the first picture; at most `2^63 − samples`.
    pub seed: u64,
    pub rng: Rng,
    pub samples: usize,
    pub refinement: Refinement,
    pub aesthetic_score: f64,
    pub negative_aesthetic_score: f64,
    pub micro: MicroConditioning,
    pub negative_micro: NegativeMicro,
    /// Used with `image` only.
    pub strength: f64,
    /// How the pictures came to their size.
    #[serde(skip)]
    pub fit: Fit,
    /// Of `width` and `height`.
    #[serde(skip)]
    pub image: Option<Arc<Picture>>,
    /// Of `width` and `height`.
    #[serde(skip)]
    pub mask: Option<Arc<Mask>>,
    pub loras: Vec<Lora>,
}

impl Request {
    /// Checks every field and fills in the defaults: what the context's preset asks
    /// for, one sample, a drawn seed, and the native size.
    ///
    /// The first field that is wrong is [`Error::Invalid`]; it names the field as
    /// [`RawRequest`] does.
    pub fn resolve(raw: RawRequest, context: &Context<'_>) -> Result<Self> {
        let prompt = raw.prompt.clone().ok_or_else(|| {
            Error::invalid(
                "prompt",
                "missing",
                "say what to draw, such as \"a red circle\"",
            )
        })?;
        let preset = match &raw.preset {
            Some(name) => Preset::named(name)?,
            None => context.preset.clone(),
        };
        let width = side("width", raw.width, context.native.0)?;
        let height = side("height", raw.height, context.native.1)?;
        let samples = count("samples", raw.samples, 1, SAMPLES)?;
        let name = raw.scheduler.as_deref().unwrap_or(preset.scheduler);
        let mut options = preset.options_for(name);
        options.extend(raw.scheduler_options.clone());
        let Choice {
            name: scheduler,
            options: scheduler_options,
        } = schedule::choose(name, &options)?;
        let (micro, negative_micro) = micro(&raw, [height, width])?;
        let fit: Fit = match raw.fit.as_deref() {
            Some(name) => name.parse()?,
            None => Fit::default(),
        };
        let (image, mask) = pictures(&raw, width, height, fit)?;
        let interval = [
            share("guidance_start", raw.guidance_start, 0.0)?,
            share("guidance_end", raw.guidance_end, 1.0)?,
        ];
        if interval[0] > interval[1] {
            let allowed = format!("must be at most guidance_end, which is {}", interval[1]);
            return Err(Error::invalid("guidance_start", interval[0], allowed));
        }
        Ok(Request {
            prompt,
            prompt_2: raw.prompt_2.clone(),
            negative_prompt: raw.negative_prompt.clone(),
            negative_prompt_2: raw.negative_prompt_2.clone(),
            style: match raw.style.as_deref() {
                Some(name) => Some(context.styles.find(name)?.clone()),
                None => None,
            },
            prompt_weighting: match raw.prompt_weighting.as_deref() {
                Some(name) => name.parse()?,
                None => Weighting::default(),
            },
            clip_skip: count("clip_skip", raw.clip_skip, 0, CLIP_SKIP)?,
            width,
            height,
            steps: count("steps", raw.steps, preset.steps, STEPS)?,
            scheduler,
            scheduler_options,
            guidance_scale: guidance(raw.guidance_scale.unwrap_or(preset.guidance_scale))?,
            guidance_rescale: share("guidance_rescale", raw.guidance_rescale, 0.0)?,
            guidance_start: interval[0],
            guidance_end: interval[1],
            seed: seed(raw.seed.unwrap_or(-1), samples)?,
            rng: match raw.rng.as_deref() {
                Some(name) => name.parse()?,
                None => Rng::default(),
            },
            samples,
            refinement: refinement(&raw, context.refiner)?,
            aesthetic_score: score("aesthetic_score", raw.aesthetic_score, 6.0)?,
            negative_aesthetic_score: score(
                "negative_aesthetic_score",
                raw.negative_aesthetic_score,
                2.5,
            )?,
            micro,
            negative_micro,
            strength: strength("strength", raw.strength.unwrap_or(DEFAULT_STRENGTH))?,
            fit,
            image,
            mask,
            loras: loras(raw.loras)?,
        })
    }

    /// What asks for the picture of `seed` alone, every field said; without the
    /// pictures it starts from, which have been brought to size already.
    pub fn raw(&self, seed: u64) -> RawRequest {
        let pair = |pair: [usize; 2]| Some(pair.map(|n| n as i64));
        let (refiner, fraction, pass) = match self.refinement {
            Refinement::None => (false, None, None),
            Refinement::Ensemble {
                high_noise_fraction,
            } => (true, Some(high_noise_fraction), None),
            Refinement::SecondPass { strength } => (true, None, Some(strength)),
        };
        RawRequest {
            prompt: Some(self.prompt.clone()),
            prompt_2: self.prompt_2.clone(),
            negative_prompt: self.negative_prompt.clone(),
            negative_prompt_2: self.negative_prompt_2.clone(),
            style: self.style.as_ref().map(Style::full_name),
            prompt_weighting: Some(self.prompt_weighting.name().into()),
            clip_skip: Some(self.clip_skip as i64),
            width: Some(self.width as i64),
            height: Some(self.height as i64),
            preset: None,
            steps: Some(self.steps as i64),
            scheduler: Some(self.scheduler.into()),
            scheduler_options: self.scheduler_options.clone(),
            guidance_scale: Some(self.guidance_scale),
            guidance_rescale: Some(self.guidance_rescale),
            guidance_start: Some(self.guidance_start),
            guidance_end: Some(self.guidance_end),
            seed: Some(seed as i64),
            rng: Some(self.rng.name().into()),
            samples: Some(1),
            refiner: Some(refiner),
            high_noise_fraction: fraction,
            refiner_strength: pass,
            aesthetic_score: Some(self.aesthetic_score),
            negative_aesthetic_score: Some(self.negative_aesthetic_score),
            original_size: pair(self.micro.original_size),
            crops_coords_top_left: pair(self.micro.crops_coords_top_left),
            target_size: pair(self.micro.target_size),
            negative_original_size: self.negative_micro.original_size.and_then(pair),
            negative_crops_coords_top_left: self
                .negative_micro
                .crops_coords_top_left
                .and_then(pair),
            negative_target_size: self.negative_micro.target_size.and_then(pair),
            strength: Some(self.strength),
            fit: Some(self.fit.name().into()),
            loras: self.loras.clone(),
            image: None,
            mask: None,
        }
    }

    /// The scheduler with the request's options.
    pub fn solver(&self) -> Choice {
        Choice {
            name: self.scheduler,
            options: self.scheduler_options.clone(),
        }
    }

    /// Whether the UNet also runs on the negative prompt.
    pub fn guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// The seed of each picture, in order: one more each.
    pub fn seeds(&self) -> Vec<u64> {
        (0..self.samples as u64).map(|i| self.seed + i).collect()
    }
}

/// Strength of image-to-image and inpainting where the request is silent.
const DEFAULT_STRENGTH: f64 = 0.3;

/// A number from 0 to 1.
fn share(field: &str, given: Option<f64>, default: f64) -> Result<f64> {
    let value = given.unwrap_or(default);
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => Err(Error::invalid(field, value, "must be from 0 to 1")),
    }
}

fn strength(field: &str, value: f64) -> Result<f64> {
    match value > 0.0 && value <= 1.0 {
        true => Ok(value),
        false => {
            let allowed = "must be above 0 and at most 1: how much of the picture is drawn anew";
            Err(Error::invalid(field, value, allowed))
        }
    }
}

fn score(field: &str, given: Option<f64>, default: f64) -> Result<f64> {
    let value = given.unwrap_or(default);
    match (0.0..=10.0).contains(&value) {
        true => Ok(value),
        false => Err(Error::invalid(field, value, "must be from 0 to 10")),
    }
}

fn loras(loras: Vec<Lora>) -> Result<Vec<Lora>> {
    for lora in &loras {
        for weight in [lora.unet_weight, lora.text_weight] {
            if !weight.is_finite() {
                let field = format!("weight of {}", lora.path.display());
                return Err(Error::invalid(field, weight, "must be a finite number"));
            }
        }
    }
    Ok(loras)
}

fn refinement(raw: &RawRequest, at_hand: bool) -> Result<Refinement> {
    let fraction = share("high_noise_fraction", raw.high_noise_fraction, 0.8)?;
    let pass = raw
        .refiner_strength
        .map(|value| strength("refiner_strength", value));
    let pass = pass.transpose()?;
    let asked = raw.refiner == Some(true) || pass.is_some();
    if asked && !at_hand {
        let field = if pass.is_some() {
            "refiner_strength"
        } else {
            "refiner"
        };
        let value = pass.map_or("true".into(), |strength| strength.to_string());
        return Err(Error::invalid(field, value, "needs a refiner; load one"));
    }
    Ok(match (at_hand && raw.refiner != Some(false), pass) {
        (false, _) => Refinement::None,
        (true, Some(strength)) => Refinement::SecondPass { strength },
        (true, None) => Refinement::Ensemble {
            high_noise_fraction: fraction,
        },
    })
}

fn micro(raw: &RawRequest, size: [usize; 2]) -> Result<(MicroConditioning, NegativeMicro)> {
    let pair = |field: &str, given: Option<[i64; 2]>, least: i64| {
        let most = 1 << 16;
        let Some(pair) = given else { return Ok(None) };
        match pair.iter().all(|n| (least..=most).contains(n)) {
            true => Ok(Some(pair.map(|n| n as usize))),
            false => {
                let value = format!("{}x{}", pair[0], pair[1]);
                let allowed = format!("both numbers must be from {least} to {most}");
                Err(Error::invalid(field, value, allowed))
            }
        }
    };
    let crop = pair("crops_coords_top_left", raw.crops_coords_top_left, 0)?;
    let negative_crop = raw.negative_crops_coords_top_left;
    Ok((
        MicroConditioning {
            original_size: pair("original_size", raw.original_size, 1)?.unwrap_or(size),
            crops_coords_top_left: crop.unwrap_or([0, 0]),
            target_size: pair("target_size", raw.target_size, 1)?.unwrap_or(size),
        },
        NegativeMicro {
            original_size: pair("negative_original_size", raw.negative_original_size, 1)?,
            crops_coords_top_left: pair("negative_crops_coords_top_left", negative_crop, 0)?,
            target_size: pair("negative_target_size", raw.negative_target_size, 1)?,
        },
    ))
}

/// The picture and the mask at the request's size.
type Pictures = (Option<Arc<Picture>>, Option<Arc<Mask>>);

fn pictures(raw: &RawRequest, width: usize, height: usize, fit: Fit) -> Result<Pictures> {
    let Some(image) = &raw.image else {
        return match &raw.mask {
            Some(_) => Err(Error::invalid(
                "mask",
                "given",
                "needs an image to paint in",
            )),
            None => Ok((None, None)),
        };
    };
    image.require_at_least(LEAST_INPUT_SIDE, "image")?;
    let mask = match &raw.mask {
        Some(mask) => {
            mask.require_size_of(image, "mask")?;
            Some(Arc::new(mask.resized(width, height, fit)?))
        }
        None => None,
    };
    Ok((Some(Arc::new(image.resized(width, height, fit)?)), mask))
}

fn count(
    field: &str,
    given: Option<i64>,
    default: usize,
    range: std::ops::RangeInclusive<usize>,
) -> Result<usize> {
    let Some(given) = given else {
        return Ok(default);
    };
    usize::try_from(given)
        .ok()
        .filter(|value| range.contains(value))
        .ok_or_else(|| {
            let (least, most) = range.into_inner();
            Error::invalid(field, given, format!("must be from {least} to {most}"))
        })
}

fn side(field: &str, given: Option<i64>, native: usize) -> Result<usize> {
    let Some(given) = given else {
        return Ok(native);
    };
    let (least, most) = SIZES.into_inner();
    usize::try_from(given)
        .ok()
        .filter(|value| SIZES.contains(value) && value.is_multiple_of(SIZE_STEP))
        .ok_or_else(|| {
            let near = given.clamp(least as i64, most as i64) / SIZE_STEP as i64 * SIZE_STEP as i64;
            let allowed =
                format!("must be a multiple of {SIZE_STEP} from {least} to {most}, such as {near}");
            Error::invalid(field, given, allowed)
        })
}

fn guidance(given: f64) -> Result<f64> {
    match (0.0..=GUIDANCE_MOST).contains(&given) {
        true => Ok(given),
        false => {
            let allowed = format!(
                "must be a number from 0 to {GUIDANCE_MOST}; 1 or less switches guidance off"
            );
            Err(Error::invalid("guidance_scale", given, allowed))
        }
    }
}

/// The first picture's seed. Drawn seeds have 32 bits, because PyTorch's CPU
/// generator sees no more of them.
fn seed(given: i64, samples: usize) -> Result<u64> {
    let most = i64::MAX - samples as i64 + 1;
    match given {
        -1 => Ok(u64::from(rand::random::<u32>())),
        0.. if given <= most => Ok(given as u64),
        _ => {
            let allowed = format!("must be from 0 to {most}, or -1 to have one drawn");
            Err(Error::invalid("seed", given, allowed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> RawRequest {
        RawRequest {
            prompt: Some("a red circle".into()),
            ..RawRequest::default()
        }
    }

    fn resolved(raw: RawRequest, native: (usize, usize)) -> Result<Request> {
        let context = Context {
            native,
            preset: Preset::default(),
            refiner: false,
            styles: &Styles::builtin(),
        };
        Request::resolve(raw, &context)
    }

    fn message(raw: RawRequest) -> String {
        resolved(raw, (128, 128)).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_filled_in() {
        let request = resolved(raw(), (128, 192)).unwrap();
        assert_eq!((request.width, request.height), (128, 192));
        assert_eq!((request.steps, request.samples), (25, 1));
        assert_eq!(request.guidance_scale, 7.5);
        assert_eq!(request.scheduler, "UniPC");
        assert_eq!(request.negative_prompt, None);
        assert!(request.guided());
    }

    #[test]
    fn sizes_are_multiples_of_eight_from_sixty_four() {
        for (width, fits) in [
            (64, true),
            (72, true),
            (8192, true),
            (130, false),
            (56, false),
            (-8, false),
            (8200, false),
        ] {
            let raw = RawRequest {
                width: Some(width),
                ..raw()
            };
            assert_eq!(resolved(raw, (128, 128)).is_ok(), fits, "{width}");
        }
        let raw = RawRequest {
            width: Some(130),
            ..raw()
        };
        assert_eq!(
            message(raw),
            "width is 130: must be a multiple of 8 from 64 to 8192, such as 128"
        );
    }

    #[test]
    fn guidance_is_a_finite_number() {
        for bad in [f64::NAN, f64::INFINITY, -0.5, 100.5] {
            let raw = RawRequest {
                guidance_scale: Some(bad),
                ..raw()
            };
            assert!(message(raw).starts_with("guidance_scale is "), "{bad}");
        }
        let raw = RawRequest {
            guidance_scale: Some(1.0),
            ..raw()
        };
        assert!(!resolved(raw, (64, 64)).unwrap().guided());
    }

    #[test]
    fn seeds_go_up_by_one_and_never_overflow() {
        let of = |seed, samples| {
            let raw = RawRequest {
                seed: Some(seed),
                samples: Some(samples),
                ..raw()
            };
            resolved(raw, (64, 64))
        };
        assert_eq!(of(7, 3).unwrap().seeds(), [7, 8, 9]);
        assert_eq!(of(i64::MAX, 1).unwrap().seed, i64::MAX as u64);
        assert!(of(i64::MAX, 2).is_err());
        assert!(of(-2, 1).is_err());
        assert!(of(-1, 64).is_ok());
    }

    #[test]
    fn counts_have_bounds_and_names_are_known() {
        assert!(
            message(RawRequest {
                steps: Some(0),
                ..raw()
            })
            .starts_with("steps is 0: must be from 1")
        );
        assert!(
            message(RawRequest {
                samples: Some(65),
                ..raw()
            })
            .starts_with("samples is 65")
        );
        let unknown = message(RawRequest {
            scheduler: Some("Eula".into()),
            ..raw()
        });
        assert_eq!(
            unknown,
            "scheduler is \"Eula\": no such name; did you mean Euler or Euler a?"
        );
        assert!(message(RawRequest::default()).starts_with("prompt is missing"));
    }
}
