//! Fields of a request, one by one: what is allowed, and what is meant where it is
//! silent.

use super::{
    DRAWN_SEED, GUIDANCE_MOST, Lora, MicroConditioning, NegativeMicro, RawRequest, Refinement,
    SIZE_STEP, SIZES,
};
use crate::{Error, Result};

/// Strength of image-to-image and inpainting where the request is silent.
pub(super) const DEFAULT_STRENGTH: f64 = 0.3;

/// A number from 0 to 1.
pub(super) fn share(field: &str, given: Option<f64>, default: f64) -> Result<f64> {
    let value = given.unwrap_or(default);
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => Err(Error::invalid(field, value, "must be from 0 to 1")),
    }
}

pub(super) fn strength(field: &str, value: f64) -> Result<f64> {
    match value > 0.0 && value <= 1.0 {
        true => Ok(value),
        false => {
            let allowed = "must be above 0 and at most 1: how much of the picture is drawn anew";
            Err(Error::invalid(field, value, allowed))
        }
    }
}

pub(super) fn score(field: &str, given: Option<f64>, default: f64) -> Result<f64> {
    let value = given.unwrap_or(default);
    match (0.0..=10.0).contains(&value) {
        true => Ok(value),
        false => Err(Error::invalid(field, value, "must be from 0 to 10")),
    }
}

pub(super) fn loras(loras: Vec<Lora>) -> Result<Vec<Lora>> {
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

pub(super) fn refinement(raw: &RawRequest, at_hand: bool) -> Result<Refinement> {
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

pub(super) fn micro(
    raw: &RawRequest,
    size: [usize; 2],
) -> Result<(MicroConditioning, NegativeMicro)> {
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

pub(super) fn count(
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

pub(super) fn side(field: &str, given: Option<i64>, native: usize) -> Result<usize> {
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

pub(super) fn guidance(given: f64) -> Result<f64> {
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

/// The first picture's seed: a negative one counts back from 2^64, as in
/// `torch.Generator.manual_seed`. Drawn seeds have 32 bits, because PyTorch's CPU
/// generator sees no more of them.
pub(super) fn seed(given: i128, samples: usize) -> Result<u64> {
    let most = u64::MAX - samples as u64 + 1;
    let negative = || i64::try_from(given).ok().map(i64::cast_unsigned);
    let number = match given {
        DRAWN_SEED => getrandom::u32().ok().map(u64::from),
        _ => u64::try_from(given).ok().or_else(negative),
    };
    // The next pictures' seeds count up.
    number.filter(|number| *number <= most).ok_or_else(|| {
        let end = match samples {
            1 => format!("{most}"),
            _ => format!("{most} for {samples} pictures, whose seeds count up"),
        };
        let allowed = format!("must be a whole number from -2^63 to {end}; {DRAWN_SEED} draws one");
        Error::invalid("seed", given, allowed)
    })
}
