//! How fast a device runs a checkpoint's UNet, and where its time goes.

use super::{Observer, Pipeline};
use crate::checkpoint::Part;
use crate::gpu::{Timestamps, processor_seconds};
use crate::graph::{Executor, Runner};
use crate::model::DeviceWeights;
use crate::model::unet;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// Dispatches that are timed one by one in a submission.
const PAIRS: usize = 1024;

/// What a bench found. Times are the best of the repetitions, in seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub adapter: String,
    pub driver: String,
    pub model: String,
    pub width: usize,
    pub height: usize,
    pub batch: usize,
    pub weights: String,
    pub activations: String,
    /// Of one UNet forward.
    pub tera_flop: f64,
    pub wall_seconds: f64,
    /// Inside compute passes, where the adapter has timestamps.
    pub device_seconds: Option<f64>,
    /// Processor time of this process over the forward, which on CPU adapters is
    /// the forward's cost.
    pub cpu_seconds: Option<f64>,
    pub tera_flop_per_second: f64,
    pub device_bytes: u64,
    /// By kernel, the slowest first; without timestamps empty.
    pub kernels: Vec<KernelTime>,
}

/// All dispatches of one kernel permutation in a forward.
#[derive(Debug, Clone, Serialize)]
pub struct KernelTime {
    pub kernel: String,
    pub dispatches: usize,
    pub seconds: f64,
    pub share: f64,
    pub gflop_per_second: f64,
    pub gbyte_per_second: f64,
}

impl Pipeline {
    /// Times forwards of the UNet on random numbers: `width` x `height` pixels, a
    /// batch of `batch`, 77 tokens of text.
    pub fn bench(
        &self,
        [width, height]: [usize; 2],
        batch: usize,
        repetitions: usize,
        observer: &mut Observer<'_>,
    ) -> Result<Report> {
        let gpu = &self.gpu;
        let checkpoint = &self.base.checkpoint;
        let scale = checkpoint.vae_scale();
        let size = unet::Size {
            batch,
            height: height / scale,
            width: width / scale,
            tokens: checkpoint.tokenizer_2.max_length(),
        };
        let graph = unet::graph(&checkpoint.unet, size).optimise();
        let source = checkpoint.source(Part::UNet);
        let weights = DeviceWeights::new(gpu, source, self.precision.weights, &self.base.unet);
        let storage = self.precision.activations;
        self.tune_for(&graph, storage, &|| observer.cancel.is_cancelled())?;
        let unet = Executor::new(&self.context, storage, &graph, &weights, &HashMap::new())?;
        let mut noise = crate::schedule::TorchCpuGenerator::new(0);
        for name in [unet::SAMPLE, unet::CONTEXT, unet::TIME] {
            if let Some(input) = unet.input(name) {
                let values =
                    crate::schedule::NoiseGenerator::randn(&mut noise, input.rows() * input.c);
                unet.write(gpu, name, &values)?;
            }
        }
        let cancelled = || observer.cancel.is_cancelled();
        let mut runner = Runner::new(gpu, true)?;
        runner.run(|_| {}, &[unet.once()], &cancelled)?;
        runner.busy_seconds()?;
        let (mut wall, mut device, mut cpu) = (f64::MAX, None, None);
        for _ in 0..repetitions.max(1) {
            let (start, cpu_start) = (Instant::now(), processor_seconds());
            runner.run(|_| {}, &[unet.step()], &cancelled)?;
            runner.finish()?;
            let took = start.elapsed().as_secs_f64();
            let busy = runner.busy_seconds()?;
            if took < wall {
                wall = took;
                cpu = cpu_start.zip(processor_seconds()).map(|(a, b)| b - a);
                device = busy;
            }
        }
        let flop = (0..unet.step().len())
            .map(|i| unet.step().flops(i))
            .sum::<u64>() as f64;
        let info = gpu.info();
        let name = |half: bool| if half { "f16" } else { "f32" }.to_string();
        Ok(Report {
            adapter: info.name.clone(),
            driver: info.driver_info.clone(),
            model: checkpoint.name.clone(),
            width,
            height,
            batch,
            weights: name(self.precision.weights == crate::kernel::product::WeightStorage::F16),
            activations: name(storage == crate::kernel::Storage::F16),
            tera_flop: flop / 1e12,
            wall_seconds: wall,
            device_seconds: device,
            cpu_seconds: cpu,
            tera_flop_per_second: flop / wall / 1e12,
            device_bytes: gpu
                .counters()
                .device_bytes
                .load(std::sync::atomic::Ordering::Relaxed),
            kernels: self.profile(&unet, observer)?,
        })
    }

    /// Times every dispatch of a forward by itself.
    fn profile(&self, unet: &Executor, observer: &Observer<'_>) -> Result<Vec<KernelTime>> {
        let gpu = &self.gpu;
        let Some(mut timestamps) = Timestamps::new(gpu, PAIRS as u32)? else {
            return Ok(Vec::new());
        };
        let program = unet.step();
        let mut by_kernel: BTreeMap<String, (usize, f64, u64, u64)> = BTreeMap::new();
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
            if observer.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            for (i, seconds) in (first..last).zip(timestamps.seconds(gpu)?) {
                let row = by_kernel.entry(program.label(i)).or_default();
                row.0 += 1;
                row.1 += seconds;
                row.2 += program.flops(i);
                row.3 += program.bytes(i);
            }
        }
        let total: f64 = by_kernel.values().map(|row| row.1).sum();
        let mut rows: Vec<KernelTime> = by_kernel
            .into_iter()
            .map(|(kernel, (dispatches, seconds, flops, bytes))| KernelTime {
                kernel,
                dispatches,
                seconds,
                share: seconds / total,
                gflop_per_second: flops as f64 / seconds / 1e9,
                gbyte_per_second: bytes as f64 / seconds / 1e9,
            })
            .collect();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(rows)
    }
}
