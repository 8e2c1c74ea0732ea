//! Noise levels as AUTOMATIC1111's program finds them for its "Schedule type"
//! (`modules/sd_schedulers.py`), and k-diffusion for the oldest of them
//! (`k_diffusion/sampling.py`, `k_diffusion/external.py`).
//!
//! They differ from diffusers' curves: between the training's levels the logarithm is
//! interpolated, timesteps stay fractions, and the first latents are noise times the
//! first level.

use super::beta::beta_quantile;
use super::choices::FIELD;
use super::config::Config;
use super::grid::{Grid, exponential, interpolate, karras, linspace, ln_f32, timestep_of};
use super::table::Table;
use crate::{Error, Result};

/// A way to choose noise levels, by that program's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleType {
    /// Even timesteps from the last to the first.
    Uniform,
    /// Karras et al. 2022, equation 5, rho 7.
    Karras,
    /// Evenly in the logarithm.
    Exponential,
    /// Of order 1, that program's default, which is [`ScheduleType::Exponential`].
    Polyexponential,
    /// As Uniform with one step more, whose last level is left out.
    SgmUniform,
    /// Evenly in the arctangent; it ends at the lowest level, not at zero.
    KlOptimal,
    /// Sabour et al. 2024, the levels for SDXL.
    AlignYourSteps,
    /// Whole timesteps, evenly from the last.
    Simple,
    /// The same as [`ScheduleType::Uniform`].
    Normal,
    /// Whole timesteps, evenly from the second.
    Ddim,
    /// Lee et al. 2024, with 0.6 for both parameters.
    Beta,
    /// Forge's: whole timesteps, as the trailing spacing.
    Turbo,
}

/// The authors' eleven levels for SDXL, <https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html>.
const ALIGN_YOUR_STEPS: [f32; 11] = [
    14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029,
];

impl ScheduleType {
    /// Every one, with its name among a scheduler's options.
    pub const NAMES: [(&str, Self); 12] = [
        ("uniform", Self::Uniform),
        ("karras", Self::Karras),
        ("exponential", Self::Exponential),
        ("polyexponential", Self::Polyexponential),
        ("sgm_uniform", Self::SgmUniform),
        ("kl_optimal", Self::KlOptimal),
        ("align_your_steps", Self::AlignYourSteps),
        ("simple", Self::Simple),
        ("normal", Self::Normal),
        ("ddim", Self::Ddim),
        ("beta", Self::Beta),
        ("turbo", Self::Turbo),
    ];

    /// Its name in [`Self::NAMES`].
    pub fn name(self) -> &'static str {
        let own = Self::NAMES.iter().find(|(_, kind)| *kind == self);
        own.map_or("", |(name, _)| name)
    }

    /// Noise levels of `steps` steps, falling, the final one too. `table` are the
    /// training's, lowest first.
    fn levels(self, config: &Config, table: &Table, steps: usize) -> Vec<f64> {
        let trained = &table.sigmas;
        let last = trained.len() - 1;
        let low = config.sigma_min.unwrap_or(f64::from(trained[0]));
        let high = config.sigma_max.unwrap_or(f64::from(trained[last]));
        let logs = table.logs();
        let at = |t: f64| interpolate(t, &logs).exp();
        let ends = || (timestep_of(high, &logs), timestep_of(low, &logs));
        let whole = |t: usize| f64::from(trained[t.min(last)]);
        let mut levels: Vec<f64> = match self {
            Self::Uniform => linspace(last as f64, 0.0, steps)
                .into_iter()
                .map(at)
                .collect(),
            Self::Normal => {
                let (from, to) = ends();
                linspace(from, to, steps).into_iter().map(at).collect()
            }
            Self::SgmUniform => {
                let (from, to) = ends();
                let mut places = linspace(from, to, steps + 1);
                places.pop();
                places.into_iter().map(at).collect()
            }
            Self::Karras => karras(high, low, steps),
            Self::Exponential | Self::Polyexponential => exponential(high, low, steps),
            Self::KlOptimal => {
                // One more level than steps, of which the last is the final one.
                return linspace(0.0, 1.0, steps + 1)
                    .into_iter()
                    .map(|ramp| (ramp * low.atan() + (1.0 - ramp) * high.atan()).tan())
                    .collect();
            }
            Self::AlignYourSteps => {
                let logs = ALIGN_YOUR_STEPS.map(|level| f64::from(level).ln() as f32);
                linspace(0.0, (logs.len() - 1) as f64, steps)
                    .into_iter()
                    .map(|place| interpolate(place, &logs).exp())
                    .collect()
            }
            Self::Simple => {
                let stride = trained.len() as f64 / steps as f64;
                (0..steps)
                    .map(|i| whole(last - (i as f64 * stride) as usize))
                    .collect()
            }
            Self::Ddim => {
                // As many as there are from the second timestep on: one more than
                // `steps` where these do not divide the training's.
                let stride = (trained.len() / steps).max(1);
                let places: Vec<usize> = (1..trained.len()).step_by(stride).collect();
                places.into_iter().rev().map(whole).collect()
            }
            Self::Turbo => {
                let stride = trained.len() as f64 / steps as f64;
                (1..=steps)
                    .rev()
                    .map(|i| whole((i as f64 * stride - 1.0).round_ties_even().max(0.0) as usize))
                    .collect()
            }
            Self::Beta => linspace(0.0, 1.0, steps)
                .into_iter()
                .map(|t| low + beta_quantile(1.0 - t, 0.6) * (high - low))
                .collect(),
        };
        levels.push(0.0);
        levels
    }
}

