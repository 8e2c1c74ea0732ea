//! The keys of a configuration, and what their values may be.

use super::config::{
    BY_CLASS, BetaSchedule, Config, FinalSigma, Interpolation, Prediction, SigmaCurve, Spacing,
    TimestepType, Timesteps, VarianceType,
};
use super::read::{MOST_TIMESTEPS, Reader, Source};
use super::registry;
use super::schedule_type::ScheduleType;
use crate::{Error, Result};
use serde_json::Value;

impl Reader<'_> {
    /// The base with all keys laid over it.
    pub fn config(&self) -> Result<Config> {
        let base = self.base;
        let timesteps = self
            .count("num_train_timesteps", 1, MOST_TIMESTEPS)?
            .unwrap_or(base.num_train_timesteps);
        let mut config = Config {
            num_train_timesteps: timesteps,
            steps_offset: self
                .count("steps_offset", 0, timesteps)?
                .unwrap_or(base.steps_offset),
            sigma_curve: self.curve()?,
            sigma_min: self.level("sigma_min")?.or(base.sigma_min),
            sigma_max: self.level("sigma_max")?.or(base.sigma_max),
            rescale_betas_zero_snr: self
                .flag("rescale_betas_zero_snr")?
                .unwrap_or(base.rescale_betas_zero_snr),
            given: self.given(),
            ..base.clone()
        };
        if let Some(name) = self.text("_class_name")? {
            self.known_class(name)?;
            config.class_name = Some(name.to_owned());
        }
        self.betas(&mut config)?;
        self.choices(&mut config)?;
        self.bounds(&mut config)?;
        self.particular(&mut config)?;
        self.solver(&mut config)?;
        self.edm(&mut config)?;
        if let Source::Options = self.source {
            self.requested(&mut config)?;
        }
        Ok(config)
    }

    /// Fails for a class that no scheduler here stands for: what its model predicts
    /// is not known.
    fn known_class(&self, name: &str) -> Result<()> {
        if registry::is_class(name) {
            return Ok(());
        }
        let Source::File(path) = self.source else {
            return Ok(());
        };
        let kind = match name.contains("FlowM") || name.contains("FlowMap") {
            true => ", of a flow matching model, which SDXL is not",
            false => ", which is not known",
        };
        let problem = format!("_class_name is {name:?}{kind}");
        let classes: Vec<_> = registry::classes().collect();
        let remedy = format!(
            "known are {}; if the model was trained as SDXL was, write EulerDiscreteScheduler",
            classes.join(", ")
        );
        Err(Error::file(path, problem, remedy))
    }

    /// The keys of [`BY_CLASS`] that are set here or in the base.
    fn given(&self) -> Vec<&'static str> {
        let set = |key: &&str| self.base.given.contains(key) || self.get(key).is_some();
        BY_CLASS.into_iter().filter(set).collect()
    }

    fn betas(&self, config: &mut Config) -> Result<()> {
        let base = self.base;
        config.beta_start = self.variance("beta_start")?.unwrap_or(base.beta_start);
        config.beta_end = self.variance("beta_end")?.unwrap_or(base.beta_end);
        let names = [
            ("linear", BetaSchedule::Linear),
            ("scaled_linear", BetaSchedule::ScaledLinear),
            ("squaredcos_cap_v2", BetaSchedule::SquaredCosCapV2),
            ("exp", BetaSchedule::Exp),
            ("sigmoid", BetaSchedule::Sigmoid),
            ("laplace", BetaSchedule::Laplace),
        ];
        config.beta_schedule = self
            .choice("beta_schedule", &names)?
            .unwrap_or(base.beta_schedule);
        let allowed = "a list of 1 to 100000 numbers above 0 and below 1";
        let list = self.numbers("trained_betas", allowed, |b| b > 0.0 && b < 1.0)?;
        config.trained_betas = list.or_else(|| base.trained_betas.clone());
        Ok(())
    }

    fn choices(&self, config: &mut Config) -> Result<()> {
        let names = [
            ("epsilon", Prediction::Epsilon),
            ("v_prediction", Prediction::V),
            ("sample", Prediction::Sample),
            ("original_sample", Prediction::Sample),
        ];
        let prediction = self.choice("prediction_type", &names)?;
        config.prediction_type = prediction.unwrap_or(self.base.prediction_type);
        let names = [
            ("linspace", Spacing::Linspace),
            ("leading", Spacing::Leading),
            ("trailing", Spacing::Trailing),
        ];
        let spacing = self.choice("timestep_spacing", &names)?;
        config.timestep_spacing = spacing.unwrap_or(self.base.timestep_spacing);
        let names = [
            ("zero", FinalSigma::Zero),
            ("sigma_min", FinalSigma::SigmaMin),
        ];
        let last = self.choice("final_sigmas_type", &names)?;
        config.final_sigmas_type = last.unwrap_or(self.base.final_sigmas_type);
        let names = [
            ("discrete", TimestepType::Discrete),
            ("continuous", TimestepType::Continuous),
        ];
        let kind = self.choice("timestep_type", &names)?;
        config.timestep_type = kind.unwrap_or(self.base.timestep_type);
        let names = [
            ("linear", Interpolation::Linear),
            ("log_linear", Interpolation::LogLinear),
        ];
        let kind = self.choice("interpolation_type", &names)?;
        config.interpolation_type = kind.unwrap_or(self.base.interpolation_type);
        Ok(())
    }

    fn bounds(&self, config: &mut Config) -> Result<()> {
        let base = self.base;
        config.clip_sample = self.flag("clip_sample")?.or(base.clip_sample);
        config.thresholding = self.flag("thresholding")?.or(base.thresholding);
        config.clip_sample_range = self.level("clip_sample_range")?.or(base.clip_sample_range);
        config.sample_max_value = self.level("sample_max_value")?.or(base.sample_max_value);
        config.dynamic_thresholding_ratio = self
            .share("dynamic_thresholding_ratio")?
            .or(base.dynamic_thresholding_ratio);
        Ok(())
    }

    /// Keys of one or two classes.
    fn particular(&self, config: &mut Config) -> Result<()> {
        let base = self.base;
        config.set_alpha_to_one = self.flag("set_alpha_to_one")?.or(base.set_alpha_to_one);
        config.skip_prk_steps = self.flag("skip_prk_steps")?.or(base.skip_prk_steps);
        let names = [
            ("fixed_small", VarianceType::FixedSmall),
            ("fixed_small_log", VarianceType::FixedSmall),
            ("fixed_large", VarianceType::FixedLarge),
            ("fixed_large_log", VarianceType::FixedLarge),
            ("learned", VarianceType::Learned),
            ("learned_range", VarianceType::Learned),
        ];
        let kind = self.choice("variance_type", &names)?;
        config.variance_type = kind.or(base.variance_type);
        config.original_inference_steps = self
            .count("original_inference_steps", 1, MOST_TIMESTEPS)?
            .or(base.original_inference_steps);
        config.timestep_scaling = self.level("timestep_scaling")?.or(base.timestep_scaling);
        Ok(())
    }

    /// Options that no file has.
    fn requested(&self, config: &mut Config) -> Result<()> {
        config.eta = self.share("eta")?.or(self.base.eta);
        let kind = self.choice("schedule_type", &ScheduleType::NAMES)?;
        config.schedule_type = kind.or(self.base.schedule_type);
        let other = ["sigmas", "timesteps", "timestep_spacing"]
            .into_iter()
            .find(|key| self.get(key).is_some());
        if let (Some(value), Some(other)) = (self.get("schedule_type"), other) {
            let allowed = format!("a name alone, without {other}; leave one of them out");
            return Err(self.wrong("schedule_type", value, &allowed));
        }
        config.discard_next_to_last_sigma = self.flag("discard_next_to_last_sigma")?;
        if let Some(value) = self.get("timesteps") {
            config.timesteps = Some(self.timesteps(value, config.num_train_timesteps)?);
        }
        if self.get("sigmas").is_some_and(Value::is_array) {
            let allowed = "a curve's name, or at least two falling noise levels";
            let list = self.numbers("sigmas", allowed, |s| (0.0..=1e6).contains(&s))?;
            let list = self.falling("sigmas", list.unwrap_or_default(), allowed)?;
            if list.len() < 2 {
                return Err(self.wrong("sigmas", &Value::from(list), allowed));
            }
            config.sigmas = Some(list);
        }
        Ok(())
    }

    fn timesteps(&self, value: &Value, trained: usize) -> Result<Timesteps> {
        if value == "ays" {
            return Ok(Timesteps::AlignYourSteps);
        }
        let most = trained as f64;
        let allowed = format!("ays, or falling timesteps from {} to 0", most - 1.0);
        let list = self.numbers("timesteps", &allowed, |t| (0.0..most).contains(&t))?;
        let list = self.falling("timesteps", list.unwrap_or_default(), &allowed)?;
        Ok(Timesteps::Listed(list))
    }

    fn curve(&self) -> Result<SigmaCurve> {
        if let (Source::Options, Some(value)) = (self.source, self.get("sigmas")) {
            let names = [
                ("trained", SigmaCurve::Trained),
                ("karras", SigmaCurve::Karras),
                ("exponential", SigmaCurve::Exponential),
                ("beta", SigmaCurve::Beta),
            ];
            return match value.is_array() {
                true => Ok(SigmaCurve::Trained),
                false => Ok(self
                    .choice("sigmas", &names)?
                    .unwrap_or(SigmaCurve::Trained)),
            };
        }
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
