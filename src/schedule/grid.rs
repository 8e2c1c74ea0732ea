//! Timesteps and noise levels of one run.

use super::ays;
use super::beta::beta_quantile;
use super::choices::FIELD;
use super::config::{Config, FinalSigma, Interpolation, SigmaCurve, Spacing, Timesteps};
use super::schedule_type;
use super::table::{Table, torch_linspace};
use crate::{Error, Result};
use std::ops::Range;

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
    /// The entries `part`: each timestep with its noise level and the next.
    pub(super) fn transitions(&self, part: Range<usize>) -> impl Iterator<Item = (f32, f32, f32)> {
        let all = self.timesteps.iter().zip(self.sigmas.windows(2));
        let part = all.skip(part.start).take(part.len());
        part.map(|(t, level)| (*t, level[0], level[1]))
    }

    /// The entries `part` of a grid of whole timesteps: each with the next, where
    /// there is one.
    pub(super) fn whole_pairs(
        &self,
        part: Range<usize>,
    ) -> impl Iterator<Item = (i64, Option<i64>)> {
        let timestep = |i: usize| self.timesteps.get(i).map(|t| *t as i64);
        let part = part.start..part.end.min(self.timesteps.len());
        part.filter_map(move |i| Some((timestep(i)?, timestep(i + 1))))
    }

    /// As diffusers' Euler, Heun, LMS and DPM2 build it, before any repetition.
    pub(super) fn of_sigmas(config: &Config, table: &Table, steps: usize) -> Result<Self> {
        if let Some(edm) = &config.edm {
            return edm.grid(config, steps);
        }
        if let Some(grid) = schedule_type::grid(config, table, steps)? {
            return Ok(grid);
        }
        let steps = config.listed_steps().unwrap_or(steps);
        within_training(config, steps)?;
        if let Some(sigmas) = &config.sigmas {
            return Self::of_listed_sigmas(config, table, sigmas);
        }
        let timesteps = match listed(config, steps)? {
            Some(listed) => listed,
            None => spaced(config, steps),
        };
        Ok(Self::at(config, table, timesteps, steps))
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
            let logs = table.logs();
            timesteps = sigmas.iter().map(|s| timestep_of(*s, &logs)).collect();
        }
        sigmas.push(match config.final_sigmas_type {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => f64::from(table.sigmas[0]),
        });
        Self::of_levels(config, timesteps, sigmas)
    }

    /// The timesteps of a request's own noise levels, the final one among them; as
    /// diffusers' Euler with `sigmas`.
    fn of_listed_sigmas(config: &Config, table: &Table, sigmas: &[f64]) -> Result<Self> {
        if config.timesteps.is_some() {
            let allowed = "not together with timesteps; leave one of them out";
            return Err(Error::invalid(FIELD, "sigmas", allowed));
        }
        let logs = table.logs();
        let sigmas: Vec<f64> = sigmas.iter().map(|s| f64::from(*s as f32)).collect();
        let visited = &sigmas[..sigmas.len().saturating_sub(1)];
        let timesteps = visited.iter().map(|s| timestep_of(*s, &logs)).collect();
        Ok(Self::of_levels(config, timesteps, sigmas))
    }

    fn of_levels(config: &Config, timesteps: Vec<f64>, sigmas: Vec<f64>) -> Self {
        let sigmas: Vec<f32> = sigmas.into_iter().map(|s| s as f32).collect();
        let timesteps = match config.is_continuous() {
            true => sigmas[..sigmas.len() - 1]
                .iter()
                .map(|s| 0.25 * ln_f32(*s))
                .collect(),
            false => timesteps.into_iter().map(|t| t as f32).collect(),
        };
        Grid {
            init_noise_sigma: first_deviation(config.timestep_spacing, &sigmas),
            timesteps,
            sigmas,
        }
    }

    /// A run over whole timesteps of the training, as diffusers' DDIM and DDPM
    /// build it: no noise levels, and the first latents are plain noise.
    ///
    /// At some numbers of steps diffusers' `trailing` ends at timestep −1, which the
    /// model never saw: it is left out here. With `leading`, timesteps beyond the
    /// training are an error.
    pub(super) fn of_timesteps(config: &Config, steps: usize) -> Result<Self> {
        let steps = config.listed_steps().unwrap_or(steps);
        within_training(config, steps)?;
        let last = (config.num_train_timesteps - 1) as f64;
        let timesteps: Vec<f64> = match (listed(config, steps)?, config.timestep_spacing) {
            (Some(listed), _) => whole(listed)?,
            (None, Spacing::Linspace) => linspace(0.0, last, steps)
                .into_iter()
                .rev()
                .map(f64::round_ties_even)
                .collect(),
            (None, _) => spaced(config, steps),
        };
        if let Some(beyond) = timesteps.iter().find(|t| **t > last) {
            let allowed = format!(
                "with steps_offset {} visits timestep {beyond} beyond the last, {last}; \
                 take fewer steps or another timestep_spacing",
                config.steps_offset
            );
            return Err(Error::invalid("steps", steps, allowed));
        }
        let visited = timesteps.into_iter().filter(|t| *t >= 0.0);
        Ok(Self::of_whole(visited))
    }

    pub(super) fn of_whole(timesteps: impl Iterator<Item = f64>) -> Self {
        Grid {
            timesteps: timesteps.map(|t| t as f32).collect(),
            sigmas: Vec::new(),
            init_noise_sigma: 1.0,
        }
    }
}

