//! `scheduler_config.json`.

use super::fields::Fields;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How the betas run from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    #[default]
    Linear,
    /// Linear in the square root: SDXL's.
    ScaledLinear,
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosCapV2,
}

/// What the UNet predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise: SDXL's.
    #[default]
    Epsilon,
    VPrediction,
    Sample,
}

/// How the steps are spread over the training timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    #[default]
    Linspace,
    /// SDXL's.
    Leading,
    Trailing,
}

/// Noise levels between the timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterpolationType {
    #[default]
    Linear,
    LogLinear,
}

/// The noise level after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigmas {
    #[default]
    Zero,
    SigmaMin,
}

/// Timesteps as whole numbers of training steps, or as functions of sigma.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepType {
    #[default]
    Discrete,
    Continuous,
}

/// A checkpoint's scheduler configuration. Absent keys have the defaults of
/// diffusers' `EulerDiscreteScheduler`; `None` marks keys of other schedulers
/// that the file does not set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// `_class_name`: the scheduler the checkpoint's author meant.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    /// Betas themselves, instead of a schedule.
    pub trained_betas: Option<Vec<f64>>,
    pub prediction_type: PredictionType,
    pub interpolation_type: InterpolationType,
    pub use_karras_sigmas: bool,
    pub use_exponential_sigmas: bool,
    pub use_beta_sigmas: bool,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    pub timestep_spacing: TimestepSpacing,
    pub timestep_type: TimestepType,
    pub steps_offset: usize,
    pub rescale_betas_zero_snr: bool,
    pub final_sigmas_type: FinalSigmas,
    pub clip_sample: Option<bool>,
    pub sample_max_value: Option<f64>,
    pub set_alpha_to_one: Option<bool>,
    pub skip_prk_steps: Option<bool>,
    /// Every other key of the file.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            class_name: "EulerDiscreteScheduler".to_string(),
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::default(),
            trained_betas: None,
            prediction_type: PredictionType::default(),
            interpolation_type: InterpolationType::default(),
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            sigma_min: None,
            sigma_max: None,
            timestep_spacing: TimestepSpacing::default(),
            timestep_type: TimestepType::default(),
            steps_offset: 0,
            rescale_betas_zero_snr: false,
            final_sigmas_type: FinalSigmas::default(),
            clip_sample: None,
            sample_max_value: None,
            set_alpha_to_one: None,
            skip_prk_steps: None,
            other: Map::new(),
        }
    }
}

impl SchedulerConfig {
    /// SDXL 1.0's own `scheduler_config.json`, base and refiner alike.
    pub fn sdxl() -> Self {
        Self {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 1,
            clip_sample: Some(false),
            sample_max_value: Some(1.0),
            set_alpha_to_one: Some(false),
            skip_prk_steps: Some(true),
            ..Self::default()
        }
    }

    /// Reads the file's object.
    pub(super) fn read(f: &Fields) -> Result<Self> {
        let nulls_left_out = f.map().iter().filter(|(_, value)| !value.is_null());
        let map: Map<String, Value> = nulls_left_out
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let config: Self = serde_json::from_value(Value::Object(map.clone()))
            .map_err(|e| culprit(f, &map).unwrap_or_else(|| whole_file(f, &e)))?;
        config.check(f)?;
        Ok(config)
    }

    fn check(&self, f: &Fields) -> Result<()> {
        if !(1..=100_000).contains(&self.num_train_timesteps) {
            return Err(f.error("num_train_timesteps", "a whole number from 1 to 100000"));
        }
        let beta = |n: f64| n > 0.0 && n < 1.0;
        for (key, value) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !beta(value) {
                return Err(f.error(key, "a number between 0 and 1"));
            }
        }
        if self.steps_offset > self.num_train_timesteps {
            return Err(f.error("steps_offset", "at most num_train_timesteps"));
        }
        if let Some(betas) = &self.trained_betas {
            let whole = betas.len() == self.num_train_timesteps;
            if !whole || !betas.iter().all(|b| beta(*b)) {
                let allowed = "num_train_timesteps numbers between 0 and 1";
                return Err(f.error("trained_betas", allowed));
            }
        }
        Ok(())
    }
}

/// The first key that cannot be read by itself, with serde's words of what may be.
fn culprit(f: &Fields, map: &Map<String, Value>) -> Option<Error> {
    map.iter().find_map(|(key, value)| {
        let alone: Map<String, Value> = [(key.clone(), value.clone())].into_iter().collect();
        let failure = serde_json::from_value::<SchedulerConfig>(Value::Object(alone)).err()?;
        Some(f.error(key, &format!("what diffusers writes ({failure})")))
    })
}

fn whole_file(f: &Fields, e: &serde_json::Error) -> Error {
    Error::file(f.path(), e, "download the file again")
}
