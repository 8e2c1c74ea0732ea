//! An adapter file: pairs of matrices by the name of the module they belong to.

use super::alphas::{self, Alphas};
use super::keys::{self, Role};
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
    /// Names that are no adapter's.
    strange: Vec<String>,
}

/// One module's change, scale * (up x down), as names of tensors.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// The flattened name of the module.
    pub name: String,
    /// As the file writes it.
    pub written: String,
    pub down: String,
    pub up: String,
    pub mid: Option<String>,
    pub rank: usize,
    /// alpha / rank.
    pub scale: f64,
    /// All its tensors in the file.
    pub keys: Vec<String>,
    alpha: Option<String>,
}

impl LoraFile {
    /// Maps the file and checks its header: that there are adapters, each complete,
    /// of a kind that can be merged and with ranks that agree.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        let path = path.as_ref();
        let file = TensorFile::open(path).map_err(about_lora)?;
        let name = path.file_stem().unwrap_or(path.as_os_str());
        let mut keys = file.names();
        keys.sort();
        refuse_others(path, &keys)?;
        let (modules, strange) = group(&keys);
        if modules.is_empty() {
            let first = keys.first().map_or("none", String::as_str);
            let problem = format!("holds no LoRA: its first tensor is {first}");
            return Err(Error::file(path, problem, USE_LORA));
        }
        let mut lora = Self {
            name: name.to_string_lossy().into_owned(),
            modules: Vec::with_capacity(modules.len()),
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

    pub(super) fn strange(&self) -> &[String] {
        &self.strange
    }

    /// The shape of one of the file's own tensors.
    pub(super) fn shape(&self, key: &str) -> &[usize] {
        self.file.entry(key).map_or(&[], |entry| entry.shape)
    }

    /// The values of one of the file's own tensors.
    pub(super) fn values(&self, key: &str) -> Result<Vec<f32>> {
        let entry = self.file.entry(key);
        let view = entry.and_then(|entry| entry.view(entry.shape));
        let view = view.ok_or_else(|| self.wrong(key, "cannot be read"))?;
        Ok(view.values(0..view.count()))
    }

    pub(super) fn wrong(&self, tensor: &str, problem: impl ToString) -> Error {
        Error::tensor(self.path(), tensor, problem, "use an adapter that is whole")
    }

    /// Completes a module: both matrices there, of readable types, one rank.
    fn checked(&self, mut module: Module, alphas: &Alphas) -> Result<Module> {
        for (have, end, other) in [
            (&module.down, "lora_down", &module.up),
            (&module.up, "lora_up", &module.down),
        ] {
            if have.is_empty() {
                let key = match other.is_empty() {
                    true => module.keys.first().unwrap_or(&module.written),
                    false => other,
                };
                let problem = format!("its partner, the {end} of the module, is missing");
                return Err(self.wrong(key, problem));
            }
        }
        for key in [&module.down, &module.up].into_iter().chain(&module.mid) {
            self.check_type(key)?;
        }
        module.rank = self.rank(&module)?;
        let alpha = match &module.alpha {
            Some(key) => Some(self.alpha(key)?),
            None => None,
        };
        module.scale = match alpha {
            Some(alpha) => alpha / module.rank as f64,
            None => alphas.scale(self.path(), &module.written, module.rank)?,
        };
        Ok(module)
    }

    fn check_type(&self, key: &str) -> Result<()> {
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

    /// The rank that both matrices, and the kernel between them, agree on.
    fn rank(&self, module: &Module) -> Result<usize> {
        let (down, up) = (self.shape(&module.down), self.shape(&module.up));
        let matrix = |shape: &[usize]| matches!(shape.len(), 2 | 4) && !shape.contains(&0);
        for (key, shape, asked) in [
            (
                &module.down,
                down,
                "[rank, inputs] or [rank, inputs, kh, kw]",
            ),
            (&module.up, up, "[outputs, rank] or [outputs, rank, 1, 1]"),
        ] {
            if !matrix(shape) {
                return Err(self.wrong(key, format!("its shape is {shape:?}, not {asked}")));
            }
        }
        let inner = match &module.mid {
            Some(key) => self.mid_ranks(key)?,
            None => [down[0], down[0]],
        };
        if [up[1], down[0]] != inner || up.iter().skip(2).any(|n| *n != 1) {
            let problem =
                format!("its shape is {up:?}, which does not fit the lora_down of {down:?}");
            return Err(self.wrong(&module.up, problem));
        }
        Ok(down[0])
    }

    /// The two ranks of the kernel between.
    fn mid_ranks(&self, key: &str) -> Result<[usize; 2]> {
        match self.shape(key) {
            [a, b, _, _] => Ok([*a, *b]),
            shape => {
                let problem = format!("its shape is {shape:?}, not [rank, rank, kh, kw]");
                Err(self.wrong(key, problem))
            }
        }
    }

    fn alpha(&self, key: &str) -> Result<f64> {
        let entry = self.file.entry(key);
        let value = entry.and_then(|entry| alphas::number(&entry));
        value.filter(|alpha| alpha.is_finite()).ok_or_else(|| {
            let shape = self.shape(key);
            self.wrong(key, format!("of shape {shape:?}, not one finite number"))
        })
    }
}

/// Errors of opening a file ask for another model; here it is an adapter.
fn about_lora(error: Error) -> Error {
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
                true => Remedy::give(Field::Loras, "the adapter's .safetensors file").into(),
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

/// An error for every kind of adapter but LoRA and LoCon.
fn refuse_others(path: &Path, keys: &[String]) -> Result<()> {
    let found = keys
        .iter()
        .find_map(|key| Some((key, keys::other_kind(key)?)));
    match found {
        None => Ok(()),
        Some((key, kind)) => {
            let problem = format!("an adapter of another kind, {kind} (tensor {key})");
            let remedy = "use LoRA or LoCon, or merge it into the checkpoint beforehand";
            Err(Error::file(path, problem, remedy))
        }
    }
}

/// The tensors of each module, and names that are no adapter's.
fn group(keys: &[String]) -> (Vec<Module>, Vec<String>) {
    let mut modules: BTreeMap<String, Module> = BTreeMap::new();
    let mut strange = Vec::new();
    for key in keys {
        let Some((written, role)) = keys::split(key) else {
            strange.push(key.clone());
            continue;
        };
        let name = keys::flat(written);
        let module = modules.entry(name.clone()).or_insert_with(|| Module {
            name,
            written: written.to_string(),
            ..Default::default()
        });
        match role {
            Role::Down => module.down = key.clone(),
            Role::Up => module.up = key.clone(),
            Role::Mid => module.mid = Some(key.clone()),
            Role::Alpha => module.alpha = Some(key.clone()),
        }
        module.keys.push(key.clone());
    }
    (modules.into_values().collect(), strange)
}
