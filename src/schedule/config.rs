//! `scheduler_config.json`, field for field as diffusers names it.

use super::class::Defaults;
use super::edm::{self, Edm};
use super::linear::Preconditioning;
use super::read::{REMEDY, Reader, Source};
use super::schedule_type::ScheduleType;
use super::solver::{Algorithm, SolverType};
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
    /// `ᾱ = e^(−12t)`.
    Exp,
    /// Xu et al. 2022 (GeoDiff).
    Sigmoid,
    /// `ᾱ` of a signal-to-noise ratio that is Laplace distributed.
    Laplace,
}

/// How much noise a step of DDPM adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VarianceType {
    /// The posterior's variance `β̃`, by either of its two names.
    FixedSmall,
    /// `β`, by either of its two names.
    FixedLarge,
    /// A second output of the UNet says; SDXL's has none.
    Learned,
}

/// Timesteps that a request asks for, in the place of a spacing.
#[derive(Debug, Clone, PartialEq)]
pub enum Timesteps {
    /// Sabour et al. 2024, the list for SDXL.
    AlignYourSteps,
    /// These, highest first; as many steps as there are of them.
    Listed(Vec<f64>),
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

/// A scheduler's configuration. It holds the keys that the schedulers here read, and
/// no others.
///
/// `None` is a key that nothing sets: each scheduler then takes its own default. The
/// defaults of the other fields are diffusers' `EulerDiscreteScheduler`'s; where
/// another class has its own, that takes their place when the scheduler is made.
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
    /// Of a model that was trained over noise levels; the variances say nothing then.
    pub edm: Option<Edm>,
    pub timestep_spacing: Spacing,
    pub steps_offset: usize,
    /// `use_karras_sigmas`, `use_exponential_sigmas` or `use_beta_sigmas`.
    pub sigma_curve: SigmaCurve,
    /// Lowest noise level of a curve that is not the trained one, or of the training
    /// over noise levels.
    pub sigma_min: Option<f64>,
    /// Highest noise level of the same.
    pub sigma_max: Option<f64>,
    pub rescale_betas_zero_snr: bool,
    pub final_sigmas_type: FinalSigma,
    pub timestep_type: TimestepType,
    pub interpolation_type: Interpolation,
    /// Whether the predicted picture is clipped.
    pub clip_sample: Option<bool>,
    /// Where it is clipped, on both sides of zero.
    pub clip_sample_range: Option<f64>,
    /// Dynamic thresholding, which goes before clipping.
    pub thresholding: Option<bool>,
    pub dynamic_thresholding_ratio: Option<f64>,
    pub sample_max_value: Option<f64>,
    /// Whether `ᾱ` after the last step is 1, rather than the first of the training.
    pub set_alpha_to_one: Option<bool>,
    /// Whether PNDM starts without Runge-Kutta steps.
    pub skip_prk_steps: Option<bool>,
    pub variance_type: Option<VarianceType>,
    /// Share of the noise that a step draws anew, from 0 to 1 (in requests only).
    pub eta: Option<f64>,
    /// Steps that a consistency model was distilled with.
    pub original_inference_steps: Option<usize>,
    /// Factor of the timestep in a consistency model's boundary conditions.
    pub timestep_scaling: Option<f64>,
    /// Of the exponential solvers.
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
    /// Seed of the Brownian motion of `DPMSolverSDEScheduler`.
    pub noise_sampler_seed: Option<u64>,
    /// In the place of a spacing (in requests only).
    pub timesteps: Option<Timesteps>,
    /// Noise levels in the place of a curve, the final one too (in requests only).
    pub sigmas: Option<Vec<f64>>,
    /// In the place of a spacing and a curve (in requests only).
    pub schedule_type: Option<ScheduleType>,
    /// Whether a step more is planned and its level left out (in requests only).
    pub discard_next_to_last_sigma: Option<bool>,
    /// Which of the keys that classes disagree about were set.
    pub(super) given: Vec<&'static str>,
}

