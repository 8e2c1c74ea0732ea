//! Denoising diffusion implicit models (Song et al. 2020, equations 12 and 16), as
//! diffusers' `DDIMScheduler`.

use super::Scheduler;
use super::alphas::{Alphas, noise, picture};
use super::class::{ANY, CLIP, Class, Defaults, SPACING, THRESHOLD, TRAINING, ZERO_SNR};
use super::config::Config;
use super::grid::Grid;
use super::linear::{bound, bounded_sum};
use super::step::{Bound, Step};
use crate::Result;
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Ddim::NAME,
    others: &["ddim"],
    class: "DDIMScheduler",
    options: &[
        TRAINING,
        SPACING,
        ZERO_SNR,
        CLIP,
        THRESHOLD,
        &["set_alpha_to_one", "eta"],
    ],
    defaults: Defaults::LEADING,
    predictions: ANY,
    edm: None,
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(Ddim::new(config)?)),
};

/// `√ᾱ_next·x₀ + √(1 − ᾱ_next − s²)·noise + s·n`, where `s` is `eta` times the
/// deviation of a full DDPM step.
#[derive(Debug, Clone)]
struct Ddim {
    config: Config,
    alphas: Alphas,
    bound: Bound,
    eta: f64,
}

impl Ddim {
    const NAME: &str = "DDIM";

    fn new(config: &Config) -> Result<Self> {
        Ok(Ddim {
            alphas: Alphas::new(config, config.set_alpha_to_one.unwrap_or(true))?,
            bound: bound(config, true),
            eta: config.eta.unwrap_or(0.0),
            config: config.clone(),
        })
    }

    fn step(&self, t: i64, towards: i64) -> Step {
        let prediction = self.config.prediction_type;
        let (bar, next) = (self.alphas.at(t), self.alphas.towards(towards));
        let variance = (1.0 - next) / (1.0 - bar) * (1.0 - bar / next);
        let fresh = self.eta * f64::from(variance.max(0.0).sqrt());
        let direction = (1.0 - f64::from(next) - fresh * fresh).max(0.0).sqrt();
        let (store, update) = bounded_sum(
            self.bound,
            picture(prediction, bar),
            f64::from(next.sqrt()),
            noise(prediction, bar) * direction,
            fresh,
        );
        Step {
            timestep: t as f32,
            input_scale: 1.0,
            mix: self.alphas.mix(t),
            draws_noise: self.eta > 0.0,
            store,
            update,
        }
    }
}

impl Scheduler for Ddim {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        let grid = Grid::of_timesteps(&self.config, steps)?;
        self.alphas.check(&self.config, &grid)?;
        Ok(grid)
    }

    /// A step leads `num_train_timesteps / steps` down, rounded, even where the
    /// next entry lies elsewhere.
    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let stride = self.config.num_train_timesteps / grid.timesteps.len().max(1);
        let (skip, take) = (part.start, part.len());
        let all = grid.timesteps.iter().map(|t| *t as i64);
        all.skip(skip)
            .take(take)
            .map(|t| self.step(t, t - stride as i64))
            .collect()
    }
}
