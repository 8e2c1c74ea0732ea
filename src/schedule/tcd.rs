//! Trajectory consistency distillation (Zheng et al. 2024), as diffusers'
//! `TCDScheduler`: each step goes further down than the next timestep, and back up
//! with fresh noise.

use super::Scheduler;
use super::alphas::{Alphas, noise, picture};
use super::class::{ANY, Class, Defaults, TIMESTEPS, TRAINING, ZERO_SNR};
use super::config::Config;
use super::grid::Grid;
use super::lcm::distilled;
use super::step::Step;
use crate::Result;
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Tcd::NAME,
    others: &["tcd"],
    class: "TCDScheduler",
    // diffusers' class also has bounds for the picture, and never applies them.
    options: &[
        TRAINING,
        TIMESTEPS,
        ZERO_SNR,
        &["original_inference_steps", "eta"],
    ],
    defaults: Defaults::CONSISTENCY,
    predictions: ANY,
    edm: None,
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(Tcd::new(config)?)),
};

/// To timestep `(1 − eta)·next`, and from there back up to `next`; the last step ends
/// at timestep 0. The paper calls `eta` gamma.
#[derive(Debug, Clone)]
struct Tcd {
    config: Config,
    alphas: Alphas,
    eta: f64,
}

impl Tcd {
    const NAME: &str = "TCD";

    fn new(config: &Config) -> Result<Self> {
        Ok(Tcd {
            alphas: Alphas::new(config, config.set_alpha_to_one.unwrap_or(true))?,
            // What diffusers' pipelines pass where a request is silent; the class's own
            // default, which they never use, is 0.3.
            eta: config.eta.unwrap_or(0.0),
            config: config.clone(),
        })
    }

    fn step(&self, t: i64, next: Option<i64>) -> Step {
        let prediction = self.config.prediction_type;
        let to = next.unwrap_or(0);
        // In f32, which decides where the product is nearly whole.
        let down = ((1.0 - self.eta) as f32 * to as f32).floor() as i64;
        let (bar, low) = (self.alphas.at(t), self.alphas.at(down));
        let moved = picture(prediction, bar) * f64::from(low.sqrt())
            + noise(prediction, bar) * f64::from((1.0 - low).sqrt());
        let draws_noise = self.eta > 0.0 && next.is_some();
        let (keep, fresh) = match draws_noise {
            true => {
                let ratio = self.alphas.at(to) / low;
                (ratio.sqrt(), (1.0 - ratio).sqrt())
            }
            false => (1.0, 0.0),
        };
        Step {
            timestep: t as f32,
            input_scale: 1.0,
            mix: self.alphas.mix(t),
            draws_noise,
            store: Vec::new(),
            update: (moved * f64::from(keep)).with_noise(f64::from(fresh)),
        }
    }
}

impl Scheduler for Tcd {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        let grid = distilled(&self.config, steps)?;
        self.alphas.check(&self.config, &grid)?;
        Ok(grid)
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let all = grid.whole_pairs(part);
        all.map(|(t, next)| self.step(t, next)).collect()
    }
}
