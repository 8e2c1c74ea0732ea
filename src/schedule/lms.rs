//! A linear multistep method of order four, as diffusers' `LMSDiscreteScheduler`.

use super::Scheduler;
use super::class::{ANY, CURVES, Class, Defaults, EDM, SCHEDULE_TYPE, SPACING, TRAINING};
use super::config::{Config, SigmaCurve};
use super::grid::Grid;
use super::linear::{Linear, keep, mix};
use super::step::Step;
use super::table::Table;
use crate::Result;
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Lms::NAME,
    others: &["lms"],
    class: "LMSDiscreteScheduler",
    options: &[TRAINING, SPACING, CURVES, SCHEDULE_TYPE],
    defaults: Defaults::USUAL,
    predictions: ANY,
    edm: Some(&[EDM]),
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(Lms::new(config)?)),
};

/// `x + ∫ P(σ) dσ` from this level to the next, where the polynomial `P` goes
/// through the last slopes.
#[derive(Debug, Clone)]
struct Lms {
    config: Config,
    table: Table,
}

/// Slopes that a step looks at.
const ORDER: usize = 4;

impl Lms {
    const NAME: &str = "LMS";

    fn new(config: &Config) -> Result<Self> {
        let mut config = config.clone();
        if config.sigma_curve == SigmaCurve::Karras && config.edm.is_none() {
            // This class's Karras curve always spans the visited levels.
            (config.sigma_min, config.sigma_max) = (None, None);
        }
        Ok(Lms {
            table: Table::new(&config)?,
            config,
        })
    }
}

impl Scheduler for Lms {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn grid(&self, steps: usize) -> Result<Grid> {
        Grid::of_sigmas(&self.config, &self.table, steps)
    }

    /// A run that starts in the middle has fewer slopes than the order that
    /// diffusers takes from the entry's number; those that are missing count as zero
    /// there, and so here.
    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let end = part.end.min(grid.timesteps.len());
        (part.start..end)
            .map(|i| {
                let slope = self
                    .config
                    .preconditioning()
                    .slope(f64::from(grid.sigmas[i]));
                let known = (i - part.start + 1).min(ORDER);
                let factors = coefficients(&grid.sigmas, i, (i + 1).min(ORDER));
                let history: Vec<_> = (0..known)
                    .map(|back| ((i - back) % ORDER, factors[back]))
                    .collect();
                Step {
                    timestep: grid.timesteps[i],
                    input_scale: self.config.preconditioning().input_scale(grid.sigmas[i]),
                    mix: mix(grid.sigmas[i]),
                    draws_noise: false,
                    store: vec![keep(i % ORDER, slope.with(&[]))],
                    update: Linear::SAMPLE.with(&history),
                }
            })
            .collect()
    }
}

/// Integrals of the `order` Lagrange polynomials over the levels up to entry `i`,
/// newest first, from that level to the next.
///
/// diffusers integrates numerically; these polynomials have degree three at most,
/// of which Gauss and Legendre's three points are exact.
fn coefficients(sigmas: &[f32], i: usize, order: usize) -> Vec<f64> {
    let level = |back: usize| f64::from(sigmas[i - back]);
    let (from, to) = (f64::from(sigmas[i]), f64::from(sigmas[i + 1]));
    let (middle, half) = (0.5 * (from + to), 0.5 * (to - from));
    let polynomial = |own: usize, x: f64| -> f64 {
        let others = (0..order).filter(|other| *other != own);
        others
            .map(|other| (x - level(other)) / (level(own) - level(other)))
            .product()
    };
    let offset = half * 0.6f64.sqrt();
    (0..order)
        .map(|own| {
            let ends = polynomial(own, middle - offset) + polynomial(own, middle + offset);
            half * (5.0 * ends + 8.0 * polynomial(own, middle)) / 9.0
        })
        .collect()
}
