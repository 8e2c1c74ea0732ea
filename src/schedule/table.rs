//! The noise levels that the model was trained with, one per training timestep,
//! rounded where PyTorch rounds them.

use super::config::{BetaSchedule, Config};
use super::grid::{linspace, ln_f32};
use crate::{Error, Result};

/// Training noise levels `σ = √((1 − ᾱ)/ᾱ)`, lowest first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    pub sigmas: Vec<f32>,
}

impl Table {
    /// Fails where the variances are such that a level is not a positive number.
    pub fn new(config: &Config) -> Result<Self> {
        let mut alphas = match exact_alphas(config) {
            Some(alphas) => alphas,
            None => alphas_cumprod(config),
        };
        if config.rescale_betas_zero_snr
            && let Some(last) = alphas.last_mut()
        {
            // Not zero, so that the first noise level is not infinite.
            *last = 2f32.powi(-24);
        }
        let sigmas: Vec<f32> = alphas.iter().map(|a| ((1.0 - a) / a).sqrt()).collect();
        match sigmas.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            None if sigmas.len() == config.num_train_timesteps => Ok(Table { sigmas }),
            None => Err(Error::invalid(
                "trained_betas",
                format!("{} numbers", sigmas.len()),
                format!(
                    "must have num_train_timesteps = {} numbers",
                    config.num_train_timesteps
                ),
            )),
            Some(bad) => Err(Error::invalid(
                "beta_end",
                config.beta_end,
                format!(
                    "gives a noise level of {bad} within {} timesteps; must be smaller",
                    config.num_train_timesteps
                ),
            )),
        }
    }
}

impl Table {
    /// Logarithms of the noise levels, in float32.
    pub fn logs(&self) -> Vec<f32> {
        self.sigmas.iter().map(|s| ln_f32(*s)).collect()
    }
}

/// Products `ᾱ` of `1 − β` over the training timesteps; the last is zero where
/// `rescale_betas_zero_snr` says so.
pub(super) fn alphas_cumprod(config: &Config) -> Vec<f32> {
    let mut betas = betas(config);
    if config.rescale_betas_zero_snr {
        rescale_zero_terminal_snr(&mut betas);
    }
    cumulative_product(&betas)
}

/// [`alphas_cumprod`] in double precision until the products are rounded, as the
/// model's own code has them, and with it k-diffusion and AUTOMATIC1111's program; none
/// where the configuration asks for diffusers' numbers, or variances that only
/// diffusers has.
fn exact_alphas(config: &Config) -> Option<Vec<f32>> {
    let plain = config.trained_betas.is_none() && !config.rescale_betas_zero_snr;
    if config.schedule_type.is_none() || !plain {
        return None;
    }
    let (start, end, power) = match config.beta_schedule {
        BetaSchedule::Linear => (config.beta_start, config.beta_end, 1),
        BetaSchedule::ScaledLinear => (config.beta_start.sqrt(), config.beta_end.sqrt(), 2),
        _ => return None,
    };
    let betas = linspace(start, end, config.num_train_timesteps).into_iter();
    let products = betas.scan(1.0f64, |product, beta| {
        *product *= 1.0 - beta.powi(power);
        Some(*product as f32)
    });
    Some(products.collect())
}

fn betas(config: &Config) -> Vec<f32> {
    if let Some(betas) = &config.trained_betas {
        return betas.iter().map(|beta| *beta as f32).collect();
    }
    let (start, end) = (config.beta_start, config.beta_end);
    let n = config.num_train_timesteps;
    match config.beta_schedule {
        BetaSchedule::Linear => torch_linspace(start as f32, end as f32, n),
        BetaSchedule::ScaledLinear => torch_linspace(start.sqrt() as f32, end.sqrt() as f32, n)
            .into_iter()
            .map(|root| root * root)
            .collect(),
        BetaSchedule::SquaredCosCapV2 => betas_of(n, cosine),
        BetaSchedule::Exp => betas_of(n, |t| (-12.0 * t).exp()),
        BetaSchedule::Laplace => betas_of(n, laplace),
        BetaSchedule::Sigmoid => torch_linspace(-6.0, 6.0, n)
            .into_iter()
            .map(|x| (1.0 / (1.0 + (-f64::from(x)).exp())) as f32)
            .map(|share| share * (end - start) as f32 + start as f32)
            .collect(),
    }
}

/// Variances that give the product `ᾱ` as a function of time from 0 to 1, at most
/// 0.999 each; diffusers' `betas_for_alpha_bar`.
fn betas_of(n: usize, alpha_bar: fn(f64) -> f64) -> Vec<f32> {
    (0..n)
        .map(|i| {
            let (t1, t2) = (i as f64 / n as f64, (i + 1) as f64 / n as f64);
            (1.0 - alpha_bar(t2) / alpha_bar(t1)).min(0.999) as f32
        })
        .collect()
}

/// Nichol and Dhariwal 2021, equation 17, with `s = 0.008`.
fn cosine(t: f64) -> f64 {
    ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
        .cos()
        .powi(2)
}

/// The logarithm of the signal-to-noise ratio falls as a Laplace quantile does.
fn laplace(t: f64) -> f64 {
    let side = 1f64.copysign(0.5 - t);
    let log = -0.5 * side * (1.0 - 2.0 * (0.5 - t).abs() + 1e-6).ln();
    let ratio = log.exp();
    (ratio / (1.0 + ratio)).sqrt()
}

/// `torch.linspace` in float32: from both ends towards the middle.
pub(super) fn torch_linspace(start: f32, end: f32, n: usize) -> Vec<f32> {
    if n == 1 {
        return vec![start];
    }
    let step = (end - start) / (n - 1) as f32;
    (0..n)
        .map(|i| match i < n / 2 {
            true => step.mul_add(i as f32, start),
            false => (-step).mul_add((n - i - 1) as f32, end),
        })
        .collect()
}

/// `torch.cumprod(1 - betas)` in float32, which multiplies in double precision.
fn cumulative_product(betas: &[f32]) -> Vec<f32> {
    betas
        .iter()
        .scan(1.0f64, |product, beta| {
            *product *= f64::from(1.0 - beta);
            Some(*product as f32)
        })
        .collect()
}

/// Lin et al. 2023, algorithm 1: the last timestep becomes pure noise.
fn rescale_zero_terminal_snr(betas: &mut [f32]) {
    let mut roots = cumulative_product(betas);
    roots.iter_mut().for_each(|a| *a = a.sqrt());
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else {
        return;
    };
    let scale = first / (first - last);
    let bars: Vec<f32> = roots
        .iter()
        .map(|a| (a - last) * scale)
        .map(|a| a * a)
        .collect();
    for (i, beta) in betas.iter_mut().enumerate() {
        let alpha = if i == 0 {
            bars[0]
        } else {
            bars[i] / bars[i - 1]
        };
        *beta = 1.0 - alpha;
    }
}
