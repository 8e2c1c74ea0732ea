//! This API's requests and answers.

use super::prompts::{self, TextPrompt};
use crate::picture::MaskReading;
use crate::pipeline::{Preset, RawRequest};
use crate::server::http::lenient::{Integer, Number};
use crate::server::work::{Failure, MaskOrder, within};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Width and height are multiples of this, and at least twice as much.
const SIZE_STEP: i64 = 64;
const CFG: (f64, f64) = (0.0, 35.0);
const SAMPLES: (i64, i64) = (1, 10);
const STEPS: (i64, i64) = (10, 150);
const MOST_SEED: i64 = u32::MAX as i64;
/// Influence of the picture where the request is silent.
const IMAGE_STRENGTH: f64 = 0.35;
const STEP_SCHEDULE_START: f64 = 0.65;

/// This API's samplers, and the schedulers that do the same or come nearest.
const SAMPLERS: [(&str, &str); 10] = [
    ("DDIM", "DDIM"),
    ("DDPM", "DDPM"),
    ("K_DPMPP_2M", "DPM Multi"),
    ("K_DPMPP_2S_ANCESTRAL", "DPM Single"),
    ("K_DPM_2", "DPM2 Karras"),
    ("K_DPM_2_ANCESTRAL", "DPM2 a Karras"),
    ("K_EULER", "Euler"),
    ("K_EULER_ANCESTRAL", "Euler a"),
    ("K_HEUN", "Heun"),
    ("K_LMS", "LMS"),
];

/// A request of this API: the fields that its routes share, and `$extra`.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($(#[$more:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        ///
        /// A form names its prompts text_prompts[0][text] and text_prompts[0][weight].
        /// Numbers may come as text; unknown fields are ignored, and so are
        /// clip_guidance_preset and extras.
        #[derive(Debug, Deserialize, ToSchema)]
        pub struct $name {
            /// Several are joined.
            #[schema(min_items = 1)]
            text_prompts: Vec<TextPrompt>,
            $($(#[$more])* pub $field: $type,)*
            /// How closely the prompts are followed.
            #[serde(default)]
            #[schema(value_type = Option<f64>, minimum = 0, maximum = 35, default = 7)]
            cfg_scale: Option<Number>,
            /// DDIM, DDPM, K_DPMPP_2M, K_DPMPP_2S_ANCESTRAL, K_DPM_2,
            /// K_DPM_2_ANCESTRAL, K_EULER, K_EULER_ANCESTRAL, K_HEUN or K_LMS; the
            /// model's own where silent.
            #[serde(default)]
            sampler: Option<String>,
            /// Pictures; picture i uses seed + i.
            #[serde(default)]
            #[schema(value_type = Option<i64>, minimum = 1, maximum = 10, default = 1)]
            samples: Option<Integer>,
            /// 0 draws one, which the answer names.
            #[serde(default)]
            #[schema(value_type = Option<i64>, minimum = 0, maximum = 4294967295i64, default = 0)]
            seed: Option<Integer>,
            /// From 10 to 150; the operator may set another default and most.
            #[serde(default)]
            #[schema(value_type = Option<i64>, default = 30)]
            steps: Option<Integer>,
            /// A prompt template, such as analog-film or pixel-art.
            #[serde(default)]
            style_preset: Option<String>,
        }

        impl $name {
            /// What was asked for, within this API's ranges; without a size.
            pub fn raw(&self, defaults: &Preset) -> Result<RawRequest, Failure> {
                let (prompt, negative_prompt) = prompts::joined(&self.text_prompts)?;
                let default_steps = defaults.steps as i64;
                let steps = self.steps.map(|n| n.0);
                let steps = within("steps", steps, STEPS.0.min(default_steps), STEPS.1)?;
                let cfg = self.cfg_scale.map(|n| n.0);
                let cfg = within("guidance_scale", cfg, CFG.0, CFG.1)?;
                let seed = self.seed.map(|n| n.0);
                let samples = self.samples.map(|n| n.0);
                let samples = within("samples", samples, SAMPLES.0, SAMPLES.1)?;
                Ok(RawRequest {
                    prompt: Some(prompt),
                    negative_prompt,
                    steps: steps.or(Some(default_steps)),
                    guidance_scale: cfg.or(Some(defaults.guidance_scale)),
                    samples,
                    seed: within("seed", seed, 0, MOST_SEED)?.filter(|seed| *seed != 0).map(i128::from),
                    scheduler: sampler(self.sampler.as_deref())?,
                    style: said(&self.style_preset).map(str::to_owned),
                    ..Default::default()
                })
            }
        }
    };
}

