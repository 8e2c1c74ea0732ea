//! The denoising loop of one model. Everything is recorded beforehand: a step
//! copies its numbers into place and runs the same dispatches as every other.

mod numbers;
mod record;
mod tensors;

pub(super) use record::{Gathered, Tally};

use super::condition::{Conditioning, Prompt};
use super::load::Model;
use super::route::Leg;
use super::{Cancel, LoopStats, Observer, Pipeline, Request};
use crate::Result;
use crate::checkpoint::Part;
use crate::gpu::Buffer;
use crate::graph::{Executor, Runner};
use crate::kernel::latent::{self, StepValues};
use crate::kernel::{Program, Tensor, View};
use crate::model::DeviceWeights;
use crate::model::unet::{self, CONTEXT, SAMPLE, TEXT_EMBEDS, TIME_IDS, TIMESTEP, TIMESTEP_COND};
use crate::schedule::NoiseGenerator;
use numbers::{is_thresholded, step_values};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tensors::{Guidance, Planes, Read, Tensors};

/// Bytes from one step's numbers to the next in the table.
const STEP_BYTES: u64 = size_of::<StepValues>() as u64;
// The UNet's embedding of the timestep reads the first of the step's numbers.
const _: () = assert!(std::mem::offset_of!(StepValues, timestep) == 0);

/// One picture on its way. Tensors are planes `[c, h, w]`, as PyTorch has them.
pub(super) struct Sample {
    pub generator: Box<dyn NoiseGenerator>,
    pub latents: Vec<f32>,
    /// What a mask keeps: the picture's latents, and the noise that it gets.
    pub kept: Option<[Vec<f32>; 2]>,
    /// What the UNet sees beside the latents.
    pub extra: Vec<f32>,
}

/// A UNet call with the prompts of its batch.
struct Call {
    prompt: Prompt,
    /// The prompt of the batch's second half, where it has one.
    other: Option<Prompt>,
    /// Where this call's prediction is kept for guidance.
    keep: Option<Arc<Buffer>>,
}

/// What a loop is made for.
pub(super) struct Setup<'a> {
    pub leg: &'a Leg,
    pub request: &'a Request,
    pub conditioning: &'a Conditioning,
    /// Latents that are painted anew, 1 or 0, `[h, w]`.
    pub mask: Option<&'a [f32]>,
    /// Pictures at a time.
    pub pictures: usize,
    /// A guided step is one UNet call of twice the batch rather than two calls,
    /// which need half the memory for activations.
    pub batched: bool,
}

/// A model's UNet, bound for one request.
pub(super) struct Denoiser<'a> {
    pipeline: &'a Pipeline,
    leg: &'a Leg,
    unet: Executor,
    calls: Vec<Call>,
    before: Program,
    /// After a step, and after one whose first store is thresholded.
    after: [Program; 2],
    put_back: Program,
    planes: Planes,
    step: Arc<Buffer>,
    table: Arc<Buffer>,
    time_ids: Arc<Buffer>,
    /// What a consistency model is told of the guidance scale, once a picture.
    guidance: Vec<f32>,
    pictures: usize,
    shape: Shape,
}

/// Of the latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl Shape {
    pub fn count(self) -> usize {
        self.c * self.h * self.w
    }
}

