//! Schedulers and noise generators: which timesteps a run visits, and what each
//! call of the UNet does to the latents.
//!
//! A scheduler is plain CPU arithmetic. It never touches a latent: it says, per
//! call of the UNet, by what the input is scaled and which linear combination of
//! the state tensors makes the next latents ([`Step`]). The engine carries that
//! out on the device; [`State`] carries it out on the CPU, for tests.

mod beta;
mod brownian;
mod config;
mod deis;
mod dpm_multi;
mod dpm_sde;
mod dpm_single;
mod euler;
mod exponential;
mod grid;
mod noise;
mod options;
mod philox;
mod step;
mod table;
mod unipc;
mod variance;

pub use brownian::BrownianTree;
pub use config::{
    BetaSchedule, Config, FinalSigma, Interpolation, Prediction, SigmaCurve, Spacing, TimestepType,
};
pub use deis::Deis;
pub use dpm_multi::DpmMulti;
pub use dpm_sde::DpmSde;
pub use dpm_single::DpmSingle;
pub use euler::Euler;
pub use grid::Grid;
pub use noise::{NoiseGenerator, TorchCpuGenerator};
pub use options::{Algorithm, SolverType};
pub use philox::PhiloxGenerator;
pub use step::{Bound, Combination, MOST_SLOTS, MOST_STORES, NoiseMix, State, Step, Store};
pub use unipc::UniPc;

use crate::{Error, Result};
use std::ops::Range;

/// A solver of the diffusion equation, configured for one checkpoint.
pub trait Scheduler: Send + Sync {
    /// The name under which [`create`] knows it.
    fn name(&self) -> &'static str;

    /// Entries of the grid that one step takes, after the first: 2 for Heun's and
    /// the DPM2 solvers, else 1 (diffusers' `order`).
    fn order(&self) -> usize {
        1
    }

    /// The timesteps and noise levels of a run of `steps` steps.
    ///
    /// Solvers of order two list a timestep twice, so there may be more entries
    /// than steps. Fails where the configuration cannot give that many steps.
    fn grid(&self, steps: usize) -> Result<Grid>;

    /// The steps of the grid's entries `part`, starting with an empty history.
    ///
    /// `part` is cut to the grid's length.
    fn steps(&self, grid: &Grid, part: Range<usize>) -> Vec<Step>;

    /// Noise that this scheduler brings along instead of the picture's own, for the
    /// steps of the grid's entries `part`; each draw is one tensor.
    fn own_noise(
        &self,
        _grid: &Grid,
        _part: Range<usize>,
    ) -> Option<Box<dyn NoiseGenerator + Send>> {
        None
    }

    /// The whole run: all entries of the grid.
    fn plan(&self, steps: usize) -> Result<Plan> {
        let grid = self.grid(steps)?;
        let steps = self.steps(&grid, 0..grid.timesteps.len());
        Ok(Plan { grid, steps })
    }
}

/// All that a denoising loop needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Timesteps, noise levels, and the scale of the first noise.
    pub grid: Grid,
    /// One entry per call of the UNet.
    pub steps: Vec<Step>,
}

impl Plan {
    /// How many history tensors the device must hold.
    pub fn slots(&self) -> usize {
        self.steps.iter().map(Step::slots).max().unwrap_or(0)
    }
}

type Make = fn(&Config) -> Result<Box<dyn Scheduler>>;

/// Every scheduler: its name, the other names accepted, and how it is made.
const SCHEDULERS: &[(&str, &[&str], Make)] = &[
    (Euler::NAME, &["euler"], make_euler),
    (DpmMulti::NAME, &["dpmpp_2m", "DPM++ 2M"], make_dpm_multi),
    (DpmMulti::NAME_2M_SDE, &["dpmpp_2m_sde"], make_dpm_2m_sde),
    (DpmMulti::NAME_3M_SDE, &["dpmpp_3m_sde"], make_dpm_3m_sde),
    (DpmSingle::NAME, &["dpmpp_2s"], make_dpm_single),
    (DpmSde::NAME, &["dpmpp_sde"], make_dpm_sde),
    (UniPc::NAME, &["unipc"], make_unipc),
    (Deis::NAME, &["deis"], make_deis),
];

fn make_euler(config: &Config) -> Result<Box<dyn Scheduler>> {
    Ok(Box::new(Euler::new(config)?))
}

fn make_dpm_multi(config: &Config) -> Result<Box<dyn Scheduler>> {
    Ok(Box::new(DpmMulti::new(config)?))
}

fn make_dpm_2m_sde(config: &Config) -> Result<Box<dyn Scheduler>> {
    Ok(Box::new(DpmMulti::two_m_sde(config)?))
}

fn make_dpm_3m_sde(config: &Config) -> Result<Box<dyn Scheduler>> {
    Ok(Box::new(DpmMulti::three_m_sde(config)?))
}

fn make_dpm_single(config: &Config) -> Result<Box<dyn Scheduler>> {
    Ok(Box::new(DpmSingle::new(config)?))
}

fn make_dpm_sde(config: &Config) -> Result<Box<dyn Scheduler>> {
    Ok(Box::new(DpmSde::new(config)?))
}

fn make_unipc(config: &Config) -> Result<Box<dyn Scheduler>> {
    Ok(Box::new(UniPc::new(config)?))
}

fn make_deis(config: &Config) -> Result<Box<dyn Scheduler>> {
    Ok(Box::new(Deis::new(config)?))
}

fn find(name: &str) -> Result<&'static (&'static str, &'static [&'static str], Make)> {
    let wanted = name.trim();
    SCHEDULERS
        .iter()
        .find(|(own, others, _)| {
            own.eq_ignore_ascii_case(wanted)
                || others
                    .iter()
                    .any(|other| other.eq_ignore_ascii_case(wanted))
        })
        .ok_or_else(|| Error::unknown("scheduler", name, names()))
}

/// The names of all schedulers.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCHEDULERS.iter().map(|(name, ..)| *name)
}

/// The proper name of a scheduler given by any of its names, without regard to case.
///
/// An unknown name is [`Error::Invalid`] and lists the allowed ones.
pub fn canonical_name(name: &str) -> Result<&'static str> {
    Ok(find(name)?.0)
}

/// Makes the scheduler called `name` with a checkpoint's configuration.
///
/// An unknown name is [`Error::Invalid`] and lists the allowed ones.
pub fn create(name: &str, config: &Config) -> Result<Box<dyn Scheduler>> {
    (find(name)?.2)(config)
}
