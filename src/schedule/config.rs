//! `scheduler_config.json`, field for field as diffusers names it.

use super::options::{Algorithm, SolverType};
use super::table::Table;
use crate::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;

/// How the variance of the training noise grows with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BetaSchedule {
    /// Evenly from `beta_start` to `beta_end`.
    Linear,
    /// The same of the square roots.
    ScaledLinear,
    /// Nichol and Dhariwal's cosine, capped at 0.999.
    SquaredCosCapV2,
}

/// What the UNet's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The velocity `√ᾱ·noise − √(1−ᾱ)·picture`.
    #[serde(rename = "v_prediction")]
    V,
    /// The picture.
    Sample,
}

impl Prediction {
    /// The name in `scheduler_config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Epsilon => "epsilon",
            Prediction::V => "v_prediction",
            Prediction::Sample => "sample",
        }
    }
}

/// Which of the training timesteps a run visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    Linspace,
    Leading,
    Trailing,
}

/// Over which curve the noise levels of a run fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigmaCurve {
    /// The one that the model was trained with.
    Trained,
    /// Karras et al. 2022, equation 5, rho 7.
    Karras,
    /// Evenly in the logarithm.
    Exponential,
    /// Quantiles of the beta distribution with parameters 0.6, 0.6 (Lee et al. 2024).
    Beta,
}

/// The noise level after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalSigma {
    Zero,
    /// The lowest of the training.
    SigmaMin,
}

/// How noise levels between training timesteps are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    Linear,
    LogLinear,
}

/// What the UNet is told as the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestepType {
    /// The timestep.
    Discrete,
    /// A quarter of the noise level's logarithm (with [`Prediction::V`] only).
    Continuous,
}

/// A scheduler's configuration; the defaults are diffusers' `EulerDiscreteScheduler`'s.
/// It holds the keys that the schedulers here read, and no others.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `_class_name`: the diffusers class that the checkpoint was saved with.
    pub class_name: Option<String>,
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    /// The variances themselves; they replace the three fields above.
    pub trained_betas: Option<Vec<f64>>,
    pub prediction_type: Prediction,
    pub timestep_spacing: Spacing,
    pub steps_offset: usize,
    /// `use_karras_sigmas`, `use_exponential_sigmas` or `use_beta_sigmas`.
    pub sigma_curve: SigmaCurve,
    /// Lowest noise level of a curve that is not the trained one.
    pub sigma_min: Option<f64>,
    /// Highest noise level of a curve that is not the trained one.
    pub sigma_max: Option<f64>,
    pub rescale_betas_zero_snr: bool,
    pub final_sigmas_type: FinalSigma,
    pub timestep_type: TimestepType,
    pub interpolation_type: Interpolation,
    /// Here and below, `None` is a key that the file does not have: each scheduler
    /// takes its own class's default.
    pub solver_order: Option<usize>,
    pub algorithm_type: Option<Algorithm>,
    pub solver_type: Option<SolverType>,
    pub lower_order_final: Option<bool>,
    pub euler_at_final: Option<bool>,
    pub use_lu_lambdas: Option<bool>,
    /// Timesteps whose `ln(α/σ)` is below this are left out.
    pub lambda_min_clipped: Option<f64>,
    pub predict_x0: Option<bool>,
    /// Indices of steps whose result UniPC does not correct.
    pub disable_corrector: Option<Vec<usize>>,
    /// Dynamic thresholding of the predicted picture.
    pub thresholding: Option<bool>,
    pub dynamic_thresholding_ratio: Option<f64>,
    pub sample_max_value: Option<f64>,
    /// Seed of the Brownian motion of `DPMSolverSDEScheduler`.
    pub noise_sampler_seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            class_name: None,
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: Spacing::Linspace,
            steps_offset: 0,
            sigma_curve: SigmaCurve::Trained,
            sigma_min: None,
            sigma_max: None,
            rescale_betas_zero_snr: false,
            final_sigmas_type: FinalSigma::Zero,
            timestep_type: TimestepType::Discrete,
            interpolation_type: Interpolation::Linear,
            solver_order: None,
            algorithm_type: None,
            solver_type: None,
            lower_order_final: None,
            euler_at_final: None,
            use_lu_lambdas: None,
            lambda_min_clipped: None,
            predict_x0: None,
            disable_corrector: None,
            thresholding: None,
            dynamic_thresholding_ratio: None,
            sample_max_value: None,
            noise_sampler_seed: None,
        }
    }
}

