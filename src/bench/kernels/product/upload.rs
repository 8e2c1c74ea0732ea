//! Layers and their weights on a device.

use crate::Result;
use crate::bench::kernels::{Bed, Kernel, Numbers, Run};
use crate::kernel::product::{
    Columns, Conv, Epilogue, Layout, Product, Weight, WeightStorage, dispatches, dispatches_by,
};
use crate::kernel::{Dispatch, Mode, Tensor};
use half::f16;
use std::ops::Range;
use wgpu::WriteOnly;

/// The columns of weights `[n, k, taps]`, rounded as they are read.
pub(super) struct Source<'a>(pub &'a Numbers, pub Layout);

impl Source<'_> {
    fn at(&self, column: usize, i: usize) -> f32 {
        let Layout { taps, k, .. } = self.1;
        self.0.at(column * k * taps + i)
    }
}

impl Columns<f32> for Source<'_> {
    fn read(&self, column: usize, first: usize, to: &mut [f32]) {
        let values = to.iter_mut().enumerate();
        values.for_each(|(i, to)| *to = self.at(column, first + i));
    }
}

impl Columns<f16> for Source<'_> {
    fn read(&self, column: usize, first: usize, to: &mut [f16]) {
        let values = to.iter_mut().enumerate();
        values.for_each(|(i, to)| *to = f16::from_f32(self.at(column, first + i)));
    }
}

/// Weights `[n, k, taps]` as the kernels read them.
///
/// # Errors
/// Out of memory.
pub fn packed(bed: &Bed, storage: WeightStorage, layout: Layout, w: &Numbers) -> Result<Weight> {
    let mut bytes = vec![0u8; layout.bytes(storage) as usize];
    let to = WriteOnly::from_mut(&mut bytes[..]);
    let source = Source(w, layout);
    match storage {
        WeightStorage::F32 => layout.pack_panels::<f32>(0..layout.panels(), &source, to),
        WeightStorage::F16 => layout.pack_panels::<f16>(0..layout.panels(), &source, to),
    }
    Ok(Weight::packed(bed.view(&bytes)?, storage, layout))
}

/// A layer on a device.
#[derive(Clone)]
pub struct Uploaded {
    pub a: Tensor,
    pub weight: Weight,
    pub out: Tensor,
    pub conv: Option<Conv>,
    pub epilogue: Epilogue,
}

impl Uploaded {
    /// Runs it (over `rows`, where given) and says how many dispatches it took.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(&self, bed: &Bed, mode: Mode, rows: Option<Range<usize>>) -> Result<usize> {
        let all = dispatches(bed.context(mode), &self.product(rows))?;
        let count = all.len();
        bed.run(all)?;
        Ok(count)
    }

    pub fn product(&self, rows: Option<Range<usize>>) -> Product<'_> {
        Product {
            a: &self.a,
            weight: &self.weight,
            out: &self.out,
            conv: self.conv,
            blocks: None,
            epilogue: self.epilogue.clone(),
            rows,
        }
    }

    /// The dispatches of a kernel.
    pub(super) fn dispatches(&self, bed: &Bed, run: &Run) -> Result<Vec<Dispatch>> {
        let context = bed.context(run.mode());
        match run.kernel {
            Kernel::Product(variant) => dispatches_by(context, &self.product(None), variant),
            _ => dispatches(context, &self.product(None)),
        }
    }
}
