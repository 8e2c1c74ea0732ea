//! An adapter file: pairs of matrices by the name of the module they belong to.

use super::alphas::{self, Alphas};
use super::change::{Roles, WeightChange};
use super::foreign;
use super::keys::{self, Role};
use super::merge::Matrix;
use crate::checkpoint::embedding::Encoder;
use crate::checkpoint::file::TensorFile;
use crate::{Error, Field, Remedy, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What to give in place of another file.
const USE_LORA: Remedy = Remedy::Give {
    field: Field::Loras,
    what: Cow::Borrowed("a LoRA adapter for SDXL"),
};

/// A LoRA file, its header checked. Values are read when they are merged.
#[derive(Debug)]
pub struct LoraFile {
    file: TensorFile,
    name: String,
    modules: Vec<Module>,
    bundles: Vec<Bundle>,
    /// Names that are no adapter's.
    strange: Vec<String>,
}

/// A textual inversion in an adapter's file, as OneTrainer and AUTOMATIC1111 have them:
/// `bundle_emb.NAME.clip_l` and `.clip_g`, or `.string_to_param.*`.
#[derive(Debug)]
pub(in crate::checkpoint) struct Bundle {
    pub name: String,
    pub tensors: Vec<(Encoder, String)>,
}

/// What the file does to one module.
#[derive(Debug)]
pub(super) struct Module {
    /// The flattened name of the module.
    pub name: String,
    /// As the file writes it.
    pub written: String,
    pub weight: Option<WeightChange>,
    /// A difference of the bias, by its tensor's name.
    pub bias: Option<String>,
    /// All its tensors in the file.
    pub keys: Vec<String>,
}

/// The tensors of a module.
struct Grouped {
    name: String,
    written: String,
    roles: Roles,
    keys: Vec<String>,
}

impl LoraFile {
    /// Maps the file and checks its header: that there are adapters, each complete,
    /// of a kind that can be merged and with ranks that agree.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        let path = path.as_ref();
        let file = TensorFile::open(path);
        let file = file.map_err(|e| about(e, Field::Loras, "the adapter's .safetensors file"))?;
        let name = path.file_stem().unwrap_or(path.as_os_str());
        let mut keys = file.names();
        keys.sort();
        refuse_others(path, &keys)?;
        let bundles = bundles(&mut keys);
        let (modules, strange) = group(path, &keys)?;
        if modules.is_empty() {
            if let Some((what, remedy)) = foreign::kind(path, &keys) {
                return Err(Error::file(path, what, remedy));
            }
            let first = keys.first().map_or("none", String::as_str);
            let problem = format!("holds no LoRA: its first tensor is {first}");
            return Err(Error::file(path, problem, USE_LORA));
        }
        let mut lora = Self {
            name: name.to_string_lossy().into_owned(),
            modules: Vec::with_capacity(modules.len()),
            bundles,
            strange,
            file,
        };
        let alphas = Alphas::read(path, lora.file.metadata(alphas::KEY))?;
        for module in modules {
            let module = lora.checked(module, &alphas)?;
            lora.modules.push(module);
        }
        Ok(Arc::new(lora))
    }

    /// Whether a file with a tensor of this name is one.
    pub(in crate::checkpoint) fn is_adapters(key: &str) -> bool {
        keys::split(key).is_some()
    }

    /// The file's name without its ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn modules(&self) -> &[Module] {
        &self.modules
    }

    pub(in crate::checkpoint) fn bundles(&self) -> &[Bundle] {
        &self.bundles
    }

    pub(super) fn strange(&self) -> &[String] {
        &self.strange
    }

    /// The shape of one of the file's own tensors.
    pub(in crate::checkpoint) fn shape(&self, key: &str) -> &[usize] {
        self.file.entry(key).map_or(&[], |entry| entry.shape)
    }

    /// The values of one of the file's own tensors.
    pub(in crate::checkpoint) fn values(&self, key: &str) -> Result<Vec<f32>> {
        let entry = self.file.entry(key);
        let view = entry.and_then(|entry| entry.view(entry.shape));
        let view = view.ok_or_else(|| self.wrong(key, "cannot be read"))?;
        Ok(view.values(0..view.count()))
    }

    /// The values of one of the file's own tensors, all dimensions but the first as
    /// columns.
    pub(super) fn matrix(&self, key: &str) -> Result<Matrix> {
        let shape = self.shape(key);
        Ok(Matrix {
            rows: shape.first().copied().unwrap_or(1),
            columns: shape.iter().skip(1).product(),
            values: self.values(key)?,
        })
    }

    pub(super) fn wrong(&self, tensor: &str, problem: impl ToString) -> Error {
        Error::tensor(self.path(), tensor, problem, "use an adapter that is whole")
    }

    /// Completes a module: all tensors there that its kind has, of readable types and
    /// fitting shapes.
    fn checked(&self, module: Grouped, alphas: &Alphas) -> Result<Module> {
        let Grouped {
            name,
            written,
            roles,
            keys,
        } = module;
        let bias = roles.get(&Role::DiffB).cloned();
        bias.iter().try_for_each(|key| self.check_type(key))?;
        Ok(Module {
            weight: WeightChange::of(self, &written, &roles, alphas)?,
            name,
            written,
            bias,
            keys,
        })
    }

    pub(in crate::checkpoint) fn check_type(&self, key: &str) -> Result<()> {
        match self.file.entry(key) {
            Some(entry) if entry.precision().is_some() => Ok(()),
            Some(entry) => {
                let problem = format!(
                    "its type is {}, allowed are F32, F16, BF16 and fp8",
                    entry.stored
                );
                Err(Error::tensor(
                    self.path(),
                    key,
                    problem,
                    "convert the adapter to F16",
                ))
            }
            None => Err(self.wrong(key, "missing")),
        }
    }

    /// The one number that a tensor holds.
    pub(super) fn number(&self, key: &str) -> Result<f64> {
        let entry = self.file.entry(key);
        let value = entry.and_then(|entry| alphas::number(&entry));
        value.filter(|alpha| alpha.is_finite()).ok_or_else(|| {
            let shape = self.shape(key);
            self.wrong(key, format!("of shape {shape:?}, not one finite number"))
        })
    }
}

