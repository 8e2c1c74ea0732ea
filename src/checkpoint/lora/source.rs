//! A part's tensors with adapters merged in as they are read, so that there is never a
//! second copy of the model.

use super::file::LoraFile;
use super::merge::{Term, joined, merge};
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
    /// Weight * alpha / rank.
    pub scale: f64,
}

/// A part with adapters.
pub(super) struct Merged {
    pub base: Arc<dyn TensorSource>,
    /// By the tensor's name. Tensors that are not here stay as they are.
    pub deltas: HashMap<String, Vec<Delta>>,
}

impl Delta {
    fn term(&self) -> Result<Option<Term>> {
        let file = &self.file;
        let Some(module) = file.modules().get(self.module) else {
            return Ok(None);
        };
        let mut down = file.values(&module.down)?;
        let mut rank = module.rank;
        if let Some(mid) = &module.mid
            && let [a, b, kh, kw] = *file.shape(mid)
        {
            down = joined(&file.values(mid)?, &down, [a, b, kh * kw])
                .map_err(|e| file.wrong(mid, e))?;
            rank = a;
        }
        Ok(Some(Term {
            scale: self.scale as f32,
            rank,
            up: file.values(&module.up)?,
            down,
        }))
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
        let mut terms = Vec::with_capacity(1 + deltas.len());
        for delta in std::iter::once(first).chain(deltas) {
            terms.extend(delta.term()?);
        }
        let rows = shape.first().copied().unwrap_or(1);
        let columns = shape.iter().skip(1).product();
        let merged = merge(&base, [rows, columns], &terms)
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
