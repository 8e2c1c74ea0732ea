//! A fixed list of dispatches: pipelines, bind groups and parameters are made
//! once, and a run only records commands.

use super::tensor::View;
use crate::gpu::{Access, Buffer, Gpu, HostShareable, Pipeline, PipelineKey};
use crate::{Error, Result};
use std::sync::Arc;

/// What a kernel reads or writes: a view that was found to hold as much as the kernel
/// asks for (see [`View::operand`] and `Tensor::operand`).
pub(super) struct Operand {
    pub name: &'static str,
    pub view: View,
}

/// Work of a dispatch.
pub(super) struct Work {
    /// Floating-point operations, for reports and for bounding submissions.
    pub flops: usize,
    /// Bytes read and written at the least.
    pub bytes: usize,
}

/// One dispatch, before its pipeline and bind group are made. Shaders run without
/// bounds checks, so the functions of the kernels alone make one, of operands that hold
/// what the kernel asks for.
pub struct Dispatch {
    key: PipelineKey,
    operands: Vec<Operand>,
    /// The struct of the uniform binding, which is the last.
    params: Vec<u8>,
    grid: [u32; 3],
    work: Work,
}

impl Dispatch {
    /// # Errors
    /// [`Error::Internal`] where the operands or the parameters are not the kernel's.
    pub(super) fn new<P: HostShareable>(
        key: PipelineKey,
        operands: impl IntoIterator<Item = Operand>,
        params: P,
        grid: [u32; 3],
        work: Work,
    ) -> Result<Self> {
        let operands: Vec<Operand> = operands.into_iter().collect();
        if key.uniform != P::LAYOUT {
            return Err(Error::internal(key.label(), "parameters of another kernel"));
        }
        if operands.len() + 1 != key.bindings.len() {
            let problem = format!("{} operands", operands.len());
            return Err(Error::internal(key.label(), problem));
        }
        Ok(Self {
            key,
            operands,
            params: bytemuck::bytes_of(&params).to_vec(),
            grid,
            work,
        })
    }

    /// A dispatch of any pipeline over any views, for benches.
    ///
    /// # Safety
    /// No invocation of `grid` may read or write beyond a view, given the parameters.
    pub unsafe fn unchecked(
        key: PipelineKey,
        views: Vec<View>,
        params: Vec<u8>,
        grid: [u32; 3],
    ) -> Self {
        let operand = |view| Operand { name: "view", view };
        Self {
            key,
            operands: views.into_iter().map(operand).collect(),
            params,
            grid,
            work: Work { flops: 0, bytes: 0 },
        }
    }

    /// The pipeline that it runs.
    pub fn key(&self) -> &PipelineKey {
        &self.key
    }

    /// Fails where the device cannot bind or dispatch it.
    fn check(&self, gpu: &Gpu) -> Result<()> {
        let limits = gpu.capabilities();
        let fail = |problem| Err(Error::internal(self.key.label(), problem));
        for (i, Operand { name, view }) in self.operands.iter().enumerate() {
            if !view.offset.is_multiple_of(limits.alignment) {
                return fail(format!("{name} begins at byte {}", view.offset));
            }
            if view.size > limits.max_binding {
                return Err(gpu.error(
                    format!(
                        "{} binds {} bytes as {name}, more than its limit of {}",
                        self.key.label(),
                        view.size,
                        limits.max_binding
                    ),
                    "use a smaller picture or activations in f16",
                ));
            }
            let shared = |other: &Operand| Arc::ptr_eq(&other.view.buffer, &view.buffer);
            let others = self.operands.iter().enumerate().filter(|(j, _)| *j != i);
            if self.key.bindings[i] == Access::Write && others.map(|(_, o)| o).any(shared) {
                return fail(format!("{name} is written to and bound twice"));
            }
        }
        if self.grid.iter().any(|x| *x > limits.max_workgroups) {
            return fail(format!("{:?} workgroups", self.grid));
        }
        Ok(())
    }
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
    /// Of a stream: from which dispatch on which piece must be there, in order.
    pieces: Vec<(usize, usize)>,
    /// Keeps the parameters and every bound buffer alive.
    _buffers: Vec<Arc<Buffer>>,
}

impl Program {
    /// Makes pipelines, one buffer for all parameters, and bind groups.
    ///
    /// # Errors
    /// What exceeds the adapter's limits, or a pipeline that its driver refuses.
    pub fn new(gpu: &Gpu, dispatches: Vec<Dispatch>) -> Result<Self> {
        dispatches.iter().try_for_each(|d| d.check(gpu))?;
        let keys: Vec<PipelineKey> = dispatches.iter().map(|d| d.key.clone()).collect();
        let pipelines = gpu.pipelines(&keys)?;
        let slot = |d: &Dispatch| (d.params.len() as u64).next_multiple_of(256);
        let total: u64 = dispatches.iter().map(slot).sum();
        let params = Arc::new(gpu.buffer("parameters", total)?);
        let mut bytes = vec![0u8; total as usize];
        let mut buffers = vec![params.clone()];
        let mut steps = Vec::with_capacity(dispatches.len());
        let mut at = 0;
        for (dispatch, pipeline) in dispatches.into_iter().zip(pipelines) {
            let size = slot(&dispatch);
            bytes[at as usize..][..dispatch.params.len()].copy_from_slice(&dispatch.params);
            let bind_group = bind(gpu, &pipeline, &dispatch, &params, at);
            buffers.extend(dispatch.operands.into_iter().map(|o| o.view.buffer));
            steps.push(Step {
                pipeline,
                bind_group,
                grid: dispatch.grid,
                flops: dispatch.work.flops as u64,
                bytes: dispatch.work.bytes as u64,
            });
            at += size;
        }
        gpu.upload(&params, &bytes)?;
        gpu.check()?;
        Ok(Self {
            steps,
            pieces: Vec::new(),
            _buffers: buffers,
        })
    }

    /// With pieces of a stream, each of which must be there from a dispatch on.
    pub fn with_pieces(self, pieces: Vec<(usize, usize)>) -> Self {
        Self { pieces, ..self }
    }

    /// The pieces of a stream that must be there from dispatch `i` on.
    pub fn pieces_at(&self, i: usize) -> impl Iterator<Item = usize> {
        let first = self.pieces.partition_point(|(at, _)| *at < i);
        let pieces = self.pieces[first..].iter();
        pieces
            .take_while(move |(at, _)| *at == i)
            .map(|(_, piece)| *piece)
    }

    /// Whether something must be streamed while it runs.
    pub fn is_streamed(&self) -> bool {
        !self.pieces.is_empty()
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
    let size = (dispatch.params.len() as u64).next_multiple_of(16);
    let views = dispatch.operands.iter().map(|operand| &operand.view);
    let mut entries: Vec<_> = views.map(|v| v.buffer.window(v.offset, v.size)).collect();
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
