//! What may be asked of the pipeline: checked, with the defaults filled in, once
//! for every front door.

mod check;
mod choices;
mod masking;
mod portable;
mod raw;
mod share;

pub use choices::{Dtype, Rng, StrengthSteps};
pub use masking::{MaskedContent, Masking};
pub use portable::Portable;
pub use raw::{Lora, RawRequest};

use super::Preset;
use crate::encoding::without_mark;
use crate::picture::{Fit, Mask, Overlay, Picture};
use crate::schedule::{self, Choice};
use crate::text::{Style, Styles, Weighting};
use crate::{Error, Result};
use check::{
    DEFAULT_STRENGTH, count, guidance, loras, micro, refinement, score, seed, share, side, strength,
};
use masking::pictures;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::ops::Range;
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
/// How often the whole UNet may be asked to run: every step, or every so many.
pub const CACHE_INTERVAL: std::ops::RangeInclusive<usize> = 1..=20;
/// As a seed, asks for one to be drawn.
pub const DRAWN_SEED: i128 = -1;
/// Largest guidance scale.
pub const GUIDANCE_MOST: f64 = 100.0;

/// What the refiner does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MicroConditioning {
    pub original_size: [usize; 2],
    pub crops_coords_top_left: [usize; 2],
    pub target_size: [usize; 2],
}

