//! The denoising loop. Everything is recorded beforehand: a step copies its
//! numbers into place and runs the same dispatches as every other.

use super::condition::{Conditioning, Prompt};
use super::{Cancel, Event, LoopStats, Observer, Pipeline, Request};
use crate::checkpoint::{Checkpoint, Part};
use crate::gpu::{Buffer, Gpu};
use crate::graph::{Executor, Runner};
use crate::kernel::latent::{self, StepValues};
use crate::kernel::{Program, Storage, Tensor, View, layout};
use crate::model::unet::{self, CONTEXT, SAMPLE, TEXT_EMBEDS, TIME_IDS, TIMESTEP};
use crate::model::{DeviceWeights, Loaded};
use crate::schedule::{self, NoiseGenerator, Plan, TorchCpuGenerator};
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Bytes from one step's numbers to the next in the table.
const STEP_BYTES: u64 = size_of::<StepValues>() as u64;

/// Latents of one picture, as PyTorch has them: `[c, h, w]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Latents {
    pub h: usize,
    pub w: usize,
    pub values: Vec<f32>,
}

/// A UNet call with the prompts of its batch.
struct Call {
    /// One prompt a picture of the batch.
    prompts: Vec<Prompt>,
    /// Where this call's prediction is kept for guidance.
    keep: Option<Arc<Buffer>>,
}

/// The UNet, bound for one request.
pub struct Denoiser<'a> {
    pipeline: &'a Pipeline,
    plan: Plan,
    unet: Executor,
    calls: Vec<Call>,
    before: Program,
    after: Program,
    /// f32 `[c, h, w]`, on the way in and out.
    planes: Arc<Buffer>,
    /// From planes to latents, times the scheduler's first deviation.
    import: Program,
    /// From latents and from the guided prediction to planes.
    export: [Program; 2],
    step: Arc<Buffer>,
    table: Arc<Buffer>,
    time_ids: Arc<Buffer>,
    shape: Shape,
}

/// Which of the loop's tensors to read.
#[derive(Clone, Copy)]
enum Read {
    Latents,
    Prediction,
}

/// Of the latents.
#[derive(Clone, Copy)]
struct Shape {
    h: usize,
    w: usize,
    c: usize,
}

impl<'a> Denoiser<'a> {
    /// Plans the loop. `batched`: a guided step is one UNet call of two pictures
    /// rather than two calls, which need half the memory for activations.
    pub fn new(
        pipeline: &'a Pipeline,
        loaded: &Loaded,
        plan: &Plan,
        request: &Request,
        conditioning: &Conditioning,
        batched: bool,
        cancel: &Cancel,
    ) -> Result<Self> {
        let Pipeline {
            gpu,
            tuning,
            checkpoint,
            precision,
            ..
        } = pipeline;
        let scale = checkpoint.vae_scale();
        let shape = Shape {
            h: request.height / scale,
            w: request.width / scale,
            c: checkpoint.unet.in_channels,
        };
        let prompts = conditioning.negative.iter().chain([&conditioning.positive]);
        let mut calls: Vec<Call> = Vec::new();
        let guided = conditioning.negative.is_some();
        for prompt in prompts.cloned() {
            match calls.last_mut() {
                Some(call) if batched => call.prompts.push(prompt),
                _ => calls.push(Call {
                    prompts: vec![prompt],
                    keep: None,
                }),
            }
        }
        let size = unet::Size {
            batch: calls[0].prompts.len(),
            height: shape.h,
            width: shape.w,
            tokens: conditioning.tokens,
        };
        let ids = checkpoint.time_id_count();
        let make = |label: &str, bytes: u64| Ok::<_, Error>(Arc::new(gpu.buffer(label, bytes)?));
        let tensor = |label: &str| {
            let shape = [1, shape.h, shape.w, shape.c];
            let buffer = make(label, Tensor::bytes_of(Storage::F32, shape))?;
            Ok::<_, Error>(Tensor::new(View::whole(&buffer), Storage::F32, shape))
        };
        let latents = tensor("latents")?;
        let prediction = tensor("prediction")?;
        let planes = make("planes", (shape.h * shape.w * shape.c * 4) as u64)?;
        let step = make("step", STEP_BYTES)?;
        let table = make("steps", STEP_BYTES * plan.steps.len() as u64)?;
        let time_ids = make("time ids", (size.batch * ids * 4) as u64)?;
        let graph = unet::graph(&checkpoint.unet, ids, size).optimise();
        tracing::debug!("UNet\n{graph}");
        let sources = HashMap::from([
            (TIMESTEP.to_string(), View::whole(&step)),
            (TIME_IDS.to_string(), View::whole(&time_ids)),
        ]);
        let source = checkpoint.source(Part::UNet);
        let check = || cancel.check();
        let weights = DeviceWeights::new(gpu, source, precision.weights, loaded).while_ok(&check);
        let storage = precision.activations;
        let unet = Executor::new(gpu, *tuning, storage, &graph, &weights, &sources)?;
        gpu.check()?;

        let step_view = View::whole(&step);
        let sample = unet.input(SAMPLE).cloned();
        let sample = sample.ok_or_else(|| gpu.error("the UNet has no input", "report this bug"))?;
        let input = latent::input(*tuning, &latents.view, &step_view, &sample);
        let before = Program::new(gpu, vec![input])?;
        let out = unet.output(0).clone();
        let kept = if calls.len() > 1 {
            let bytes = out.view.size;
            calls[0].keep = Some(make("negative prediction", bytes)?);
            calls[0].keep.as_ref().map(|buffer| Tensor {
                view: View::whole(buffer),
                ..out.clone()
            })
        } else {
            None
        };
        let negative = match &kept {
            Some(kept) => Some((kept, 0)),
            None => guided.then_some((&out, 0)),
        };
        let positive = (&out, size.batch - 1);
        let count = shape.h * shape.w * latents.pitch;
        let after = Program::new(
            gpu,
            vec![
                latent::guidance(*tuning, negative, positive, &step_view, &prediction.view),
                latent::update(*tuning, &latents.view, &prediction.view, &step_view, count),
            ],
        )?;
        let planes_view = View::whole(&planes);
        let sigma = plan.grid.init_noise_sigma;
        let import = layout::to_pixels(*tuning, &planes_view, &latents, [sigma, 0.0]);
        let import = Program::new(gpu, vec![import])?;
        let export = |from: &Tensor| {
            let dispatch = layout::to_planes(*tuning, from, &planes_view, [1.0, 0.0]);
            Program::new(gpu, vec![dispatch])
        };
        let export = [export(&latents)?, export(&prediction)?];
        upload_steps(gpu, &table, plan, request)?;
        Ok(Self {
            pipeline,
            plan: plan.clone(),
            unet,
            calls,
            before,
            after,
            planes,
            import,
            export,
            step,
            table,
            time_ids,
            shape,
        })
    }

