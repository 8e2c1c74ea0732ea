//! DPM-Solver++ for the stochastic equation in two stages per step, as diffusers'
//! `DPMSolverSDEScheduler` (k-diffusion's `sample_dpmpp_sde`).

use super::class::{ANY, CURVES, Class, Defaults, SCHEDULE_TYPE, SPACING, TRAINING};
use super::config::{FinalSigma, Interpolation, SigmaCurve, Spacing, TimestepType};
use super::grid::{Grid, linspace, ln_f32, timestep_of};
use super::step::{Bound, Combination, NoiseMix, Step, Store};
use super::table::Table;
use super::{BrownianTree, Config, NoiseGenerator, Prediction, Scheduler};
use crate::Result;
use std::ops::Range;

/// The latents at the start of a step.
const START: usize = 0;
/// The noise of its first stage.
const NOISE: usize = 1;

pub(super) const CLASS: Class = Class {
    name: DpmSde::NAME,
    others: &["dpmpp_sde", "dpmpp_sde_ancestral", "dpmpp_sde_gpu"],
    class: "DPMSolverSDEScheduler",
    options: &[
        TRAINING,
        SPACING,
        CURVES,
        SCHEDULE_TYPE,
        &["noise_sampler_seed"],
    ],
    defaults: Defaults::SECOND_ORDER,
    predictions: ANY,
    edm: None,
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(DpmSde::new(config)?)),
};

/// Every step but the last calls the UNet at its start and in its middle, and both
/// stages add an increment of one Brownian motion in the noise level. The motion's
/// pieces before and after the middle are independent, so each stage draws a tensor,
/// and the second adds both, in proportion to the roots of their lengths.
///
/// diffusers draws the motion from torchsde; so does [`Scheduler::own_noise`] where
/// the configuration has a `noise_sampler_seed`. Without one diffusers takes a random
/// seed; the draws of the picture's own generator then have the same distribution,
/// and the picture can be had again.
#[derive(Debug, Clone)]
pub struct DpmSde {
    config: Config,
    table: Table,
}

/// The noise levels around one call of the UNet.
struct Place {
    /// Whether this is the second stage of a step.
    second: bool,
    start: f64,
    middle: f64,
    next: f64,
}

impl DpmSde {
    /// Its name in requests.
    pub const NAME: &str = "DPM++ SDE";

    /// Fails where the configuration's variances give no positive noise levels.
    pub fn new(config: &Config) -> Result<Self> {
        // The class reads none of these.
        let mut config = Config {
            rescale_betas_zero_snr: false,
            final_sigmas_type: FinalSigma::Zero,
            timestep_type: TimestepType::Discrete,
            interpolation_type: Interpolation::Linear,
            ..config.clone()
        };
        if config.sigma_curve == SigmaCurve::Karras {
            (config.sigma_min, config.sigma_max) = (None, None);
        }
        let table = Table::new(&config)?;
        Ok(DpmSde { config, table })
    }

    /// The levels around call `k`, where calls began at `start`.
    fn place(grid: &Grid, k: usize, start: usize) -> Place {
        let second = !(k - start).is_multiple_of(2);
        let first = if second { k - 1 } else { k };
        let level = |i: usize| f64::from(grid.sigmas[i]);
        let (start, next) = (level(first), level(first + 1));
        Place {
            second,
            start,
            middle: (start * next).sqrt(),
            next,
        }
    }

    fn step(&self, grid: &Grid, k: usize, start: usize) -> Step {
        let place = Self::place(grid, k, start);
        let input = if place.second {
            place.middle
        } else {
            place.start
        };
        let last = place.next == 0.0;
        let picture = picture(self.config.prediction_type, input);
        Step {
            timestep: grid.timesteps[k],
            input_scale: (1.0 / (input * input + 1.0).sqrt()) as f32,
            mix: NoiseMix {
                original: 1.0,
                noise: f64::from(grid.sigmas[k]),
            },
            draws_noise: !last,
            store: if last || place.second {
                Vec::new()
            } else {
                kept()
            },
            update: if last { picture } else { place.update(picture) },
        }
    }
}