impl Config {
    /// SDXL 1.0's: what a single file, which carries no configuration, was made with.
    pub fn sdxl() -> Self {
        Config {
            class_name: Some("EulerDiscreteScheduler".into()),
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            timestep_spacing: Spacing::Leading,
            steps_offset: 1,
            ..Config::default()
        }
    }

    /// Reads a parsed `scheduler_config.json`. Keys of other schedulers are
    /// ignored; a key that is missing or null takes its default.
    ///
    /// A value of the wrong type or out of range is [`Error::File`] and names
    /// `path`, the key, the value and what is allowed.
    pub fn from_json(path: impl AsRef<Path>, value: &Value) -> Result<Self> {
        Config::default().overlaid(path, value)
    }

    /// This configuration with the keys of a parsed object laid over it; errors as
    /// [`Config::from_json`]'s.
    pub fn overlaid(&self, path: impl AsRef<Path>, value: &Value) -> Result<Self> {
        let path = path.as_ref();
        let Value::Object(object) = value else {
            return Err(Error::file(
                path,
                "is not a JSON object",
                "replace it with the checkpoint's own scheduler_config.json",
            ));
        };
        let base = self;
        let config = Reader { path, object, base }.config()?;
        match Table::new(&config) {
            Ok(_) => Ok(config),
            Err(error) => Err(Error::file(path, error, REMEDY)),
        }
    }
}

/// The largest count of training timesteps that is believed.
const MOST_TIMESTEPS: usize = 100_000;

const REMEDY: &str = "correct it, or restore the checkpoint's own file";

pub(super) struct Reader<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
    /// Where keys that are missing take their values.
    pub(super) base: &'a Config,
}

