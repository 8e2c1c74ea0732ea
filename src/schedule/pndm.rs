//! Pseudo numerical methods for diffusion models (Liu et al. 2022), as diffusers'
//! `PNDMScheduler`: a linear multistep method, after Runge-Kutta steps or, with
//! `skip_prk_steps`, after one step that is done twice.

use super::Scheduler;
use super::alphas::{Alphas, noise};
use super::class::{Class, Defaults, NOISE_OR_V, SPACING, TRAINING};
use super::config::Config;
use super::grid::Grid;
use super::linear::{Linear, keep};
use super::step::{Combination, Step, Store};
use crate::{Error, Result};
use std::ops::Range;

pub(super) const CLASS: Class = Class {
    name: Pndm::NAME,
    others: &["pndm"],
    class: "PNDMScheduler",
    options: &[TRAINING, SPACING, &["set_alpha_to_one", "skip_prk_steps"]],
    defaults: Defaults::LEADING,
    predictions: NOISE_OR_V,
    edm: None,
    takes_levels: false,
    implies: &[],
    make: |config| Ok(Box::new(Pndm::new(config)?)),
};

#[derive(Debug, Clone)]
struct Pndm {
    config: Config,
    alphas: Alphas,
    skip_prk: bool,
}

/// Outputs of earlier calls, in turn.
const OUTPUTS: usize = 4;
/// The latents from which several calls go.
const START: usize = 4;
/// What of a Runge-Kutta step's weighted outputs is known.
const MEAN: usize = 5;
/// Runge-Kutta's part of the grid: three steps of four calls.
const PRK_CALLS: usize = 12;

/// Where a step goes from and to, what it starts from, and the output it takes.
struct Move {
    from: i64,
    to: i64,
    /// Whether it starts from the kept latents.
    kept: bool,
    /// Weights of this call's output and of history.
    output: f64,
    history: Vec<(usize, f64)>,
    store: Vec<Store>,
}

impl Pndm {
    const NAME: &str = "PNDM";

    fn new(config: &Config) -> Result<Self> {
        Ok(Pndm {
            alphas: Alphas::new(config, config.set_alpha_to_one.unwrap_or(false))?,
            skip_prk: config.skip_prk_steps.unwrap_or(false),
            config: config.clone(),
        })
    }

    /// The number of steps that a grid was made for.
    fn count(&self, grid: &Grid) -> usize {
        match (self.skip_prk, grid.timesteps.len()) {
            (false, entries) => entries.saturating_sub(PRK_CALLS - 3).max(1),
            (true, 1) => 1,
            (true, entries) => entries.saturating_sub(1).max(1),
        }
    }

    /// Call number `call` of a Runge-Kutta step from timestep `start`.
    fn prk(&self, t: i64, start: i64, call: usize, stride: i64) -> Move {
        let phase = call % 4;
        let to = if phase.is_multiple_of(2) {
            t - stride / 2
        } else {
            t
        };
        let mean = |weight: f64, history: &[(usize, f64)]| {
            keep(MEAN, (Linear::OUTPUT * weight).with(history))
        };
        let (store, output, history) = match phase {
            0 => (
                vec![
                    keep(call / 4 % OUTPUTS, Linear::OUTPUT.with(&[])),
                    keep(START, Linear::SAMPLE.with(&[])),
                    mean(1.0 / 6.0, &[]),
                ],
                1.0,
                vec![],
            ),
            3 => (vec![], 1.0 / 6.0, vec![(MEAN, 1.0)]),
            _ => (vec![mean(1.0 / 3.0, &[(MEAN, 1.0)])], 1.0, vec![]),
        };
        Move {
            from: start,
            to,
            kept: phase > 0,
            output,
            history,
            store,
        }
    }

