//! One part of a single file as a [`TensorSource`] under diffusers' names.

use super::names::{Change, Names, Original};
use super::unet::COND_PROJ;
use crate::Result;
use crate::checkpoint::file::{Entry, TensorFile};
use crate::checkpoint::tensor::{DType, TensorSource, TensorView};
use crate::checkpoint::weights::{is_attention, missing, same_but_ones, wrong_shape, wrong_type};
use std::sync::Arc;

/// A part's tensors and the names they have in the file.
#[derive(Debug, Clone)]
pub(super) struct Single {
    pub file: Arc<TensorFile>,
    pub names: Names,
}

impl Single {
    fn find(&self, name: &str) -> Option<(Original, Entry<'_>)> {
        let original = self.names.original(name)?;
        if let Some(entry) = self.file.entry(&original.key) {
            return Some((original, entry));
        }
        if let Some(prefix) = original.key.strip_suffix(COND_PROJ[0]) {
            let key = format!("{prefix}{}", COND_PROJ[1]);
            let entry = self.file.entry(&key)?;
            return Some((Original { key, ..original }, entry));
        }
        // Some programs write the projection as a linear layer.
        let key = format!("{}.weight", original.key);
        let entry = self.file.entry(&key)?;
        let change = Change::None;
        (original.change == Change::Transpose).then_some((Original { key, change }, entry))
    }

    /// The tensor, once its shape after the change is known to be `shape`.
    fn get(&self, name: &str, shape: &[usize]) -> Result<(Change, Entry<'_>)> {
        let path = self.file.path();
        let Some((original, entry)) = self.find(name) else {
            let original = self.names.original(name).map(|o| o.key);
            return Err(missing(path, &original.unwrap_or(name.to_string())));
        };
        let stored = stored_shape(original.change, shape);
        let same = entry.shape == stored.as_slice()
            || (is_attention(name) && same_but_ones(entry.shape, shape));
        if !same {
            return Err(wrong_shape(path, &original.key, entry.shape, &stored));
        }
        match entry.precision() {
            Some(_) => Ok((original.change, entry)),
            None => Err(wrong_type(path, &original.key, &entry)),
        }
    }
}

impl TensorSource for Single {
    fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.get(name, shape).map(|_| ())
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let (change, mut entry) = self.get(name, shape)?;
        if let Change::Third(which) = change {
            entry.data = third(entry.data, which);
        }
        let view = entry.view(shape);
        let view = view.ok_or_else(|| wrong_type(self.file.path(), name, &entry))?;
        match change {
            Change::Transpose => Ok(transposed(&view)),
            _ => Ok(view),
        }
    }

    fn expect(&self, name: &str) {
        if let Some((_, entry)) = self.find(name) {
            self.file.expect(entry.data);
        }
    }

    fn dtype(&self, name: &str) -> Option<DType> {
        self.find(name)?.1.precision()
    }

    fn fits_f16(&self, name: &str) -> bool {
        self.find(name).is_some_and(|(_, entry)| entry.fits_f16())
    }
}

/// The shape in the file of a tensor that has `shape` after the change.
fn stored_shape(change: Change, shape: &[usize]) -> Vec<usize> {
    let mut stored = shape.to_vec();
    match change {
        Change::None => {}
        Change::Third(_) => {
            if let Some(rows) = stored.first_mut() {
                *rows = rows.saturating_mul(3);
            }
        }
        Change::Transpose => stored.reverse(),
    }
    stored
}

/// The first, second or last third of the bytes.
fn third(data: &[u8], which: usize) -> &[u8] {
    let size = data.len() / 3;
    data.get(which * size..(which + 1) * size)
        .unwrap_or_default()
}

/// Rows and columns change places; the shape is the result's already.
fn transposed(view: &TensorView<'_>) -> TensorView<'static> {
    let &[rows, columns] = view.shape.as_slice() else {
        return view.clone().into_owned();
    };
    let block = view.dtype.block();
    if block.values > 1 {
        // Blocks run along a row: they do not turn.
        let stored = view.values(0..rows * columns);
        let turned = (0..rows * columns).map(|i| stored[i % columns * rows + i / columns]);
        let bytes: Vec<u8> = turned.flat_map(f32::to_le_bytes).collect();
        return TensorView::new(DType::F32, &view.shape, bytes);
    }
    let mut out = Vec::with_capacity(view.data.len());
    for row in 0..rows {
        for column in 0..columns {
            let at = (column * rows + row) * block.bytes;
            out.extend_from_slice(view.data.get(at..at + block.bytes).unwrap_or_default());
        }
    }
    TensorView {
        dtype: view.dtype,
        shape: view.shape.clone(),
        data: out.into(),
        scale: view.scale,
    }
}
