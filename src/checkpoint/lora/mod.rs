//! LoRA adapters: changes of low rank to a checkpoint's weights (Hu et al. 2021,
//! arXiv:2106.09685; LoCon, the same for convolutions, is LyCORIS'). A weight becomes
//! `W + weight * alpha / rank * (up x down)`, which is what diffusers'
//! `load_lora_weights` and `fuse_lora` compute.

mod alphas;
mod family;
mod file;
mod find;
mod keys;
mod merge;
mod names;
mod report;
mod source;

pub use file::LoraFile;
pub use find::{find, names};
pub use report::{LoraReport, MergedFile};

use super::Checkpoint;
use super::tensor::{Part, TensorSource};
use super::weights::same_but_ones;
use crate::{Error, Result};
use file::Module;
use names::{Names, PARTS, Target};
use source::{Delta, Merged};
use std::collections::HashMap;
use std::sync::Arc;

/// A file and how much it counts.
#[derive(Debug, Clone)]
pub struct LoraUse {
    pub file: Arc<LoraFile>,
    /// For the UNet: any finite number; at 0 the weights stay as they are.
    pub unet_weight: f64,
    /// For both text encoders.
    pub text_weight: f64,
}

/// The adapters in use and the sources that merge them.
#[derive(Default)]
pub(super) struct Adapters {
    uses: Vec<LoraUse>,
    merged: HashMap<Part, Merged>,
}

impl Checkpoint {
    /// Merges these adapters and no others into what [`Checkpoint::source`] gives;
    /// none at all restores the checkpoint. Reads headers only: a weight is merged each
    /// time it is read. On an error everything stays as it was.
    ///
    /// Keys that name nothing in the checkpoint are an error, or, with
    /// `allow_unmatched`, left out and listed in the report.
    pub fn set_loras(&mut self, uses: &[LoraUse], allow_unmatched: bool) -> Result<LoraReport> {
        let (adapters, report) = Adapters::new(self, uses, allow_unmatched)?;
        self.sources.adapters = adapters;
        Ok(report)
    }

    /// The adapters that are merged, in the order given.
    pub fn loras(&self) -> &[LoraUse] {
        &self.sources.adapters.uses
    }
}

impl Adapters {
    fn new(
        checkpoint: &Checkpoint,
        uses: &[LoraUse],
        allow_unmatched: bool,
    ) -> Result<(Self, LoraReport)> {
        let mut deltas: HashMap<Part, HashMap<String, Vec<Delta>>> = HashMap::new();
        let mut report = LoraReport::default();
        let names = match uses {
            [] => return Ok(Default::default()),
            _ => Names::new(checkpoint),
        };
        for one in uses {
            one.check_weights()?;
            family::check(&one.file, checkpoint, &names)?;
            let (found, unmatched) = targets(&one.file, &names)?;
            if !unmatched.is_empty() && !allow_unmatched {
                return Err(report::unmatched_error(&one.file, &unmatched));
            }
            report.add(one, &found, unmatched);
            for (module, target) in found {
                let weight = one.weight(target.part);
                if weight == 0.0 {
                    continue;
                }
                let delta = Delta {
                    file: one.file.clone(),
                    scale: weight * one.file.modules().get(module).map_or(0.0, |m| m.scale),
                    module,
                };
                let part = deltas.entry(target.part).or_default();
                part.entry(target.tensor.clone()).or_default().push(delta);
            }
        }
        let merged = deltas.into_iter().map(|(part, deltas)| {
            let base = checkpoint.sources.plain(part).clone();
            (part, Merged { base, deltas })
        });
        let adapters = Self {
            uses: uses.to_vec(),
            merged: merged.collect(),
        };
        Ok((adapters, report))
    }

    /// A part's merged tensors; `None` for a part that no adapter changes.
    pub(super) fn source(&self, part: Part) -> Option<&dyn TensorSource> {
        self.merged.get(&part).map(|merged| merged as _)
    }
}

impl LoraUse {
    fn weight(&self, part: Part) -> f64 {
        match part {
            Part::UNet => self.unet_weight,
            _ => self.text_weight,
        }
    }

    fn check_weights(&self) -> Result<()> {
        for weight in PARTS.map(|part| self.weight(part)) {
            if !(weight as f32).is_finite() {
                let field = format!("weight of LoRA {}", self.file.name());
                return Err(Error::invalid(
                    field,
                    weight,
                    "a finite number, such as 0.8",
                ));
            }
        }
        Ok(())
    }
}

/// A file's module by its number and the weight that it changes.
type Found<'a> = (usize, &'a Target);

/// What each of a file's modules changes, and the names of tensors that change nothing
/// here.
fn targets<'a>(file: &LoraFile, names: &'a Names) -> Result<(Vec<Found<'a>>, Vec<String>)> {
    let mut unmatched = file.strange().to_vec();
    let mut found: HashMap<(Part, &str), Found<'_>> = HashMap::new();
    for (number, module) in file.modules().iter().enumerate() {
        let Some(target) = names.find(&module.name) else {
            unmatched.extend(module.keys.iter().cloned());
            continue;
        };
        check_shapes(file, module, target)?;
        let key = (target.part, target.tensor.as_str());
        let entry = match found.get(&key) {
            None => (number, target),
            // Some files have one adapter under both kinds of names; diffusers leaves
            // those of the original release out.
            Some(other) if other.1.original != target.original => match target.original {
                true => *other,
                false => (number, target),
            },
            Some(other) => {
                let other = file.modules().get(other.0).map_or("", |m| &m.written);
                let problem = format!("changes the same weight as {other}");
                return Err(file.wrong(&module.down, problem));
            }
        };
        found.insert(key, entry);
    }
    unmatched.sort();
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by_key(|(number, _)| *number);
    Ok((found, unmatched))
}

/// Checks that the product of both matrices has as many rows and columns as the weight.
/// 1x1 convolutions and linear layers stand for one another.
fn check_shapes(file: &LoraFile, module: &Module, target: &Target) -> Result<()> {
    let (down, up) = (file.shape(&module.down), file.shape(&module.up));
    let [outputs, inputs, taps @ ..] = target.shape.as_slice() else {
        return Ok(());
    };
    let wrong = |key: &str, shape: &[usize], asked: String| {
        let problem = format!(
            "its shape is {shape:?}, {} of {:?} asks for {asked}",
            target.tensor, target.shape
        );
        let remedy = "use an adapter made for this checkpoint's architecture";
        Err(Error::tensor(file.path(), key, problem, remedy))
    };
    if up.first() != Some(outputs) {
        let asked = format!("{outputs} rows");
        return wrong(&module.up, up, asked);
    }
    let mut asked = vec![module.rank, *inputs];
    match &module.mid {
        None => asked.extend(taps),
        Some(mid) => {
            let kernel = file.shape(mid);
            if kernel.get(2..) != Some(taps) {
                return wrong(mid, kernel, format!("a kernel of {taps:?}"));
            }
        }
    }
    match same_but_ones(down, &asked) {
        true => Ok(()),
        false => wrong(&module.down, down, format!("{asked:?}")),
    }
}
