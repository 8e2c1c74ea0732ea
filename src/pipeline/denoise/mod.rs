//! The denoising loop of one model. Everything is recorded beforehand: a step
//! copies its numbers into place and runs the same dispatches as every other.

mod calls;
mod forms;
mod numbers;
mod passes;
mod record;
mod tensors;
mod times;
mod walk;

pub(super) use record::{Gathered, Tally};
pub(super) use walk::{Audience, Progress};

use super::condition::{Conditioning, Cue, Prompt};
use super::finite::Suspect;
use super::load::Model;
use super::route::Leg;
use super::{LoopStats, Pipeline, Request};
use crate::checkpoint::Part;
use crate::gpu::Buffer;
use crate::graph::Runner;
use crate::kernel::finite::{self, Mark};
use crate::kernel::latent::StepValues;
use crate::kernel::{Program, View};
use crate::model::unet::CONTEXT;
use crate::model::{DeviceWeights, Streamed};
use crate::schedule::{NoiseGenerator, Step};
use crate::{Error, Result};
use calls::{Call, Manner, Side, manners, sides};
use forms::Form;
use numbers::{is_thresholded, step_values};
use passes::{Maker, Pass, Passes};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tensors::{Planes, Read, Tensors};
use times::{Moment, Times};

/// Bytes from one step's numbers to the next in the table.
const STEP_BYTES: u64 = size_of::<StepValues>() as u64;

/// One picture on its way. Tensors are planes `[c, h, w]`, as PyTorch has them.
pub(super) struct Sample {
    pub place: Place,
    pub generator: Box<dyn NoiseGenerator>,
    pub latents: Vec<f32>,
    /// What a mask keeps: the picture's latents, and the noise that it gets.
    pub kept: Option<[Vec<f32>; 2]>,
    /// What the UNet sees beside the latents.
    pub extra: Vec<f32>,
    pub progress: Stand,
}

/// Whose picture it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The request, among those that are drawn together.
    pub request: usize,
    /// The picture, among the request's.
    pub index: usize,
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
    /// One of those whose pictures it draws: they may share.
    pub request: &'a Request,
    /// What one of them is told: all of it goes together.
    pub conditioning: &'a Conditioning,
    /// How many of them the pictures of a batch may be of.
    pub texts: usize,
    /// Latents that are painted anew, 1 or 0, `[h, w]`.
    pub mask: Option<&'a [f32]>,
    /// Pictures at a time.
    pub pictures: usize,
    /// A step is one UNet call for all its prompts rather than a call for each,
    /// which needs less memory for activations.
    pub batched: bool,
}

/// What the pictures of a batch are told.
pub(super) struct Texts<'t> {
    /// Of each request that has pictures in it; one at the least.
    pub told: Vec<&'t Conditioning>,
    /// Of each picture, the place among those.
    pub of: Vec<usize>,
}

/// The first steps at which the loop's tensors were not finite.
pub(super) struct Marks {
    /// Of the guided prediction.
    pub prediction: Mark,
    pub latents: Mark,
}