    /// Call number `call` of the multistep method, which knows `known` outputs with
    /// this one.
    fn plms(&self, t: i64, call: usize, known: usize, stride: i64) -> Move {
        let slot = |back: usize| (known - 1 - back) % OUTPUTS;
        if self.skip_prk && call == 1 {
            // The first step once more, with the mean of the outputs at both ends.
            return Move {
                from: t + stride,
                to: t,
                kept: true,
                output: 0.5,
                history: vec![(slot(0), 0.5)],
                store: vec![],
            };
        }
        let mut store = vec![keep(slot(0), Linear::OUTPUT.with(&[]))];
        if call == 0 {
            store.push(keep(START, Linear::SAMPLE.with(&[])));
        }
        let weights: &[f64] = match known {
            1 => &[1.0],
            2 => &[1.5, -0.5],
            3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
            _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
        };
        let history = weights.iter().enumerate().skip(1);
        Move {
            from: t,
            to: t - stride,
            kept: false,
            output: weights[0],
            history: history.map(|(back, w)| (slot(back), *w)).collect(),
            store,
        }
    }

    /// Equation 9 of the paper: `√(ᾱ'/ᾱ)·x − (ᾱ' − ᾱ)/d·noise`.
    fn step(&self, t: i64, to_do: Move) -> Step {
        let (bar, next) = (self.alphas.at(to_do.from), self.alphas.towards(to_do.to));
        let stay = f64::from((next / bar).sqrt());
        let below = bar * (1.0 - next).sqrt() + (bar * (1.0 - bar) * next).sqrt();
        let go = -f64::from(next - bar) / f64::from(below);
        // Of the noise, the part that is the latents, and the factor of the outputs.
        let noise = noise(self.config.prediction_type, bar) * go;
        let start = stay + noise.sample;
        let scaled = |(slot, weight): (usize, f64)| (slot, weight * noise.output);
        let mut history: Vec<_> = to_do.history.into_iter().map(scaled).collect();
        if to_do.kept {
            history.push((START, start));
        }
        Step {
            timestep: t as f32,
            input_scale: 1.0,
            mix: self.alphas.mix(t),
            draws_noise: false,
            store: to_do.store,
            update: Combination {
                sample: if to_do.kept { 0.0 } else { start },
                output: to_do.output * noise.output,
                history,
                noise: 0.0,
            },
        }
    }
}

impl Scheduler for Pndm {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    /// `steps + 1` entries with `skip_prk_steps`, but one for one step; else
    /// `steps + 9`.
    fn grid(&self, steps: usize) -> Result<Grid> {
        let mut plain = Grid::of_timesteps(&self.config, steps)?.timesteps;
        if self.skip_prk {
            if plain.len() > 1 {
                plain.insert(1, plain[1]);
            }
        } else {
            if plain.len() < 4 {
                let allowed = "PNDM needs at least 4, or the option skip_prk_steps=true";
                return Err(Error::invalid("steps", steps, allowed));
            }
            let half = (self.config.num_train_timesteps / steps / 2) as f32;
            let corner = |i: usize| [plain[i] + half, plain[i] + half, plain[i], plain[i]];
            let mut all = vec![plain[0]];
            all.extend([1, 2, 3].into_iter().flat_map(corner));
            all.truncate(PRK_CALLS);
            all.extend(&plain[3..]);
            plain = all;
        }
        Ok(Grid::of_whole(plain.into_iter().map(f64::from)))
    }

    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step> {
        let end = part.end.min(grid.timesteps.len());
        let stride = (self.config.num_train_timesteps / self.count(grid)) as i64;
        (part.start..end)
            .enumerate()
            .map(|(call, i)| {
                let t = grid.timesteps[i] as i64;
                let to_do = if self.skip_prk {
                    // The second call adds no output.
                    let known = if call == 0 { 1 } else { call };
                    self.plms(t, call, known, stride)
                } else if call < PRK_CALLS {
                    // As in diffusers, by the number of the call, even where the run
                    // starts in the middle.
                    let start = grid.timesteps[call / 4 * 4] as i64;
                    self.prk(t, start, call, stride)
                } else {
                    self.plms(t, call, call - PRK_CALLS + 4, stride)
                };
                self.step(t, to_do)
            })
            .collect()
    }
}
