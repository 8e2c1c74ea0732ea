//! Columns of tensors as they lie in a file, for packing.

use crate::checkpoint::{DType, TensorView};
use crate::kernel::product::Columns;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// The columns of tensors side by side, each `[k, taps]`, as they lie in the file.
pub(super) struct Packed<'a> {
    /// The tensor of each column, and the first of its values.
    columns: Vec<(&'a TensorView<'a>, usize)>,
}

impl<'a> Packed<'a> {
    /// Columns of `values` values.
    pub fn new(parts: &'a [TensorView<'_>], values: usize) -> Self {
        let columns = parts.iter().flat_map(|view| {
            let columns = view.count() / values.max(1);
            (0..columns).map(move |column| (view, column * values))
        });
        Self {
            columns: columns.collect(),
        }
    }
}

impl Columns<f32> for Packed<'_> {
    fn read(&self, column: usize, first: usize, to: &mut [f32]) {
        let (view, start) = self.columns[column];
        view.read(start + first, to);
    }
}

impl Columns<f16> for Packed<'_> {
    fn read(&self, column: usize, first: usize, to: &mut [f16]) {
        const RUN: usize = 256;
        let (view, start) = self.columns[column];
        let first = start + first;
        if view.dtype == DType::F16 {
            let bytes = &view.data[2 * first..2 * (first + to.len())];
            return bytemuck::cast_slice_mut(to).copy_from_slice(bytes);
        }
        let mut wide = [0.0; RUN];
        for (i, to) in to.chunks_mut(RUN).enumerate() {
            let wide = &mut wide[..to.len()];
            view.read(first + i * RUN, wide);
            to.convert_from_f32_slice(wide);
        }
    }
}