impl<'a> Denoiser<'a> {
    /// Plans the loop.
    pub fn new(
        pipeline: &'a Pipeline,
        model: &Model,
        setup: &Setup<'a>,
        cancel: &Cancel,
    ) -> Result<Self> {
        let gpu = &pipeline.gpu;
        let checkpoint = &model.checkpoint;
        let shape = pipeline.latent_shape(setup.request);
        let pictures = setup.pictures;
        let mut calls = calls(setup.conditioning, setup.batched);
        let halves = 1 + usize::from(calls[0].other.is_some());
        let extra = checkpoint.unet.in_channels - shape.c;
        let tensors = Tensors::new(gpu, shape, extra, setup)?;
        let size = unet::Size {
            batch: halves * pictures,
            height: shape.h,
            width: shape.w,
            tokens: setup.conditioning.tokens,
        };
        let ids = checkpoint.time_id_count();
        let time_ids = Arc::new(gpu.buffer("time ids", (size.batch * ids * 4) as u64)?);
        let graph = unet::graph(&checkpoint.unet, ids, size).optimise();
        tracing::debug!("UNet\n{graph}");
        let sources = HashMap::from([
            (TIMESTEP.to_string(), tensors.step.clone()),
            (TIME_IDS.to_string(), View::whole(&time_ids)),
        ]);
        let source = checkpoint.source(Part::UNet);
        let check = || cancel.check();
        let precision = pipeline.precision;
        let weights =
            DeviceWeights::new(gpu, source, precision.weights, &model.unet).while_ok(&check);
        let storage = precision.activations;
        let unet = Executor::new(gpu, pipeline.tuning, storage, &graph, &weights, &sources)?;
        gpu.check()?;

        let sample = unet.input(SAMPLE).cloned();
        let sample = sample.ok_or_else(|| gpu.error("the UNet has no input", "report this bug"))?;
        let tuning = pipeline.tuning;
        let (latents, step) = (&tensors.latents, &tensors.step);
        let input = latent::input(tuning, latents, &tensors.beside.view, step, &sample)?;
        let out = unet.output(0).clone();
        let kept = match calls.len() {
            1 => None,
            _ => {
                let buffer = Arc::new(gpu.buffer("negative prediction", out.view.size)?);
                calls[0].keep = Some(buffer.clone());
                Some(Tensor {
                    view: View::whole(&buffer),
                    ..out.clone()
                })
            }
        };
        let guidance = Guidance {
            negative: match &kept {
                Some(kept) => Some((kept, 0)),
                None => (halves == 2).then_some((&out, 0)),
            },
            positive: (&out, (halves - 1) * pictures),
            rescaled: setup.request.guidance_rescale > 0.0,
        };
        let after = |thresholded| tensors.after(gpu, tuning, &guidance, thresholded);
        let steps = &setup.leg.steps;
        let rows: Vec<StepValues> = (0..steps.len())
            .map(|k| step_values(setup.leg, k, setup.request))
            .collect();
        let draws = steps.iter().any(|step| step.draws_noise);
        rows.iter()
            .try_for_each(|row| row.check(setup.leg.slots(), draws))?;
        let table = Arc::new(gpu.buffer("steps", STEP_BYTES * steps.len() as u64)?);
        gpu.upload(&table, bytemuck::cast_slice(&rows))?;
        Ok(Self {
            pipeline,
            leg: setup.leg,
            before: Program::new(gpu, vec![input])?,
            after: [
                after(false)?,
                match steps.iter().any(is_thresholded) {
                    true => after(true)?,
                    false => Program::new(gpu, vec![])?,
                },
            ],
            put_back: tensors.put_back(gpu, tuning)?,
            planes: Planes::new(gpu, tuning, &tensors)?,
            step: tensors.step.buffer.clone(),
            unet,
            calls,
            table,
            time_ids,
            guidance: match checkpoint.unet.time_cond_proj_dim {
                Some(dim) => unet::guidance_embedding(setup.request.guidance_scale, dim),
                None => Vec::new(),
            },
            pictures,
            shape,
        })
    }

