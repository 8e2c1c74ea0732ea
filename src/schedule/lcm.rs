//! Latent consistency models (Luo et al. 2023), as diffusers' `LCMScheduler`: each
//! step predicts the picture and adds noise to it anew.

use super::Scheduler;
use super::alphas::{Alphas, picture};
use super::class::{ANY, CLIP, Class, Defaults, THRESHOLD, TIMESTEPS, TRAINING, ZERO_SNR};
use super::config::Config;
use super::grid::{Grid, linspace, listed, whole};
use super::linear::{Linear, bound, bounded_sum};
use super::step::{Bound, Step};
use crate::{Error, Result};
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Lcm::NAME,
    others: &["lcm"],
    class: "LCMScheduler",
    options: &[
        TRAINING,
        TIMESTEPS,
        ZERO_SNR,
        CLIP,
        THRESHOLD,
        &["original_inference_steps", "timestep_scaling"],
    ],
    defaults: Defaults::CONSISTENCY,
    predictions: ANY,
    edm: None,
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(Lcm::new(config)?)),
};

/// `√ᾱ_next·(c_out·x₀ + c_skip·x) + √(1 − ᾱ_next)·n`; the last step ends without the
/// noise.
#[derive(Debug, Clone)]
struct Lcm {
    config: Config,
    alphas: Alphas,
    bound: Bound,
    scaling: f64,
}

impl Lcm {
    const NAME: &str = "LCM";

    fn new(config: &Config) -> Result<Self> {
        Ok(Lcm {
            alphas: Alphas::new(config, config.set_alpha_to_one.unwrap_or(true))?,
            bound: bound(config, false),
            scaling: config.timestep_scaling.unwrap_or(10.0),
            config: config.clone(),
        })
    }

    fn step(&self, t: i64, next: Option<i64>) -> Step {
        /// Of the data, in the boundary conditions.
        const DEVIATION: f64 = 0.5;
        let bar = self.alphas.at(t);
        let scaled = t as f64 * self.scaling;
        let squares = scaled * scaled + DEVIATION * DEVIATION;
        let (skip, out) = (DEVIATION * DEVIATION / squares, scaled / squares.sqrt());
        let (keep, fresh) = match next {
            Some(next) => {
                let next = self.alphas.at(next);
                (f64::from(next.sqrt()), f64::from((1.0 - next).sqrt()))
            }
            None => (1.0, 0.0),
        };
        let (store, update) = bounded_sum(
            self.bound,
            picture(self.config.prediction_type, bar),
            keep * out,
            Linear::SAMPLE * (keep * skip),
            fresh,
        );
        Step {
            timestep: t as f32,
            input_scale: 1.0,
            mix: self.alphas.mix(t),
            draws_noise: next.is_some(),
            store,
            update,
        }
    }
}

impl Scheduler for Lcm {
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

/// `steps` of the timesteps that a consistency model was distilled with, evenly by
/// their number; or a request's own.
pub(super) fn distilled(config: &Config, steps: usize) -> Result<Grid> {
    if let Some(listed) = listed(config, steps)? {
        return Ok(Grid::of_whole(whole(listed)?.into_iter()));
    }
    let trained = config.num_train_timesteps;
    let original = config.original_inference_steps.unwrap_or(50);
    if original > trained {
        let allowed = format!("must be at most num_train_timesteps = {trained}");
        return Err(Error::invalid(
            "original_inference_steps",
            original,
            allowed,
        ));
    }
    if !(1..=original).contains(&steps) {
        let allowed = format!(
            "must be from 1 to {original}, the steps that the model was distilled with \
             (original_inference_steps)"
        );
        return Err(Error::invalid("steps", steps, allowed));
    }
    let stride = trained / original;
    let places = linspace(0.0, original as f64, steps + 1);
    let timesteps = places
        .into_iter()
        .take(steps)
        .map(|place| ((original - place as usize) * stride - 1) as f64);
    Ok(Grid::of_whole(timesteps))
}
