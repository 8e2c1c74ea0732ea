//! DEIS with polynomials in the logarithm of the noise level (Zhang and Chen 2022,
//! "log ρ"), as diffusers' `DEISMultistepScheduler`.

use super::class::{ANY, CURVES, Class, Defaults, SPACING, THRESHOLD, TIMESTEPS, TRAINING};
use super::exponential::{Weights, converted};
use super::solver::Algorithm;
use super::step::{Combination, Step};
use super::table::Table;
use super::variance::{self, Kind, Level};
use super::{Config, Grid, Scheduler};
use crate::Result;
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Deis::NAME,
    others: &["deis"],
    class: "DEISMultistepScheduler",
    options: &[
        TRAINING,
        SPACING,
        CURVES,
        TIMESTEPS,
        THRESHOLD,
        &["solver_order", "lower_order_final"],
    ],
    defaults: Defaults::USUAL,
    predictions: ANY,
    edm: None,
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(Deis::new(config)?)),
};

/// Slot `k % order` holds the noise that step `k` predicts. `algorithm_type` and
/// `solver_type` are not read: the class has one of each.
#[derive(Debug, Clone)]
pub struct Deis {
    config: Config,
    table: Table,
    order: usize,
}

impl Deis {
    /// Its name in requests.
    pub const NAME: &str = "DEIS";

    /// Fails where the configuration's variances give no positive noise levels.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Deis {
            config: config.clone(),
            table: variance::table(config, Kind::Deis)?,
            order: config.solver_order.unwrap_or(2),
        })
    }

    /// The order of step `k` of `n`, `done` steps after the start.
    fn order_at(&self, k: usize, n: usize, done: usize) -> usize {
        let lower_final = self.config.lower_order_final.unwrap_or(true) && n < 15;
        let most = if lower_final { n - k } else { self.order };
        self.order.min(most).min(done + 1)
    }

    fn step(&self, grid: &Grid, levels: &[Level], k: usize, done: usize) -> Step {
        let slot = |back: usize| (k - back) % self.order;
        let (from, to) = (levels[k], levels[k + 1]);
        let order = self.order_at(k, grid.timesteps.len(), done);
        let rhos: Vec<f64> = (0..order).map(|i| f64::from(grid.sigmas[k - i])).collect();
        let factors = match differ(&rhos) {
            true if order > 1 => integrals(&rhos, f64::from(grid.sigmas[k + 1]))
                .into_iter()
                .map(|integral| to.alpha * integral)
                .collect(),
            _ => vec![Weights::new(Algorithm::DpmSolver, from, to).value],
        };
        let history = factors
            .into_iter()
            .enumerate()
            .map(|(back, factor)| (slot(back), factor))
            .collect();
        Step {
            timestep: grid.timesteps[k],
            input_scale: 1.0,
            mix: from.mix(),
            draws_noise: false,
            store: converted(
                &self.config,
                Algorithm::DpmSolver,
                from,
                slot(0),
                self.order,
            ),
            update: Combination {
                sample: to.alpha / from.alpha,
                history,
                ..Combination::default()
            },
        }
    }
}

fn differ(rhos: &[f64]) -> bool {
    rhos.windows(2).all(|pair| pair[0] != pair[1])
}

/// The integrals from `rhos[0]` to `end` of the Lagrange polynomials in `ln ρ` over
/// two or three nodes `rhos`.
fn integrals(rhos: &[f64], end: f64) -> Vec<f64> {
    let logs: Vec<f64> = rhos.iter().map(|rho| rho.ln()).collect();
    let at = |i: usize| logs[i % logs.len()];
    (0..rhos.len())
        .map(|i| {
            let (own, c, d) = (at(i), at(i + 1), at(i + 2));
            // Antiderivatives of (ln t − c)/… and of (ln t − c)(ln t − d)/….
            let primitive = |t: f64| {
                let log = t.ln();
                match rhos.len() {
                    2 => t * (log - c - 1.0) / (own - c),
                    _ => {
                        let square = log * log - 2.0 * log + 2.0;
                        let linear = (c + d) * (log - 1.0);
                        t * (square - linear + c * d) / ((own - c) * (own - d))
                    }
                }
            };
            primitive(end) - primitive(rhos[0])
        })
        .collect()
}

impl Scheduler for Deis {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        variance::grid(&self.config, &self.table, Kind::Deis, steps)
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        variance::steps(&self.config, grid, part, |levels, k, done| {
            self.step(grid, levels, k, done)
        })
    }
}
