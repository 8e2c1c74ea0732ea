//! What kind of diffusion a single file is of: marks that checkpoints carry as
//! tensors, and what the header says.
//!
//! | tensor | meaning |
//! |---|---|
//! | `edm_mean`, `edm_std` | Playground v2.5: trained over noise levels (EDM); mean and deviation of its latents |
//! | `edm_vpred.sigma_max`, `edm_vpred.sigma_min` | CosXL: EDM that predicts v, over these levels |
//! | `v_pred` | predicts v |
//! | `ztsnr` | zero terminal SNR |
//!
//! They are looked at in this order, as ComfyUI does (`comfy/supported_models.py`,
//! `SDXL.model_type`): it writes `v_pred` beside `edm_vpred.*`. Only where none of them
//! is there, the header's `modelspec.prediction_type` and ComfyUI's
//! `modelspec.predict_key` count.

use super::shapes::{Object, has};
use crate::checkpoint::file::TensorFile;
use crate::checkpoint::weights::missing;
use crate::schedule::{Config, Prediction};
use crate::{Error, Result};
use serde_json::json;

const MEAN: &str = "edm_mean";
const STD: &str = "edm_std";
const SIGMA_MAX: &str = "edm_vpred.sigma_max";
const SIGMA_MIN: &str = "edm_vpred.sigma_min";

/// Playground v2.5's; its file carries no configuration (diffusers,
/// `loaders/single_file_utils.py`).
const PLAYGROUND_SCALING: f64 = 0.5;

/// The scheduler's configuration; `guided_inside` where the UNet is told the guidance
/// scale, as consistency models are.
pub(super) fn scheduler(file: &TensorFile, guided_inside: bool) -> Result<Config> {
    if has(file, MEAN) || has(file, STD) {
        return Ok(Config::playground());
    }
    if has(file, SIGMA_MAX) || has(file, SIGMA_MIN) {
        return cosxl(file);
    }
    let mut config = Config::sdxl();
    config.prediction_type = match has(file, "v_pred") {
        true => Prediction::V,
        false => said(file)?.unwrap_or(Prediction::Epsilon),
    };
    config.rescale_betas_zero_snr = has(file, "ztsnr");
    if guided_inside {
        config.class_name = Some("LCMScheduler".into());
    }
    Ok(config)
}

/// Whether the file carries any of the marks.
pub(super) fn is_marked(file: &TensorFile) -> bool {
    let marks = [MEAN, STD, SIGMA_MAX, SIGMA_MIN, "v_pred", "ztsnr"];
    marks.iter().any(|mark| has(file, mark))
}

fn cosxl(file: &TensorFile) -> Result<Config> {
    let mut config = Config::cosxl();
    let level = |key: &str| match has(file, key) {
        false => Ok(None),
        true => match numbers(file, key)?[..] {
            [level] if level > 0.0 && level <= 1e6 => Ok(Some(level)),
            _ => Err(wrong(
                file,
                key,
                "must be one number above 0 and at most 1e6",
            )),
        },
    };
    config.sigma_max = level(SIGMA_MAX)?.or(config.sigma_max);
    config.sigma_min = level(SIGMA_MIN)?.or(config.sigma_min);
    match config.edm_range() {
        Some((low, high)) if low >= high => {
            let problem = format!("the noise levels from {low} to {high} do not rise");
            Err(wrong(file, SIGMA_MAX, &problem))
        }
        _ => Ok(config),
    }
}

/// Lays the mean and deviation of the latents over the VAE's configuration, where
/// the file has them.
pub(super) fn latents(file: &TensorFile, vae: &mut Object) -> Result<()> {
    if !has(file, MEAN) && !has(file, STD) {
        return Ok(());
    }
    let read = |key: &str, fits: fn(f64) -> bool, problem: &str| {
        let values = numbers(file, key)?;
        let all = !values.is_empty() && values.iter().all(|value| fits(*value));
        all.then_some(values)
            .ok_or_else(|| wrong(file, key, problem))
    };
    let mean = read(MEAN, f64::is_finite, "must be finite numbers")?;
    let above = |value: f64| value > 0.0 && value.is_finite();
    let std = read(STD, above, "must be finite numbers above 0")?;
    vae.insert("scaling_factor".into(), json!(PLAYGROUND_SCALING));
    vae.insert("latents_mean".into(), json!(mean));
    vae.insert("latents_std".into(), json!(std));
    Ok(())
}

/// What the header says that the model predicts.
fn said(file: &TensorFile) -> Result<Option<Prediction>> {
    let mut found = None;
    for key in ["modelspec.prediction_type", "modelspec.predict_key"] {
        let Some(text) = file.metadata(key) else {
            continue;
        };
        match text.trim().to_lowercase().replace('-', "_").as_str() {
            "" => {}
            "v" | "v_pred" | "vpred" | "v_prediction" => return Ok(Some(Prediction::V)),
            "epsilon" | "eps" => found = Some(Prediction::Epsilon),
            "sample" => found = found.or(Some(Prediction::Sample)),
            _ => {
                let problem = format!("its header's {key} is {text:?}, which is not known");
                let remedy = "use a checkpoint that predicts epsilon or v, as SDXL's do";
                return Err(Error::file(file.path(), problem, remedy));
            }
        }
    }
    Ok(found)
}

/// A small tensor's numbers.
fn numbers(file: &TensorFile, key: &str) -> Result<Vec<f64>> {
    let entry = file.entry(key).ok_or_else(|| missing(file.path(), key))?;
    /// More are no mark.
    const MOST: usize = 1024;
    entry.numbers(MOST).ok_or_else(|| {
        let problem = format!(
            "its type is {}; must be F64, F32, F16 or BF16",
            entry.stored
        );
        wrong(file, key, &problem)
    })
}

fn wrong(file: &TensorFile, key: &str, problem: &str) -> Error {
    Error::tensor(
        file.path(),
        key,
        problem,
        "download the file again, or use another checkpoint",
    )
}
