//! What a request chooses among by name.

use crate::schedule::{NoiseGenerator, PhiloxGenerator, TorchCpuGenerator};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which precision weights and activations are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// f16 where the adapter has it, else f32.
    #[default]
    Auto,
    F32,
    /// f16 storage, f32 accumulation.
    F16,
}

impl Dtype {
    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Auto => "auto",
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Dtype::Auto, Dtype::F32, Dtype::F16]
            .into_iter()
            .find(|dtype| dtype.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                Error::invalid("dtype", format!("{text:?}"), "choose one of auto, f32, f16")
            })
    }
}

/// How many of `n` steps a strength `s` keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StrengthSteps {
    /// `int(n * s)`, at least one.
    #[default]
    Diffusers,
    /// AUTOMATIC1111's `setup_img2img_steps`: `int(n * min(s, 0.999))`, and the step
    /// that ends it, so that a strength of 0 draws one. The first latents hold the
    /// picture even at a strength of 1.
    Webui,
}

impl StrengthSteps {
    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            StrengthSteps::Diffusers => "diffusers",
            StrengthSteps::Webui => "webui",
        }
    }

    /// How many of `steps` are kept, `steps` at the most.
    pub fn kept(self, steps: usize, strength: f64) -> usize {
        let kept = match self {
            StrengthSteps::Diffusers => (steps as f64 * strength) as usize,
            StrengthSteps::Webui => (steps as f64 * strength.min(0.999)) as usize + 1,
        };
        kept.min(steps)
    }
}

impl FromStr for StrengthSteps {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [StrengthSteps::Diffusers, StrengthSteps::Webui]
            .into_iter()
            .find(|steps| steps.name() == text)
            .ok_or_else(|| Error::unknown("strength_steps", text, ["diffusers", "webui"]))
    }
}

/// Whose random numbers a seed stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rng {
    /// `torch.Generator("cpu")`: diffusers on the CPU and ComfyUI.
    #[default]
    Cpu,
    /// CUDA's: AUTOMATIC1111's program on an NVIDIA card.
    Cuda,
}

impl Rng {
    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Rng::Cpu => "cpu",
            Rng::Cuda => "cuda",
        }
    }

    /// The generator of one picture.
    pub fn generator(self, seed: u64) -> Box<dyn NoiseGenerator> {
        match self {
            Rng::Cpu => Box::new(TorchCpuGenerator::new(seed)),
            Rng::Cuda => Box::new(PhiloxGenerator::new(seed)),
        }
    }
}

impl FromStr for Rng {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Rng::Cpu, Rng::Cuda]
            .into_iter()
            .find(|rng| rng.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| Error::unknown("rng", text, ["cpu", "cuda"]))
    }
}
