//! Euler's method on the probability-flow equation (Karras et al. 2022,
//! algorithm 1 without churn), as diffusers' `EulerDiscreteScheduler`.

use super::Scheduler;
use super::config::{Config, Prediction};
use super::grid::Grid;
use super::step::{Combination, NoiseMix, Step};
use super::table::Table;
use crate::Result;
use std::ops::Range;

/// `x + (σ_next − σ)·d` with `d = (x − x₀)/σ`, where the picture `x₀` is:
///
/// | prediction | `x₀` |
/// |---|---|
/// | epsilon | `x − σ·m` |
/// | v | `x/(σ²+1) − m·σ/√(σ²+1)` |
/// | sample | `m` |
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
        // In f32 as in PyTorch, where noise levels are f32 tensors.
        let input_scale = 1.0 / (sigma * sigma + 1.0).sqrt();
        let mix = NoiseMix {
            original: 1.0,
            noise: f64::from(sigma),
        };
        let (sigma, next) = (f64::from(sigma), f64::from(next));
        let dt = next - sigma;
        let squares = sigma * sigma + 1.0;
        let (sample, output) = match self.config.prediction_type {
            Prediction::Epsilon => (1.0, dt),
            Prediction::V => (1.0 + dt * sigma / squares, dt / squares.sqrt()),
            Prediction::Sample => (next / sigma, -dt / sigma),
        };
        Step {
            timestep,
            input_scale,
            mix,
            draws_noise: false,
            store: Vec::new(),
            update: Combination {
                sample,
                output,
                ..Combination::default()
            },
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
        let levels = grid.sigmas.windows(2);
        let all = grid.timesteps.iter().zip(levels);
        let (skip, take) = (part.start, part.len());
        all.skip(skip)
            .take(take)
            .map(|(t, level)| self.step(*t, level[0], level[1]))
            .collect()
    }
}
