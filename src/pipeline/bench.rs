//! A checkpoint's UNet ready to be timed, whole or kernel by kernel, and the arithmetic of
//! the other stages.

use super::{Observer, Pipeline};
use crate::checkpoint::Part;
use crate::gpu::{Gpu, Timestamps, processor_seconds};
use crate::graph::{Executor, Graph, Runner};
use crate::kernel::product::WeightStorage;
use crate::kernel::{Program, Sample, Storage};
use crate::model::unet;
use crate::model::{DeviceWeights, Streamed, autoencoder, clip};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use web_time::Instant;

/// Dispatches that are timed one by one in a submission.
const PAIRS: usize = 1024;

/// A UNet forward on random numbers.
pub struct Forward<'a> {
    gpu: Arc<Gpu>,
    unet: Executor,
    runner: Runner<'a>,
}

/// All dispatches of one kernel permutation in a forward.
#[derive(Debug, Clone)]
pub struct KernelTime {
    pub kernel: String,
    pub dispatches: usize,
    /// Of all of them.
    pub seconds: f64,
    pub operations: u64,
    /// Read and written at the least.
    pub bytes: u64,
}

impl Pipeline {
    /// The UNet for pictures of `size` (width and height in pixels), a batch of `batch` (a guided step takes two
    /// a picture) and one prompt's tokens; it has run once.
    ///
    /// # Errors
    /// What goes wrong on the device; [`Error::Cancelled`].
    pub fn forward(
        &self,
        size: [usize; 2],
        batch: usize,
        observer: &Observer<'_>,
    ) -> Result<Forward<'_>> {
        let gpu = &self.gpu;
        let checkpoint = &self.base.checkpoint;
        let graph = self.unet_graph(size, batch);
        let source = checkpoint.source(Part::UNet);
        let weights = DeviceWeights::new(gpu, source, self.unet_keeping(false), &self.base.unet);
        let storage = self.precision.activations;
        let cancelled = || observer.cancel.is_cancelled();
        self.tune_for(&graph, storage, &cancelled)?;
        let unet = Executor::new(&self.context, storage, &graph, &weights, &HashMap::new())?;
        let mut noise = crate::schedule::TorchCpuGenerator::new(0);
        for name in [unet::SAMPLE, unet::CONTEXT, unet::TIME] {
            if let Some(input) = unet.input(name) {
                let values =
                    crate::schedule::NoiseGenerator::randn(&mut noise, input.rows() * input.c);
                unet.write(gpu, name, &values)?;
            }
        }
        let stream = Rc::new(Streamed::new(gpu, source, &self.base.unet));
        let mut runner = Runner::new(gpu, true)?.with_stream(stream);
        runner.run(|_| {}, &[unet.once()], &cancelled)?;
        runner.finish()?;
        runner.busy_seconds()?;
        Ok(Forward {
            gpu: gpu.clone(),
            unet,
            runner,
        })
    }

    /// A decoder of pictures of `size`, ready to be timed kernel by kernel.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub fn decoder_profile(
        &self,
        [width, height]: [usize; 2],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<impl Fn() -> Result<Vec<KernelTime>>> {
        let scale = self.base.checkpoint.vae_scale();
        let decoder = self
            .vae(self.options.vae_tiling)
            .decoder([height / scale, width / scale])?;
        Ok(move || profile(&self.gpu, decoder.program(), cancelled))
    }

    fn unet_graph(&self, [width, height]: [usize; 2], batch: usize) -> Graph {
        let checkpoint = &self.base.checkpoint;
        let scale = checkpoint.vae_scale();
        let size = unet::Size {
            batch,
            height: height / scale,
            width: width / scale,
            tokens: checkpoint.tokenizer_2.max_length(),
        };
        unet::graph(&checkpoint.unet, size).optimise()
    }

    /// Operations of a forward as [`Self::forward`] has it.
    pub fn step_operations(&self, size: [usize; 2], batch: usize) -> u64 {
        2 * self.unet_graph(size, batch).multiply_adds()
    }

    /// Operations of encoding one prompt by all text encoders, a multiply-add counting as
    /// two.
    pub fn text_operations(&self) -> u64 {
        let checkpoint = &self.base.checkpoint;
        let first = checkpoint.text_encoder.as_ref();
        let first = first.zip(checkpoint.tokenizer.as_ref());
        let second = (&checkpoint.text_encoder_2, &checkpoint.tokenizer_2);
        let graphs = first.into_iter().chain([second]);
        let graphs = graphs.map(|(config, tokenizer)| {
            let tokens = tokenizer.max_length();
            clip::graph(config, tokens, 0).optimise()
        });
        graphs.map(|graph| 2 * graph.multiply_adds()).sum()
    }

    /// Operations of decoding one picture of `width` x `height` pixels whole.
    pub fn decoder_operations(&self, [width, height]: [usize; 2]) -> u64 {
        let checkpoint = &self.base.checkpoint;
        let scale = checkpoint.vae_scale();
        let size = [height / scale, width / scale];
        2 * autoencoder::decoder(&checkpoint.vae, size)
            .optimise()
            .multiply_adds()
    }

    /// How numbers are stored: those of activations, then those of weights.
    pub fn storage_name(&self) -> String {
        let activations = match self.precision.activations {
            Storage::F16 => "f16",
            Storage::F32 => "f32",
        };
        let weights = match (self.plan.unet.blocks, self.precision.weights) {
            (Some(format), _) => format.name(),
            (None, WeightStorage::F16) => "f16",
            (None, WeightStorage::F32) => "f32",
        };
        match activations == weights {
            true => activations.into(),
            false => format!("{activations}, weights {weights}"),
        }
    }
}

