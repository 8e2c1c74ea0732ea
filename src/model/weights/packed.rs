//! Columns of tensors as they lie in a file, for packing.

use crate::checkpoint::{DType, TensorView};
use crate::kernel::product::Columns;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// The columns of tensors side by side, each `[k, taps]`, as they lie in the file.
pub(super) struct Packed<'a> {
    columns: Vec<(DType, &'a [u8])>,
}

impl<'a> Packed<'a> {
    /// Columns of `values` values.
    pub fn new(parts: &'a [TensorView<'_>], values: usize) -> Self {
        let columns = parts.iter().flat_map(|view| {
            let columns = view.data.chunks_exact(values * view.dtype.size());
            columns.map(|column| (view.dtype, column))
        });
        Self {
            columns: columns.collect(),
        }
    }

    /// The bytes of `count` values of a column from `first` on.
    fn bytes(&self, column: usize, first: usize, count: usize) -> (DType, &'a [u8]) {
        let (dtype, bytes) = self.columns[column];
        let size = dtype.size();
        (dtype, &bytes[first * size..(first + count) * size])
    }
}

impl Columns<f32> for Packed<'_> {
    fn read(&self, column: usize, first: usize, to: &mut [f32]) {
        let (dtype, bytes) = self.bytes(column, first, to.len());
        dtype.widen(bytes, to);
    }
}

impl Columns<f16> for Packed<'_> {
    fn read(&self, column: usize, first: usize, to: &mut [f16]) {
        const RUN: usize = 128;
        let (dtype, bytes) = self.bytes(column, first, to.len());
        if dtype == DType::F16 {
            return bytemuck::cast_slice_mut(to).copy_from_slice(bytes);
        }
        let mut wide = [0.0; RUN];
        for (bytes, to) in bytes.chunks(RUN * dtype.size()).zip(to.chunks_mut(RUN)) {
            let wide = &mut wide[..to.len()];
            dtype.widen(bytes, wide);
            to.convert_from_f32_slice(wide);
        }
    }
}
