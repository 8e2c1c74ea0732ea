//! DPM-Solver-2 with fresh noise at every step, as diffusers'
//! `KDPM2AncestralDiscreteScheduler`: two calls of the UNet a step, except the last.

use super::Scheduler;
use super::class::{CURVES, Class, Defaults, NOISE_OR_V, SCHEDULE_TYPE, SPACING, TRAINING};
use super::config::Config;
use super::dpm2::{START, between, interleaved, levels};
use super::euler_ancestral::split;
use super::grid::Grid;
use super::linear::{Linear, keep, mix, way};
use super::step::{Combination, Step};
use super::table::Table;
use crate::Result;
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Dpm2Ancestral::NAME,
    others: &["dpm2_a_karras", "DPM2 a", "dpm_2_a", "dpm_2_ancestral"],
    class: "KDPM2AncestralDiscreteScheduler",
    options: &[TRAINING, SPACING, CURVES, SCHEDULE_TYPE],
    defaults: Defaults::SECOND_ORDER,
    predictions: NOISE_OR_V,
    edm: None,
    takes_levels: false,
    implies: &[("sigmas", "karras")],
    make: |config| Ok(Box::new(Dpm2Ancestral::new(config)?)),
};

/// First to the level between this and `σ_down`, then once more from the start to
/// `σ_down` with the slope found there, and fresh noise of deviation `σ_up`.
#[derive(Debug, Clone)]
struct Dpm2Ancestral {
    config: Config,
    table: Table,
}

/// Levels of one step.
#[derive(Clone, Copy, Default)]
struct Levels {
    middle: f32,
    down: f32,
    up: f32,
}

impl Levels {
    fn of(pair: &[f32]) -> Self {
        let (down, up) = split(pair[0], pair[1]);
        Levels {
            middle: between(pair[0], down),
            down,
            up,
        }
    }
}

impl Dpm2Ancestral {
    const NAME: &str = "DPM2 a Karras";

    fn new(config: &Config) -> Result<Self> {
        Ok(Dpm2Ancestral {
            config: config.clone(),
            table: Table::new(config)?,
        })
    }

    fn first(&self, timestep: f32, sigma: f32, to: Levels) -> Step {
        let slope = self.config.preconditioning().slope(f64::from(sigma));
        let update = Linear::SAMPLE + slope * way(sigma, to.middle);
        Step {
            timestep,
            input_scale: self.config.preconditioning().input_scale(sigma),
            mix: mix(sigma),
            draws_noise: false,
            store: vec![keep(START, Linear::SAMPLE.with(&[]))],
            update: update.with(&[]),
        }
    }

    /// `start` is the level where the step started, `own` that of this entry.
    fn second(&self, timestep: f32, start: f32, own: f32, to: Levels) -> Step {
        let slope = self.config.preconditioning().slope(f64::from(to.middle));
        let update = slope * way(start, to.down);
        Step {
            timestep,
            input_scale: self.config.preconditioning().input_scale(to.middle),
            mix: mix(own),
            draws_noise: true,
            store: Vec::new(),
            update: Combination {
                noise: f64::from(to.up),
                ..update.with(&[(START, 1.0)])
            },
        }
    }
}

impl Scheduler for Dpm2Ancestral {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn order(&self) -> usize {
        2
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        interleaved(&self.config, &self.table, steps, |from, to| {
            Levels::of(&[from, to]).middle
        })
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let end = part.end.min(grid.timesteps.len());
        let steps: Vec<Levels> = levels(grid).windows(2).map(Levels::of).collect();
        let at = |k: usize| steps.get(k.div_ceil(2)).copied().unwrap_or_default();
        (part.start..end)
            .map(|i| {
                let (t, own) = (grid.timesteps[i], grid.sigmas[i]);
                match (i - part.start).is_multiple_of(2) {
                    true => self.first(t, own, at(i)),
                    false => self.second(t, grid.sigmas[i - 1], own, at(i - 1)),
                }
            })
            .collect()
    }
}
