//! What the exponential solvers share: latents are `α·x₀ + σ·n` and `λ = ln(α/σ)` is
//! the time. Diffusion keeps the variance, `α² + σ² = 1`, except in models that were
//! trained over noise levels, where `α = 1`.

use super::config::{Config, FinalSigma, SigmaCurve, Spacing};
use super::grid::{Grid, curve, interpolate, linspace, listed, ln_f32, timestep_of, whole};
use super::linear::Linear;
use super::schedule_type;
use super::step::{Bound, Combination, NoiseMix, Step};
use super::table::Table;
use crate::{Error, Result};
use std::ops::Range;

/// One noise level `ς = σ/α` in this parametrisation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    /// `1/√(ς² + 1)`, or 1 where latents are not scaled.
    pub alpha: f64,
    /// `ς·α`.
    pub sigma: f64,
    /// `ln(α/σ)`; infinite where there is no noise.
    pub lambda: f64,
}

impl Level {
    pub fn new(config: &Config, sigma: f32) -> Self {
        let ratio = f64::from(sigma);
        let alpha = match config.edm {
            Some(_) => 1.0,
            None => 1.0 / (ratio * ratio + 1.0).sqrt(),
        };
        Level {
            alpha,
            sigma: ratio * alpha,
            lambda: -ratio.ln(),
        }
    }

    /// The levels of a grid, one more than its timesteps.
    pub fn all(config: &Config, grid: &Grid) -> Vec<Self> {
        let levels = grid.sigmas.iter();
        levels.map(|sigma| Level::new(config, *sigma)).collect()
    }

    pub fn is_clean(self) -> bool {
        self.sigma == 0.0
    }

    /// What `add_noise` means here.
    pub fn mix(self) -> NoiseMix {
        NoiseMix {
            original: self.alpha,
            noise: self.sigma,
        }
    }

    /// The picture that the model's output stands for.
    pub fn picture(self, config: &Config) -> Combination {
        self.scaled(config.preconditioning().picture(self.ratio()))
    }

    /// The noise that the model's output stands for.
    pub fn noise(self, config: &Config) -> Combination {
        self.scaled(config.preconditioning().slope(self.ratio()))
    }

    fn ratio(self) -> f64 {
        self.sigma / self.alpha
    }

    /// A sum over latents `x₀ + ς·n` as one over latents `α·x₀ + σ·n`.
    fn scaled(self, sum: Linear) -> Combination {
        Linear::new(sum.sample / self.alpha, sum.output).with(&[])
    }

    /// The noise in the latents, if `slot` holds the picture: `(x − α·x₀)/σ`.
    pub fn noise_beside(self, slot: usize) -> Combination {
        Combination {
            sample: 1.0 / self.sigma,
            history: vec![(slot, -self.alpha / self.sigma)],
            ..Combination::default()
        }
    }
}

/// The bound on predicted pictures; diffusers' defaults are 0.995 and 1.
pub(super) fn threshold(config: &Config) -> Option<Bound> {
    config
        .thresholding
        .unwrap_or(false)
        .then(|| Bound::Threshold {
            ratio: config.dynamic_thresholding_ratio.unwrap_or(0.995),
            most: config.sample_max_value.unwrap_or(1.0),
        })
}

/// In what the classes' grids differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    DpmMulti,
    DpmSingle,
    UniPc,
    Deis,
}

/// The table that a class sees: only two of them read `rescale_betas_zero_snr`.
pub(super) fn table(config: &Config, kind: Kind) -> Result<Table> {
    let reads = matches!(kind, Kind::DpmMulti | Kind::UniPc);
    Table::new(&Config {
        rescale_betas_zero_snr: config.rescale_betas_zero_snr && reads,
        ..config.clone()
    })
}

/// As the `set_timesteps` of the class builds it: whole timesteps, and latents that
/// start with variance 1.
pub(super) fn grid(config: &Config, table: &Table, kind: Kind, steps: usize) -> Result<Grid> {
    if let Some(edm) = &config.edm {
        return edm.grid(config, steps);
    }
    if let Some(grid) = schedule_type::grid(config, table, steps)? {
        // The first level of latents that are `α·x₀ + σ·noise`.
        let init_noise_sigma = Level::new(config, grid.sigmas[0]).sigma as f32;
        return Ok(Grid {
            init_noise_sigma,
            ..grid
        });
    }
    let steps = config.listed_steps().unwrap_or(steps);
    let timesteps = match listed(config, steps)? {
        Some(listed) => whole(listed)?,
        None => spaced(config, table, kind, steps)?,
    };
    let trained: Vec<f64> = timesteps
        .iter()
        .map(|t| interpolate(*t, &table.sigmas))
        .collect();
    let (timesteps, mut sigmas) = match curved(config, table, kind, steps) {
        Some(curved) => curved,
        None => (timesteps, trained),
    };
    let lowest = f64::from(table.sigmas[0]);
    let is_curve = config.sigma_curve != SigmaCurve::Trained;
    let repeated = match sigmas.last() {
        Some(last) if is_curve && matches!(kind, Kind::UniPc | Kind::Deis) => *last,
        _ => lowest,
    };
    // DEIS cannot end at zero and has no such key.
    let ends_clean = config.final_sigmas_type == FinalSigma::Zero && kind != Kind::Deis;
    sigmas.push(if ends_clean { 0.0 } else { repeated });
    Ok(Grid {
        timesteps: timesteps.into_iter().map(|t| t.trunc() as f32).collect(),
        sigmas: sigmas.into_iter().map(|s| s as f32).collect(),
        init_noise_sigma: 1.0,
    })
}

