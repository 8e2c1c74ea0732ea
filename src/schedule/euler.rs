//! Euler's method on the probability-flow equation (Karras et al. 2022,
//! algorithm 1 without churn), as diffusers' `EulerDiscreteScheduler`.

use super::Scheduler;
use super::class::{
    ANY, CURVES, Class, Defaults, EDM, SCHEDULE_TYPE, SPACING, TIMESTEPS, TRAINING, ZERO_SNR,
};
use super::config::Config;
use super::grid::Grid;
use super::linear::{Linear, mix, way};
use super::step::Step;
use super::table::Table;
use crate::Result;
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Euler::NAME,
    others: &["euler", "EDMEulerScheduler"],
    class: "EulerDiscreteScheduler",
    options: &[
        TRAINING,
        SPACING,
        CURVES,
        TIMESTEPS,
        SCHEDULE_TYPE,
        ZERO_SNR,
        &["final_sigmas_type", "timestep_type", "interpolation_type"],
    ],
    defaults: Defaults::USUAL,
    predictions: ANY,
    edm: Some(&[EDM, &["final_sigmas_type"]]),
    takes_levels: true,
    implies: &[],
    make: |config| Ok(Box::new(Euler::new(config)?)),
};

/// `x + (σ_next − σ)·d` with `d = (x − x₀)/σ`.
#[derive(Debug, Clone)]
pub struct Euler {
    config: Config,
    table: Table,
}

impl Euler {
    /// Its name in requests.
    pub const NAME: &str = "Euler";

    /// Fails where the configuration's variances give no positive noise levels.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Euler {
            config: config.clone(),
            table: Table::new(config)?,
        })
    }

    fn step(&self, timestep: f32, sigma: f32, next: f32) -> Step {
        let slope = self.config.preconditioning().slope(f64::from(sigma));
        Step {
            timestep,
            input_scale: self.config.preconditioning().input_scale(sigma),
            mix: mix(sigma),
            draws_noise: false,
            store: Vec::new(),
            update: (Linear::SAMPLE + slope * way(sigma, next)).with(&[]),
        }
    }
}

impl Scheduler for Euler {
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
