//! The denoising loop of one model. Everything is recorded beforehand: a step
//! copies its numbers into place and runs the same dispatches as every other.

mod calls;
mod forms;
mod numbers;
mod passes;
mod record;
mod tensors;
mod times;

pub(super) use record::{Gathered, Tally};

use super::condition::{Conditioning, Cue, Prompt};
use super::finite::Suspect;
use super::load::Model;
use super::route::Leg;
use super::{Cancel, LoopStats, Observer, Pipeline, Request};
use crate::Result;
use crate::checkpoint::Part;
use crate::gpu::Buffer;
use crate::graph::Runner;
use crate::kernel::finite::{self, Mark};
use crate::kernel::latent::StepValues;
use crate::kernel::{Program, View};
use crate::model::unet::CONTEXT;
use crate::model::{DeviceWeights, Streamed};
use crate::schedule::{NoiseGenerator, Step};
use calls::{Call, Manner, Side, manners, sides};
use forms::Form;
use numbers::{is_thresholded, step_values};
use passes::{Maker, Pass, Passes};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tensors::{Planes, Read, Tensors};
use times::{Moment, Times};

/// Bytes from one step's numbers to the next in the table.
const STEP_BYTES: u64 = size_of::<StepValues>() as u64;

/// One picture on its way. Tensors are planes `[c, h, w]`, as PyTorch has them.
pub(super) struct Sample {
    pub generator: Box<dyn NoiseGenerator>,
    pub latents: Vec<f32>,
    /// What a mask keeps: the picture's latents, and the noise that it gets.
    pub kept: Option<[Vec<f32>; 2]>,
    /// What the UNet sees beside the latents.
    pub extra: Vec<f32>,
    pub progress: Stand,
}

/// How far a picture is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stand {
    /// No step is done.
    Waiting,
    /// Another model goes on; until then, these latents are what it is coming to.
    Begun(Vec<f32>),
    /// Its latents are those of a finished picture.
    Done,
    /// It was asked to end before that; its latents are what it was coming to.
    Ended,
}

/// What the UNet's inputs hold.
#[derive(Default)]
struct Told<'t> {
    /// Of the form whose steps are being taken, where one call does all; otherwise every
    /// call is told.
    cue: Option<(bool, &'t Cue)>,
    /// The steps whose time embedding is worked out.
    times: Option<Range<usize>>,
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
    /// A step is one UNet call for all its prompts rather than a call for each,
    /// which needs less memory for activations.
    pub batched: bool,
}

/// The first steps at which the loop's tensors were not finite.
pub(super) struct Marks {
    /// Of the guided prediction.
    pub prediction: Mark,
    pub latents: Mark,
}