/// The steps of the grid's entries `part` of a multistep solver: `step` gets all
/// levels, the entry, and how many steps the run has done before it.
pub(super) fn steps(
    config: &Config,
    grid: &Grid,
    part: Range<usize>,
    step: impl Fn(&[Level], usize, usize) -> Step,
) -> Vec<Step> {
    let levels = Level::all(config, grid);
    let (start, end) = (part.start, part.end.min(grid.timesteps.len()));
    (start..end).map(|k| step(&levels, k, k - start)).collect()
}

/// Timesteps and noise levels where these do not follow the training.
fn curved(
    config: &Config,
    table: &Table,
    kind: Kind,
    steps: usize,
) -> Option<(Vec<f64>, Vec<f64>)> {
    let (low, high) = (table.sigmas.first()?, table.sigmas.last()?);
    let lu = kind == Kind::DpmMulti
        && config.use_lu_lambdas == Some(true)
        && config.sigma_curve != SigmaCurve::Karras;
    let sigmas: Vec<f64> = match config.sigma_curve {
        // Lu et al. 2022: evenly in the logarithm of the training's own levels.
        _ if lu => linspace(0.0, 1.0, steps)
            .into_iter()
            .map(|ramp| {
                let (from, to) = (f64::from(ln_f32(*high)), f64::from(ln_f32(*low)));
                (from + ramp * (to - from)).exp()
            })
            .collect(),
        SigmaCurve::Trained => return None,
        _ => curve(config, &[f64::from(*high), f64::from(*low)], steps),
    };
    let logs: Vec<f32> = table.sigmas.iter().map(|s| ln_f32(*s)).collect();
    // The other curves' timesteps are cut, not rounded.
    let cosine = config.beta_schedule == super::config::BetaSchedule::SquaredCosCapV2;
    let rounds =
        (lu || config.sigma_curve == SigmaCurve::Karras) && !(cosine && kind == Kind::DpmMulti);
    let timesteps = sigmas
        .iter()
        .map(|sigma| timestep_of(*sigma, &logs))
        .map(|t| if rounds { t.round_ties_even() } else { t })
        .collect();
    Some((timesteps, sigmas))
}

/// The training timesteps that a run visits, highest first: one more is spaced out
/// than there are steps, and the lowest dropped.
fn spaced(config: &Config, table: &Table, kind: Kind, steps: usize) -> Result<Vec<f64>> {
    let n = config.num_train_timesteps;
    let clipped = match (kind, config.lambda_min_clipped) {
        (Kind::DpmMulti | Kind::DpmSingle, Some(least)) => below(table, least),
        _ => 0,
    };
    let spacing = match kind {
        Kind::DpmSingle => Spacing::Linspace,
        _ => config.timestep_spacing,
    };
    let last = n - clipped;
    // Leading spacing leaves out the lowest timestep's place too.
    let most = match spacing {
        Spacing::Leading => last.saturating_sub(1),
        _ => last,
    };
    if !(1..=most).contains(&steps) {
        let allowed = format!("must be from 1 to {most}, what the training's timesteps allow");
        return Err(Error::invalid("steps", steps, allowed));
    }
    Ok(match spacing {
        Spacing::Linspace => linspace(0.0, (last - 1) as f64, steps + 1)
            .into_iter()
            .skip(1)
            .rev()
            .map(f64::round_ties_even)
            .collect(),
        Spacing::Leading => (1..=steps)
            .rev()
            .map(|i| (i * (last / (steps + 1)) + config.steps_offset) as f64)
            .collect(),
        Spacing::Trailing => {
            // numpy.arange, whose length and values follow from the rounded ratio.
            let (ratio, last) = (n as f64 / steps as f64, last as f64);
            let delta = (last - ratio) - last;
            (0..(last / ratio).ceil() as usize)
                .map(|i| (last + i as f64 * delta).round_ties_even() - 1.0)
                .collect()
        }
    })
}

/// How many of the noisiest timesteps have `λ` below `least`; never all.
fn below(table: &Table, least: f64) -> usize {
    let count = table
        .sigmas
        .iter()
        .filter(|s| -f64::from(**s).ln() < least)
        .count();
    count.min(table.sigmas.len() - 1)
}
