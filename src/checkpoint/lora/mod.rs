//! Adapters: changes to a checkpoint's weights, kept as a few small tensors each. W is a
//! weight, w how much the adapter counts, s its alpha / rank:
//!
//! * LoRA (Hu et al. 2021, arXiv:2106.09685) and LoCon, the same for convolutions:
//!   `W + w s (up x down)`, which is what diffusers' `load_lora_weights` and `fuse_lora`
//!   compute;
//! * LoHa (LyCORIS, Yeh et al. 2023, arXiv:2309.14859; `functional/loha.py`):
//!   `W + w s (a1 x b1) * (a2 x b2)`, value by value;
//! * LoKr (`functional/lokr.py`): `W + w s (w1 ⊗ w2)`, either of them whole or a product;
//!   s is 1 where both are whole;
//! * IA3 (`modules/ia3.py`): `W (1 + w v)`, v a number for each input or output;
//! * full differences of weights, biases and norms (`modules/full.py`, `norms.py`):
//!   `W + w D`;
//! * GLoRA (`modules/glora.py`): `W + w s (W x a1 x a2 + b1 x b2)`;
//! * DoRA on any of them ([`merge::Step`]).
//!
//! Several adapters follow one another in the order given, each on what those before it
//! made, as in ComfyUI and AUTOMATIC1111. For DoRA, IA3 and GLoRA the order matters.

mod alphas;
mod change;
mod family;
mod file;
mod find;
mod foreign;
mod keys;
mod merge;
mod names;
mod report;
mod source;

pub use file::LoraFile;
pub(super) use file::about;
pub use find::{find, names};
pub use report::{LoraReport, MergedFile};

use super::Checkpoint;
use super::tensor::{Part, TensorSource};
use super::weights::same_but_ones;
use crate::{Error, Result};
use file::Module;
use names::{Names, PARTS, Target};
use source::{Delta, Merged};
use std::collections::{HashMap, HashSet};
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
        let (adapters, mut report) = Adapters::new(self, uses, allow_unmatched)?;
        report.changed = adapters.differ(&self.sources.adapters);
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
                let part = deltas.entry(target.part).or_default();
                for (tensor, is_bias) in one.file.changed(module, target) {
                    part.entry(tensor.clone()).or_default().push(Delta {
                        file: one.file.clone(),
                        module,
                        is_bias,
                        weight,
                    });
                }
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

    /// The tensors that these adapters change in another way than `others` do.
    fn differ(&self, others: &Self) -> HashMap<Part, HashSet<String>> {
        let of = |part: &Part| {
            let both = [self, others].map(|adapters| adapters.merged.get(part));
            let deltas = both.map(|merged| merged.map(|merged| &merged.deltas));
            let names = deltas.iter().flatten().flat_map(|deltas| deltas.keys());
            let [own, other] = deltas;
            let get = |deltas: Option<&HashMap<String, Vec<Delta>>>, name: &String| {
                let found = deltas.and_then(|deltas| deltas.get(name));
                found.cloned().unwrap_or_default()
            };
            let differ = names.filter(|name| get(own, name) != get(other, name));
            (*part, differ.cloned().collect())
        };
        PARTS.iter().map(of).collect()
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
        check_fit(file, module, target)?;
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
                let key = module.keys.first().unwrap_or(&module.written);
                return Err(file.wrong(key, problem));
            }
        };
        found.insert(key, entry);
    }
    unmatched.sort();
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by_key(|(number, _)| *number);
    Ok((found, unmatched))
}

/// Checks that a module's changes have the shapes of what they change.
fn check_fit(file: &LoraFile, module: &Module, target: &Target) -> Result<()> {
    if let Some(change) = &module.weight {
        change.check(file, &target.tensor, &target.shape)?;
    }
    let Some(key) = &module.bias else {
        return Ok(());
    };
    if target.bias.is_none() {
        let problem = format!("a difference of a bias, which {} has not", module.written);
        let remedy = "use an adapter made for this checkpoint's architecture";
        return Err(Error::tensor(file.path(), key, problem, remedy));
    }
    let have = file.shape(key);
    let want = target.shape.get(..1).unwrap_or_default();
    match have == want {
        true => Ok(()),
        false => {
            let asked = format!("{want:?}");
            Err(change::misfit(
                file,
                key,
                have,
                &target.tensor,
                &target.shape,
                asked,
            ))
        }
    }
}

impl LoraFile {
    /// The tensors that one of the modules changes, and whether they are biases.
    fn changed<'a>(
        &self,
        module: usize,
        target: &'a Target,
    ) -> impl Iterator<Item = (&'a String, bool)> {
        let module = self.modules().get(module);
        let weight = module.is_some_and(|m| m.weight.is_some());
        let bias = module.is_some_and(|m| m.bias.is_some());
        let weight = weight.then_some((&target.tensor, false));
        let bias = target.bias.as_ref().filter(|_| bias);
        weight.into_iter().chain(bias.map(|bias| (bias, true)))
    }
}
