//! What a dispatch costs beside its work.

use super::{dispatch, key, row};
use crate::Result;
use crate::bench::measure::Manner;
use crate::bench::report::{Row, Subject, Suite, Work};
use crate::gpu::{Access, Gpu, PipelineKey};
use crate::kernel::{Program, View};
use std::sync::Arc;

/// Dispatches of a sample.
const COUNT: usize = 500;

pub(super) fn pipeline_key() -> PipelineKey {
    key("peak_launch", &[], &[], &[Access::Write, Access::Uniform])
}

pub(super) fn run(
    gpu: &Arc<Gpu>,
    manner: Manner,
    cancelled: &dyn Fn() -> bool,
    keep: &mut dyn FnMut(Row),
) -> Result<()> {
    let key = pipeline_key();
    for (name, buffers) in [
        ("launch, one after another", 1),
        ("launch, side by side", COUNT),
    ] {
        keep(row(
            gpu,
            Subject::new(Suite::Peaks, name),
            Work::default(),
            manner,
            cancelled,
            || {
                let views = (0..buffers).map(|_| {
                    let buffer = gpu.buffer("launch", 256)?;
                    Ok(View::whole(&Arc::new(buffer)))
                });
                let views = views.collect::<Result<Vec<View>>>()?;
                let dispatches = (0..COUNT).map(|i| {
                    let view = std::slice::from_ref(&views[i % buffers]);
                    // SAFETY: the shader takes its one index modulo 32, which fit.
                    unsafe { dispatch(&key, view, 1, 1) }
                });
                let program = Program::new(gpu, dispatches.collect())?;
                Ok((vec![program], COUNT))
            },
        )?);
    }
    Ok(())
}