    /// Runs every picture of the request, one after another, so that each is the
    /// same whatever its company.
    pub fn run(
        &mut self,
        request: &Request,
        observer: &mut Observer<'_>,
    ) -> Result<(Vec<Latents>, LoopStats)> {
        let gpu = &self.pipeline.gpu;
        let mut runner = Runner::new(gpu, true)?;
        self.condition(&mut runner, 0)?;
        let mut gathered = Gathered::default();
        let steps = self.plan.steps.len();
        let total = steps * request.samples;
        (observer.events)(Event::Step { index: 0, total });
        let mut all = Vec::new();
        let mut wall = 0.0;
        let mut busy = Some(0.0);
        let mut stats = LoopStats::default();
        for (picture, seed) in request.seeds().into_iter().enumerate() {
            let Shape { h, w, c } = self.shape;
            let noise = TorchCpuGenerator::new(seed).randn(c * h * w);
            gpu.upload(&self.planes, bytemuck::cast_slice(&noise))?;
            self.import.run(gpu)?;
            runner.busy_seconds()?;
            if observer.trace.is_some() {
                gathered.put("latents.000", &self.read(Read::Latents)?);
            }
            let counters = gpu.counters();
            let buffers = counters.buffers_created.load(Ordering::Relaxed);
            let pipelines = counters.pipelines_created.load(Ordering::Relaxed);
            let start = Instant::now();
            for k in 0..steps {
                self.step(&mut runner, k, observer)?;
                if observer.trace.is_some() {
                    runner.finish()?;
                    let prediction = self.read(Read::Prediction)?;
                    gathered.put(&format!("noise_pred.{k:03}"), &prediction);
                    let latents = self.read(Read::Latents)?;
                    gathered.put(&format!("latents.{:03}", k + 1), &latents);
                }
                (observer.events)(Event::Step {
                    index: picture * steps + k + 1,
                    total,
                });
            }
            runner.finish()?;
            wall += start.elapsed().as_secs_f64();
            stats.loop_buffers_created +=
                counters.buffers_created.load(Ordering::Relaxed) - buffers;
            stats.loop_pipelines_created +=
                counters.pipelines_created.load(Ordering::Relaxed) - pipelines;
            busy = busy.zip(runner.busy_seconds()?).map(|(a, b)| a + b);
            let values = self.read(Read::Latents)?;
            all.push(Latents { h, w, values });
        }
        stats.gpu_busy = busy.filter(|_| wall > 0.0).map(|b| b / wall);
        if let Some(trace) = &mut observer.trace {
            self.record(&gathered, request.samples, trace);
        }
        Ok((all, stats))
    }

