//! Timesteps and noise levels of one run.

use super::beta::beta_quantile;
use super::config::{
    Config, FinalSigma, Interpolation, Prediction, SigmaCurve, Spacing, TimestepType,
};
use super::table::{Table, torch_linspace};
use crate::{Error, Result};

/// Where a run goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// As handed to the UNet, one per call.
    pub timesteps: Vec<f32>,
    /// The noise level before each call and after the last. Empty for solvers
    /// that have none. May be one longer (`interpolation_type: log_linear`).
    pub sigmas: Vec<f32>,
    /// Standard deviation of the first latents: what the drawn noise is multiplied by.
    pub init_noise_sigma: f32,
}

impl Grid {
    /// As diffusers' Euler, Heun, LMS and DPM2 build it, before any repetition.
    pub(super) fn of_sigmas(config: &Config, table: &Table, steps: usize) -> Result<Self> {
        let n = config.num_train_timesteps;
        if !(1..=n).contains(&steps) {
            let allowed =
                format!("must be from 1 to {n}, the timesteps that the model was trained on");
            return Err(Error::invalid("steps", steps, allowed));
        }
        Ok(Grid::at(config, table, spaced(config, steps), steps))
    }

    /// [`Grid::of_sigmas`] at these training timesteps, highest first.
    pub(super) fn at(
        config: &Config,
        table: &Table,
        mut timesteps: Vec<f64>,
        steps: usize,
    ) -> Self {
        let mut sigmas = trained_sigmas(config, table, &timesteps, steps);
        if config.sigma_curve != SigmaCurve::Trained {
            sigmas = curve(config, &sigmas, steps);
            let logs: Vec<f32> = table.sigmas.iter().map(|s| ln_f32(*s)).collect();
            timesteps = sigmas.iter().map(|s| timestep_of(*s, &logs)).collect();
        }
        sigmas.push(match config.final_sigmas_type {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => f64::from(table.sigmas[0]),
        });
        let sigmas: Vec<f32> = sigmas.into_iter().map(|s| s as f32).collect();
        let continuous = config.timestep_type == TimestepType::Continuous
            && config.prediction_type == Prediction::V;
        let timesteps = match continuous {
            true => sigmas[..sigmas.len() - 1]
                .iter()
                .map(|s| 0.25 * ln_f32(*s))
                .collect(),
            false => timesteps.into_iter().map(|t| t as f32).collect(),
        };
        let init_noise_sigma = first_deviation(config.timestep_spacing, &sigmas);
        Grid {
            timesteps,
            sigmas,
            init_noise_sigma,
        }
    }
}

/// Rounded once, so that it does not depend on the platform's f32 logarithm.
pub(super) fn ln_f32(x: f32) -> f32 {
    f64::from(x).ln() as f32
}

fn first_deviation(spacing: Spacing, sigmas: &[f32]) -> f32 {
    let highest = sigmas.iter().copied().fold(0.0, f32::max);
    match spacing {
        Spacing::Linspace | Spacing::Trailing => highest,
        Spacing::Leading => (highest * highest + 1.0).sqrt(),
    }
}

/// The training timesteps that a run visits, highest first; Lin et al. 2023, table 2.
fn spaced(config: &Config, steps: usize) -> Vec<f64> {
    let n = config.num_train_timesteps;
    match config.timestep_spacing {
        Spacing::Linspace => linspace(0.0, (n - 1) as f64, steps)
            .into_iter()
            .rev()
            .map(|t| f64::from(t as f32))
            .collect(),
        Spacing::Leading => (0..steps)
            .rev()
            .map(|i| (i * (n / steps) + config.steps_offset) as f64)
            .collect(),
        Spacing::Trailing => {
            // numpy.arange, whose length and values follow from the rounded ratio.
            let ratio = n as f64 / steps as f64;
            let count = (n as f64 / ratio).ceil() as usize;
            let delta = (n as f64 - ratio) - n as f64;
            (0..count)
                .map(|i| (n as f64 + i as f64 * delta).round_ties_even() - 1.0)
                .collect()
        }
    }
}

/// `numpy.linspace`.
pub(super) fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    if n == 1 {
        return vec![start];
    }
    let step = (end - start) / (n - 1) as f64;
    let mut values: Vec<f64> = (0..n).map(|i| i as f64 * step + start).collect();
    values[n - 1] = end;
    values
}

/// Noise levels at `timesteps` (one more for `log_linear`), without the final one.
fn trained_sigmas(config: &Config, table: &Table, timesteps: &[f64], steps: usize) -> Vec<f64> {
    let sigmas = &table.sigmas;
    match config.interpolation_type {
        Interpolation::Linear => timesteps.iter().map(|t| interpolate(*t, sigmas)).collect(),
        Interpolation::LogLinear => {
            let (low, high) = (ln_f32(sigmas[0]), ln_f32(sigmas[sigmas.len() - 1]));
            torch_linspace(high, low, steps + 1)
                .into_iter()
                .map(|log| f64::from(f64::from(log).exp() as f32))
                .collect()
        }
    }
}

/// `numpy.interp` over the indices of `values`: beyond the ends the end values.
pub(super) fn interpolate(x: f64, values: &[f32]) -> f64 {
    let last = values.len() - 1;
    if x <= 0.0 {
        return f64::from(values[0]);
    }
    let below = x.floor() as usize;
    if below >= last {
        return f64::from(values[last]);
    }
    let (low, high) = (f64::from(values[below]), f64::from(values[below + 1]));
    (high - low) * (x - below as f64) + low
}

/// `steps` noise levels from the highest to the lowest over the configured curve.
pub(super) fn curve(config: &Config, trained: &[f64], steps: usize) -> Vec<f64> {
    let low = config.sigma_min.unwrap_or(trained[trained.len() - 1]);
    let high = config.sigma_max.unwrap_or(trained[0]);
    match config.sigma_curve {
        SigmaCurve::Trained => trained.to_vec(),
        SigmaCurve::Karras => {
            const RHO: f64 = 7.0;
            let (from, to) = (high.powf(1.0 / RHO), low.powf(1.0 / RHO));
            linspace(0.0, 1.0, steps)
                .into_iter()
                .map(|ramp| (from + ramp * (to - from)).powf(RHO))
                .collect()
        }
        SigmaCurve::Exponential => linspace(high.ln(), low.ln(), steps)
            .into_iter()
            .map(f64::exp)
            .collect(),
        SigmaCurve::Beta => linspace(0.0, 1.0, steps)
            .into_iter()
            .map(|t| low + beta_quantile(1.0 - t, 0.6) * (high - low))
            .collect(),
    }
}

/// The timestep, in fractions, at which the training has this noise level.
/// `logs` are the logarithms of the training's levels, lowest first.
pub(super) fn timestep_of(sigma: f64, logs: &[f32]) -> f64 {
    let log = sigma.max(1e-10).ln();
    let reached = logs
        .iter()
        .filter(|level| log - f64::from(**level) >= 0.0)
        .count();
    let last = logs.len() - 1;
    let low = reached.saturating_sub(1).min(last.saturating_sub(1));
    let high = (low + 1).min(last);
    let (log_low, log_high) = (f64::from(logs[low]), f64::from(logs[high]));
    let w = ((log_low - log) / (log_low - log_high)).clamp(0.0, 1.0);
    (1.0 - w) * low as f64 + w * high as f64
}
