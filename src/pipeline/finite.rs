//! Which stage of a run was the first whose numbers are not finite, and what helps.

use super::Request;
use crate::Error;
use crate::checkpoint::{Checkpoint, Part};
use crate::error::{Field, Remedy};
use crate::kernel::Storage;
use crate::model::Loaded;
use std::fmt;

/// A stage whose numbers are looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stage {
    /// Of the two of the base model, or the refiner's one.
    TextEncoder(Owner, Which),
    /// At a step of its loop, counted from 1.
    UNet(Owner, usize, usize),
    /// The update at a step, where what the UNet made is finite.
    Scheduler(Owner, usize, usize),
    VaeEncoder,
    VaeDecoder,
}

/// The model that a stage is of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Owner {
    Base,
    Refiner,
}

/// One of the base model's text encoders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Which {
    First,
    Second,
}

impl Owner {
    pub fn of(checkpoint: &Checkpoint) -> Self {
        match checkpoint.is_refiner() {
            true => Owner::Refiner,
            false => Owner::Base,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Owner::Base => "base model",
            Owner::Refiner => "refiner",
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::TextEncoder(Owner::Refiner, _) => write!(f, "the refiner's text encoder"),
            Stage::TextEncoder(owner, Which::First) => {
                write!(f, "the {owner}'s first text encoder")
            }
            Stage::TextEncoder(owner, Which::Second) => {
                write!(f, "the {owner}'s second text encoder")
            }
            Stage::UNet(owner, step, steps) => {
                write!(f, "the {owner}'s UNet at step {step} of {steps}")
            }
            Stage::Scheduler(owner, step, steps) => {
                write!(f, "the scheduler at step {step} of {steps} of the {owner}")
            }
            Stage::VaeEncoder => f.write_str("the VAE's encoder"),
            Stage::VaeDecoder => f.write_str("the VAE's decoder"),
        }
    }
}

/// A stage and what of its surroundings may be to blame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspect {
    pub stage: Stage,
    /// How its activations are stored.
    pub storage: Storage,
    /// LoRAs are merged into its weights.
    pub adapted: bool,
}

impl Suspect {
    /// A text encoder, whose activations are f32 always.
    pub fn text_encoder(checkpoint: &Checkpoint, part: Part, request: &Request) -> Self {
        let owner = Owner::of(checkpoint);
        let which = match part {
            Part::TextEncoder => Which::First,
            _ => Which::Second,
        };
        Self {
            stage: Stage::TextEncoder(owner, which),
            storage: Storage::F32,
            adapted: owner == Owner::Base && request.loras.iter().any(|l| l.text_weight != 0.0),
        }
    }

    /// A loop's UNet, before its first step.
    pub fn unet(
        checkpoint: &Checkpoint,
        steps: usize,
        storage: Storage,
        request: &Request,
    ) -> Self {
        let owner = Owner::of(checkpoint);
        Self {
            stage: Stage::UNet(owner, 1, steps),
            storage,
            adapted: owner == Owner::Base && request.loras.iter().any(|l| l.unet_weight != 0.0),
        }
    }

    /// Half of the VAE.
    pub fn vae(stage: Stage, storage: Storage) -> Self {
        Self {
            stage,
            storage,
            adapted: false,
        }
    }

    /// What of a loop made its first numbers that are not finite, given the first
    /// steps at which the guided prediction and the latents were not.
    pub fn in_loop(self, prediction: Option<usize>, latents: Option<usize>) -> Option<Self> {
        let (Stage::UNet(owner, _, steps) | Stage::Scheduler(owner, _, steps)) = self.stage else {
            return None;
        };
        let stage = match (prediction, latents) {
            (None, None) => return None,
            // The latents follow from the prediction.
            (Some(k), latents) if latents.is_none_or(|l| k <= l) => Stage::UNet(owner, k, steps),
            (Some(k), None) | (_, Some(k)) => Stage::Scheduler(owner, k, steps),
        };
        Some(Self { stage, ..self })
    }

    /// The error that what this stage made is not finite.
    pub fn error(&self) -> Error {
        self.named(None)
    }

    /// The same error with this stage in it, where `error` is that a tensor of its
    /// weights is not finite.
    pub fn blamed(&self, error: Error) -> Error {
        match error {
            Error::NotFinite { stage, tensor, .. } if stage.is_empty() => self.named(tensor),
            other => other,
        }
    }

    fn named(&self, tensor: Option<String>) -> Error {
        Error::NotFinite {
            stage: self.stage.to_string(),
            remedy: self.remedies(tensor.is_some()).into(),
            tensor,
        }
    }

