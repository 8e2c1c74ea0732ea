//! Heun's method (Karras et al. 2022, algorithm 1 without churn), as diffusers'
//! `HeunDiscreteScheduler`: two calls of the UNet a step, except the last.

use super::Scheduler;
use super::class::{
    ANY, CLIP, CURVES, Class, Defaults, EDM, SCHEDULE_TYPE, SPACING, TIMESTEPS, TRAINING,
};
use super::config::Config;
use super::grid::{Grid, timestep_of};
use super::linear::{Linear, bound, keep, mix, way};
use super::step::{Bound, Combination, Step, Store};
use super::table::Table;
use crate::Result;
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Heun::NAME,
    others: &["heun"],
    class: "HeunDiscreteScheduler",
    options: &[TRAINING, SPACING, CURVES, TIMESTEPS, SCHEDULE_TYPE, CLIP],
    defaults: Defaults::SECOND_ORDER,
    predictions: ANY,
    edm: Some(&[EDM]),
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(Heun::new(config)?)),
};

/// First an Euler step, then once more from where it started with the mean of the
/// slopes at both ends.
#[derive(Debug, Clone)]
struct Heun {
    config: Config,
    table: Table,
    bound: Bound,
}

/// The slope at the step's start.
const SLOPE: usize = 0;
/// The latents at the step's start.
const START: usize = 1;
/// The clipped picture.
const PICTURE: usize = 2;

impl Heun {
    const NAME: &str = "Heun";

    fn new(config: &Config) -> Result<Self> {
        let config = Config {
            thresholding: None,
            ..config.clone()
        };
        Ok(Heun {
            bound: bound(&config, false),
            table: Table::new(&config)?,
            config,
        })
    }

    /// The slope at `sigma`, and the store that it needs.
    fn slope(&self, sigma: f32) -> (Option<Store>, Combination) {
        let model = self.config.preconditioning();
        let sigma = f64::from(sigma);
        if self.bound == Bound::None {
            return (None, model.slope(sigma).with(&[]));
        }
        let clipped = Store {
            slot: PICTURE,
            value: model.picture(sigma).with(&[]),
            bound: self.bound,
        };
        let slope = Linear::SAMPLE * (1.0 / sigma);
        (Some(clipped), slope.with(&[(PICTURE, -1.0 / sigma)]))
    }

    fn first(&self, sigma: f32, next: f32) -> (Vec<Store>, Combination) {
        let (clipped, slope) = self.slope(sigma);
        let kept = [keep(SLOPE, slope), keep(START, Linear::SAMPLE.with(&[]))];
        let stores = clipped.into_iter().chain(kept).collect();
        (stores, Linear::SAMPLE.with(&[(SLOPE, way(sigma, next))]))
    }

    fn second(&self, sigma: f32, next: f32) -> (Vec<Store>, Combination) {
        let (clipped, slope) = self.slope(next);
        let half = 0.5 * way(sigma, next);
        let mut update = Combination {
            sample: slope.sample * half,
            output: slope.output * half,
            history: vec![(START, 1.0), (SLOPE, half)],
            noise: 0.0,
        };
        let clipped_part = slope.history.iter().map(|(slot, f)| (*slot, f * half));
        update.history.extend(clipped_part);
        (clipped.into_iter().collect(), update)
    }
}

impl Scheduler for Heun {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn order(&self) -> usize {
        2
    }

    /// Every entry but the first is there twice. Where the last level is not zero, the
    /// last step too calls the UNet at its end.
    fn grid(&self, steps: usize) -> Result<Grid> {
        let grid = Grid::of_sigmas(&self.config, &self.table, steps)?;
        let (levels, last) = grid.sigmas.split_at(grid.timesteps.len());
        let mut timesteps = doubled(&grid.timesteps);
        let mut sigmas = [&doubled(levels), last].concat();
        if let [level] = *last
            && level > 0.0
        {
            timesteps.push(timestep_of(f64::from(level), &self.table.logs()) as f32);
            sigmas.push(level);
        }
        Ok(Grid {
            timesteps,
            sigmas,
            ..grid
        })
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let end = part.end.min(grid.timesteps.len());
        let sigma = |i: usize| grid.sigmas[i];
        (part.start..end)
            .map(|i| {
                let (store, update) = match (i - part.start).is_multiple_of(2) {
                    true => self.first(sigma(i), sigma(i + 1)),
                    false => self.second(sigma(i - 1), sigma(i)),
                };
                Step {
                    timestep: grid.timesteps[i],
                    input_scale: self.config.preconditioning().input_scale(grid.sigmas[i]),
                    mix: mix(grid.sigmas[i]),
                    draws_noise: false,
                    store,
                    update,
                }
            })
            .collect()
    }
}

/// Every value but the first twice.
fn doubled(values: &[f32]) -> Vec<f32> {
    let (first, rest) = values.split_at(values.len().min(1));
    let twice = rest.iter().flat_map(|x| [*x, *x]);
    first.iter().copied().chain(twice).collect()
}