impl<'a> Reader<'a> {
    fn config(&self) -> Result<Config> {
        let base = self.base;
        let betas = self.betas()?;
        let timesteps = base.num_train_timesteps;
        let timesteps = self.count("num_train_timesteps", timesteps, 1, MOST_TIMESTEPS)?;
        Ok(Config {
            class_name: self
                .text("_class_name")?
                .map(str::to_owned)
                .or_else(|| base.class_name.clone()),
            num_train_timesteps: timesteps,
            beta_start: self.variance("beta_start", base.beta_start)?,
            beta_end: self.variance("beta_end", base.beta_end)?,
            beta_schedule: self.choice(
                "beta_schedule",
                base.beta_schedule,
                &[
                    ("linear", BetaSchedule::Linear),
                    ("scaled_linear", BetaSchedule::ScaledLinear),
                    ("squaredcos_cap_v2", BetaSchedule::SquaredCosCapV2),
                ],
            )?,
            prediction_type: self.choice(
                "prediction_type",
                base.prediction_type,
                &[
                    ("epsilon", Prediction::Epsilon),
                    ("v_prediction", Prediction::V),
                    ("sample", Prediction::Sample),
                    ("original_sample", Prediction::Sample),
                ],
            )?,
            timestep_spacing: self.choice(
                "timestep_spacing",
                base.timestep_spacing,
                &[
                    ("linspace", Spacing::Linspace),
                    ("leading", Spacing::Leading),
                    ("trailing", Spacing::Trailing),
                ],
            )?,
            steps_offset: self.count("steps_offset", base.steps_offset, 0, timesteps)?,
            sigma_curve: self.curve()?,
            sigma_min: self.level("sigma_min")?.or(base.sigma_min),
            sigma_max: self.level("sigma_max")?.or(base.sigma_max),
            rescale_betas_zero_snr: self
                .flag("rescale_betas_zero_snr")?
                .unwrap_or(base.rescale_betas_zero_snr),
            final_sigmas_type: self.choice(
                "final_sigmas_type",
                base.final_sigmas_type,
                &[
                    ("zero", FinalSigma::Zero),
                    ("sigma_min", FinalSigma::SigmaMin),
                ],
            )?,
            timestep_type: self.choice(
                "timestep_type",
                base.timestep_type,
                &[
                    ("discrete", TimestepType::Discrete),
                    ("continuous", TimestepType::Continuous),
                ],
            )?,
            interpolation_type: self.choice(
                "interpolation_type",
                base.interpolation_type,
                &[
                    ("linear", Interpolation::Linear),
                    ("log_linear", Interpolation::LogLinear),
                ],
            )?,
            trained_betas: betas.or_else(|| base.trained_betas.clone()),
            ..self.solver_options()?
        })
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(&self, key: &str, value: &Value, allowed: &str) -> Error {
        // Long values would hide the message.
        let mut shown: String = value.to_string();
        if shown.chars().count() > 60 {
            shown = shown.chars().take(57).collect::<String>() + "...";
        }
        Error::file(
            self.path,
            format!("{key} is {shown}, allowed is {allowed}"),
            REMEDY,
        )
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.wrong(key, value, "a string")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.wrong(key, value, "true or false")),
        }
    }

    pub(super) fn count(
        &self,
        key: &str,
        default: usize,
        least: usize,
        most: usize,
    ) -> Result<usize> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        // `1000.0` is a whole number too.
        value
            .as_f64()
            .filter(|count| count.fract() == 0.0 && (0.0..=1e9).contains(count))
            .map(|count| count as usize)
            .filter(|count| (least..=most).contains(count))
            .ok_or_else(|| {
                self.wrong(
                    key,
                    value,
                    &format!("a whole number from {least} to {most}"),
                )
            })
    }

    /// A variance of noise: between 0 and 1, both excluded.
    fn variance(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|beta| *beta > 0.0 && *beta < 1.0)
                .ok_or_else(|| self.wrong(key, value, "a number above 0 and below 1")),
        }
    }

    /// A noise level.
    fn level(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|sigma| *sigma > 0.0 && *sigma <= 1e6)
                .map(Some)
                .ok_or_else(|| self.wrong(key, value, "a number above 0 and at most 1e6")),
        }
    }

    fn betas(&self) -> Result<Option<Vec<f64>>> {
        let key = "trained_betas";
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let allowed = "a list of 1 to 100000 numbers above 0 and below 1";
        let list = value
            .as_array()
            .filter(|list| (1..=MOST_TIMESTEPS).contains(&list.len()))
            .ok_or_else(|| self.wrong(key, value, allowed))?;
        list.iter()
            .map(|beta| {
                beta.as_f64()
                    .filter(|beta| *beta > 0.0 && *beta < 1.0)
                    .ok_or_else(|| self.wrong(key, beta, allowed))
            })
            .collect::<Result<Vec<_>>>()
            .map(Some)
    }

    /// The value of `key` by its name.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        default: T,
        choices: &[(&str, T)],
    ) -> Result<T> {
        let Some(given) = self.text(key)? else {
            return Ok(default);
        };
        choices
            .iter()
            .find(|(name, _)| *name == given)
            .map(|(_, choice)| *choice)
            .ok_or_else(|| {
                let allowed: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                let allowed = format!("one of {}", allowed.join(", "));
                self.wrong(key, &Value::from(given), &allowed)
            })
    }

    fn curve(&self) -> Result<SigmaCurve> {
        let keys = [
            ("use_karras_sigmas", SigmaCurve::Karras),
            ("use_exponential_sigmas", SigmaCurve::Exponential),
            ("use_beta_sigmas", SigmaCurve::Beta),
        ];
        if keys.iter().all(|(key, _)| self.get(key).is_none()) {
            return Ok(self.base.sigma_curve);
        }
        let mut curve = SigmaCurve::Trained;
        for (key, chosen) in keys {
            if self.flag(key)? != Some(true) {
                continue;
            }
            if curve != SigmaCurve::Trained {
                let allowed = "only one of the keys use_*_sigmas being true";
                return Err(self.wrong(key, &Value::Bool(true), allowed));
            }
            curve = chosen;
        }
        Ok(curve)
    }
}