pub(super) fn within_training(config: &Config, steps: usize) -> Result<()> {
    let n = config.num_train_timesteps;
    match (1..=n).contains(&steps) {
        true => Ok(()),
        false => {
            let allowed =
                format!("must be from 1 to {n}, the timesteps that the model was trained on");
            Err(Error::invalid("steps", steps, allowed))
        }
    }
}

/// A request's own timesteps. As in diffusers they do not go with a curve, nor with
/// continuous timesteps.
pub(super) fn listed(config: &Config, steps: usize) -> Result<Option<Vec<f64>>> {
    let Some(timesteps) = &config.timesteps else {
        return Ok(None);
    };
    if config.sigma_curve != SigmaCurve::Trained {
        let allowed = "not together with a curve of noise levels; add sigmas=trained";
        return Err(Error::invalid(FIELD, "timesteps", allowed));
    }
    if config.is_continuous() {
        let allowed = "not together with continuous timesteps; add timestep_type=discrete";
        return Err(Error::invalid(FIELD, "timesteps", allowed));
    }
    match timesteps {
        Timesteps::AlignYourSteps => ays::timesteps(config, steps).map(Some),
        Timesteps::Listed(list) => Ok(Some(list.clone())),
    }
}

/// Fails at a timestep that is no whole number.
pub(super) fn whole(timesteps: Vec<f64>) -> Result<Vec<f64>> {
    match timesteps.iter().find(|t| t.fract() != 0.0) {
        None => Ok(timesteps),
        Some(part) => {
            let allowed = "this scheduler needs whole numbers; or choose Euler or Heun";
            Err(Error::invalid(FIELD, format!("timesteps={part}"), allowed))
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
        SigmaCurve::Karras => karras(high, low, steps),
        SigmaCurve::Exponential => exponential(high, low, steps),
        SigmaCurve::Beta => linspace(0.0, 1.0, steps)
            .into_iter()
            .map(|t| low + beta_quantile(1.0 - t, 0.6) * (high - low))
            .collect(),
    }
}

/// `steps` noise levels from `high` to `low`, even in their seventh roots (Karras et al.
/// 2022, equation 5).
pub(super) fn karras(high: f64, low: f64, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (from, to) = (high.powf(1.0 / RHO), low.powf(1.0 / RHO));
    let ramp = linspace(0.0, 1.0, steps).into_iter();
    ramp.map(|ramp| (from + ramp * (to - from)).powf(RHO))
        .collect()
}

/// `steps` noise levels from `high` to `low`, even in their logarithms.
pub(super) fn exponential(high: f64, low: f64, steps: usize) -> Vec<f64> {
    let logs = linspace(high.ln(), low.ln(), steps).into_iter();
    logs.map(f64::exp).collect()
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