    /// Writes a call's prompts to the UNet's inputs and runs what follows from
    /// them alone.
    fn condition(&self, runner: &mut Runner, call: usize) -> Result<()> {
        let gpu = &self.pipeline.gpu;
        runner.finish()?;
        let prompts = &self.calls[call].prompts;
        let join = |part: fn(&Prompt) -> &Vec<f32>| -> Vec<f32> {
            prompts.iter().flat_map(|p| part(p).clone()).collect()
        };
        self.unet.write(gpu, CONTEXT, &join(|p| &p.embeds))?;
        self.unet.write(gpu, TEXT_EMBEDS, &join(|p| &p.pooled))?;
        let ids = join(|p| &p.time_ids);
        gpu.upload(&self.time_ids, bytemuck::cast_slice(&ids))?;
        runner.run(|_| {}, &[self.unet.once()], &|| false)
    }

    fn step(&self, runner: &mut Runner, k: usize, observer: &Observer<'_>) -> Result<()> {
        let cancelled = || observer.cancel.is_cancelled();
        let numbers = |encoder: &mut wgpu::CommandEncoder| {
            let (from, to) = (self.table.raw(), self.step.raw());
            encoder.copy_buffer_to_buffer(from, k as u64 * STEP_BYTES, to, 0, STEP_BYTES);
        };
        if self.calls.len() == 1 {
            let programs = [&self.before, self.unet.step(), &self.after];
            return runner.run(numbers, &programs, &cancelled);
        }
        let out = &self.unet.output(0).view;
        for (i, call) in self.calls.iter().enumerate() {
            self.condition(runner, i)?;
            runner.run(numbers, &[&self.before, self.unet.step()], &cancelled)?;
            if let Some(keep) = &call.keep {
                let copy = |encoder: &mut wgpu::CommandEncoder| {
                    let from = out.buffer.raw();
                    encoder.copy_buffer_to_buffer(from, out.offset, keep.raw(), 0, out.size);
                };
                runner.run(copy, &[], &cancelled)?;
            }
        }
        runner.run(|_| {}, &[&self.after], &cancelled)
    }

    /// One of the loop's tensors as planes `[c, h, w]`, once all has run.
    fn read(&self, which: Read) -> Result<Vec<f32>> {
        let gpu = &self.pipeline.gpu;
        self.export[which as usize].run(gpu)?;
        let bytes = gpu.download(&self.planes, 0, self.planes.size())?;
        let mut values = Storage::F32.decode(&bytes);
        values.truncate(self.shape.c * self.shape.h * self.shape.w);
        Ok(values)
    }

    fn record(&self, gathered: &Gathered, samples: usize, trace: &mut super::Trace) {
        let Shape { h, w, c } = self.shape;
        for (name, values) in &gathered.0 {
            trace.put_f32(name, &[samples, c, h, w], values);
        }
        let steps = self.plan.steps.len();
        let last = format!("latents.{steps:03}");
        if let Some(values) = gathered.0.get(&last) {
            trace.put_f32("base_latents", &[samples, c, h, w], values);
        }
        let grid = &self.plan.grid;
        trace.put_f32("timesteps", &[grid.timesteps.len()], &grid.timesteps);
        trace.put_f32("sigmas", &[grid.sigmas.len()], &grid.sigmas);
    }
}

/// Tensors of every picture, one after another, by name.
#[derive(Default)]
struct Gathered(BTreeMap<String, Vec<f32>>);

impl Gathered {
    fn put(&mut self, name: &str, values: &[f32]) {
        self.0
            .entry(name.to_string())
            .or_default()
            .extend_from_slice(values);
    }
}

/// The steps of `request`; fails where the checkpoint's scheduler cannot give them.
pub fn plan(checkpoint: &Checkpoint, request: &Request) -> Result<Plan> {
    schedule::create(request.scheduler, &checkpoint.scheduler)?.plan(request.steps)
}

/// The numbers of every step, in a table on the device.
fn upload_steps(gpu: &Gpu, table: &Buffer, plan: &Plan, request: &Request) -> Result<()> {
    let rows = plan
        .steps
        .iter()
        .map(|step| {
            if step.draws_noise || !step.store.is_empty() || !step.update.history.is_empty() {
                let allowed = "only solvers without history and noise run yet";
                return Err(Error::invalid("scheduler", request.scheduler, allowed));
            }
            Ok(StepValues {
                timestep: step.timestep,
                input_scale: step.input_scale,
                guidance_scale: request.guidance_scale as f32,
                a: step.update.sample as f32,
                b: step.update.output as f32,
                unused: [0.0; 3],
            })
        })
        .collect::<Result<Vec<_>>>()?;
    gpu.upload(table, bytemuck::cast_slice(&rows))
}
