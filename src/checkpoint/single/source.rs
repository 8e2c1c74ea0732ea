//! One part of a single file as a [`TensorSource`] under diffusers' names.

use super::names::{Change, Names, Original};
use super::shapes::{COND_PROJ, UNET};
use crate::Result;
use crate::checkpoint::file::{Entry, SafeFile};
use crate::checkpoint::tensor::{DType, TensorSource, TensorView};
use crate::checkpoint::weights::{is_attention, missing, same_but_ones, wrong_shape, wrong_type};
use std::borrow::Cow;
use std::sync::Arc;

/// A part's tensors and the names they have in the file.
#[derive(Debug, Clone)]
pub(super) struct Single {
    pub file: Arc<SafeFile>,
    pub names: Names,
}

impl Single {
    fn find(&self, name: &str) -> Option<(Original, Entry<'_>)> {
        let original = self.names.original(name)?;
        if let Some(entry) = self.file.entry(&original.key) {
            return Some((original, entry));
        }
        if original.key.strip_prefix(UNET) == Some(COND_PROJ[0]) {
            let key = format!("{UNET}{}", COND_PROJ[1]);
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
    fn get(&self, name: &str, shape: &[usize]) -> Result<(Change, DType, &[u8])> {
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
        let dtype = entry.precision();
        let dtype = dtype.ok_or_else(|| wrong_type(path, &original.key, &entry))?;
        Ok((original.change, dtype, entry.data))
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
        let (change, dtype, data) = self.get(name, shape)?;
        let data = match change {
            Change::None => Cow::Borrowed(data),
            Change::Third(which) => Cow::Borrowed(third(data, which)),
            Change::Transpose => Cow::Owned(transpose(data, shape, dtype.size())),
        };
        Ok(TensorView {
            dtype,
            shape: shape.to_vec(),
            data,
        })
    }

    fn expect(&self, name: &str) {
        if let Some((_, entry)) = self.find(name) {
            self.file.expect(entry.data);
        }
    }

    fn dtype(&self, name: &str) -> Option<DType> {
        self.find(name)?.1.precision()
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

/// Rows and columns change places; `shape` is the result's, `size` one value's bytes.
fn transpose(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let &[rows, columns] = shape else {
        return data.to_vec();
    };
    let mut out = Vec::with_capacity(data.len());
    for row in 0..rows {
        for column in 0..columns {
            let at = (column * rows + row) * size;
            out.extend_from_slice(data.get(at..at + size).unwrap_or_default());
        }
    }
    out
}
