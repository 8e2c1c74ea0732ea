//! What solvers over timesteps, rather than noise levels, share: latents are
//! `√ᾱ·x₀ + √(1−ᾱ)·noise` throughout.

use super::config::{Config, Prediction};
use super::grid::Grid;
use super::linear::Linear;
use super::step::NoiseMix;
use super::table::{Table, alphas_cumprod};
use crate::{Error, Result};

/// The products `ᾱ` of the training. Roots and ratios of them are taken in f32,
/// where PyTorch takes them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Alphas {
    bars: Vec<f32>,
    /// After the last step.
    last: f32,
}

impl Alphas {
    /// `to_one`: whether `ᾱ` after the last step is 1 rather than the training's first.
    pub fn new(config: &Config, to_one: bool) -> Result<Self> {
        // Refuses variances that give no noise levels.
        Table::new(config)?;
        let bars = alphas_cumprod(config);
        let last = if to_one { 1.0 } else { bars[0] };
        Ok(Alphas { bars, last })
    }

    /// `ᾱ` at a timestep; beyond the ends those at the ends.
    pub fn at(&self, timestep: i64) -> f32 {
        let last = self.bars.len() as i64 - 1;
        self.bars[timestep.clamp(0, last) as usize]
    }

    /// `ᾱ` at the timestep that a step leads to, where a negative one is the end.
    pub fn towards(&self, timestep: i64) -> f32 {
        match timestep {
            0.. => self.at(timestep),
            _ => self.last,
        }
    }

    /// `add_noise` at a timestep.
    pub fn mix(&self, timestep: i64) -> NoiseMix {
        let bar = self.at(timestep);
        NoiseMix {
            original: f64::from(bar.sqrt()),
            noise: f64::from((1.0 - bar).sqrt()),
        }
    }

    /// Fails where a run starts from nothing but noise, and the model predicts that.
    pub fn check(&self, config: &Config, grid: &Grid) -> Result<()> {
        let silent = |t: &&f32| self.at(**t as i64) == 0.0;
        match grid.timesteps.iter().find(silent) {
            Some(t) if config.prediction_type == Prediction::Epsilon => {
                let allowed = format!(
                    "leaves no picture at timestep {t}, from where epsilon leads nowhere; \
                     set prediction_type to what the model predicts, or timestep_spacing to leading"
                );
                Err(Error::invalid("rescale_betas_zero_snr", true, allowed))
            }
            _ => Ok(()),
        }
    }
}

/// The picture `x₀` that the model predicts at `ᾱ = bar`.
pub(super) fn picture(prediction: Prediction, bar: f32) -> Linear {
    let (a, b) = roots(bar);
    match prediction {
        Prediction::Epsilon => Linear::new(1.0 / a, -b / a),
        Prediction::V => Linear::new(a, -b),
        Prediction::Sample => Linear::OUTPUT,
    }
}

/// The noise that the model predicts at `ᾱ = bar`.
pub(super) fn noise(prediction: Prediction, bar: f32) -> Linear {
    let (a, b) = roots(bar);
    match prediction {
        Prediction::Epsilon => Linear::OUTPUT,
        Prediction::V => Linear::new(b, a),
        Prediction::Sample => Linear::new(1.0 / b, -a / b),
    }
}

/// `√ᾱ` and `√(1−ᾱ)`.
fn roots(bar: f32) -> (f64, f64) {
    (f64::from(bar.sqrt()), f64::from((1.0 - bar).sqrt()))
}