/// Errors of opening a file ask for another model; here `what` is wanted of `field`.
pub(in crate::checkpoint) fn about(error: Error, field: Field, what: &'static str) -> Error {
    match error {
        Error::File {
            path,
            problem,
            remedy,
        } => {
            let wants_model = |one: &Remedy| {
                matches!(
                    one,
                    Remedy::Give {
                        field: Field::Model,
                        ..
                    }
                )
            };
            let remedy = match remedy.iter().any(wants_model) {
                true => Remedy::give(field, what).into(),
                false => remedy,
            };
            Error::File {
                path,
                problem,
                remedy,
            }
        }
        other => other,
    }
}

/// An error for every kind of adapter that is not merged.
fn refuse_others(path: &Path, keys: &[String]) -> Result<()> {
    let found = keys
        .iter()
        .find_map(|key| Some((key, keys::other_kind(key)?)));
    match found {
        None => Ok(()),
        Some((key, kind)) => {
            let problem = format!("an adapter of another kind, {kind} (tensor {key})");
            let remedy = "use LoRA, LoCon, LoHa, LoKr, IA3, GLoRA or full differences, or merge it into the checkpoint beforehand";
            Err(Error::file(path, problem, remedy))
        }
    }
}

/// Takes the textual inversions' names out of `keys`.
fn bundles(keys: &mut Vec<String>) -> Vec<Bundle> {
    let mut found: BTreeMap<String, Vec<(Encoder, String)>> = BTreeMap::new();
    keys.retain(|key| {
        let Some(rest) = key.strip_prefix("bundle_emb.") else {
            return true;
        };
        let named = rest.split_once(".string_to_param.");
        let Some((name, end)) = named.or_else(|| rest.rsplit_once('.')) else {
            return true;
        };
        let tensors = found.entry(name.to_owned()).or_default();
        tensors.extend(Encoder::of(end).map(|encoder| (encoder, key.clone())));
        false
    });
    let bundle = |(name, tensors)| Bundle { name, tensors };
    found.into_iter().map(bundle).collect()
}

/// The tensors of each module, and names that are no adapter's.
fn group(path: &Path, keys: &[String]) -> Result<(Vec<Grouped>, Vec<String>)> {
    let mut modules: BTreeMap<String, Grouped> = BTreeMap::new();
    let mut strange = Vec::new();
    let scaled = |key| {
        let module = keys::scaled_module(key)?;
        let marked = keys.binary_search(&keys::on_input(module)).is_ok();
        marked.then_some((module, Role::ChannelScale))
    };
    for key in keys {
        let Some((written, role)) = keys::split(key).or_else(|| scaled(key)) else {
            strange.push(key.clone());
            continue;
        };
        let name = keys::flat(written);
        let module = modules.entry(name.clone()).or_insert_with(|| Grouped {
            name,
            written: written.to_string(),
            roles: Roles::new(),
            keys: Vec::new(),
        });
        if let Some(other) = module.roles.insert(role, key.clone()) {
            let problem = format!("says the same of its module as {other}");
            let remedy = "use an adapter that is whole";
            return Err(Error::tensor(path, key, problem, remedy));
        }
        module.keys.push(key.clone());
    }
    Ok((modules.into_values().collect(), strange))
}
