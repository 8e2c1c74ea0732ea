//! Which steps a request takes, and with which model: the whole way, the last
//! part of it (image-to-image), or base and refiner one after the other.

use super::Request;
use super::request::{Refinement, StrengthSteps};
use crate::checkpoint::Checkpoint;
use crate::schedule::{
    self, Bound, Grid, MOST_SLOTS, MOST_STORES, NoiseGenerator, NoiseMix, Preconditioning,
    Scheduler, Step,
};
use crate::{Error, Result};
use std::sync::Arc;

/// A model's share of the way.
#[derive(Clone)]
pub(super) struct Leg {
    /// The whole way, of which `steps` are a part.
    pub grid: Grid,
    /// Place of the first step in the grid.
    pub first: usize,
    /// One entry a call of the UNet.
    pub steps: Vec<Step>,
    /// What the latents keep of a picture, and how much noise there is, after the last
    /// step: something only where another model goes on from there.
    end: NoiseMix,
    /// Calls of the whole way as a prompt's edits count them: the steps asked for,
    /// times the solver's order.
    pub asked: usize,
    model: Preconditioning,
    scheduler: Arc<dyn Scheduler>,
}

impl Leg {
    /// Noise for one picture that does not come from its own generator, where the
    /// scheduler brings some along.
    pub fn own_noise(&self) -> Option<Box<dyn NoiseGenerator>> {
        let part = self.first..self.first + self.steps.len();
        self.scheduler.own_noise(&self.grid, part)
    }

    /// The timesteps of its steps.
    pub fn timesteps(&self) -> &[f32] {
        let all = &self.grid.timesteps;
        &all[self.first.min(all.len())..(self.first + self.steps.len()).min(all.len())]
    }

    /// What the latents keep of a picture, and how much noise there is, after step `k`.
    pub fn reached(&self, k: usize) -> NoiseMix {
        self.steps.get(k + 1).map_or(self.end, |step| step.mix)
    }

    /// What a mask keeps of the picture, and how much noise, after step `k`; after the
    /// last, the picture alone, also where another model goes on (as diffusers has it
    /// with `denoising_end`).
    pub fn put_back(&self, k: usize) -> NoiseMix {
        let clean = NoiseMix {
            original: 1.0,
            noise: 0.0,
        };
        self.steps.get(k + 1).map_or(clean, |step| step.mix)
    }

    /// Whether its last latents are a finished picture's.
    pub fn finishes(&self) -> bool {
        self.end.noise == 0.0
    }

    /// The clean picture that latents at the level `mix` and the model's output
    /// speak of, both of any one shape.
    pub fn original(&self, latents: &[f32], output: &[f32], mix: NoiseMix) -> Vec<f32> {
        let [x, m] = self.model.original(mix);
        let pairs = latents.iter().zip(output);
        pairs
            .map(|(a, b)| (x * f64::from(*a) + m * f64::from(*b)) as f32)
            .collect()
    }

    /// History tensors that the steps use.
    pub fn slots(&self) -> usize {
        self.steps.iter().map(Step::slots).max().unwrap_or(0)
    }
}

/// How the first latents come about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Start {
    /// Noise of this standard deviation.
    Noise(f32),
    /// The request's picture and noise.
    Picture(NoiseMix),
}

/// The way of a request.
#[derive(Clone)]
pub(super) struct Route {
    pub start: Start,
    pub base: Option<Leg>,
    pub refiner: Option<Leg>,
    /// Noise that the refiner adds to finished latents, where it makes a pass of
    /// its own.
    pub renoise: Option<NoiseMix>,
}

impl Route {
    /// Calls of a UNet for one picture.
    pub fn calls(&self) -> usize {
        let legs = self.base.iter().chain(&self.refiner);
        legs.map(|leg| leg.steps.len()).sum()
    }

