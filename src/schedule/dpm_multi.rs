//! DPM-Solver and DPM-Solver++ with the results of earlier steps (Lu et al. 2022b,
//! algorithm 2), as diffusers' `DPMSolverMultistepScheduler`.

use super::class::{
    ANY, CURVES, Class, Defaults, EDM, SCHEDULE_TYPE, SPACING, THRESHOLD, TIMESTEPS, TRAINING,
    ZERO_SNR,
};
use super::exponential::{self, Weights, converted};
use super::solver::{Algorithm, SolverType};
use super::step::{Combination, Step};
use super::table::Table;
use super::variance::{self, Kind, Level};
use super::{Config, Grid, Scheduler};
use crate::{Error, Result};
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: DpmMulti::NAME,
    others: &["dpmpp_2m", "DPM++ 2M", "EDMDPMSolverMultistepScheduler"],
    class: "DPMSolverMultistepScheduler",
    options: &[
        TRAINING,
        SPACING,
        CURVES,
        TIMESTEPS,
        SCHEDULE_TYPE,
        ZERO_SNR,
        THRESHOLD,
        OWN,
        &["solver_order", "algorithm_type"],
    ],
    defaults: Defaults::USUAL,
    predictions: ANY,
    edm: Some(&[EDM, THRESHOLD, EDM_OWN]),
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(DpmMulti::new(config)?)),
};

pub(super) const CLASS_2M_SDE: Class = Class {
    name: DpmMulti::NAME_2M_SDE,
    others: &["dpmpp_2m_sde", "dpmpp_2m_sde_gpu"],
    options: STOCHASTIC,
    make: |config| Ok(Box::new(DpmMulti::two_m_sde(config)?)),
    ..CLASS
};

pub(super) const CLASS_3M_SDE: Class = Class {
    name: DpmMulti::NAME_3M_SDE,
    others: &["dpmpp_3m_sde", "dpmpp_3m_sde_gpu"],
    options: STOCHASTIC,
    // diffusers has no third order of this one.
    edm: None,
    make: |config| Ok(Box::new(DpmMulti::three_m_sde(config)?)),
    ..CLASS
};

/// What only this class takes.
const OWN: &[&str] = &[
    "solver_type",
    "final_sigmas_type",
    "lower_order_final",
    "euler_at_final",
    "use_lu_lambdas",
    "lambda_min_clipped",
];

/// What goes with a model trained over noise levels.
const EDM_OWN: &[&str] = &[
    "solver_type",
    "final_sigmas_type",
    "lower_order_final",
    "euler_at_final",
    "solver_order",
    "algorithm_type",
];

/// The names of the stochastic solvers say their order and equation.
const STOCHASTIC: &[&[&str]] = &[
    TRAINING,
    SPACING,
    CURVES,
    TIMESTEPS,
    SCHEDULE_TYPE,
    ZERO_SNR,
    THRESHOLD,
    OWN,
];

/// Slot `k % order` holds what step `k` integrated over: the picture or the noise.
#[derive(Debug, Clone)]
pub struct DpmMulti {
    name: &'static str,
    config: Config,
    table: Table,
    algorithm: Algorithm,
    order: usize,
}

impl DpmMulti {
    /// Its name in requests; by default DPM-Solver++ of order 2.
    pub const NAME: &str = "DPM Multi";
    /// The name of [`DpmMulti::two_m_sde`].
    pub const NAME_2M_SDE: &str = "DPM++ 2M SDE";
    /// The name of [`DpmMulti::three_m_sde`].
    pub const NAME_3M_SDE: &str = "DPM++ 3M SDE";

    /// Fails where the configuration's variances give no positive noise levels, and
    /// where `algorithm_type` cannot end at the last noise level.
    pub fn new(config: &Config) -> Result<Self> {
        let algorithm = exponential::algorithm(config)?;
        let order = config.solver_order.unwrap_or(2);
        if config.edm.is_some() && algorithm.is_stochastic() && order > 2 {
            let allowed = "must be 1 or 2 for sde-dpmsolver++ with a model trained over noise \
                           levels (EDM); choose DPM++ 2M SDE";
            return Err(Error::invalid("solver_order", order, allowed));
        }
        Ok(DpmMulti {
            name: Self::NAME,
            config: config.clone(),
            table: variance::table(config, Kind::DpmMulti)?,
            algorithm,
            order,
        })
    }

    /// The stochastic solver of order 2 over the picture.
    pub fn two_m_sde(config: &Config) -> Result<Self> {
        Self::stochastic(config, Self::NAME_2M_SDE, 2)
    }