    /// What helps, where it is known or not that a tensor is to blame.
    fn remedies(&self, by_tensor: bool) -> Vec<Remedy> {
        let mut all = Vec::new();
        if self.storage == Storage::F16 && !by_tensor {
            all.push(Remedy::FULL_ACTIVATIONS);
        }
        if self.adapted {
            all.push(match by_tensor {
                false => Remedy::LoraWeight,
                true => Remedy::Plain("leave the LoRAs out: one of them may be damaged".into()),
            });
        }
        match self.stage {
            Stage::VaeEncoder | Stage::VaeDecoder => all.push(Remedy::OTHER_VAE),
            Stage::Scheduler(..) => {
                all.push(Remedy::Other(Field::Scheduler));
                all.push(Remedy::Other(Field::SchedulerOptions));
            }
            // Nothing else is known to make such numbers.
            Stage::TextEncoder(..) | Stage::UNet(..) if all.is_empty() || by_tensor => {
                all.push(Remedy::Plain(
                    "use a sound checkpoint: `calotype inspect` looks for such weights".into(),
                ));
            }
            _ => {}
        }
        all
    }
}

/// Says of a part's weights which stayed f32, since f16 would not hold their values.
pub(super) fn wide_weights(part: impl fmt::Display, loaded: &Loaded) -> Option<String> {
    let wide = loaded.wide();
    let (name, most) = wide.iter().max_by(|a, b| a.1.total_cmp(b.1))?;
    let count = wide.len();
    let which = match count {
        1 => "a tensor of weights holds".into(),
        _ => format!("{count} tensors of weights hold"),
    };
    Some(format!(
        "{part}: {which} values beyond f16's range (up to {most:.1e}, in {name}) and stayed f32"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(stage: Stage, storage: Storage, adapted: bool, tensor: Option<&str>) -> String {
        let suspect = Suspect {
            stage,
            storage,
            adapted,
        };
        match tensor {
            Some(name) => suspect.blamed(Error::not_finite_tensor(name)).to_string(),
            None => suspect.error().to_string(),
        }
    }

    #[test]
    fn remedies_fit_the_stage() {
        use Owner::{Base, Refiner};
        let unet = Stage::UNet(Base, 3, 20);
        let [f32, f16] = [Storage::F32, Storage::F16];
        let said = message(unet, f16, false, None);
        assert!(
            said.starts_with("the base model's UNet at step 3 of 20 made"),
            "{said}"
        );
        assert!(
            said.contains("activations to f32") && !said.contains("LoRA"),
            "{said}"
        );
        assert!(!said.contains("inspect"), "{said}");
        let said = message(unet, f32, true, None);
        assert!(
            said.contains("weights of loras") && !said.contains("f32"),
            "{said}"
        );
        // Nothing left but the checkpoint.
        let said = message(Stage::UNet(Refiner, 1, 2), f32, false, None);
        assert!(
            said.contains("the refiner's UNet") && said.contains("inspect"),
            "{said}"
        );
        // A tensor is to blame: no precision helps.
        let said = message(unet, f16, true, Some("conv_in.bias"));
        assert!(
            said.contains("conv_in.bias") && said.contains("inspect"),
            "{said}"
        );
        assert!(
            said.contains("leave the LoRAs out") && !said.contains("f32"),
            "{said}"
        );
        for stage in [Stage::VaeEncoder, Stage::VaeDecoder] {
            let said = message(stage, f32, false, None);
            assert!(
                said.contains("another vae") && !said.contains("inspect"),
                "{said}"
            );
        }
        let said = message(Stage::Scheduler(Base, 1, 1), f32, false, None);
        assert!(said.contains("another scheduler"), "{said}");
        let encoders = [
            (Base, Which::First),
            (Base, Which::Second),
            (Refiner, Which::Second),
        ];
        let names = [
            "the base model's first",
            "the base model's second",
            "the refiner's",
        ];
        for ((owner, which), name) in encoders.into_iter().zip(names) {
            let said = message(Stage::TextEncoder(owner, which), f32, false, None);
            assert!(
                said.starts_with(&format!("{name} text encoder made")),
                "{said}"
            );
        }
    }

    #[test]
    fn the_first_of_a_loop_is_to_blame() {
        let unet = Suspect {
            stage: Stage::UNet(Owner::Refiner, 1, 9),
            storage: Storage::F32,
            adapted: false,
        };
        let stage = |prediction, latents| unet.in_loop(prediction, latents).map(|s| s.stage);
        assert_eq!(stage(None, None), None);
        let made = |k| Some(Stage::UNet(Owner::Refiner, k, 9));
        assert_eq!(stage(Some(2), Some(2)), made(2));
        // Clipping hides what the prediction was.
        assert_eq!(stage(Some(2), None), made(2));
        assert_eq!(stage(Some(2), Some(5)), made(2));
        let scheduler = Some(Stage::Scheduler(Owner::Refiner, 2, 9));
        assert_eq!(stage(Some(3), Some(2)), scheduler);
        assert_eq!(stage(None, Some(2)), scheduler);
    }

    #[test]
    fn other_errors_pass() {
        let suspect = Suspect::vae(Stage::VaeDecoder, Storage::F32);
        assert!(matches!(suspect.blamed(Error::Cancelled), Error::Cancelled));
        let first = Suspect::vae(Stage::VaeEncoder, Storage::F32).error();
        let said = suspect.blamed(first).to_string();
        assert!(said.starts_with("the VAE's encoder"), "{said}");
    }
}