    /// The way of `request` with these models.
    ///
    /// # Errors
    /// Where a checkpoint's scheduler cannot give the steps, or no step is left.
    pub fn new(request: &Request, base: &Checkpoint, refiner: Option<&Checkpoint>) -> Result<Self> {
        let whole = Way::new(request, base)?;
        let first = match request.image {
            Some(_) => whole.first_of(request.strength, request.strength_steps, "strength")?,
            None => 0,
        };
        let mut leg = whole.from(first)?;
        let start = match (&request.image, leg.steps.first()) {
            // Inpainting at full strength keeps nothing of what it paints over.
            (Some(_), Some(step))
                if request.mask.is_none()
                    || request.strength < 1.0
                    || request.strength_steps == StrengthSteps::Webui =>
            {
                Start::Picture(step.mix)
            }
            _ => Start::Noise(leg.grid.init_noise_sigma),
        };
        let alone = |base| Route {
            start,
            base: Some(base),
            refiner: None,
            renoise: None,
        };
        let Some(refiner) = refiner else {
            return Ok(alone(leg));
        };
        match request.refinement {
            Refinement::None => Ok(alone(leg)),
            Refinement::SecondPass { strength } => {
                let way = Way::new(request, refiner)?;
                let second = way.from(way.first_of(
                    strength,
                    StrengthSteps::Diffusers,
                    "refiner_strength",
                )?)?;
                Ok(Route {
                    renoise: second.steps.first().map(|step| step.mix),
                    refiner: Some(second),
                    ..alone(leg)
                })
            }
            Refinement::Ensemble {
                high_noise_fraction,
            } if high_noise_fraction >= 1.0 => Ok(alone(leg)),
            Refinement::Ensemble {
                high_noise_fraction,
            } => {
                let rest = Way::new(request, refiner)?;
                if whole.is_continuous || rest.is_continuous {
                    let allowed = "shares timesteps between base and refiner, and one of them is \
                                   a model over noise levels, which has none; let the refiner \
                                   make a pass of its own (refiner_strength), or leave it out";
                    return Err(Error::invalid(
                        "high_noise_fraction",
                        high_noise_fraction,
                        allowed,
                    ));
                }
                if high_noise_fraction <= 0.0 {
                    let second = rest.from(first)?;
                    return Ok(Route {
                        start,
                        base: None,
                        refiner: Some(second),
                        renoise: None,
                    });
                }
                let cutoff = whole.cutoff(high_noise_fraction);
                let kept = leg.timesteps().iter().filter(|t| f64::from(**t) >= cutoff);
                let kept = kept.count();
                if let Some(next) = leg.steps.get(kept) {
                    leg.end = next.mix;
                    leg.steps.truncate(kept);
                }
                let begin = rest.begin_below(rest.cutoff(high_noise_fraction));
                let second = rest.from(begin)?;
                Ok(Route {
                    start,
                    base: Some(leg).filter(|leg| !leg.steps.is_empty()),
                    refiner: Some(second).filter(|leg| !leg.steps.is_empty()),
                    renoise: None,
                })
            }
        }
    }
}

/// A scheduler's whole way.
struct Way {
    scheduler: Arc<dyn Scheduler>,
    grid: Grid,
    /// As many as a list of the request says, or else as it asks for.
    steps: usize,
    trained: f64,
    /// The UNet is told noise levels: a share of the training's timesteps says nothing.
    is_continuous: bool,
    model: Preconditioning,
}

impl Way {
    fn new(request: &Request, checkpoint: &Checkpoint) -> Result<Self> {
        let solver = request.solver();
        let config = solver.config(&checkpoint.scheduler)?;
        let scheduler = solver.create(&checkpoint.scheduler)?;
        Ok(Self {
            grid: scheduler.grid(request.steps)?,
            steps: config.listed_steps().unwrap_or(request.steps),
            scheduler: scheduler.into(),
            trained: config.num_train_timesteps as f64,
            is_continuous: config.is_continuous(),
            model: config.preconditioning(),
        })
    }

    /// The entry from which `strength` of the way is left, as diffusers'
    /// `get_timesteps`.
    fn first_of(&self, strength: f64, rule: StrengthSteps, field: &str) -> Result<usize> {
        let steps = self.steps;
        let kept = rule.kept(steps, strength, self.scheduler.name());
        if kept == 0 {
            let least = (1.0 / steps as f64 * 1000.0).ceil() / 1000.0;
            let allowed =
                format!("keeps none of {steps} steps; use at least {least}, or more steps");
            return Err(Error::invalid(field, strength, allowed));
        }
        Ok((steps - kept) * self.scheduler.order())
    }

    /// The timestep at which the base hands over to the refiner; halves to even, as
    /// Python rounds.
    fn cutoff(&self, fraction: f64) -> f64 {
        (self.trained - fraction * self.trained).round_ties_even()
    }

    /// The first entry below `cutoff`, as diffusers' `get_timesteps` with
    /// `denoising_start`: a step of a second-order solver is not cut in two.
    fn begin_below(&self, cutoff: f64) -> usize {
        let all = &self.grid.timesteps;
        let count = all.iter().filter(|t| f64::from(**t) < cutoff).count();
        let begin = all.len() - count;
        begin - begin % self.scheduler.order()
    }

    /// The steps from entry `first` on, starting without a history.
    fn from(&self, first: usize) -> Result<Leg> {
        let steps = self
            .scheduler
            .steps(&self.grid, first..self.grid.timesteps.len());
        for step in &steps {
            let threshold =
                |store: &schedule::Store| matches!(store.bound, Bound::Threshold { .. });
            // What the device's kernel has room for; every scheduler keeps to it.
            let fits = step.slots() <= MOST_SLOTS
                && step.store.len() <= MOST_STORES
                && !step.store.iter().skip(1).any(threshold);
            if !fits {
                let allowed = "needs more state than a device's step has; report this bug";
                return Err(Error::invalid("scheduler", self.scheduler.name(), allowed));
            }
        }
        Ok(Leg {
            grid: self.grid.clone(),
            first,
            steps,
            end: NoiseMix {
                original: 1.0,
                noise: 0.0,
            },
            asked: self.steps * self.scheduler.order(),
            model: self.model,
            scheduler: self.scheduler.clone(),
        })
    }
}
