//! What may be asked of the pipeline: checked, with the defaults filled in, once
//! for every front door.

use crate::schedule;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Smallest and largest width and height, in pixels.
pub const SIZES: std::ops::RangeInclusive<usize> = 64..=8192;
/// Widths and heights are multiples of this: the VAE's reduction.
pub const SIZE_STEP: usize = 8;
/// Fewest and most denoising steps.
pub const STEPS: std::ops::RangeInclusive<usize> = 1..=1000;
/// Fewest and most pictures of one request.
pub const SAMPLES: std::ops::RangeInclusive<usize> = 1..=64;
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

/// A request as it comes in: every field may be missing, nothing is checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RawRequest {
    pub prompt: Option<String>,
    pub negative_prompt: Option<String>,
    pub width: Option<i64>,
    pub height: Option<i64>,
    pub steps: Option<i64>,
    pub scheduler: Option<String>,
    pub guidance_scale: Option<f64>,
    pub seed: Option<i64>,
    pub samples: Option<i64>,
}

/// A request that can be carried out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Request {
    pub prompt: String,
    /// `None` and `""` differ: a model that forces zeros for an empty prompt does
    /// so for `None` only.
    pub negative_prompt: Option<String>,
    /// Pixels, a multiple of 8.
    pub width: usize,
    /// Pixels, a multiple of 8.
    pub height: usize,
    pub steps: usize,
    /// The scheduler's proper name.
    pub scheduler: &'static str,
    pub guidance_scale: f64,
    /// Of the first picture; at most `2^63 − samples`.
    pub seed: u64,
    pub samples: usize,
}

impl Request {
    /// Checks every field and fills in the defaults: 25 steps, Euler, guidance
    /// 7.5, one sample, a drawn seed, and `native` (width, height) as the size.
    ///
    /// The first field that is wrong is [`Error::Invalid`]; it names the field as
    /// [`RawRequest`] does.
    pub fn resolve(raw: RawRequest, native: (usize, usize)) -> Result<Self> {
        let prompt = raw.prompt.ok_or_else(|| {
            Error::invalid(
                "prompt",
                "missing",
                "say what to draw, such as \"a red circle\"",
            )
        })?;
        let samples = count("samples", raw.samples, 1, SAMPLES)?;
        let scheduler = raw.scheduler.as_deref().unwrap_or(schedule::Euler::NAME);
        Ok(Request {
            prompt,
            negative_prompt: raw.negative_prompt,
            width: side("width", raw.width, native.0)?,
            height: side("height", raw.height, native.1)?,
            steps: count("steps", raw.steps, 25, STEPS)?,
            scheduler: schedule::canonical_name(scheduler)?,
            guidance_scale: guidance(raw.guidance_scale.unwrap_or(7.5))?,
            seed: seed(raw.seed.unwrap_or(-1), samples)?,
            samples,
        })
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

    fn message(raw: RawRequest) -> String {
        Request::resolve(raw, (128, 128)).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_filled_in() {
        let request = Request::resolve(raw(), (128, 192)).unwrap();
        assert_eq!((request.width, request.height), (128, 192));
        assert_eq!((request.steps, request.samples), (25, 1));
        assert_eq!(request.guidance_scale, 7.5);
        assert_eq!(request.scheduler, "Euler");
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
            assert_eq!(Request::resolve(raw, (128, 128)).is_ok(), fits, "{width}");
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
        assert!(!Request::resolve(raw, (64, 64)).unwrap().guided());
    }

    #[test]
    fn seeds_go_up_by_one_and_never_overflow() {
        let of = |seed, samples| {
            let raw = RawRequest {
                seed: Some(seed),
                samples: Some(samples),
                ..raw()
            };
            Request::resolve(raw, (64, 64))
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
            "scheduler is \"Eula\": no such name; did you mean Euler?"
        );
        assert!(message(RawRequest::default()).starts_with("prompt is missing"));
    }
}
