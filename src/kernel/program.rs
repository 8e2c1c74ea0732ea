//! A fixed list of dispatches: pipelines, bind groups and parameters are made
//! once, and a run only records commands.

use super::tensor::View;
use crate::Result;
use crate::gpu::{Access, Buffer, Gpu, Pipeline, PipelineKey};
use std::sync::Arc;

/// One dispatch, before its pipeline and bind group are made. The parameters
/// are the last binding.
pub struct Dispatch {
    pub key: PipelineKey,
    pub views: Vec<View>,
    pub params: Vec<u32>,
    pub grid: [u32; 3],
    /// Floating-point operations, for reports and for bounding submissions.
    pub flops: u64,
    /// Bytes read and written at the least.
    pub bytes: u64,
}

struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
    flops: u64,
    bytes: u64,
}

/// Dispatches that are ready to be recorded.
pub struct Program {
    steps: Vec<Step>,
    /// Keeps the parameters and every bound buffer alive.
    _buffers: Vec<Arc<Buffer>>,
}

impl Program {
    /// Makes pipelines, one buffer for all parameters, and bind groups.
    pub fn new(gpu: &Gpu, dispatches: Vec<Dispatch>) -> Result<Self> {
        let keys: Vec<PipelineKey> = dispatches.iter().map(|d| d.key.clone()).collect();
        let pipelines = gpu.pipelines(&keys)?;
        let slot = |d: &Dispatch| (d.params.len() as u64 * 4).next_multiple_of(256);
        let total: u64 = dispatches.iter().map(slot).sum();
        let params = Arc::new(gpu.buffer("parameters", total)?);
        let mut bytes = vec![0u8; total as usize];
        let mut buffers = vec![params.clone()];
        let mut steps = Vec::with_capacity(dispatches.len());
        let mut at = 0;
        for (dispatch, pipeline) in dispatches.into_iter().zip(pipelines) {
            let size = slot(&dispatch);
            let data: &[u8] = bytemuck::cast_slice(&dispatch.params);
            bytes[at as usize..][..data.len()].copy_from_slice(data);
            let bind_group = bind(gpu, &pipeline, &dispatch, &params, at);
            buffers.extend(dispatch.views.into_iter().map(|v| v.buffer));
            steps.push(Step {
                pipeline,
                bind_group,
                grid: dispatch.grid,
                flops: dispatch.flops,
                bytes: dispatch.bytes,
            });
            at += size;
        }
        gpu.upload(&params, &bytes)?;
        gpu.check()?;
        Ok(Self {
            steps,
            _buffers: buffers,
        })
    }

    pub fn len(&self) -> usize {
        self.steps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Floating-point operations of dispatch `i`.
    pub fn flops(&self, i: usize) -> u64 {
        self.steps[i].flops
    }

    /// Bytes that dispatch `i` moves at the least.
    pub fn bytes(&self, i: usize) -> u64 {
        self.steps[i].bytes
    }

    /// The permutation that dispatch `i` runs.
    pub fn label(&self, i: usize) -> String {
        self.steps[i].pipeline.key.label()
    }

    /// Records the dispatches of `range`. Nothing is allocated.
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>, range: std::ops::Range<usize>) {
        for step in &self.steps[range] {
            pass.set_pipeline(&step.pipeline.raw);
            pass.set_bind_group(0, &step.bind_group, &[]);
            let [x, y, z] = step.grid;
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// Runs everything once and waits: for loading, tests and benches.
    pub fn run(&self, gpu: &Gpu) -> Result<()> {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.record(&mut pass, 0..self.len());
        }
        gpu.queue().submit([encoder.finish()]);
        gpu.wait()
    }
}

fn bind(
    gpu: &Gpu,
    pipeline: &Pipeline,
    dispatch: &Dispatch,
    params: &Buffer,
    at: u64,
) -> wgpu::BindGroup {
    debug_assert_eq!(dispatch.views.len() + 1, pipeline.key.bindings.len());
    debug_assert_eq!(pipeline.key.bindings.last(), Some(&Access::Uniform));
    let size = (dispatch.params.len() as u64 * 4).next_multiple_of(16);
    let mut entries: Vec<_> = dispatch
        .views
        .iter()
        .map(|v| v.buffer.window(v.offset, v.size))
        .collect();
    entries.push(params.window(at, size));
    let entries: Vec<_> = entries
        .into_iter()
        .enumerate()
        .map(|(i, resource)| wgpu::BindGroupEntry {
            binding: i as u32,
            resource,
        })
        .collect();
    gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(pipeline.key.shader),
        layout: &pipeline.layout,
        entries: &entries,
    })
}