/// A model's UNet, bound for requests that may share.
pub(super) struct Denoiser<'a> {
    pipeline: &'a Pipeline,
    leg: &'a Leg,
    /// Of every step.
    cues: &'a [Cue],
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
    /// Plans the loop; `cancelled` stops that.
    pub fn new(
        pipeline: &'a Pipeline,
        model: &'a Model,
        setup: &Setup<'a>,
        cancelled: &dyn Fn() -> bool,
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
        let check = || match cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        };
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
            cancelled,
        };
        let (forms, passes) = maker.forms(&manners, &marks)?;
        let guidance = setup.request.guidance_scale;
        let lines = [sides.len(), setup.texts, steps.len()];
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
            cues: &setup.conditioning.cues,
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

    /// Of a picture's latents.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How many pictures it takes at a time.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// How a step of that manner is taken.
    fn form(&self, manner: Manner) -> &Form {
        let place = self.forms.iter().position(|f| f.guided == manner.guided);
        &self.forms[place.unwrap_or(0)]
    }

    /// Tells the UNet a form's only call, unless it was told so last.
    async fn tell<'t>(
        &'t self,
        runner: &mut Runner<'_>,
        form: &Form,
        call: &Call,
        (texts, cue): (&Texts<'_>, &'t Cue),
        told: &mut Told<'t>,
    ) -> Result<()> {
        let news = Some((form.guided, cue));
        if told.cue != news {
            let passes = &self.passes[form.passes];
            for pass in [&passes.whole].into_iter().chain(&passes.shallow) {
                self.condition(runner, pass, call, (texts, cue)).await?;
            }
            told.cue = news;
        }
        Ok(())
    }

    /// Writes a call's texts to the UNet's inputs, for what is submitted from now on,
    /// and runs what follows from them alone: the keys and values of every
    /// cross-attention. In SDXL that is about 0.4 % of a step's work.
    async fn condition(
        &self,
        runner: &mut Runner<'_>,
        pass: &Pass,
        call: &Call,
        (texts, cue): (&Texts<'_>, &Cue),
    ) -> Result<()> {
        if pass.unet.input(CONTEXT).is_none() {
            return Ok(());
        }
        let mut embeds: Vec<f32> = Vec::new();
        for side in &call.sides {
            for text in &texts.of {
                let prompt = prompt(texts.told[*text], *side, cue);
                embeds.extend_from_slice(&prompt.embeds);
            }
        }
        pass.unet.write(&self.pipeline.gpu, CONTEXT, &embeds)?;
        let programs = [pass.unet.once()];
        runner.run_async(|_| {}, &programs, &|| false).await
    }

    /// Has the time embedding of step `k` worked out, with that of as many other steps
    /// as there is room for.
    async fn bring_times(
        &self,
        runner: &mut Runner<'_>,
        k: usize,
        texts: &Texts<'_>,
        told: &mut Told<'_>,
    ) -> Result<()> {
        let steps = self.times.beside(k);
        if told.times.as_ref() == Some(&steps) {
            return Ok(());
        }
        let mut moments = Vec::new();
        for k in steps.clone() {
            for side in &self.sides {
                // Where a batch has fewer texts, the last fills up what nobody reads.
                let last = texts.told.iter().rev().take(1).cycle();
                let all = texts.told.iter().chain(last).take(self.times.texts());
                moments.extend(all.map(|text| Moment {
                    timestep: self.leg.steps[k].timestep,
                    prompt: prompt(text, *side, &self.cues[k]),
                }));
            }
        }
        let gpu = &self.pipeline.gpu;
        self.times.bring(gpu, runner, &moments).await?;
        told.times = Some(steps);
        Ok(())
    }

    /// Takes step `k`. `told` is what the UNet was told last. Gives the multiply-adds of
    /// its UNet calls.
    async fn step<'t>(
        &'t self,
        runner: &mut Runner<'_>,
        k: usize,
        texts: &Texts<'_>,
        told: &mut Told<'t>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<u64> {
        let cue = &self.cues[k];
        let step = &self.leg.steps[k];
        let manner = self.manners[k];
        let form = self.form(manner);
        let passes = &self.passes[form.passes];
        let pass = passes.of(manner.shallow);
        let work = form.calls.len() as u64 * pass.multiply_adds;
        self.bring_times(runner, k, texts, told).await?;
        let numbers = |encoder: &mut wgpu::CommandEncoder, call: &Call| {
            let (from, to) = (self.table.raw(), self.step.raw());
            encoder.copy_buffer_to_buffer(from, k as u64 * STEP_BYTES, to, 0, STEP_BYTES);
            let sides = call.first..call.first + call.sides.len();
            self.times.copy(encoder, k, sides, &texts.of, &pass.time);
        };
        let mut last: Vec<&Program> = Vec::with_capacity(2);
        if step.draws_noise {
            last.push(&self.planes.import_noise);
        }
        last.push(form.after(manner.shallow, is_thresholded(step)));
        if let [call] = &form.calls[..] {
            self.tell(runner, form, call, (texts, cue), told).await?;
            let programs = [&[&pass.before, pass.unet.step()][..], &last].concat();
            let before = |encoder: &mut wgpu::CommandEncoder| numbers(encoder, call);
            runner.run_async(before, &programs, cancelled).await?;
            return Ok(work);
        }
        told.cue = None;
        for call in &form.calls {
            self.condition(runner, pass, call, (texts, cue)).await?;
            let feature = passes.feature().zip(call.feature.as_ref());
            let before = |encoder: &mut wgpu::CommandEncoder| {
                numbers(encoder, call);
                if let (Some((feature, kept)), true) = (feature, manner.shallow) {
                    copy(encoder, kept, &feature.view);
                }
            };
            let programs = [&pass.before, pass.unet.step()];
            runner.run_async(before, &programs, cancelled).await?;
            let keep = |encoder: &mut wgpu::CommandEncoder| {
                if let Some(keep) = &call.keep {
                    copy(encoder, &pass.output().view, &keep.view);
                }
                if let (Some((feature, kept)), false) = (feature, manner.shallow) {
                    copy(encoder, &feature.view, kept);
                }
            };
            runner.run_async(keep, &[], cancelled).await?;
        }
        runner.run_async(|_| {}, &last, cancelled).await?;
        Ok(work)
    }

    /// One of the loop's tensors as planes `[pictures, c, h, w]`, once all has run.
    async fn read(&self, which: Read) -> Result<Vec<f32>> {
        let count = self.pictures * self.shape.count();
        self.planes.read(&self.pipeline.gpu, which, count).await
    }
}

/// What `side` is told at `cue`.
fn prompt<'t>(text: &'t Conditioning, side: Side, cue: &Cue) -> &'t Prompt {
    match side {
        Side::Negative => &text.negative[cue.negative],
        Side::Positive(part) => &text.positive[cue.positive[part]],
    }
}

fn copy(encoder: &mut wgpu::CommandEncoder, from: &View, to: &View) {
    let (source, target) = (from.buffer.raw(), to.buffer.raw());
    encoder.copy_buffer_to_buffer(source, from.offset, target, to.offset, from.size);
}
