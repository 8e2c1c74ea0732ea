//! UniPC, a predictor and a corrector that share the model's calls (Zhao et al.
//! 2023, algorithms 5 and 6), as diffusers' `UniPCMultistepScheduler`.

use super::class::{
    ANY, CURVES, Class, Defaults, SPACING, THRESHOLD, TIMESTEPS, TRAINING, ZERO_SNR,
};
use super::solver::SolverType;
use super::step::{Bound, Combination, Step, Store};
use super::table::Table;
use super::variance::{self, Kind, Level, threshold};
use super::{Config, Grid, Scheduler};
use crate::Result;
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: UniPc::NAME,
    others: &["unipc", "uni_pc_bh2"],
    class: "UniPCMultistepScheduler",
    options: &[
        TRAINING,
        SPACING,
        CURVES,
        TIMESTEPS,
        ZERO_SNR,
        THRESHOLD,
        &[
            "solver_order",
            "solver_type",
            "final_sigmas_type",
            "lower_order_final",
            "predict_x0",
            "disable_corrector",
        ],
    ],
    defaults: Defaults::USUAL,
    predictions: ANY,
    edm: None,
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(UniPc::new(config)?)),
};

/// Slot `k % (order + 1)` holds what step `k` integrates over, the picture or the
/// noise, and the slot after those the corrected latents.
#[derive(Debug, Clone)]
pub struct UniPc {
    config: Config,
    table: Table,
    order: usize,
    of_picture: bool,
}

impl UniPc {
    /// Its name in requests.
    pub const NAME: &str = "UniPC";

    /// Fails where the configuration's variances give no positive noise levels.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(UniPc {
            config: config.clone(),
            table: variance::table(config, Kind::UniPc)?,
            order: config.solver_order.unwrap_or(2),
            of_picture: config.predict_x0.unwrap_or(true),
        })
    }

    /// The predictor's order at step `k` of `n`, `done` steps after the start.
    fn order_at(&self, k: usize, n: usize, done: usize) -> usize {
        let most = match self.config.lower_order_final.unwrap_or(true) {
            true => n - k,
            false => self.order,
        };
        self.order.min(most).min(done + 1)
    }

    fn slot(&self, k: usize) -> usize {
        k % (self.order + 1)
    }

    /// The slot of the latents that the predictor starts from.
    fn corrected(&self) -> usize {
        self.order + 1
    }

    fn converted(&self, level: Level, k: usize) -> Store {
        let (value, bound) = match self.of_picture {
            true => (level.picture(&self.config), threshold(&self.config)),
            false => (level.noise(&self.config), None),
        };
        Store {
            slot: self.slot(k),
            value,
            bound: bound.unwrap_or_default(),
        }
    }

    /// Goes from the corrected latents of step `k` to the next level, with the
    /// results of steps up to `k`, and of step `k + 1` to correct what was predicted.
    fn advance(&self, levels: &[Level], k: usize, order: usize, corrects: bool) -> Combination {
        let (from, to) = (levels[k], levels[k + 1]);
        let h = to.lambda - from.lambda;
        let ratios: Vec<f64> = (1..order)
            .map(|i| (levels[k - i].lambda - from.lambda) / h)
            .collect();
        // Equal levels have no slope between them, and none is known up to infinity.
        let usable = h != 0.0 && h.is_finite() && all_differ(&ratios);
        let ratios = if usable { ratios } else { Vec::new() };

        let signed = if self.of_picture { -h } else { h };
        let (sample, size) = match self.of_picture {
            true => (to.sigma / from.sigma, to.alpha),
            false => (to.alpha / from.alpha, to.sigma),
        };
        let own = match to.is_clean() && !self.of_picture {
            // The limit of σ·(e^h − 1).
            true => -to.alpha * from.sigma / from.alpha,
            false => -size * signed.exp_m1(),
        };
        let unit = match self.config.solver_type {
            Some(SolverType::Bh1) => signed,
            _ => signed.exp_m1(),
        };
        let shares = shares(&ratios, signed, unit, corrects);
        let mut history = vec![(self.corrected(), sample)];
        let mut kept = own;
        for (i, (share, ratio)) in shares.iter().zip(&ratios).enumerate() {
            let factor = -size * unit * share / ratio;
            kept -= factor;
            history.push((self.slot(k - 1 - i), factor));
        }
        if corrects && let Some(share) = shares.last() {
            let factor = -size * unit * share;
            kept -= factor;
            history.push((self.slot(k + 1), factor));
        }
        history.push((self.slot(k), kept));
        Combination {
            history,
            ..Combination::default()
        }
    }

    fn is_corrected(&self, k: usize, done: usize) -> bool {
        let disabled = self.config.disable_corrector.as_deref().unwrap_or(&[]);
        done > 0 && !disabled.contains(&(k - 1))
    }

    fn step(&self, grid: &Grid, levels: &[Level], k: usize, done: usize) -> Step {
        let n = grid.timesteps.len();
        let corrected = match self.is_corrected(k, done) {
            true => self.advance(levels, k - 1, self.order_at(k - 1, n, done - 1), true),
            false => Combination {
                sample: 1.0,
                ..Combination::default()
            },
        };
        Step {
            timestep: grid.timesteps[k],
            input_scale: 1.0,
            mix: levels[k].mix(),
            draws_noise: false,
            store: vec![
                self.converted(levels[k], k),
                Store {
                    slot: self.corrected(),
                    value: corrected,
                    bound: Bound::None,
                },
            ],
            update: self.advance(levels, k, self.order_at(k, n, done), false),
        }
    }
}

