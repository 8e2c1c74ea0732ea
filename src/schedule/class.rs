//! A scheduler's row in the table: its names and what it takes.

use super::Scheduler;
use super::choices::FIELD;
use super::config::{
    BetaSchedule, Config, FinalSigma, Interpolation, Prediction, SigmaCurve, Spacing, TimestepType,
};
use super::edm::ONLY;
use super::registry;
use crate::{Error, Result};
use serde_json::{Map, Value};

/// One scheduler, as a constant beside its solver.
pub(super) struct Class {
    /// The proper name.
    pub name: &'static str,
    /// Other names, written as AUTOMATIC1111 or ComfyUI do. Upper case, and which
    /// of space, `-` and `_` stands between words, do not matter.
    pub others: &'static [&'static str],
    /// The diffusers class, which is one more name.
    pub class: &'static str,
    /// The options it takes, in groups; keys of a checkpoint's file that are not
    /// among them are ignored, as diffusers does.
    pub options: &'static [&'static [&'static str]],
    /// Defaults of the class, where it has its own.
    pub defaults: Defaults,
    /// What its UNet may predict.
    pub predictions: &'static [Prediction],
    /// Of its options those that go with a model trained over noise levels; `None`
    /// where it does not draw with such a model.
    pub edm: Option<&'static [&'static [&'static str]]>,
    /// Whether `sigmas` may be a list of noise levels, not only a curve's name.
    pub takes_levels: bool,
    /// Options that go with the name, unless a request says otherwise.
    pub implies: &'static [(&'static str, &'static str)],
    pub make: fn(&Config) -> Result<Box<dyn Scheduler>>,
}

/// Defaults of the keys of [`super::config::BY_CLASS`].
pub(super) struct Defaults {
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    pub timestep_spacing: Spacing,
}

impl Defaults {
    /// Of most classes.
    pub const USUAL: Defaults = Defaults {
        beta_start: 0.0001,
        beta_end: 0.02,
        beta_schedule: BetaSchedule::Linear,
        timestep_spacing: Spacing::Linspace,
    };
    /// Of the classes that came from the papers' own code rather than k-diffusion's.
    pub const LEADING: Defaults = Defaults {
        timestep_spacing: Spacing::Leading,
        ..Defaults::USUAL
    };
    /// Of Heun and the DPM2 solvers.
    pub const SECOND_ORDER: Defaults = Defaults {
        beta_start: 0.00085,
        beta_end: 0.012,
        ..Defaults::USUAL
    };
    /// Of the consistency models' solvers.
    pub const CONSISTENCY: Defaults = Defaults {
        beta_schedule: BetaSchedule::ScaledLinear,
        timestep_spacing: Spacing::Leading,
        ..Defaults::SECOND_ORDER
    };
}

/// All predictions that there are.
pub(super) const ANY: &[Prediction] = &[Prediction::Epsilon, Prediction::V, Prediction::Sample];
/// All but the picture itself.
pub(super) const NOISE_OR_V: &[Prediction] = &[Prediction::Epsilon, Prediction::V];

/// What every class takes.
pub(super) const TRAINING: &[&str] = &[
    "prediction_type",
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
];
pub(super) const SPACING: &[&str] = &["timestep_spacing", "steps_offset"];
pub(super) const CURVES: &[&str] = &["sigmas", "sigma_min", "sigma_max"];
pub(super) const TIMESTEPS: &[&str] = &["timesteps"];
/// Of the classes that are AUTOMATIC1111's samplers too, by k-diffusion's sums.
pub(super) const SCHEDULE_TYPE: &[&str] = &["schedule_type", "discard_next_to_last_sigma"];
pub(super) const ZERO_SNR: &[&str] = &["rescale_betas_zero_snr"];
/// What every class takes with a model trained over noise levels.
pub(super) const EDM: &[&str] = &["prediction_type", "sigmas", "sigma_min", "sigma_max"];
pub(super) const CLIP: &[&str] = &["clip_sample", "clip_sample_range"];
pub(super) const THRESHOLD: &[&str] = &[
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
];

impl Class {
    pub fn options(&self) -> impl Iterator<Item = &'static str> {
        self.options.iter().flat_map(|group| group.iter().copied())
    }

    pub fn has(&self, option: &str) -> bool {
        self.options().any(|own| own == option)
    }

    /// Whether an option goes with a checkpoint.
    pub fn takes(&self, config: &Config, option: &str) -> bool {
        match (config.edm, self.edm) {
            (None, _) => self.has(option),
            (Some(_), Some(own)) => self.has(option) && own.concat().contains(&option),
            (Some(_), None) => false,
        }
    }

    /// Fails where the scheduler, or one of a request's options, does not go with a
    /// checkpoint: it would make another picture than the model's, or none.
    pub fn check(&self, config: &Config, options: &Map<String, Value>) -> Result<()> {
        if config.edm.is_some() && self.edm.is_none() {
            let can: Vec<_> = registry::names_of(|class| class.edm.is_some()).collect();
            let allowed = format!("{ONLY}; choose {}", can.join(" or "));
            return Err(Error::invalid("scheduler", self.name, allowed));
        }
        if config.edm.is_none() && config.is_continuous() && !self.has("timestep_type") {
            let can: Vec<_> = registry::names_of(|class| class.has("timestep_type")).collect();
            let allowed = format!(
                "tells the UNet a timestep, and this model wants the noise level \
                 (timestep_type continuous); choose {}",
                can.join(" or ")
            );
            return Err(Error::invalid("scheduler", self.name, allowed));
        }
        let stray = |(key, _): &(&String, &Value)| !self.takes(config, key);
        if config.edm.is_some()
            && let Some((key, value)) = options.iter().find(stray)
        {
            let own = self.options().filter(|option| self.takes(config, option));
            let own: Vec<_> = own.collect();
            let allowed = format!("{ONLY}, with which {} takes {}", self.name, own.join(", "));
            let value = value.as_str().map_or(value.to_string(), str::to_owned);
            return Err(Error::invalid(FIELD, format!("{key}={value}"), allowed));
        }
        Ok(())
    }

    /// Makes the scheduler: fills in the class's defaults, and drops what it has not.
    pub fn create(&self, config: &Config) -> Result<Box<dyn Scheduler>> {
        let config = self.own(config);
        let predictions = match config.edm {
            Some(_) => NOISE_OR_V,
            None => self.predictions,
        };
        if !predictions.contains(&config.prediction_type) {
            let known: Vec<_> = predictions.iter().map(|p| p.name()).collect();
            let known = known.join(" and ");
            let allowed = format!(
                "{} knows {known} only; choose Euler, Heun or DDIM",
                self.name
            );
            let given = config.prediction_type.name();
            return Err(Error::invalid("prediction_type", given, allowed));
        }
        (self.make)(&config)
    }

    fn own(&self, config: &Config) -> Config {
        let mut config = config.filled(&self.defaults);
        if !self.has("rescale_betas_zero_snr") {
            config.rescale_betas_zero_snr = false;
        }
        if !self.has("final_sigmas_type") {
            config.final_sigmas_type = FinalSigma::Zero;
        }
        if !self.has("timestep_type") {
            config.timestep_type = TimestepType::Discrete;
        }
        if !self.has("interpolation_type") {
            config.interpolation_type = Interpolation::Linear;
        }
        if !self.has("sigmas") {
            config.sigma_curve = SigmaCurve::Trained;
            config.sigmas = None;
        }
        if !self.has("timesteps") {
            config.timesteps = None;
        }
        if !self.has("schedule_type") {
            config.schedule_type = None;
        }
        config
    }
}