request! {
    /// Text to image.
    StabilityTextToImage {
        /// Pixels, a multiple of 64; the model's native size where silent, which
        /// 1024 stands for on a model of another size.
        #[serde(default)]
        #[schema(value_type = Option<i64>, minimum = 128, multiple_of = 64)]
        width: Option<Integer>,
        #[serde(default)]
        #[schema(value_type = Option<i64>, minimum = 128, multiple_of = 64)]
        height: Option<Integer>,
    }
}
request! {
    /// Image to image: the size comes from the picture.
    StabilityImageToImage {
        /// A file of the form; or base64, a data URL, or a URL of a host that the
        /// operator allows.
        init_image: String,
        /// IMAGE_STRENGTH or STEP_SCHEDULE: which of the next two counts.
        #[serde(default)]
        #[schema(default = "IMAGE_STRENGTH")]
        init_image_mode: Option<String>,
        /// Influence of the picture.
        #[serde(default)]
        #[schema(value_type = Option<f64>, minimum = 0, maximum = 1, default = 0.35)]
        image_strength: Option<Number>,
        /// 0 is the picture itself, 1 a wholly new one.
        #[serde(default)]
        #[schema(value_type = Option<f64>, minimum = 0, maximum = 1, default = 0.65)]
        step_schedule_start: Option<Number>,
    }
}
request! {
    /// Painting a part of a picture anew: the size comes from the picture.
    StabilityMasking {
        /// A file of the form; or base64, a data URL, or a URL of a host that the
        /// operator allows.
        init_image: String,
        /// What is painted anew: MASK_IMAGE_WHITE, MASK_IMAGE_BLACK, or
        /// INIT_IMAGE_ALPHA for what is transparent in init_image.
        mask_source: String,
        /// As init_image; unless the mask is the picture's alpha.
        #[serde(default)]
        mask_image: Option<String>,
    }
}

impl StabilityTextToImage {
    /// Width and height, if they are multiples of 64.
    pub fn sides(&self) -> Result<(Option<Integer>, Option<Integer>), Failure> {
        let side = |field, given: Option<Integer>| match given {
            Some(Integer(n)) if n < 2 * SIZE_STEP || n % SIZE_STEP != 0 => Err(Failure::invalid(
                field,
                n,
                format!(
                    "must be a multiple of {SIZE_STEP}, at least {}",
                    2 * SIZE_STEP
                ),
            )),
            given => Ok(given),
        };
        Ok((side("width", self.width)?, side("height", self.height)?))
    }
}

impl StabilityImageToImage {
    /// How much of the picture is drawn anew in so many steps: one of them at least.
    pub fn strength(&self, steps: Option<i64>) -> Result<f64, Failure> {
        // A little more than a step, so that rounding does not lose it.
        let least = 1.000_001 / steps.unwrap_or(1).max(1) as f64;
        let share = |field, n: Option<Number>| within(field, n.map(|n| n.0), 0.0, 1.0);
        let influence = share("image_strength", self.image_strength)?;
        let start = share("step_schedule_start", self.step_schedule_start)?;
        let mode = said(&self.init_image_mode).map(str::to_uppercase);
        let strength = match mode.as_deref() {
            Some("STEP_SCHEDULE") => start.unwrap_or(STEP_SCHEDULE_START),
            None if influence.is_none() && start.is_some() => start.unwrap_or_default(),
            None | Some("IMAGE_STRENGTH") => 1.0 - influence.unwrap_or(IMAGE_STRENGTH),
            Some(other) => {
                return Err(Failure::invalid(
                    "init_image_mode",
                    format!("{other:?}"),
                    "choose one of IMAGE_STRENGTH, STEP_SCHEDULE",
                ));
            }
        };
        Ok(strength.max(least).min(1.0))
    }
}

impl StabilityMasking {
    pub fn mask(&self) -> Result<MaskOrder, Failure> {
        let source = self.mask_source.trim().to_uppercase();
        let from_alpha = source == "INIT_IMAGE_ALPHA";
        if !from_alpha && !["MASK_IMAGE_WHITE", "MASK_IMAGE_BLACK"].contains(&source.as_str()) {
            return Err(Failure::invalid(
                "mask_source",
                format!("{:?}", self.mask_source),
                "choose one of MASK_IMAGE_WHITE, MASK_IMAGE_BLACK, INIT_IMAGE_ALPHA",
            ));
        }
        let text = match from_alpha {
            true => Some(self.init_image.as_str()),
            false => said(&self.mask_image),
        };
        let missing = || Failure::invalid("mask", "missing", format!("{source} needs one"));
        Ok(MaskOrder {
            text: text.ok_or_else(missing)?.to_owned(),
            reading: match from_alpha {
                true => MaskReading::Transparent,
                false => MaskReading::Mean,
            },
            invert: source == "MASK_IMAGE_BLACK",
            stretch: true,
            ..Default::default()
        })
    }
}

