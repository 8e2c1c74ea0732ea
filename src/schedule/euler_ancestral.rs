//! Euler's method with fresh noise at every step, as diffusers'
//! `EulerAncestralDiscreteScheduler`.

use super::Scheduler;
use super::class::{Class, Defaults, EDM, NOISE_OR_V, SCHEDULE_TYPE, SPACING, TRAINING, ZERO_SNR};
use super::config::Config;
use super::grid::Grid;
use super::linear::{Linear, mix, way};
use super::step::Step;
use super::table::Table;
use crate::Result;
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: EulerAncestral::NAME,
    others: &["euler_a", "euler_ancestral"],
    class: "EulerAncestralDiscreteScheduler",
    options: &[TRAINING, SPACING, SCHEDULE_TYPE, ZERO_SNR],
    defaults: Defaults::USUAL,
    predictions: NOISE_OR_V,
    edm: Some(&[EDM]),
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(EulerAncestral::new(config)?)),
};

/// `x + (σ_down − σ)·d + σ_up·n`.
#[derive(Debug, Clone)]
struct EulerAncestral {
    config: Config,
    table: Table,
}

impl EulerAncestral {
    const NAME: &str = "Euler a";

    fn new(config: &Config) -> Result<Self> {
        Ok(EulerAncestral {
            config: config.clone(),
            table: Table::new(config)?,
        })
    }

    fn step(&self, timestep: f32, sigma: f32, next: f32) -> Step {
        let (down, up) = split(sigma, next);
        let slope = self.config.preconditioning().slope(f64::from(sigma));
        let update = Linear::SAMPLE + slope * way(sigma, down);
        Step {
            timestep,
            input_scale: self.config.preconditioning().input_scale(sigma),
            mix: mix(sigma),
            draws_noise: true,
            store: Vec::new(),
            update: update.with_noise(f64::from(up)),
        }
    }
}

impl Scheduler for EulerAncestral {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        Grid::of_sigmas(&self.config, &self.table, steps)
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let all = grid.transitions(part);
        all.map(|(t, sigma, next)| self.step(t, sigma, next))
            .collect()
    }
}

/// `(σ_down, σ_up)`: how far to go down so that fresh noise of deviation `σ_up`
/// leads back up to `to`, `σ_down² + σ_up² = to²`. In f32 as in PyTorch, which
/// cancels digits at small levels.
pub(super) fn split(from: f32, to: f32) -> (f32, f32) {
    if from <= 0.0 {
        return (0.0, 0.0);
    }
    let up = to * to * (from * from - to * to) / (from * from);
    let up = up.max(0.0).sqrt();
    ((to * to - up * up).max(0.0).sqrt(), up)
}
