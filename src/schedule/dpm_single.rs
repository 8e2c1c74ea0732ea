//! DPM-Solver and DPM-Solver++ in groups of up to three steps that lead from one
//! sample (Lu et al. 2022, algorithms 1 and 2), as diffusers'
//! `DPMSolverSinglestepScheduler`.

use super::class::{ANY, CURVES, Class, Defaults, THRESHOLD, TIMESTEPS, TRAINING};
use super::exponential::{self, Weights, converted};
use super::solver::{Algorithm, SolverType};
use super::step::{Bound, Combination, Step, Store};
use super::table::Table;
use super::variance::{self, Kind, Level};
use super::{Config, FinalSigma, Grid, Scheduler};
use crate::{Error, Result};
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: DpmSingle::NAME,
    others: &["dpmpp_2s", "DPM++ 2S"],
    class: "DPMSolverSinglestepScheduler",
    options: &[
        TRAINING,
        CURVES,
        TIMESTEPS,
        THRESHOLD,
        &[
            "solver_order",
            "algorithm_type",
            "solver_type",
            "final_sigmas_type",
            "lower_order_final",
            "lambda_min_clipped",
        ],
    ],
    defaults: Defaults::USUAL,
    predictions: ANY,
    edm: None,
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(DpmSingle::new(config)?)),
};

/// Slot `k % order` holds what step `k` integrated over, the slot after those the
/// latents at the start of the group, and the next is for bounding.
#[derive(Debug, Clone)]
pub struct DpmSingle {
    config: Config,
    table: Table,
    algorithm: Algorithm,
    order: usize,
}

impl DpmSingle {
    /// Its name in requests.
    pub const NAME: &str = "DPM Single";

    /// Fails where the configuration's variances give no positive noise levels, and
    /// where `algorithm_type` is not one of the class or does not go with the last
    /// noise level.
    pub fn new(config: &Config) -> Result<Self> {
        let algorithm = exponential::algorithm(config)?;
        if algorithm == Algorithm::SdeDpmSolver {
            let allowed = "must be dpmsolver, dpmsolver++ or sde-dpmsolver++ for DPM Single";
            return Err(Error::invalid("algorithm_type", algorithm.name(), allowed));
        }
        Ok(DpmSingle {
            config: config.clone(),
            table: variance::table(config, Kind::DpmSingle)?,
            algorithm,
            order: config.solver_order.unwrap_or(2),
        })
    }

    /// The order of each of `n` steps: groups of 1, 2, 3 and a shorter one to end with.
    fn orders(&self, n: usize) -> Vec<usize> {
        let clean = self.config.final_sigmas_type == FinalSigma::Zero;
        let lower_final = self.config.lower_order_final.unwrap_or(false)
            || !n.is_multiple_of(self.order)
            || clean;
        let mut orders: Vec<usize> = (0..n).map(|k| k % self.order + 1).collect();
        // A whole last group gives way to a step that reaches the end by itself.
        let ends_whole = lower_final && self.order > 1 && n.is_multiple_of(self.order);
        if let Some(last) = orders.last_mut()
            && (ends_whole || clean)
        {
            *last = 1;
        }
        orders
    }

    /// One step of order `order`, which goes from the sample `order − 1` steps back.
    fn step(&self, grid: &Grid, levels: &[Level], k: usize, order: usize) -> Step {
        let slot = |back: usize| (k - back) % self.order;
        let base = self.order;
        let (here, from, to) = (levels[k], levels[k + 1 - order], levels[k + 1]);
        let weights = Weights::new(self.algorithm, from, to);
        let mut store = converted(&self.config, self.algorithm, here, slot(0), base + 1);
        if order == 1 && self.order > 1 {
            store.push(Store {
                slot: base,
                value: Combination {
                    sample: 1.0,
                    ..Combination::default()
                },
                bound: Bound::None,
            });
        }
        let lambdas: Vec<f64> = levels[k + 1 - order..k + 2]
            .iter()
            .map(|level| level.lambda)
            .collect();
        let heun = self.config.solver_type == Some(SolverType::Heun);
        let mut history: Vec<(usize, f64)> = history(heun, &lambdas, weights)
            .into_iter()
            .enumerate()
            .map(|(since, factor)| (slot(order - 1 - since), factor))
            .collect();
        let mut sample = weights.sample;
        if order > 1 {
            history.push((base, sample));
            sample = 0.0;
        }
        Step {
            timestep: grid.timesteps[k],
            input_scale: 1.0,
            mix: here.mix(),
            draws_noise: self.algorithm.is_stochastic(),
            store,
            update: Combination {
                sample,
                history,
                noise: weights.noise,
                ..Combination::default()
            },
        }
    }
}

/// The factors of the results of a group, the earliest first, from the times of its
/// steps and of its end. Two equal times leave no slope between them.
fn history(heun: bool, lambdas: &[f64], weights: Weights) -> Vec<f64> {
    let h = lambdas[lambdas.len() - 1] - lambdas[0];
    let since = |i: usize| lambdas[i] - lambdas[0];
    match lambdas.len() {
        3 if since(1) != 0.0 => {
            let slope = if heun {
                weights.slope
            } else {
                0.5 * weights.value
            };
            let d1 = slope * h / since(1);
            vec![weights.value - d1, d1]
        }
        4 if since(2) != 0.0 && !heun => {
            let d1 = weights.slope * h / since(2);
            vec![weights.value - d1, 0.0, d1]
        }
        4 if since(1) != 0.0 && since(2) != since(1) && since(2) != 0.0 => {
            // Slopes over the first piece and over both, m₀ being the earliest.
            let (s1, s2) = (since(1), since(2));
            let (slope, bend) = (weights.slope, 2.0 * weights.bend * h);
            let short = h / s1 * (slope * s2 - bend) / (s2 - s1);
            let long = h / s2 * (bend - slope * s1) / (s2 - s1);
            vec![weights.value - short - long, short, long]
        }
        _ => vec![weights.value],
    }
}

impl Scheduler for DpmSingle {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        variance::grid(&self.config, &self.table, Kind::DpmSingle, steps)
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let levels = Level::all(&self.config, grid);
        let orders = self.orders(grid.timesteps.len());
        let (start, end) = (part.start, part.end.min(grid.timesteps.len()));
        // A run that starts within a group lacks the results before.
        (start..end)
            .map(|k| self.step(grid, &levels, k, orders[k].min(k - start + 1)))
            .collect()
    }
}