    /// How many pictures it takes at a time.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// Takes the samples, as many as the loop was made for, from the latents they
    /// have to those after the last step. `progress` hears of every step.
    pub fn run(
        &self,
        samples: &mut [Sample],
        observer: &mut Observer<'_>,
        gathered: &mut Gathered,
        tally: &mut Tally,
        progress: &mut dyn FnMut(&mut Observer<'_>, Progress<'_, 'a>) -> Result<()>,
    ) -> Result<()> {
        let gpu = &self.pipeline.gpu;
        let mut runner = Runner::new(gpu, true)?;
        self.condition(&mut runner, 0)?;
        self.planes.bring(gpu, samples)?;
        runner.busy_seconds()?;
        let traced = observer.trace.is_some();
        if traced {
            gathered.put("latents.000", &self.read(Read::Latents)?);
        }
        let counters = gpu.counters();
        let created = || {
            let buffers = counters.buffers_created.load(Ordering::Relaxed);
            let pipelines = counters.pipelines_created.load(Ordering::Relaxed);
            [buffers, pipelines]
        };
        type Own = Option<Box<dyn NoiseGenerator>>;
        let mut own_noise: Vec<Own> = samples.iter().map(|_| self.leg.own_noise()).collect();
        let (start, before) = (Instant::now(), created());
        for k in 0..self.leg.steps.len() {
            if self.leg.steps[k].draws_noise {
                let count = self.shape.count();
                let pairs = samples.iter_mut().zip(&mut own_noise);
                let draw = |(sample, own): (&mut Sample, &mut Own)| match own {
                    Some(own) => own.randn(count),
                    None => sample.generator.randn(count),
                };
                let noise: Vec<f32> = pairs.flat_map(draw).collect();
                gpu.upload(&self.planes.noise, bytemuck::cast_slice(&noise))?;
            }
            self.step(&mut runner, k, observer)?;
            if traced {
                runner.finish()?;
                let prediction = self.read(Read::Prediction)?;
                gathered.put(&format!("noise_pred.{k:03}"), &prediction);
                let latents = self.read(Read::Latents)?;
                gathered.put(&format!("latents.{:03}", k + 1), &latents);
            }
            if !self.put_back.is_empty() {
                runner.run(|_| {}, &[&self.put_back], &|| false)?;
            }
            let so_far = Progress {
                denoiser: self,
                runner: &mut runner,
                done: k + 1,
            };
            progress(observer, so_far)?;
        }
        runner.finish()?;
        let [buffers, pipelines] = created();
        tally.wall += start.elapsed().as_secs_f64();
        tally.buffers += buffers - before[0];
        tally.pipelines += pipelines - before[1];
        tally.busy = tally.busy.zip(runner.busy_seconds()?).map(|(a, b)| a + b);
        let values = self.read(Read::Latents)?;
        for (sample, latents) in samples.iter_mut().zip(values.chunks(self.shape.count())) {
            sample.latents = latents.to_vec();
        }
        Ok(())
    }

    /// Writes a call's prompts to the UNet's inputs and runs what follows from
    /// them alone.
    fn condition(&self, runner: &mut Runner, call: usize) -> Result<()> {
        let gpu = &self.pipeline.gpu;
        runner.finish()?;
        let call = &self.calls[call];
        let join = |part: fn(&Prompt) -> &Vec<f32>| -> Vec<f32> {
            let prompts = [Some(&call.prompt), call.other.as_ref()];
            let halves = prompts.into_iter().flatten();
            halves
                .flat_map(|prompt| part(prompt).repeat(self.pictures))
                .collect()
        };
        self.unet.write(gpu, CONTEXT, &join(|p| &p.embeds))?;
        self.unet.write(gpu, TEXT_EMBEDS, &join(|p| &p.pooled))?;
        let batch = self.pictures * (1 + usize::from(call.other.is_some()));
        self.unet
            .write(gpu, TIMESTEP_COND, &self.guidance.repeat(batch))?;
        let ids = join(|p| &p.time_ids);
        gpu.upload(&self.time_ids, bytemuck::cast_slice(&ids))?;
        runner.run(|_| {}, &[self.unet.once()], &|| false)
    }

    fn step(&self, runner: &mut Runner, k: usize, observer: &Observer<'_>) -> Result<()> {
        let cancelled = || observer.cancel.is_cancelled();
        let step = &self.leg.steps[k];
        let numbers = |encoder: &mut wgpu::CommandEncoder| {
            let (from, to) = (self.table.raw(), self.step.raw());
            encoder.copy_buffer_to_buffer(from, k as u64 * STEP_BYTES, to, 0, STEP_BYTES);
        };
        let mut last: Vec<&Program> = Vec::with_capacity(2);
        if step.draws_noise {
            last.push(&self.planes.import_noise);
        }
        last.push(&self.after[usize::from(is_thresholded(step))]);
        if self.calls.len() == 1 {
            let programs = [&[&self.before, self.unet.step()][..], &last].concat();
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
        runner.run(|_| {}, &last, &cancelled)
    }

    /// One of the loop's tensors as planes `[pictures, c, h, w]`, once all has run.
    fn read(&self, which: Read) -> Result<Vec<f32>> {
        let count = self.pictures * self.shape.count();
        self.planes.read(&self.pipeline.gpu, which, count)
    }
}

/// A loop after some of its steps.
pub(super) struct Progress<'d, 'a> {
    denoiser: &'d Denoiser<'a>,
    runner: &'d mut Runner,
    /// Steps done, 1 at the least.
    pub done: usize,
}

impl Progress<'_, '_> {
    /// What the finished latents of every picture are expected to be, planes: the
    /// clean picture that the latents and the prediction that led there speak of.
    pub fn expected(&mut self) -> Result<Vec<f32>> {
        self.runner.finish()?;
        let d = self.denoiser;
        let latents = d.read(Read::Latents)?;
        let reached = d.leg.reached(self.done - 1);
        if reached.noise == 0.0 {
            return Ok(latents);
        }
        let prediction = d.read(Read::Prediction)?;
        Ok(d.leg.original(&latents, &prediction, reached))
    }
}

/// The prompts of each UNet call of a step.
fn calls(conditioning: &Conditioning, batched: bool) -> Vec<Call> {
    let call = |prompt: &Prompt, other: Option<&Prompt>| Call {
        prompt: prompt.clone(),
        other: other.cloned(),
        keep: None,
    };
    let positive = &conditioning.positive;
    match &conditioning.negative {
        None => vec![call(positive, None)],
        Some(negative) if batched => vec![call(negative, Some(positive))],
        Some(negative) => vec![call(negative, None), call(positive, None)],
    }
}
