//! The weights of the exponential integrators DPM-Solver and DPM-Solver++ (Lu et
//! al. 2022, 2022b) and of their stochastic forms, as in diffusers'
//! `scheduling_dpmsolver_multistep.py` and `scheduling_dpmsolver_singlestep.py`.

use super::config::{Config, FinalSigma};
use super::solver::Algorithm;
use super::step::{Combination, Store};
use super::variance::{Level, threshold};
use crate::{Error, Result};

/// `x_to = sample·x_from + value·D₀ + slope·D₁ + bend·D₂ + noise·n`, with `D` the
/// derivatives by `λ` in units of the step, of the picture or of the noise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    pub sample: f64,
    pub value: f64,
    pub slope: f64,
    pub bend: f64,
    pub noise: f64,
}

impl Weights {
    pub fn new(algorithm: Algorithm, from: Level, to: Level) -> Self {
        let h = to.lambda - from.lambda;
        match algorithm {
            Algorithm::DpmSolverPlusPlus | Algorithm::Deis => Weights {
                sample: to.sigma / from.sigma,
                value: -to.alpha * (-h).exp_m1(),
                slope: to.alpha * (1.0 - phi2(-h)),
                bend: to.alpha * (0.5 - phi3(-h)),
                noise: 0.0,
            },
            Algorithm::SdeDpmSolverPlusPlus => Weights {
                sample: to.sigma / from.sigma * (-h).exp(),
                value: -to.alpha * (-2.0 * h).exp_m1(),
                slope: to.alpha * (1.0 - phi2(-2.0 * h)),
                // By the derivation the half's sign is the other; diffusers' is kept.
                bend: to.alpha * (-0.5 - phi3(-2.0 * h)),
                noise: to.sigma * (-(-2.0 * h).exp_m1()).max(0.0).sqrt(),
            },
            Algorithm::DpmSolver | Algorithm::SdeDpmSolver => {
                Weights::of_noise(algorithm, from, to)
            }
        }
    }

    /// With the third order's weight as k-diffusion's `sample_dpmpp_3m_sde` has it.
    pub fn of_k_diffusion(self, algorithm: Algorithm, from: Level, to: Level) -> Self {
        let h = to.lambda - from.lambda;
        match algorithm {
            Algorithm::SdeDpmSolverPlusPlus => Weights {
                bend: to.alpha * (0.5 - phi3(-2.0 * h)),
                ..self
            },
            _ => self,
        }
    }

    /// Of `factor` times the latents.
    pub fn scaled(self, factor: f64) -> Self {
        Weights {
            sample: self.sample * factor,
            value: self.value * factor,
            slope: self.slope * factor,
            bend: self.bend * factor,
            noise: self.noise * factor,
        }
    }

    fn of_noise(algorithm: Algorithm, from: Level, to: Level) -> Self {
        let h = to.lambda - from.lambda;
        let (times, noise) = match algorithm.is_stochastic() {
            true => (2.0, to.sigma * (2.0 * h).exp_m1().max(0.0).sqrt()),
            false => (1.0, 0.0),
        };
        Weights {
            sample: to.alpha / from.alpha,
            value: -times * to.sigma * h.exp_m1(),
            slope: -times * to.sigma * (phi2(h) - 1.0),
            bend: -times * to.sigma * (phi3(h) - 0.5),
            noise,
        }
    }
}

/// `(eᶻ − 1)/z`.
fn phi2(z: f64) -> f64 {
    match z.abs() < 1e-4 {
        true => 1.0 + z / 2.0 + z * z / 6.0,
        false => z.exp_m1() / z,
    }
}

/// `(eᶻ − 1 − z)/z²`.
fn phi3(z: f64) -> f64 {
    match z.abs() < 1e-2 {
        true => 0.5 + z / 6.0 + z * z / 24.0 + z * z * z / 120.0 + z.powi(4) / 720.0,
        false => (z.exp_m1() - z) / (z * z),
    }
}

/// The algorithm that a DPM-Solver class takes from a configuration, checked.
pub(super) fn algorithm(config: &Config) -> Result<Algorithm> {
    let algorithm = match config.algorithm_type {
        None | Some(Algorithm::Deis) => Algorithm::DpmSolverPlusPlus,
        Some(given) => given,
    };
    if config.edm.is_some() && !algorithm.predicts_picture() {
        let allowed = "is not for a model trained over noise levels (EDM); choose dpmsolver++ or \
                       sde-dpmsolver++";
        return Err(Error::invalid("algorithm_type", algorithm.name(), allowed));
    }
    if !algorithm.predicts_picture() && config.final_sigmas_type == FinalSigma::Zero {
        return Err(Error::invalid(
            "algorithm_type",
            algorithm.name(),
            "cannot end at noise level 0; set final_sigmas_type to sigma_min, or algorithm_type \
             to dpmsolver++ or sde-dpmsolver++",
        ));
    }
    Ok(algorithm)
}

/// Stores what the solver integrates over, found from the model's output at `level`:
/// the picture in `slot`, or the noise. Bounding the picture that a noise stands for
/// takes the slot `spare` as well.
pub(super) fn converted(
    config: &Config,
    algorithm: Algorithm,
    level: Level,
    slot: usize,
    spare: usize,
) -> Vec<Store> {
    let store = |slot, value: Combination, bound| Store { slot, value, bound };
    let picture = level.picture(config);
    match (algorithm.predicts_picture(), threshold(config)) {
        (true, bound) => vec![store(slot, picture, bound.unwrap_or_default())],
        (false, None) => {
            let noise = level.noise(config);
            vec![store(slot, noise, Default::default())]
        }
        (false, Some(bound)) => vec![
            store(spare, picture, bound),
            store(slot, level.noise_beside(spare), Default::default()),
        ],
    }
}
