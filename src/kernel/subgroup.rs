//! How many invocations a subgroup really has: some drivers choose one of several sizes
//! when they compile, and tell only the range.

use super::program::Operand;
use super::{Dispatch, Program, View, Work, key};
use crate::Result;
use crate::gpu::{Access, Gpu, PipelineKey, host_shareable};
use std::sync::Arc;

host_shareable! {
    /// `Params` of `subgroup_size.wgsl`.
    struct Params {
        place: u32,
    }
}

pub(super) fn pipeline_key() -> PipelineKey {
    const BINDINGS: &[Access] = &[Access::Write, Access::Uniform];
    key::<Params>("subgroup_size", vec![], vec![], BINDINGS)
}

/// The size that the driver gives a compute pipeline which does not ask for one.
///
/// # Errors
/// What goes wrong on the device.
pub fn subgroup_size(gpu: &Arc<Gpu>) -> Result<u32> {
    let [smallest, largest] = gpu.capabilities().subgroup_size;
    if smallest == largest {
        return Ok(smallest);
    }
    let view = View::whole(&Arc::new(gpu.buffer("subgroup size", 16)?));
    Program::new(gpu, vec![dispatch(&view)?])?.run(gpu)?;
    read(gpu, &view)
}

/// Writes the size to `view`.
///
/// # Errors
/// [`crate::Error::Internal`] where it holds no u32.
pub fn dispatch(view: &View) -> Result<Dispatch> {
    let operand: Operand = view.operand("size", 4)?;
    let work = Work { flops: 0, bytes: 4 };
    let params = Params { place: 0 };
    Dispatch::new(pipeline_key(), [operand], params, [1, 1, 1], work)
}

/// What [`dispatch`] wrote.
///
/// # Errors
/// What goes wrong on the device.
pub fn read(gpu: &Gpu, view: &View) -> Result<u32> {
    let bytes = gpu.download(&view.buffer, view.offset, 4)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}
