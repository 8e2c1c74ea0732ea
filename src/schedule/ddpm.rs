//! Denoising diffusion probabilistic models (Ho et al. 2020, equations 6 and 7), as
//! diffusers' `DDPMScheduler`.

use super::Scheduler;
use super::alphas::{Alphas, picture};
use super::class::{ANY, CLIP, Class, Defaults, SPACING, THRESHOLD, TIMESTEPS, TRAINING, ZERO_SNR};
use super::config::{Config, VarianceType};
use super::grid::Grid;
use super::linear::{Linear, bound, bounded_sum};
use super::step::{Bound, Step};
use crate::{Error, Result};
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Ddpm::NAME,
    others: &["ddpm"],
    class: "DDPMScheduler",
    options: &[
        TRAINING,
        SPACING,
        TIMESTEPS,
        ZERO_SNR,
        CLIP,
        THRESHOLD,
        &["variance_type"],
    ],
    defaults: Defaults::LEADING,
    predictions: ANY,
    edm: None,
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(Ddpm::new(config)?)),
};

/// The mean of the posterior given `x₀`, and noise of a fixed variance but at
/// timestep 0.
#[derive(Debug, Clone)]
struct Ddpm {
    config: Config,
    alphas: Alphas,
    bound: Bound,
    variance: VarianceType,
}

impl Ddpm {
    const NAME: &str = "DDPM";

    fn new(config: &Config) -> Result<Self> {
        let variance = config.variance_type.unwrap_or(VarianceType::FixedSmall);
        if variance == VarianceType::Learned {
            let allowed = "needs a UNet that predicts variances, and SDXL's does not; \
                           choose fixed_small or fixed_large";
            return Err(Error::invalid("variance_type", "learned", allowed));
        }
        Ok(Ddpm {
            alphas: Alphas::new(config, true)?,
            bound: bound(config, true),
            variance,
            config: config.clone(),
        })
    }

    fn step(&self, t: i64, towards: i64) -> Step {
        // In f32 as in PyTorch: the differences lose digits at small timesteps.
        let (bar, next) = (self.alphas.at(t), self.alphas.towards(towards));
        let (rest, next_rest) = (1.0 - bar, 1.0 - next);
        let alpha = bar / next;
        let beta = 1.0 - alpha;
        let variance = match self.variance {
            VarianceType::FixedLarge => beta,
            _ => (next_rest / rest * beta).max(1e-20),
        };
        let draws_noise = t > 0;
        let noise = if draws_noise { variance.sqrt() } else { 0.0 };
        let (store, update) = bounded_sum(
            self.bound,
            picture(self.config.prediction_type, bar),
            f64::from(next.sqrt() * beta / rest),
            Linear::SAMPLE * f64::from(alpha.sqrt() * next_rest / rest),
            f64::from(noise),
        );
        Step {
            timestep: t as f32,
            input_scale: 1.0,
            mix: self.alphas.mix(t),
            draws_noise,
            store,
            update,
        }
    }
}

impl Scheduler for Ddpm {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        let grid = Grid::of_timesteps(&self.config, steps)?;
        self.alphas.check(&self.config, &grid)?;
        Ok(grid)
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let all = grid.whole_pairs(part);
        all.map(|(t, next)| self.step(t, next.unwrap_or(-1)))
            .collect()
    }
}
