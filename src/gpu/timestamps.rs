//! Time spent on the device, by timestamps around compute passes.

use super::{Buffer, Gpu, block_on};
use crate::Result;

/// A query set of begin/end pairs with the buffers to read them back.
pub struct Timestamps {
    queries: wgpu::QuerySet,
    resolve: Buffer,
    pairs: u32,
    used: u32,
}

impl Timestamps {
    /// Room for `pairs` passes (2048 at the most); `None` where the adapter has no timestamps.
    pub fn new(gpu: &Gpu, pairs: u32) -> Result<Option<Self>> {
        if !gpu.capabilities().timestamps {
            return Ok(None);
        }
        let pairs = pairs.clamp(1, wgpu::QUERY_SET_MAX_QUERIES / 2);
        let queries = gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count: pairs * 2,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolve = gpu.buffer_for("timestamps", u64::from(pairs) * 16, usage)?;
        Ok(Some(Self {
            queries,
            resolve,
            pairs,
            used: 0,
        }))
    }

    /// Starts again at the first pair.
    pub fn reset(&mut self) {
        self.used = 0;
    }

    /// The next pair for a pass; `None` once all are used.
    #[expect(
        clippy::should_implement_trait,
        reason = "the pair borrows the query set, which an iterator's items cannot"
    )]
    pub fn next(&mut self) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let pair = self.used;
        if pair == self.pairs {
            return None;
        }
        self.used += 1;
        Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(pair * 2),
            end_of_pass_write_index: Some(pair * 2 + 1),
        })
    }

    /// Seconds of each pair used since the last [`Self::reset`], once all has run.
    pub fn seconds(&self, gpu: &Gpu) -> Result<Vec<f64>> {
        block_on(self.seconds_async(gpu))
    }

    /// As [`Self::seconds`], without blocking.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub async fn seconds_async(&self, gpu: &Gpu) -> Result<Vec<f64>> {
        if self.used == 0 {
            return Ok(Vec::new());
        }
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        encoder.resolve_query_set(&self.queries, 0..self.used * 2, self.resolve.raw(), 0);
        gpu.queue().submit([encoder.finish()]);
        let bytes = gpu
            .download_async(&self.resolve, 0, u64::from(self.used) * 16)
            .await?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        let period = f64::from(gpu.queue().get_timestamp_period()) * 1e-9;
        Ok(ticks
            .chunks_exact(2)
            .map(|t| t[1].saturating_sub(t[0]) as f64 * period)
            .collect())
    }
}
