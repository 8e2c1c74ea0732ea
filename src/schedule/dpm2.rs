//! DPM-Solver-2 in noise levels (Karras et al. 2022, algorithm 2 without churn), as
//! diffusers' `KDPM2DiscreteScheduler`: two calls of the UNet a step, except the last.

use super::Scheduler;
use super::class::{CURVES, Class, Defaults, NOISE_OR_V, SCHEDULE_TYPE, SPACING, TRAINING};
use super::config::{Config, SigmaCurve};
use super::grid::{Grid, ln_f32, timestep_of};
use super::linear::{Linear, keep, mix, way};
use super::step::{Combination, Step, Store};
use super::table::Table;
use crate::Result;
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Dpm2::NAME,
    others: &["dpm2_karras", "DPM2", "dpm_2"],
    class: "KDPM2DiscreteScheduler",
    options: &[TRAINING, SPACING, CURVES, SCHEDULE_TYPE],
    defaults: Defaults::SECOND_ORDER,
    predictions: NOISE_OR_V,
    edm: None,
    takes_levels: false,
    implies: &[("sigmas", "karras")],
    make: |config| Ok(Box::new(Dpm2::new(config)?)),
};

/// First to the level between this and the next, then once more from the start over
/// the whole way with the slope found there.
#[derive(Debug, Clone)]
struct Dpm2 {
    config: Config,
    table: Table,
}

/// The slot of the latents at the step's start.
pub(super) const START: usize = 0;

impl Dpm2 {
    const NAME: &str = "DPM2 Karras";

    fn new(config: &Config) -> Result<Self> {
        Ok(Dpm2 {
            config: config.clone(),
            table: Table::new(config)?,
        })
    }

    /// To `middle`, from where a second call goes on.
    fn first(&self, sigma: f32, middle: f32) -> (Vec<Store>, Combination) {
        let slope = self.config.preconditioning().slope(f64::from(sigma));
        let store = keep(START, Linear::SAMPLE.with(&[]));
        let update = Linear::SAMPLE + slope * way(sigma, middle);
        (vec![store], update.with(&[]))
    }

    fn second(&self, sigma: f32, middle: f32, next: f32) -> (Vec<Store>, Combination) {
        let slope = self.config.preconditioning().slope(f64::from(middle));
        let update = slope * way(sigma, next);
        (Vec::new(), update.with(&[(START, 1.0)]))
    }
}

impl Scheduler for Dpm2 {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn order(&self) -> usize {
        2
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        interleaved(&self.config, &self.table, steps, |from, to| {
            between(to, from)
        })
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let end = part.end.min(grid.timesteps.len());
        let levels = levels(grid);
        // The level before place `k` of the interleaved list; none before the first.
        let middle = |k: usize| match k.div_ceil(2) {
            0 => 0.0,
            j => between(levels[j], levels[j - 1]),
        };
        (part.start..end)
            .map(|i| {
                let sigma = |k: usize| grid.sigmas[k];
                let (scaled_by, (store, update)) = match (i - part.start).is_multiple_of(2) {
                    true => {
                        let step = self.first(sigma(i), middle(i + 1));
                        (sigma(i), step)
                    }
                    false => {
                        let at = middle(i);
                        let step = self.second(sigma(i - 1), at, sigma(i));
                        (at, step)
                    }
                };
                Step {
                    timestep: grid.timesteps[i],
                    input_scale: self.config.preconditioning().input_scale(scaled_by),
                    mix: mix(grid.sigmas[i]),
                    draws_noise: false,
                    store,
                    update,
                }
            })
            .collect()
    }
}

/// Timesteps with those of the levels between them, and the levels as diffusers
/// repeats them: the first once, the others twice, and the final one thrice.
pub(super) fn interleaved(
    config: &Config,
    table: &Table,
    steps: usize,
    middle: impl Fn(f32, f32) -> f32,
) -> Result<Grid> {
    let grid = Grid::of_sigmas(config, table, steps)?;
    let mut own = grid.timesteps;
    if config.sigma_curve == SigmaCurve::Karras && config.schedule_type.is_none() {
        own.iter_mut().for_each(|t| *t = t.round_ties_even());
    }
    let logs = table.logs();
    let mut timesteps = vec![own[0]];
    for (pair, t) in grid.sigmas.windows(2).zip(&own[1..]) {
        let between = f64::from(middle(pair[0], pair[1]));
        timesteps.extend([timestep_of(between, &logs) as f32, *t]);
    }
    // A run that does not end at zero calls the UNet in the middle of its last step too.
    if let [.., from, to] = *grid.sigmas
        && to > 0.0
    {
        timesteps.push(timestep_of(f64::from(middle(from, to)), &logs) as f32);
    }
    let (first, rest) = grid.sigmas.split_at(1);
    let twice = rest.iter().flat_map(|s| [*s, *s]);
    let last = rest.last().copied();
    Ok(Grid {
        timesteps,
        sigmas: first.iter().copied().chain(twice).chain(last).collect(),
        init_noise_sigma: grid.init_noise_sigma,
    })
}

/// The levels of an interleaved grid, each once, the final one too.
pub(super) fn levels(grid: &Grid) -> Vec<f32> {
    grid.sigmas.iter().step_by(2).copied().collect()
}

/// The geometric mean of two levels, rounded where PyTorch rounds it; zero where
/// one of them is.
pub(super) fn between(a: f32, b: f32) -> f32 {
    if a <= 0.0 || b <= 0.0 {
        return 0.0;
    }
    let (a, b) = (ln_f32(a), ln_f32(b));
    f64::from(b - (b - a) * 0.5).exp() as f32
}
