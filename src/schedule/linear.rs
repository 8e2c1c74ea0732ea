//! Sums of the latents and the model's output, and what solvers over noise levels
//! make of them.

use super::config::{Config, Prediction};
use super::step::{Bound, Combination, NoiseMix, Store};
use std::ops::{Add, Mul};

/// `sample·x + output·m`: of the latents `x` and the model's output `m`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Linear {
    pub sample: f64,
    pub output: f64,
}

impl Linear {
    /// The latents.
    pub const SAMPLE: Linear = Linear::new(1.0, 0.0);
    /// The model's output.
    pub const OUTPUT: Linear = Linear::new(0.0, 1.0);

    pub const fn new(sample: f64, output: f64) -> Self {
        Linear { sample, output }
    }

    /// With history tensors, as `(slot, factor)`.
    pub fn with(self, history: &[(usize, f64)]) -> Combination {
        Combination {
            sample: self.sample,
            output: self.output,
            history: history.to_vec(),
            noise: 0.0,
        }
    }

    /// With this step's noise.
    pub fn with_noise(self, noise: f64) -> Combination {
        Combination {
            noise,
            ..self.with(&[])
        }
    }
}

impl Add for Linear {
    type Output = Linear;

    fn add(self, other: Linear) -> Linear {
        Linear::new(self.sample + other.sample, self.output + other.output)
    }
}

impl Mul<f64> for Linear {
    type Output = Linear;

    fn mul(self, factor: f64) -> Linear {
        Linear::new(self.sample * factor, self.output * factor)
    }
}

/// What goes into the UNet and what its output means, at latents `x₀ + σ·noise`
/// (Karras et al. 2022, table 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preconditioning {
    pub(super) prediction: Prediction,
    /// Deviation of the training pictures, of a model trained over noise levels.
    pub(super) sigma_data: Option<f64>,
}

impl Preconditioning {
    /// The picture `x₀` that the model predicts:
    ///
    /// | prediction | `x₀` |
    /// |---|---|
    /// | epsilon | `x − σ·m` |
    /// | v | `x/(σ²+1) − m·σ/√(σ²+1)` |
    /// | sample | `m` |
    /// | of a model trained over noise levels, with `d` for `sigma_data` | `x·d²/(σ²+d²) ± m·σ·d/√(σ²+d²)` |
    ///
    /// The sign is minus for v, plus for what diffusers calls epsilon there.
    pub(super) fn picture(self, sigma: f64) -> Linear {
        let (prediction, data, squares) = self.parts(sigma);
        match prediction {
            Prediction::Epsilon if self.sigma_data.is_some() => {
                Linear::new(data * data / squares, sigma * data / squares.sqrt())
            }
            Prediction::Epsilon => Linear::new(1.0, -sigma),
            Prediction::V => Linear::new(data * data / squares, -sigma * data / squares.sqrt()),
            Prediction::Sample => Linear::OUTPUT,
        }
    }

    /// `d = (x − x₀)/σ`, the slope of the probability-flow equation; in noise that is
    /// added to a picture, the noise.
    pub(super) fn slope(self, sigma: f64) -> Linear {
        let (prediction, data, squares) = self.parts(sigma);
        match prediction {
            Prediction::Epsilon if self.sigma_data.is_some() => {
                Linear::new(sigma / squares, -data / squares.sqrt())
            }
            // Without a division, which has no value at level zero.
            Prediction::Epsilon => Linear::OUTPUT,
            Prediction::V => Linear::new(sigma / squares, data / squares.sqrt()),
            Prediction::Sample => Linear::new(1.0 / sigma, -1.0 / sigma),
        }
    }

    /// Factor of the latents on their way into the UNet. In f32 as in PyTorch, where
    /// noise levels are f32 tensors.
    pub(super) fn input_scale(self, sigma: f32) -> f32 {
        let data = self.sigma_data.unwrap_or(1.0);
        1.0 / (sigma * sigma + (data * data) as f32).sqrt()
    }

    /// The factors by which latents `original·x₀ + noise·n` and the model's output
    /// sum up to the picture `x₀`.
    pub fn original(self, mix: NoiseMix) -> [f64; 2] {
        let picture = self.picture(mix.noise / mix.original);
        [picture.sample / mix.original, picture.output]
    }

    /// The prediction, the deviation of the data, and `σ² + d²`.
    fn parts(self, sigma: f64) -> (Prediction, f64, f64) {
        let data = self.sigma_data.unwrap_or(1.0);
        (self.prediction, data, sigma * sigma + data * data)
    }
}

/// From one noise level to another. In f32 as in PyTorch, which shows where levels
/// are in the thousands.
pub(super) fn way(from: f32, to: f32) -> f64 {
    f64::from(to - from)
}

/// `add_noise` of solvers over noise levels.
pub(super) fn mix(sigma: f32) -> NoiseMix {
    NoiseMix {
        original: 1.0,
        noise: f64::from(sigma),
    }
}

/// How the configuration bounds `x₀`; `clips` is what the class does by default.
pub(super) fn bound(config: &Config, clips: bool) -> Bound {
    if config.thresholding == Some(true) {
        return Bound::Threshold {
            ratio: config.dynamic_thresholding_ratio.unwrap_or(0.995),
            most: config.sample_max_value.unwrap_or(1.0),
        };
    }
    match config.clip_sample.unwrap_or(clips) {
        true => Bound::Clip {
            most: config.clip_sample_range.unwrap_or(1.0),
        },
        false => Bound::None,
    }
}

/// `weight·x₀ + rest + noise·n`, where `x₀` goes through slot 0 if it is bounded.
pub(super) fn bounded_sum(
    bound: Bound,
    picture: Linear,
    weight: f64,
    rest: Linear,
    noise: f64,
) -> (Vec<Store>, Combination) {
    if bound == Bound::None {
        return (Vec::new(), (picture * weight + rest).with_noise(noise));
    }
    let store = Store {
        slot: 0,
        value: picture.with(&[]),
        bound,
    };
    let update = Combination {
        noise,
        ..rest.with(&[(0, weight)])
    };
    (vec![store], update)
}

/// A history tensor that is written without a bound.
pub(super) fn keep(slot: usize, value: Combination) -> Store {
    Store {
        slot,
        value,
        bound: Bound::None,
    }
}