fn all_differ(ratios: &[f64]) -> bool {
    ratios
        .iter()
        .enumerate()
        .all(|(i, r)| *r != 0.0 && *r != 1.0 && !ratios[..i].contains(r))
}

/// The shares of the slopes to earlier results, and for the corrector also of the
/// slope to the newest: they make the update exact for polynomials in `λ`.
fn shares(ratios: &[f64], signed: f64, unit: f64, corrects: bool) -> Vec<f64> {
    match (ratios.len(), corrects) {
        (0, false) => Vec::new(),
        // The paper's simplification of the lowest orders.
        (0, true) | (1, false) => vec![0.5],
        _ => {
            let mut points = ratios.to_vec();
            if corrects {
                points.push(1.0);
            }
            let sums = (1..=points.len())
                .map(|i| factorial(i) * psi(i, signed) / unit)
                .collect();
            vandermonde(&points, sums)
        }
    }
}

fn factorial(n: usize) -> f64 {
    (1..=n).map(|i| i as f64).product()
}

/// `Σ_{j ≥ 1} zʲ/(j + k)!`, which is `(eᶻ − Σ_{j ≤ k} zʲ/j!)/zᵏ` for `k ≥ 1`.
fn psi(k: usize, z: f64) -> f64 {
    if z.abs() < 1.0 {
        let mut term = 1.0 / factorial(k);
        return (1..25)
            .map(|j| {
                term *= z / (j + k) as f64;
                term
            })
            .sum();
    }
    let first = z.exp_m1() / z - 1.0;
    (2..=k).fold(first, |value, i| value / z - 1.0 / factorial(i))
}

/// Solves `Σⱼ pⱼⁱ·xⱼ = sums[i]` for points that differ (Björck and Pereyra 1970).
fn vandermonde(points: &[f64], mut sums: Vec<f64>) -> Vec<f64> {
    let n = points.len();
    for (k, point) in points.iter().enumerate() {
        for i in (k + 1..n).rev() {
            sums[i] -= point * sums[i - 1];
        }
    }
    for k in (0..n.saturating_sub(1)).rev() {
        for i in k + 1..n {
            sums[i] /= points[i] - points[i - k - 1];
        }
        for i in k..n - 1 {
            sums[i] -= sums[i + 1];
        }
    }
    sums
}

impl Scheduler for UniPc {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        variance::grid(&self.config, &self.table, Kind::UniPc, steps)
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        variance::steps(&self.config, grid, part, |levels, k, done| {
            self.step(grid, levels, k, done)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{psi, vandermonde};

    #[test]
    fn vandermonde_systems_are_solved() {
        let points = [-0.7, -1.9, 1.0];
        let sums = vec![0.3, -0.2, 0.9];
        let x = vandermonde(&points, sums.clone());
        for (i, sum) in sums.iter().enumerate() {
            let found: f64 = points
                .iter()
                .zip(&x)
                .map(|(p, x)| p.powi(i as i32) * x)
                .sum();
            assert!((found - sum).abs() < 1e-12, "{i}: {found} {sum}");
        }
    }

    #[test]
    fn both_forms_of_psi_meet() {
        for k in 1..4 {
            let (below, above) = (psi(k, -1.0 + 1e-9), psi(k, -1.0 - 1e-9));
            assert!((below - above).abs() < 1e-8, "{k}: {below} {above}");
        }
    }
}
