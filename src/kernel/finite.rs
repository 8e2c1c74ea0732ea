//! Whether what lies on the device is finite: NaN and infinity leave a mark that is
//! read once, when all has run, so that nothing waits for it.

use super::latent::StepValues;
use super::{Dispatch, Mode, View, Work, key, require};
use crate::Result;
use crate::gpu::{Access, Buffer, Gpu, PipelineKey, block_on, host_shareable};
use std::sync::Arc;

const BINDINGS: &[Access] = &[Access::Read, Access::Read, Access::Write, Access::Uniform];

host_shareable! {
    /// `Params` of `first_not_finite.wgsl`.
    struct Params {
        count: u32,
        offset: u32,
    }
}

/// Bytes of a step's numbers.
const STEP_BYTES: u64 = size_of::<StepValues>() as u64;

/// Of a mark: nothing was found.
const NOTHING: u32 = u32::MAX;

pub(super) fn pipeline_key(mode: Mode) -> PipelineKey {
    let wg = vec![("WG", mode.workgroup())];
    key::<Params>("first_not_finite", vec![], wg, BINDINGS)
}

/// Where a kernel leaves the number of the first step at which values were not
/// finite.
pub struct Mark {
    found: Arc<Buffer>,
    /// The numbers of a step number 0, for values that belong to none.
    no_step: View,
}

impl Mark {
    /// A mark at which nothing was found yet.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let no_step = Arc::new(gpu.buffer("no step", STEP_BYTES)?);
        let mark = Self {
            found: Arc::new(gpu.buffer("first not finite", 4)?),
            no_step: View::whole(&no_step),
        };
        mark.clear(gpu)?;
        Ok(mark)
    }

    /// Forgets what was found.
    pub fn clear(&self, gpu: &Gpu) -> Result<()> {
        gpu.upload(&self.found, &NOTHING.to_le_bytes())
    }

    /// The number of the first step at which values were not finite, 0 for values
    /// that belong to no step; `None` where all were finite. Waits for what was
    /// submitted.
    pub fn read(&self, gpu: &Gpu) -> Result<Option<usize>> {
        block_on(self.read_async(gpu))
    }

    /// As [`Self::read`], without blocking.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub async fn read_async(&self, gpu: &Gpu) -> Result<Option<usize>> {
        let bytes = gpu.download_async(&self.found, 0, 4).await?;
        let word = bytes
            .first_chunk()
            .map_or(NOTHING, |b| u32::from_le_bytes(*b));
        Ok((word != NOTHING).then_some(word as usize))
    }

    /// Looks at the `count` f32 values of `x`, under the number in the [`StepValues`] at
    /// `step`. In bands where `x` exceeds the binding limit.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] where `x` holds fewer values, or does not begin at a
    /// vec4.
    pub fn watch(
        &self,
        gpu: &Gpu,
        mode: Mode,
        x: &View,
        count: usize,
        step: Option<&View>,
    ) -> Result<Vec<Dispatch>> {
        require("x", x.offset.is_multiple_of(16), || {
            format!("it begins at byte {}", x.offset)
        })?;
        let alignment = gpu.capabilities().alignment;
        let limit = gpu.capabilities().max_binding.saturating_sub(2 * alignment);
        let most = ((limit / 16) as usize).max(1) * 4;
        let step = step.unwrap_or(&self.no_step);
        let band = |first: usize| {
            let count = most.min(count - first);
            let bytes = count as u64 * 4;
            let (window, skip) = x.around(first as u64 * 4, bytes, alignment)?;
            // The last vec4 is read whole.
            let read = skip + bytes.next_multiple_of(16);
            Dispatch::new(
                pipeline_key(mode),
                [
                    window.operand("x", read)?,
                    step.operand("step", STEP_BYTES)?,
                    View::whole(&self.found).operand("found", 4)?,
                ],
                Params {
                    count: count as u32,
                    offset: (skip / 16) as u32,
                },
                mode.item_grid(count.div_ceil(4)),
                Work {
                    flops: count,
                    bytes: count * 4,
                },
            )
        };
        (0..count).step_by(most).map(band).collect()
    }
}

/// The CPU twin: whether all are finite, by their exponents' bits.
pub fn twin(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    values.iter().all(|x| x.to_bits() & EXPONENT != EXPONENT)
}