/// Keys whose default depends on the class, and that are no `Option`.
pub(super) const BY_CLASS: [&str; 4] = [
    "beta_start",
    "beta_end",
    "beta_schedule",
    "timestep_spacing",
];

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
            edm: None,
            timestep_spacing: Spacing::Linspace,
            steps_offset: 0,
            sigma_curve: SigmaCurve::Trained,
            sigma_min: None,
            sigma_max: None,
            rescale_betas_zero_snr: false,
            final_sigmas_type: FinalSigma::Zero,
            timestep_type: TimestepType::Discrete,
            interpolation_type: Interpolation::Linear,
            clip_sample: None,
            clip_sample_range: None,
            thresholding: None,
            dynamic_thresholding_ratio: None,
            sample_max_value: None,
            set_alpha_to_one: None,
            skip_prk_steps: None,
            variance_type: None,
            eta: None,
            original_inference_steps: None,
            timestep_scaling: None,
            solver_order: None,
            algorithm_type: None,
            solver_type: None,
            lower_order_final: None,
            euler_at_final: None,
            use_lu_lambdas: None,
            lambda_min_clipped: None,
            predict_x0: None,
            disable_corrector: None,
            noise_sampler_seed: None,
            timesteps: None,
            sigmas: None,
            schedule_type: None,
            discard_next_to_last_sigma: None,
            given: Vec::new(),
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
            clip_sample: Some(false),
            sample_max_value: Some(1.0),
            set_alpha_to_one: Some(false),
            skip_prk_steps: Some(true),
            given: BY_CLASS.to_vec(),
            ..Config::default()
        }
    }

    /// Playground v2.5's, as its `scheduler_config.json` has it.
    pub fn playground() -> Self {
        Config {
            class_name: Some("EDMDPMSolverMultistepScheduler".into()),
            edm: Some(Edm::default()),
            ..Config::default()
        }
    }

    /// CosXL's: it was trained over noise levels and predicts v. Its levels fall
    /// evenly in the logarithm, as ComfyUI has it and as diffusers' exponential
    /// `sigma_schedule` was made for.
    pub fn cosxl() -> Self {
        Config {
            class_name: Some("EDMEulerScheduler".into()),
            prediction_type: Prediction::V,
            edm: Some(Edm {
                sigma_data: 1.0,
                curve: SigmaCurve::Exponential,
                ..Edm::default()
            }),
            sigma_max: Some(120.0),
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
        let config = Reader::new(Source::File(path), object, self).config()?;
        match Table::new(&config) {
            Ok(_) => Ok(config),
            Err(error) => Err(Error::file(path, error, REMEDY)),
        }
    }

    /// This configuration with a request's options, by their full names, laid over
    /// it. A wrong value is [`Error::Invalid`] and names `scheduler_options`.
    pub(super) fn with_options(&self, options: &Map<String, Value>) -> Result<Self> {
        Reader::new(Source::Options, options, self).config()
    }

    /// This configuration with a class's defaults where nothing is set.
    pub(super) fn filled(&self, defaults: &Defaults) -> Self {
        let given = |key| self.given.contains(&key);
        let mut config = self.clone();
        if !given("beta_start") {
            config.beta_start = defaults.beta_start;
        }
        if !given("beta_end") {
            config.beta_end = defaults.beta_end;
        }
        if !given("beta_schedule") {
            config.beta_schedule = defaults.beta_schedule;
        }
        if !given("timestep_spacing") {
            config.timestep_spacing = defaults.timestep_spacing;
        }
        config
    }

    /// Whether the UNet is told the noise level itself rather than a timestep.
    pub fn is_continuous(&self) -> bool {
        let continuous = self.timestep_type == TimestepType::Continuous;
        self.edm.is_some() || (continuous && self.prediction_type == Prediction::V)
    }

    /// The lowest and the highest noise level of a training over noise levels.
    pub fn edm_range(&self) -> Option<(f64, f64)> {
        self.edm.map(|_| edm::range(self))
    }

    /// What goes into the UNet and what its output means.
    pub fn preconditioning(&self) -> Preconditioning {
        Preconditioning {
            prediction: self.prediction_type,
            sigma_data: self.edm.map(|edm| edm.sigma_data),
        }
    }

    /// The number of steps that an explicit list of timesteps or noise levels
    /// fixes, whatever number is asked for.
    pub fn listed_steps(&self) -> Option<usize> {
        match (&self.timesteps, &self.sigmas) {
            (Some(Timesteps::Listed(list)), _) => Some(list.len()),
            (_, Some(sigmas)) => Some(sigmas.len().saturating_sub(1)),
            _ => None,
        }
    }
}
