//! Schedulers and noise generators: which timesteps a run visits, and what each
//! call of the UNet does to the latents.
//!
//! A scheduler is plain CPU arithmetic. It never touches a latent: it says, per
//! call of the UNet, by what the input is scaled and which linear combination of
//! the state tensors makes the next latents ([`Step`]). The engine carries that
//! out on the device; [`State`] carries it out on the CPU, for tests.
//!
//! Each solver is a file with a constant that says its names and options; the table
//! in `registry.rs` has a line for each.

mod alphas;
pub mod automatic1111;
mod ays;
mod beta;
mod brownian;
mod choices;
mod class;
mod config;
mod ddim;
mod ddpm;
mod deis;
mod dpm2;
mod dpm2_ancestral;
mod dpm_multi;
mod dpm_sde;
mod dpm_single;
mod edm;
mod euler;
mod euler_ancestral;
mod exponential;
mod grid;
mod heun;
mod keys;
mod lcm;
mod linear;
mod lms;
mod noise;
mod philox;
mod pndm;
mod read;
mod registry;
mod schedule_type;
mod solver;
mod step;
mod table;
mod tcd;
mod unipc;
mod variance;

pub use brownian::BrownianTree;
pub use choices::{OptionInfo, options};
pub use config::{
    BetaSchedule, Config, FinalSigma, Interpolation, Prediction, SigmaCurve, Spacing, TimestepType,
    Timesteps, VarianceType,
};
pub use edm::Edm;
pub use euler::Euler;
pub use grid::Grid;
pub use linear::Preconditioning;
pub use noise::{NoiseGenerator, TorchCpuGenerator};
pub use philox::PhiloxGenerator;
pub use registry::{
    Choice, SchedulerInfo, canonical_name, choose, create, create_with, list, list_for, names,
};
pub use schedule_type::ScheduleType;
pub use solver::{Algorithm, SolverType};
pub use step::{Bound, Combination, MOST_SLOTS, MOST_STORES, NoiseMix, State, Step, Store};

use crate::Result;
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
    fn own_noise(&self, _grid: &Grid, _part: Range<usize>) -> Option<Box<dyn NoiseGenerator>> {
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
