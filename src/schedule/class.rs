//! A scheduler's row in the table: its names and what it takes.

use super::Scheduler;
use super::config::{
    BetaSchedule, Config, FinalSigma, Interpolation, Prediction, SigmaCurve, Spacing, TimestepType,
};
use crate::{Error, Result};

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

    /// Makes the scheduler: fills in the class's defaults, and drops what it has not.
    pub fn create(&self, config: &Config) -> Result<Box<dyn Scheduler>> {
        let config = self.own(config);
        if !self.predictions.contains(&config.prediction_type) {
            let known: Vec<_> = self.predictions.iter().map(|p| p.name()).collect();
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
