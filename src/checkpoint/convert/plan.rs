//! The tensors of the file, and what of the checkpoint makes each.

use crate::checkpoint::single::{Change, Names, original_names};
use crate::checkpoint::{Checkpoint, Part};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// One tensor of the file.
pub(super) struct Planned {
    pub key: String,
    pub shape: Vec<usize>,
    part: Part,
    /// The checkpoint's tensors, one below the other, and their shapes.
    from: Vec<(String, Vec<usize>)>,
    /// Rows and columns change places.
    is_transposed: bool,
}

impl Planned {
    /// Whether it is a matrix whose rows are whole blocks, of a part that blocks suit.
    pub fn suits_blocks(&self) -> bool {
        let whole = self
            .shape
            .last()
            .is_some_and(|n| n.is_multiple_of(crate::quantise::BLOCK));
        let embedding = self.key.ends_with("embedding.weight") || self.key.contains("positional");
        self.shape.len() == 2 && whole && !embedding && self.part != Part::Vae
    }

    pub fn is_of_unet(&self) -> bool {
        self.part == Part::UNet
    }

    /// Its values.
    pub fn values(&self, checkpoint: &Checkpoint) -> Result<Vec<f32>> {
        let source = checkpoint.source(self.part);
        let mut values = Vec::new();
        for (name, shape) in &self.from {
            let view = source.read(name, shape)?;
            values.extend(view.values(0..shape.iter().product()));
        }
        if let (true, [rows, columns]) = (self.is_transposed, &self.shape[..]) {
            let turned = (0..rows * columns).map(|i| values[i % columns * rows + i / columns]);
            values = turned.collect();
        }
        Ok(values)
    }
}

/// All tensors, by name.
pub(super) fn plan(checkpoint: &Checkpoint) -> Result<Vec<Planned>> {
    let mut all: BTreeMap<String, Planned> = BTreeMap::new();
    for part in Part::ALL {
        let Some(names) = original_names(checkpoint, part) else {
            continue;
        };
        for (name, shape) in checkpoint.expected(part) {
            add(&mut all, part, &names, (name, shape))?;
        }
    }
    let mut planned: Vec<Planned> = all.into_values().collect();
    for tensor in &mut planned {
        tensor.from.sort_by_key(|(name, _)| third(name));
        tensor.shape = tensor.shape_of_all();
    }
    Ok(planned)
}

/// Query, key and value, in this order, of a projection that holds all three.
fn third(name: &str) -> usize {
    let order = [".q_proj.", ".k_proj.", ".v_proj."];
    order
        .iter()
        .position(|part| name.contains(part))
        .unwrap_or(0)
}

fn add(
    all: &mut BTreeMap<String, Planned>,
    part: Part,
    names: &Names,
    (name, shape): (String, Vec<usize>),
) -> Result<()> {
    let unknown = || Error::internal(&name, "a tensor that the original release has not");
    let original = names.original(&name).ok_or_else(unknown)?;
    let planned = all.entry(original.key.clone()).or_insert_with(|| Planned {
        key: original.key,
        shape: Vec::new(),
        part,
        from: Vec::new(),
        is_transposed: original.change == Change::Transpose,
    });
    planned.from.push((name, shape));
    Ok(())
}

impl Planned {
    fn shape_of_all(&self) -> Vec<usize> {
        let Some((name, first)) = self.from.first() else {
            return Vec::new();
        };
        let mut shape = first.clone();
        if self.is_transposed {
            shape.reverse();
        }
        if let Some(rows) = shape.first_mut().filter(|_| self.from.len() > 1) {
            *rows = self.from.iter().map(|(_, shape)| shape[0]).sum();
        }
        // The original's attention in the VAE is made of convolutions 1x1.
        if self.part == Part::Vae && name.contains("attentions") && shape.len() == 2 {
            shape.extend([1, 1]);
        }
        shape
    }
}