/// A model's UNet, bound for one request.
pub(super) struct Denoiser<'a> {
    pipeline: &'a Pipeline,
    leg: &'a Leg,
    conditioning: &'a Conditioning,
    /// Of every step.
    manners: Vec<Manner>,
    /// Of all steps.
    sides: Vec<Side>,
    forms: Vec<Form>,
    passes: Vec<Passes>,
    put_back: Program,
    planes: Planes,
    marks: Marks,
    suspect: Suspect,
    /// Of the UNet's weights, as far as they do not stay on the device.
    stream: Rc<Streamed<'a>>,
    step: Arc<Buffer>,
    table: Arc<Buffer>,
    times: Times,
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
        model: &'a Model,
        setup: &Setup<'a>,
        cancel: &Cancel,
    ) -> Result<Self> {
        let gpu = &pipeline.gpu;
        let checkpoint = &model.checkpoint;
        let shape = pipeline.latent_shape(setup.request);
        let pictures = setup.pictures;
        let manners = manners(setup.leg, setup.request, setup.conditioning);
        let negative = manners.iter().any(|manner| manner.guided);
        let sides = sides(setup.conditioning, negative);
        let extra = checkpoint.unet.in_channels - shape.c;
        let tensors = Tensors::new(gpu, shape, extra, setup)?;
        let source = checkpoint.source(Part::UNet);
        let check = || cancel.check();
        let precision = pipeline.precision;
        let weights = DeviceWeights::new(
            gpu,
            source,
            pipeline.unet_keeping(checkpoint.is_refiner()),
            &model.unet,
        )
        .while_ok(&check);
        let steps = &setup.leg.steps;
        let suspect = Suspect::unet(
            checkpoint,
            steps.len(),
            precision.activations,
            setup.request,
        );
        let mode = pipeline.context.mode;
        let marks = Marks {
            prediction: Mark::new(gpu)?,
            latents: Mark::new(gpu)?,
        };
        let maker = Maker {
            pipeline,
            model,
            setup,
            weights: &weights,
            tensors: &tensors,
            suspect: &suspect,
            cancelled: &|| cancel.is_cancelled(),
        };
        let (forms, passes) = maker.forms(&manners, &marks)?;
        let guidance = setup.request.guidance_scale;
        let lines = [sides.len(), steps.len()];
        let times = Times::new(pipeline, checkpoint, &weights, lines, guidance)
            .map_err(|e| suspect.blamed(e))?;
        gpu.check()?;
        let rows: Vec<StepValues> = (0..steps.len())
            .map(|k| step_values(setup.leg, k, setup.request, setup.conditioning.scale))
            .collect();
        let sound = |(row, step): (&StepValues, &Step)| {
            step.timestep.is_finite() && finite::twin(bytemuck::cast_slice(&[*row]))
        };
        if let Some(k) = rows.iter().zip(steps).position(|step| !sound(step)) {
            let found = suspect.in_loop(None, Some(k + 1));
            return Err(found.unwrap_or(suspect).error());
        }
        let draws = steps.iter().any(|step| step.draws_noise);
        rows.iter()
            .try_for_each(|row| row.check(setup.leg.slots(), draws))?;
        let table = Arc::new(gpu.buffer("steps", STEP_BYTES * steps.len() as u64)?);
        gpu.upload(&table, bytemuck::cast_slice(&rows))?;
        Ok(Self {
            pipeline,
            leg: setup.leg,
            conditioning: setup.conditioning,
            manners,
            sides,
            forms,
            passes,
            put_back: tensors.put_back(gpu, mode)?,
            marks,
            suspect,
            stream: Rc::new(Streamed::new(gpu, source, &model.unet)),
            planes: Planes::new(gpu, mode, &tensors)?,
            step: tensors.step.buffer.clone(),
            table,
            times,
            pictures,
            shape,
        })
    }

    /// How many pictures it takes at a time.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// Takes the samples, as many as the loop was made for, from the latents they
    /// have to those after the last step. `progress` hears of every step. Gives
    /// how many steps were done: fewer where the pictures were asked to end.
    pub fn run(
        &self,
        samples: &mut [Sample],
        observer: &mut Observer<'_>,
        gathered: &mut Gathered,
        tally: &mut Tally,
        progress: &mut dyn FnMut(&mut Observer<'_>, Progress<'_, 'a>) -> Result<()>,
    ) -> Result<usize> {
        let gpu = &self.pipeline.gpu;
        let mut runner = Runner::new(gpu, true)?.with_stream(self.stream.clone());
        let mut told = Told::default();
        if let (Some(manner), Some(cue)) = (self.manners.first(), self.conditioning.cues.first()) {
            let form = self.form(*manner);
            if let [call] = &form.calls[..] {
                self.tell(&mut runner, form, call, cue, &mut told)?;
            }
        }
        self.bring_times(&mut runner, 0, &mut told)?;
        self.planes.bring(gpu, samples)?;
        self.marks.prediction.clear(gpu)?;
        self.marks.latents.clear(gpu)?;
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
        let streamed = self.stream.bytes();
        let mut done = 0;
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
            tally.multiply_adds += self.step(&mut runner, k, &mut told, observer)?;
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
            done = k + 1;
            if done < self.leg.steps.len() && observer.cancel.ends_pictures() {
                break;
            }
        }
        runner.finish()?;
        gpu.note_reserved();
        let [buffers, pipelines] = created();
        tally.wall += start.elapsed().as_secs_f64();
        tally.buffers += buffers - before[0];
        tally.pipelines += pipelines - before[1];
        tally.streamed += self.stream.bytes() - streamed;
        tally.busy = tally.busy.zip(runner.busy_seconds()?).map(|(a, b)| a + b);
        let ended = done < self.leg.steps.len();
        self.check_finite()?;
        let values = self.read(Read::Latents)?;
        let expected = match ended || !self.leg.finishes() {
            true => self.expected(done, values.clone())?,
            false => Vec::new(),
        };
        let count = self.shape.count();
        for (i, (sample, latents)) in samples.iter_mut().zip(values.chunks(count)).enumerate() {
            let coming = expected.get(i * count..(i + 1) * count);
            (sample.latents, sample.progress) = match (coming, ended) {
                (Some(coming), true) => (coming.to_vec(), Stand::Ended),
                (Some(coming), false) => (latents.to_vec(), Stand::Begun(coming.to_vec())),
                (None, _) => (latents.to_vec(), Stand::Done),
            };
        }
        Ok(done)
    }

    /// What the finished latents of every picture are expected to be, planes: the
    /// clean picture that `latents` after `done` steps and the prediction that led
    /// there speak of.
    fn expected(&self, done: usize, latents: Vec<f32>) -> Result<Vec<f32>> {
        let reached = self.leg.reached(done - 1);
        if reached.noise == 0.0 {
            return Ok(latents);
        }
        let prediction = self.read(Read::Prediction)?;
        Ok(self.leg.original(&latents, &prediction, reached))
    }

    /// Fails where a step's tensors were not finite: the first of them counts.
    fn check_finite(&self) -> Result<()> {
        let gpu = &self.pipeline.gpu;
        let prediction = self.marks.prediction.read(gpu)?;
        let latents = self.marks.latents.read(gpu)?;
        match self.suspect.in_loop(prediction, latents) {
            Some(suspect) => Err(suspect.error()),
            None => Ok(()),
        }
    }

    /// How a step of that manner is taken.
    fn form(&self, manner: Manner) -> &Form {
        let place = self.forms.iter().position(|f| f.guided == manner.guided);
        &self.forms[place.unwrap_or(0)]
    }

    /// Tells the UNet a form's only call, unless it was told so last.
    fn tell<'t>(
        &'t self,
        runner: &mut Runner<'_>,
        form: &Form,
        call: &Call,
        cue: &'t Cue,
        told: &mut Told<'t>,
    ) -> Result<()> {
        let news = Some((form.guided, cue));
        if told.cue != news {
            let passes = &self.passes[form.passes];
            for pass in [&passes.whole].into_iter().chain(&passes.shallow) {
                self.condition(runner, pass, call, cue)?;
            }
            told.cue = news;
        }
        Ok(())
    }

    /// Writes a call's texts to the UNet's inputs, for what is submitted from now on,
    /// and runs what follows from them alone: the keys and values of every
    /// cross-attention. In SDXL that is about 0.4 % of a step's work.
    fn condition(
        &self,
        runner: &mut Runner<'_>,
        pass: &Pass,
        call: &Call,
        cue: &Cue,
    ) -> Result<()> {
        if pass.unet.input(CONTEXT).is_none() {
            return Ok(());
        }
        let prompts = call.sides.iter().map(|side| self.prompt(*side, cue));
        let embeds: Vec<f32> = prompts
            .flat_map(|prompt| prompt.embeds.repeat(self.pictures))
            .collect();
        pass.unet.write(&self.pipeline.gpu, CONTEXT, &embeds)?;
        runner.run(|_| {}, &[pass.unet.once()], &|| false)
    }

    /// What `side` is told at `cue`.
    fn prompt(&self, side: Side, cue: &Cue) -> &Prompt {
        match side {
            Side::Negative => &self.conditioning.negative[cue.negative],
            Side::Positive(part) => &self.conditioning.positive[cue.positive[part]],
        }
    }

    /// Has the time embedding of step `k` worked out, with that of as many other steps
    /// as there is room for.
    fn bring_times(&self, runner: &mut Runner<'_>, k: usize, told: &mut Told<'_>) -> Result<()> {
        let steps = self.times.beside(k);
        if told.times.as_ref() == Some(&steps) {
            return Ok(());
        }
        let mut moments = Vec::new();
        for k in steps.clone() {
            let cue = &self.conditioning.cues[k];
            moments.extend(self.sides.iter().map(|side| Moment {
                timestep: self.leg.steps[k].timestep,
                prompt: self.prompt(*side, cue),
            }));
        }
        self.times.bring(&self.pipeline.gpu, runner, &moments)?;
        told.times = Some(steps);
        Ok(())
    }

    /// Takes step `k`. `told` is what the UNet was told last. Gives the multiply-adds of
    /// its UNet calls.
    fn step<'t>(
        &'t self,
        runner: &mut Runner<'_>,
        k: usize,
        told: &mut Told<'t>,
        observer: &Observer<'_>,
    ) -> Result<u64> {
        let cue = &self.conditioning.cues[k];
        let cancelled = || observer.cancel.is_cancelled();
        let step = &self.leg.steps[k];
        let manner = self.manners[k];
        let form = self.form(manner);
        let passes = &self.passes[form.passes];
        let pass = passes.of(manner.shallow);
        let work = form.calls.len() as u64 * pass.multiply_adds;
        self.bring_times(runner, k, told)?;
        let numbers = |encoder: &mut wgpu::CommandEncoder, call: &Call| {
            let (from, to) = (self.table.raw(), self.step.raw());
            encoder.copy_buffer_to_buffer(from, k as u64 * STEP_BYTES, to, 0, STEP_BYTES);
            let sides = call.first..call.first + call.sides.len();
            self.times.copy(encoder, k, sides, &pass.time);
        };
        let mut last: Vec<&Program> = Vec::with_capacity(2);
        if step.draws_noise {
            last.push(&self.planes.import_noise);
        }
        last.push(form.after(manner.shallow, is_thresholded(step)));
        if let [call] = &form.calls[..] {
            self.tell(runner, form, call, cue, told)?;
            let programs = [&[&pass.before, pass.unet.step()][..], &last].concat();
            runner.run(|e| numbers(e, call), &programs, &cancelled)?;
            return Ok(work);
        }
        told.cue = None;
        for call in &form.calls {
            self.condition(runner, pass, call, cue)?;
            let feature = passes.feature().zip(call.feature.as_ref());
            let before = |encoder: &mut wgpu::CommandEncoder| {
                numbers(encoder, call);
                if let (Some((feature, kept)), true) = (feature, manner.shallow) {
                    copy(encoder, kept, &feature.view);
                }
            };
            let programs = [&pass.before, pass.unet.step()];
            runner.run(before, &programs, &cancelled)?;
            let keep = |encoder: &mut wgpu::CommandEncoder| {
                if let Some(keep) = &call.keep {
                    copy(encoder, &pass.output().view, &keep.view);
                }
                if let (Some((feature, kept)), false) = (feature, manner.shallow) {
                    copy(encoder, &feature.view, kept);
                }
            };
            runner.run(keep, &[], &cancelled)?;
        }
        runner.run(|_| {}, &last, &cancelled)?;
        Ok(work)
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
    runner: &'d mut Runner<'a>,
    /// Steps done, 1 at the least.
    pub done: usize,
}

impl Progress<'_, '_> {
    /// What the finished latents of every picture are expected to be, planes: the
    /// clean picture that the latents and the prediction that led there speak of.
    pub fn expected(&mut self) -> Result<Vec<f32>> {
        self.runner.finish()?;
        let latents = self.denoiser.read(Read::Latents)?;
        self.denoiser.expected(self.done, latents)
    }
}

fn copy(encoder: &mut wgpu::CommandEncoder, from: &View, to: &View) {
    let (source, target) = (from.buffer.raw(), to.buffer.raw());
    encoder.copy_buffer_to_buffer(source, from.offset, target, to.offset, from.size);
}