fn said(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.trim().is_empty())
}

fn sampler(name: Option<&str>) -> Result<Option<String>, Failure> {
    let Some(name) = name.map(str::trim).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let known = SAMPLERS
        .iter()
        .find(|(own, _)| own.eq_ignore_ascii_case(name));
    match known {
        Some((_, scheduler)) => Ok(Some((*scheduler).to_owned())),
        None => {
            let names: Vec<_> = SAMPLERS.iter().map(|(own, _)| *own).collect();
            let allowed = format!("choose one of {}", names.join(", "));
            Err(Failure::invalid("sampler", format!("{name:?}"), allowed))
        }
    }
}

/// The pictures.
#[derive(Debug, Serialize, ToSchema)]
pub struct Artifacts {
    pub artifacts: Vec<Artifact>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Artifact {
    /// A PNG file.
    pub base64: String,
    pub seed: u64,
    #[serde(rename = "finishReason")]
    pub finish_reason: &'static str,
}

/// Why a request was refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct StabilityError {
    /// The request's, for the service's log.
    pub id: String,
    /// Such as bad_request.
    pub name: &'static str,
    /// Names the field, its value and what is allowed.
    pub message: String,
    /// The kind of the error, a stable word; see docs/errors.md.
    #[schema(value_type = String)]
    pub code: &'static str,
}

/// What draws.
#[derive(Debug, Serialize, ToSchema)]
pub struct Engine {
    pub id: String,
    pub name: String,
    pub description: &'static str,
    #[serde(rename = "type")]
    pub kind: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct StabilityBalance {
    /// Null where the service has no keys.
    pub credits: Option<i64>,
}

/// Whose the key is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Account {
    /// The key's name; anybody where the service has no keys.
    pub id: String,
    /// Empty: the service knows none.
    pub email: &'static str,
    /// None.
    #[schema(value_type = Vec<Object>)]
    pub organizations: [(); 0],
    #[schema(value_type = Option<String>)]
    pub profile_picture: (),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::body;
    use serde_json::{Value, json};

    fn raw(changes: Value) -> Result<RawRequest, String> {
        let mut request = json!({ "text_prompts": [{ "text": "a" }] });
        for (name, value) in changes.as_object().unwrap() {
            request[name] = value.clone();
        }
        let request: Result<StabilityTextToImage, _> = body::parse(request);
        let raw = request.and_then(|request| request.raw(&Preset::default()));
        raw.map_err(|failure| failure.to_string())
    }

    #[test]
    fn every_sampler_is_a_scheduler() {
        for (name, scheduler) in SAMPLERS {
            assert_eq!(
                crate::schedule::canonical_name(scheduler).unwrap(),
                scheduler
            );
            let raw = raw(json!({ "sampler": name.to_lowercase() })).unwrap();
            assert_eq!(raw.scheduler.as_deref(), Some(scheduler));
        }
        assert!(
            raw(json!({ "sampler": "K_NOPE" }))
                .unwrap_err()
                .contains("K_EULER")
        );
    }

    #[test]
    fn a_seed_of_zero_is_none() {
        assert_eq!(raw(json!({ "seed": 0 })).unwrap().seed, None);
        assert_eq!(raw(json!({ "seed": "7" })).unwrap().seed, Some(7));
        assert!(raw(json!({ "seed": 1_i64 << 32 })).is_err());
    }

    #[test]
    fn both_modes_of_a_picture_mean_the_same() {
        let strength = |fields: Value| {
            let mut request = json!({ "text_prompts": [], "init_image": "" });
            for (name, value) in fields.as_object().unwrap() {
                request[name] = value.clone();
            }
            let request: StabilityImageToImage = body::parse(request).unwrap();
            request
                .strength(Some(100))
                .map_err(|failure| failure.to_string())
        };
        assert_eq!(strength(json!({})), Ok(0.65));
        assert_eq!(strength(json!({ "image_strength": 0.75 })), Ok(0.25));
        let least = strength(json!({ "image_strength": 1 })).unwrap();
        assert!((least - 0.01).abs() < 1e-6 && least > 0.01, "{least}");
        assert_eq!(strength(json!({ "step_schedule_start": "0.5" })), Ok(0.5));
        let both = json!({ "init_image_mode": "STEP_SCHEDULE", "image_strength": 0.9 });
        assert_eq!(strength(both), Ok(STEP_SCHEDULE_START));
        assert!(strength(json!({ "init_image_mode": "X" })).is_err());
        assert!(strength(json!({ "image_strength": 1.5 })).is_err());
    }
}
