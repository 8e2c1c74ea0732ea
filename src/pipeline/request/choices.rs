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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StrengthSteps {
    /// `int(n * s)`, at least one.
    #[default]
    Diffusers,
    /// AUTOMATIC1111's `setup_img2img_steps`: `int(n * min(s, 0.999))`, and with
    /// k-diffusion's samplers the step that ends it. A strength of 0 draws one. The
    /// first latents hold the picture even at a strength of 1.
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

    /// How many of `steps` are kept with this scheduler, `steps` at the most.
    pub fn kept(self, steps: usize, strength: f64, scheduler: &str) -> usize {
        /// That program draws these along timesteps, not along k-diffusion's sigmas.
        const ALONG_TIMESTEPS: [&str; 3] = ["DDIM", "PNDM", "UniPC"];
        let kept = match self {
            StrengthSteps::Diffusers => (steps as f64 * strength) as usize,
            StrengthSteps::Webui => {
                let kept = (steps as f64 * strength.min(0.999)) as usize;
                match ALONG_TIMESTEPS.contains(&scheduler) {
                    true => kept.max(1),
                    false => kept + 1,
                }
            }
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

#[cfg(test)]
mod tests {
    use super::StrengthSteps::{Diffusers, Webui};

    #[test]
    fn webui_draws_the_step_that_ends_it() {
        for (strength, diffusers, webui, along_timesteps) in [
            (0.0, 0, 1, 1),
            (0.04, 0, 1, 1),
            (0.5, 10, 11, 10),
            (0.75, 15, 16, 15),
            (1.0, 20, 20, 19),
        ] {
            assert_eq!(
                Diffusers.kept(20, strength, "Euler"),
                diffusers,
                "{strength}"
            );
            assert_eq!(Webui.kept(20, strength, "Euler"), webui, "{strength}");
            assert_eq!(
                Webui.kept(20, strength, "DDIM"),
                along_timesteps,
                "{strength}"
            );
        }
        assert_eq!(Diffusers.kept(50, 0.58, "Euler"), 28);
        assert_eq!(Webui.kept(1, 1.0, "Euler"), 1);
    }
}
