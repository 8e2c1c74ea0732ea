//! Models that were trained over noise levels rather than timesteps (Karras et al.
//! 2022, "EDM"), as diffusers' `EDMEulerScheduler` and
//! `EDMDPMSolverMultistepScheduler` run them: Playground v2.5 and CosXL.
//!
//! Latents are `x₀ + σ·n`, and the UNet is told `ln(σ)/4`. What goes into it and what
//! comes out is [`super::Preconditioning`]'s.

use super::choices::FIELD;
use super::config::{Config, FinalSigma, Prediction, SigmaCurve};
use super::grid::{Grid, linspace, ln_f32, within_training};
use super::read::{Reader, Source};
use crate::{Error, Result};

/// The diffusers classes whose files say that a model is of this kind.
pub(super) const CLASSES: [&str; 2] = ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"];

/// What such a model is, beside `sigma_min` and `sigma_max`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edm {
    /// Deviation of the training pictures.
    pub sigma_data: f64,
    /// Exponent of the Karras curve.
    pub rho: f64,
    /// `sigma_schedule`: Karras or exponential.
    pub curve: SigmaCurve,
}

impl Default for Edm {
    fn default() -> Self {
        Self {
            sigma_data: 0.5,
            rho: 7.0,
            curve: SigmaCurve::Karras,
        }
    }
}

const SIGMA_MIN: f64 = 0.002;
const SIGMA_MAX: f64 = 80.0;

impl Edm {
    /// The noise levels of a run: both ends of the range, and what is between them
    /// over the curve.
    pub(super) fn grid(&self, config: &Config, steps: usize) -> Result<Grid> {
        within_training(config, steps)?;
        let (low, high) = range(config);
        if low >= high {
            let allowed = format!("must be below sigma_max, which is {high}");
            return Err(Error::invalid("sigma_min", low, allowed));
        }
        let ramp = linspace(0.0, 1.0, steps).into_iter();
        let curve = match config.sigma_curve {
            SigmaCurve::Trained => self.curve,
            asked => asked,
        };
        let root = |sigma: f64| sigma.powf(1.0 / self.rho);
        let level = |ramp: f64| match curve {
            SigmaCurve::Karras => (root(high) + ramp * (root(low) - root(high))).powf(self.rho),
            _ => (high.ln() + ramp * (low.ln() - high.ln())).exp(),
        };
        if config.sigmas.is_some() || !matches!(curve, SigmaCurve::Karras | SigmaCurve::Exponential)
        {
            let given = if config.sigmas.is_some() {
                "a list"
            } else {
                "beta"
            };
            let allowed = format!("{ONLY}, which takes trained, karras and exponential");
            return Err(Error::invalid(FIELD, format!("sigmas={given}"), allowed));
        }
        let mut sigmas: Vec<f32> = ramp.map(|ramp| level(ramp) as f32).collect();
        let timesteps = sigmas.iter().map(|sigma| 0.25 * ln_f32(*sigma)).collect();
        sigmas.push(match config.final_sigmas_type {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => low as f32,
        });
        Ok(Grid {
            timesteps,
            sigmas,
            init_noise_sigma: (high * high + 1.0).sqrt() as f32,
        })
    }
}

/// How errors begin about what is not for such a model.
pub(super) const ONLY: &str = "does not go with a model trained over noise levels (EDM)";

/// Lowest and highest noise level.
pub(super) fn range(config: &Config) -> (f64, f64) {
    let low = config.sigma_min.unwrap_or(SIGMA_MIN);
    (low, config.sigma_max.unwrap_or(SIGMA_MAX))
}

impl Reader<'_> {
    /// Lays the keys of a file over `config`. A file that names its class says by it
    /// whether the model is of this kind.
    pub(super) fn edm(&self, config: &mut Config) -> Result<()> {
        let Source::File(_) = self.source else {
            return Ok(());
        };
        if let Some(class) = self.text("_class_name")? {
            let is_edm = CLASSES.contains(&class);
            if !is_edm && config.edm.is_some() {
                // The range was the other kind's.
                config.sigma_min = self.level("sigma_min")?;
                config.sigma_max = self.level("sigma_max")?;
            }
            config.edm = is_edm.then(|| config.edm.unwrap_or_default());
        }
        let Some(mut edm) = config.edm else {
            return Ok(());
        };
        edm.sigma_data = self.level("sigma_data")?.unwrap_or(edm.sigma_data);
        edm.rho = self.level("rho")?.unwrap_or(edm.rho);
        let names = [
            ("karras", SigmaCurve::Karras),
            ("exponential", SigmaCurve::Exponential),
        ];
        edm.curve = self.choice("sigma_schedule", &names)?.unwrap_or(edm.curve);
        if config.prediction_type == Prediction::Sample {
            let allowed = "epsilon or v_prediction, with an EDM scheduler";
            return Err(self.wrong("prediction_type", &"sample".into(), allowed));
        }
        let (low, high) = range(config);
        if low >= high {
            let allowed = format!("a number below sigma_max, which is {high}");
            return Err(self.wrong("sigma_min", &low.into(), &allowed));
        }
        // Keys that those classes do not read.
        (config.sigma_curve, config.clip_sample) = (SigmaCurve::Trained, None);
        config.rescale_betas_zero_snr = false;
        config.trained_betas = None;
        config.edm = Some(edm);
        Ok(())
    }
}