    /// The stochastic solver of order 3 over the picture.
    pub fn three_m_sde(config: &Config) -> Result<Self> {
        Self::stochastic(config, Self::NAME_3M_SDE, 3)
    }

    fn stochastic(config: &Config, name: &'static str, order: usize) -> Result<Self> {
        let config = Config {
            algorithm_type: Some(Algorithm::SdeDpmSolverPlusPlus),
            solver_order: Some(order),
            ..config.clone()
        };
        let solver = DpmMulti::new(&config)?;
        Ok(DpmMulti { name, ..solver })
    }

    /// The order of step `k` of `n`, `done` steps after the start; k-diffusion lowers it
    /// only where the run ends at zero.
    fn order_at(&self, k: usize, n: usize, done: usize, ends_clean: bool) -> usize {
        let by_k_diffusion = self.config.schedule_type.is_some();
        let lower_final = self.config.lower_order_final.unwrap_or(!by_k_diffusion) && n < 15;
        let euler_final = lower_final || self.config.euler_at_final.unwrap_or(false) || ends_clean;
        let most = match n - k {
            1 if euler_final => 1,
            2 if lower_final => 2,
            // diffusers has no third order of this one.
            _ if self.algorithm == Algorithm::SdeDpmSolver => 2,
            _ => 3,
        };
        self.order.min(most).min(done + 1)
    }

    fn step(&self, grid: &Grid, levels: &[Level], k: usize, done: usize) -> Step {
        let slot = |back: usize| (k - back) % self.order;
        let (from, to) = (levels[k], levels[k + 1]);
        let ends_clean = levels.last().is_some_and(|level| level.is_clean());
        let count = grid.timesteps.len();
        let wanted = self.order_at(k, count, done, ends_clean);
        let mut weights = Weights::new(self.algorithm, from, to);
        let mut solver_type = self.config.solver_type;
        if self.config.schedule_type.is_some() {
            weights = weights.of_k_diffusion(self.algorithm, from, to);
            // Its solver of order 3 has no other second step.
            solver_type = solver_type.or((self.order == 3).then_some(SolverType::Heun));
            if k + 1 == count {
                // Latents that are not clean at the end are taken as `x₀ + σ·noise`.
                weights = weights.scaled(1.0 / to.alpha);
            }
        }
        let history = history(solver_type, &levels[..k + 2], wanted, weights)
            .into_iter()
            .enumerate()
            .map(|(back, factor)| (slot(back), factor))
            .collect();
        Step {
            timestep: grid.timesteps[k],
            input_scale: match self.config.edm {
                Some(_) => self.config.preconditioning().input_scale(grid.sigmas[k]),
                None => 1.0,
            },
            mix: from.mix(),
            draws_noise: self.algorithm.is_stochastic(),
            store: converted(&self.config, self.algorithm, from, slot(0), self.order),
            update: Combination {
                sample: weights.sample,
                history,
                noise: weights.noise,
                ..Combination::default()
            },
        }
    }
}

/// The factors of the results of this step, the last, and the one before it.
/// `levels` ends with this step's and the next.
fn history(
    solver_type: Option<SolverType>,
    levels: &[Level],
    order: usize,
    weights: Weights,
) -> Vec<f64> {
    let back = |i: usize| levels[levels.len() - 1 - i].lambda;
    let h = back(0) - back(1);
    // Two equal levels leave no slope between them.
    let h0 = if order > 1 { back(1) - back(2) } else { 0.0 };
    let h1 = if order > 2 { back(2) - back(3) } else { 0.0 };
    if h0 == 0.0 {
        return vec![weights.value];
    }
    // D₁ = (h/h₀)·(m₀ − m₁), and so on: factors of m₀, m₁, m₂.
    let first = [h / h0, -h / h0, 0.0];
    if h1 == 0.0 {
        let slope = match solver_type {
            Some(SolverType::Heun) => weights.slope,
            _ => 0.5 * weights.value,
        };
        return vec![weights.value + slope * first[0], slope * first[1]];
    }
    let second = [0.0, h / h1, -h / h1];
    (0..3)
        .map(|i| {
            let apart = (first[i] - second[i]) / (h0 + h1);
            let value = if i == 0 { weights.value } else { 0.0 };
            value + weights.slope * (first[i] + h0 * apart) + weights.bend * h * apart
        })
        .collect()
}

impl Scheduler for DpmMulti {
    fn name(&self) -> &'static str {
        self.name
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        variance::grid(&self.config, &self.table, Kind::DpmMulti, steps)
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        variance::steps(&self.config, grid, part, |levels, k, done| {
            self.step(grid, levels, k, done)
        })
    }
}