impl Place {
    /// `r·x + (1 − r)·x₀ + σ_up·n` with `r = σ_down/σ`, from the step's start to the
    /// middle or to the next level.
    fn update(&self, picture: Combination) -> Combination {
        let to = if self.second { self.next } else { self.middle };
        // σ_up² + σ_down² = σ_to², with σ_down = σ_to²/σ.
        let kept = (to / self.start).powi(2);
        let up = (to * to - (to * to / self.start).powi(2)).max(0.0).sqrt();
        let mut update = Combination {
            sample: (1.0 - kept) * picture.sample,
            output: (1.0 - kept) * picture.output,
            ..Combination::default()
        };
        if !self.second {
            update.sample += kept;
            update.noise = up;
            return update;
        }
        update.history.push((START, kept));
        let whole = self.start - self.next;
        if whole > 0.0 {
            let first = (self.start - self.middle) / whole;
            update.history.push((NOISE, up * first.max(0.0).sqrt()));
            update.noise = up * (1.0 - first).max(0.0).sqrt();
        }
        update
    }
}

/// What the second stage needs of the first.
fn kept() -> Vec<Store> {
    let value = |sample, noise| Combination {
        sample,
        noise,
        ..Combination::default()
    };
    [(START, value(1.0, 0.0)), (NOISE, value(0.0, 1.0))]
        .map(|(slot, value)| Store {
            slot,
            value,
            bound: Bound::None,
        })
        .into()
}

/// The picture that the model's output stands for at noise level `sigma`.
fn picture(prediction: Prediction, sigma: f64) -> Combination {
    let squares = sigma * sigma + 1.0;
    let (sample, output) = match prediction {
        Prediction::Epsilon => (1.0, -sigma),
        Prediction::V => (1.0 / squares, -sigma / squares.sqrt()),
        Prediction::Sample => (0.0, 1.0),
    };
    Combination {
        sample,
        output,
        ..Combination::default()
    }
}

impl Scheduler for DpmSde {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn order(&self) -> usize {
        2
    }

    /// `t₀, m₀, t₁, m₁, …, tₙ₋₁` with the middles `m`, and levels `σ₀, σ₁, σ₁, …, 0`.
    fn grid(&self, steps: usize) -> Result<Grid> {
        let mut once = Grid::of_sigmas(&self.config, &self.table, steps)?;
        if self.config.timestep_spacing == Spacing::Linspace && self.config.schedule_type.is_none()
        {
            // This class spaces in double precision.
            let last = self.config.num_train_timesteps - 1;
            let timesteps = linspace(0.0, last as f64, steps).into_iter().rev();
            once = Grid::at(&self.config, &self.table, timesteps.collect(), steps);
        }
        let logs: Vec<f32> = self.table.sigmas.iter().map(|s| ln_f32(*s)).collect();
        let middle = |pair: &[f32]| {
            let level = (f64::from(pair[0]) * f64::from(pair[1])).sqrt();
            timestep_of(level, &logs) as f32
        };
        let mut timesteps = once.timesteps[..1].to_vec();
        let mut sigmas = once.sigmas[..1].to_vec();
        for (pair, timestep) in once.sigmas.windows(2).zip(&once.timesteps[1..]) {
            timesteps.extend([middle(pair), *timestep]);
            sigmas.extend([pair[1], pair[1]]);
        }
        // A run that does not end at zero makes the last step in two stages too.
        if let [.., from, to] = *once.sigmas
            && to > 0.0
        {
            timesteps.push(middle(&[from, to]));
            sigmas.push(to);
        }
        sigmas.extend(once.sigmas.last());
        Ok(Grid {
            timesteps,
            sigmas,
            init_noise_sigma: once.init_noise_sigma,
        })
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let (start, end) = (part.start, part.end.min(grid.timesteps.len()));
        (start..end).map(|k| self.step(grid, k, start)).collect()
    }

    fn own_noise(&self, grid: &Grid, part: Range<usize>) -> Option<Box<dyn NoiseGenerator>> {
        let seed = self.config.noise_sampler_seed?;
        let noisy = || grid.sigmas.iter().copied().filter(|s| *s > 0.0);
        let range = (
            noisy().fold(f32::INFINITY, f32::min),
            noisy().fold(0.0, f32::max),
        );
        // In f32 as PyTorch goes from levels to logarithms and back.
        let back = |log: f32| f64::from(log).exp() as f32;
        let mut times = Vec::new();
        for k in part.start..part.end.min(grid.timesteps.len()) {
            let place = Self::place(grid, k, part.start);
            if place.next == 0.0 {
                break;
            }
            let (start, next) = (ln_f32(place.start as f32), ln_f32(place.next as f32));
            if times.is_empty() {
                times.push(back(start));
            }
            let middle = start + (next - start) * 0.5;
            times.push(back(if place.second { next } else { middle }));
        }
        Some(Box::new(BrownianTree::new(seed, range, times)))
    }
}
