//! A part's tensors with adapters merged in as they are read, so that there is never a
//! second copy of the model.

use super::file::LoraFile;
use super::merge::{Change, Step, merge};
use crate::Result;
use crate::checkpoint::tensor::{DType, TensorSource, TensorView};
use std::collections::HashMap;
use std::sync::Arc;

/// One adapter's share in one tensor.
#[derive(Debug, Clone)]
pub(super) struct Delta {
    pub file: Arc<LoraFile>,
    /// Which of the file's modules.
    pub module: usize,
    /// Whether the tensor is the module's bias, not its weight.
    pub is_bias: bool,
    /// How much the adapter counts.
    pub weight: f64,
}

/// A part with adapters.
pub(super) struct Merged {
    pub base: Arc<dyn TensorSource>,
    /// By the tensor's name. Tensors that are not here stay as they are.
    pub deltas: HashMap<String, Vec<Delta>>,
}

/// The same module of the same file, as much.
impl PartialEq for Delta {
    fn eq(&self, other: &Self) -> bool {
        let of = |delta: &Self| (delta.module, delta.is_bias, delta.weight);
        self.file.path() == other.file.path() && of(self) == of(other)
    }
}

impl Delta {
    /// What it does to the tensor, which has `shape`.
    fn step(&self, shape: &[usize]) -> Result<Option<Step>> {
        let file = &self.file;
        let module = file.modules().get(self.module);
        match (module, self.is_bias) {
            (Some(module), false) => {
                let change = module.weight.as_ref();
                let step = change.map(|change| change.step(file, shape, self.weight));
                step.transpose()
            }
            (Some(module), true) => {
                let values = module.bias.as_ref().map(|key| file.values(key));
                let values = values.transpose()?;
                Ok(values.map(|values| Step::new(Change::Full(values), 1.0, self.weight, 1)))
            }
            (None, _) => Ok(None),
        }
    }
}

impl TensorSource for Merged {
    fn contains(&self, name: &str) -> bool {
        self.base.contains(name)
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.base.check(name, shape)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let base = self.base.read(name, shape)?;
        let Some([first, deltas @ ..]) = self.deltas.get(name).map(Vec::as_slice) else {
            return Ok(base);
        };
        let mut steps = Vec::with_capacity(1 + deltas.len());
        for delta in std::iter::once(first).chain(deltas) {
            steps.extend(delta.step(shape)?);
        }
        let rows = shape.first().copied().unwrap_or(1);
        let columns = shape.iter().skip(1).product();
        let merged = merge(&base, [rows, columns], steps)
            .map_err(|e| first.file.wrong(name, format!("cannot be merged ({e})")))?;
        Ok(TensorView::new(DType::F32, shape, merged))
    }

    fn expect(&self, name: &str) {
        self.base.expect(name);
    }

    fn dtype(&self, name: &str) -> Option<DType> {
        match self.deltas.contains_key(name) {
            true => Some(DType::F32),
            false => self.base.dtype(name),
        }
    }

    fn fits_f16(&self, name: &str) -> bool {
        !self.deltas.contains_key(name) && self.base.fits_f16(name)
    }
}