/// The same for the negative prompt, as far as the request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// As given, without the style.
    pub prompt: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_2: Option<String>,
    /// `None` and `""` differ: a model that forces zeros for an empty prompt does
    /// so for `None` only.
    pub negative_prompt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt_2: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<Style>,
    pub prompt_weighting: Weighting,
    /// Whether prompts are cleaned as ftfy does, see [`crate::text::normalise`].
    pub normalise_prompt: bool,
    /// diffusers' count: 0 is the hidden state before the last layer.
    pub clip_skip: usize,
    /// Pixels, a multiple of 8.
    pub width: usize,
    /// Pixels, a multiple of 8.
    pub height: usize,
    pub steps: usize,
    /// The scheduler's proper name.
    #[serde(deserialize_with = "portable::scheduler")]
    pub scheduler: portable::Name,
    pub scheduler_options: Map<String, Value>,
    pub guidance_scale: f64,
    pub guidance_rescale: f64,
    pub guidance_start: f64,
    pub guidance_end: f64,
    /// Steps from one that runs the whole UNet to the next; between them its shallow
    /// layers reuse what the deep ones made (DeepCache). Calls of the UNet count as steps.
    pub cache_interval: usize,
    /// Of the first picture; at most `2^64 − samples`.
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
    #[serde(default, skip_serializing_if = "portable::is_default")]
    pub strength_steps: StrengthSteps,
    /// How the pictures came to their size.
    #[serde(default, skip_serializing_if = "portable::is_default")]
    pub fit: Fit,
    /// Of `width` and `height`.
    #[serde(skip)]
    pub image: Option<Arc<Picture>>,
    /// Of `width` and `height`.
    #[serde(skip)]
    pub mask: Option<Arc<Mask>>,
    /// How that mask and the picture under it came about.
    #[serde(default, skip_serializing_if = "portable::is_default")]
    pub masking: Masking,
    /// What is laid over every picture once it is decoded.
    #[serde(skip)]
    pub overlay: Option<Arc<Overlay>>,
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
        let prompt = without_mark(&prompt).to_owned();
        // As texts from files begin with, which no front door has looked into.
        let text = |text: &Option<String>| text.as_deref().map(|t| without_mark(t).to_owned());
        let preset = match &raw.preset {
            Some(name) => Preset {
                training: context.preset.training.clone(),
                ..Preset::named(name)?
            },
            None => context.preset.clone(),
        };
        let width = side("width", raw.width, context.native.0)?;
        let height = side("height", raw.height, context.native.1)?;
        let samples = count("samples", raw.samples, 1, SAMPLES)?;
        let name = raw.scheduler.as_deref().unwrap_or(preset.scheduler);
        let mut options = preset.options_for(name);
        if raw.scheduler_options.contains_key("schedule_type") {
            // In the place of a spacing.
            options.remove("timestep_spacing");
        }
        options.extend(raw.scheduler_options.clone());
        let choice = schedule::choose(name, &options)?;
        if let Some(training) = &preset.training {
            choice.create(training)?;
        }
        let Choice {
            name: scheduler,
            options: scheduler_options,
        } = choice;
        let (micro, negative_micro) = micro(&raw, [height, width])?;
        let fit: Fit = match raw.fit.as_deref() {
            Some(name) => name.parse()?,
            None => Fit::default(),
        };
        let masking = Masking::of(&raw)?;
        let pictures = pictures(&raw, &masking, [width, height], fit)?;
        let strength_steps: StrengthSteps = match raw.strength_steps.as_deref() {
            Some(name) => name.parse()?,
            None => StrengthSteps::default(),
        };
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
            prompt_2: text(&raw.prompt_2),
            negative_prompt: text(&raw.negative_prompt),
            negative_prompt_2: text(&raw.negative_prompt_2),
            style: match raw.style.as_deref() {
                Some(name) => Some(context.styles.find(name)?.without_loras()?),
                None => None,
            },
            normalise_prompt: raw.normalise_prompt.unwrap_or(true),
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
            cache_interval: count("cache_interval", raw.cache_interval, 1, CACHE_INTERVAL)?,
            seed: seed(raw.seed.unwrap_or(DRAWN_SEED), samples)?,
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
            strength: match raw.strength {
                // One step, from the least noise.
                Some(0.0) if strength_steps == StrengthSteps::Webui => 0.0,
                given => strength("strength", given.unwrap_or(DEFAULT_STRENGTH))?,
            },
            strength_steps,
            fit,
            image: pictures.image,
            mask: pictures.mask,
            masking,
            overlay: pictures.overlay,
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
            normalise_prompt: Some(self.normalise_prompt),
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
            cache_interval: (self.cache_interval != 1).then_some(self.cache_interval as i64),
            seed: Some(seed.into()),
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
            strength_steps: (self.strength_steps != StrengthSteps::default())
                .then(|| self.strength_steps.name().into()),
            mask_invert: self.masking.invert.then_some(true),
            mask_blur: (self.masking.blur != [0.0; 2]).then_some(self.masking.blur),
            mask_stretch: self.masking.stretch,
            masked_content: (self.masking.content != MaskedContent::default())
                .then(|| self.masking.content.name().into()),
            keep_unmasked: self.masking.keep_unmasked.then_some(true),
            padding_mask_crop: self.masking.padding_crop.map(|n| n as i64),
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

    /// The request for some of its pictures, counted from 0: they are the same.
    #[must_use]
    pub fn part(&self, samples: Range<usize>) -> Self {
        let mut part = self.clone();
        part.seed += samples.start as u64;
        part.samples = samples.len();
        part
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
        let most = i128::from(u64::MAX);
        assert_eq!(of(most, 1).unwrap().seed, u64::MAX);
        let seeds = [u64::MAX - 1, u64::MAX];
        assert_eq!(of(most - 1, 2).unwrap().seeds(), seeds);
        // As `torch.Generator().manual_seed(-2).initial_seed()` says.
        assert_eq!(of(-2, 1).unwrap().seed, u64::MAX - 1);
        assert_eq!(of(-(1 << 63), 1).unwrap().seed, 1 << 63);
        assert!(of(-1, 64).is_ok());
        for (seed, samples) in [(most, 2), (most + 1, 1), (-(1 << 63) - 1, 1), (-2, 3)] {
            assert!(
                of(seed, samples).unwrap_err().is_usage(),
                "{seed} {samples}"
            );
        }
        let raw = of(most, 1).unwrap().raw(u64::MAX);
        let json = serde_json::to_value(&raw).unwrap();
        assert_eq!(json["seed"], u64::MAX);
        assert_eq!(serde_json::from_value::<RawRequest>(json).unwrap(), raw);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_prompt() {
        let marked = |text: &str| Some(format!("\u{feff}{text}"));
        let raw = RawRequest {
            prompt: marked("a"),
            prompt_2: marked("b"),
            negative_prompt: marked(""),
            negative_prompt_2: marked("c\u{feff}"),
            ..RawRequest::default()
        };
        let request = resolved(raw, (64, 64)).unwrap();
        assert_eq!(request.prompt, "a");
        assert_eq!(request.prompt_2.unwrap(), "b");
        assert_eq!(request.negative_prompt.unwrap(), "");
        assert_eq!(request.negative_prompt_2.unwrap(), "c\u{feff}");
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