/// Timesteps and noise levels of the request's schedule type; none where it has none.
/// Latents start at the first level, in the parametrisation `x₀ + σ·noise`.
///
/// With `discard_next_to_last_sigma` one step more is planned and its level left out,
/// as that program does for its samplers of the kind.
///
/// Fails where the training has fewer timesteps than steps are asked for.
pub(super) fn grid(config: &Config, table: &Table, steps: usize) -> Result<Option<Grid>> {
    let Some(kind) = config.schedule_type else {
        return Ok(None);
    };
    let most = table.sigmas.len() - 1;
    if !(1..=most).contains(&steps) {
        let allowed = format!("must be from 1 to {most}, what the training's timesteps allow");
        return Err(Error::invalid("steps", steps, allowed));
    }
    let discards = config.discard_next_to_last_sigma == Some(true);
    let mut levels = kind.levels(config, table, steps + usize::from(discards));
    if discards {
        levels.remove(levels.len() - 2);
    }
    let sigmas: Vec<f32> = levels.iter().map(|level| *level as f32).collect();
    if !sigmas.is_sorted_by(|a, b| a > b) {
        let allowed = "gives no falling noise levels within sigma_min and sigma_max";
        return Err(Error::invalid(FIELD, "schedule_type", allowed));
    }
    let logs = table.logs();
    let timestep = |level: &f64| match config.is_continuous() {
        true => 0.25 * ln_f32(*level as f32),
        false => timestep_of(*level, &logs) as f32,
    };
    Ok(Some(Grid {
        timesteps: levels[..levels.len() - 1].iter().map(timestep).collect(),
        init_noise_sigma: sigmas[0],
        sigmas,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_falls_from_the_highest_level() {
        let config = Config::sdxl();
        let table = Table::new(&config).unwrap();
        for (name, kind) in ScheduleType::NAMES {
            for steps in [1, 2, 7, 11, 25, 150] {
                let config = Config {
                    schedule_type: Some(kind),
                    ..config.clone()
                };
                let grid = grid(&config, &table, steps).unwrap().unwrap();
                let count = grid.timesteps.len();
                assert!(
                    count == steps || kind == ScheduleType::Ddim,
                    "{name} {steps}"
                );
                assert_eq!(grid.sigmas.len(), count + 1);
                assert!(grid.sigmas.is_sorted_by(|a, b| a > b), "{name} {steps}");
                let ends = grid.sigmas[count];
                assert_eq!(ends > 0.0, kind == ScheduleType::KlOptimal, "{name}");
            }
        }
    }
}