impl Forward<'_> {
    /// One forward.
    ///
    /// # Errors
    /// What goes wrong on the device; [`Error::Cancelled`].
    pub fn run(&mut self, cancelled: &dyn Fn() -> bool) -> Result<Sample> {
        let (start, before) = (Instant::now(), processor_seconds());
        self.runner.run(|_| {}, &[self.unet.step()], cancelled)?;
        self.runner.finish()?;
        let wall = start.elapsed().as_secs_f64();
        let processor = before.zip(processor_seconds()).map(|(a, b)| b - a);
        self.runner.busy_seconds()?;
        Ok(Sample {
            seconds: wall,
            processor,
        })
    }

    fn program(&self) -> &Program {
        self.unet.step()
    }

    /// Dispatches of a forward.
    pub fn dispatches(&self) -> usize {
        self.program().len()
    }

    /// Operations, a multiply-add counting as two.
    pub fn operations(&self) -> u64 {
        let program = self.program();
        (0..program.len()).map(|i| program.flops(i)).sum()
    }

    /// Bytes that its kernels read and write at the least.
    pub fn bytes(&self) -> u64 {
        let program = self.program();
        (0..program.len()).map(|i| program.bytes(i)).sum()
    }

    /// Times every dispatch by itself; by kernel, the slowest first. Empty where the
    /// adapter has no timestamps.
    ///
    /// # Errors
    /// What goes wrong on the device; [`Error::Cancelled`].
    pub fn profile(&self, cancelled: &dyn Fn() -> bool) -> Result<Vec<KernelTime>> {
        profile(&self.gpu, self.program(), cancelled)
    }
}

/// See [`Forward::profile`].
fn profile(gpu: &Gpu, program: &Program, cancelled: &dyn Fn() -> bool) -> Result<Vec<KernelTime>> {
    let Some(mut timestamps) = Timestamps::new(gpu, PAIRS as u32)? else {
        return Ok(Vec::new());
    };
    let mut by_kernel: BTreeMap<String, KernelTime> = BTreeMap::new();
    for first in (0..program.len()).step_by(PAIRS) {
        let last = (first + PAIRS).min(program.len());
        timestamps.reset();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        for i in first..last {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: timestamps.next(),
            });
            program.record(&mut pass, i..i + 1);
        }
        gpu.queue().submit([encoder.finish()]);
        gpu.wait()?;
        if cancelled() {
            return Err(Error::Cancelled);
        }
        for (i, seconds) in (first..last).zip(timestamps.seconds(gpu)?) {
            let kernel = program.label(i);
            let row = by_kernel.entry(kernel.clone()).or_insert(KernelTime {
                kernel,
                dispatches: 0,
                seconds: 0.0,
                operations: 0,
                bytes: 0,
            });
            row.dispatches += 1;
            row.seconds += seconds;
            row.operations += program.flops(i);
            row.bytes += program.bytes(i);
        }
    }
    let mut rows: Vec<KernelTime> = by_kernel.into_values().collect();
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(rows)
}
