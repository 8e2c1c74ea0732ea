//! The loop's tensors on the device, what becomes of them after the UNet, and the
//! ways between them and planes on the host.

use super::{Marks, STEP_BYTES, Sample, Setup, Shape};
use crate::gpu::{Buffer, Gpu};
use crate::kernel::finite::Mark;
use crate::kernel::latent::{self, Share, State, Weighed};
use crate::kernel::{Mode, Program, Storage, Tensor, View, layout};
use crate::{Error, Result};
use std::sync::Arc;

/// The state of the loop; all f32. What a request does not use is a small dummy.
pub(super) struct Tensors {
    pub latents: Tensor,
    /// The guided prediction.
    prediction: Tensor,
    /// This step's.
    noise: Tensor,
    history: View,
    /// What an inpainting UNet sees beside the latents.
    pub beside: Tensor,
    /// Latents and noise of what a mask keeps, and the mask `[h, w]`.
    kept: Option<[Tensor; 2]>,
    mask: Option<View>,
    /// The numbers of the step at hand.
    pub step: View,
}

/// How the UNet's output becomes one prediction: a tensor and the place of the
/// first picture in its batch.
pub(super) struct Guidance<'a> {
    pub negative: Option<(&'a Tensor, usize)>,
    /// Of each part of the prompt, with its weight.
    pub positive: Vec<(&'a Tensor, usize, f32)>,
    /// Whether the contrast is brought back.
    pub rescaled: bool,
}

impl Tensors {
    /// Room for `setup.pictures` pictures; the UNet takes `extra` channels beside
    /// the latents.
    pub fn new(gpu: &Gpu, shape: Shape, extra: usize, setup: &Setup<'_>) -> Result<Self> {
        let view = |label: &str, bytes: u64| -> Result<View> {
            Ok(View::whole(&Arc::new(gpu.buffer(label, bytes)?)))
        };
        let tensor = |label: &str, shape: [usize; 4]| -> Result<Tensor> {
            let bytes = Tensor::bytes_of(Storage::F32, shape);
            Ok(Tensor::new(view(label, bytes)?, Storage::F32, shape))
        };
        let room = |label: &str, c: usize| match c {
            0 => tensor(label, [1, 1, 1, 4]),
            c => tensor(label, [setup.pictures, shape.h, shape.w, c]),
        };
        let draws = setup.leg.steps.iter().any(|step| step.draws_noise);
        let latents = room("latents", shape.c)?;
        let slots = setup.leg.slots() as u64;
        let (kept, mask) = match setup.mask {
            Some(mask) if extra == 0 => {
                let view = view("mask", (mask.len() * 4) as u64)?;
                gpu.upload(&view.buffer, bytemuck::cast_slice(mask))?;
                let kept = [room("kept latents", shape.c)?, room("kept noise", shape.c)?];
                (Some(kept), Some(view))
            }
            _ => (None, None),
        };
        Ok(Self {
            prediction: room("prediction", shape.c)?,
            noise: room("noise", if draws { shape.c } else { 0 })?,
            history: view("history", slots * latents.view.size)?,
            beside: room("mask and picture", extra)?,
            step: view("step", STEP_BYTES)?,
            kept,
            mask,
            latents,
        })
    }

    /// What follows the UNet in a step: guidance and the scheduler's update, with a
    /// look at what each of them made.
    pub fn after(
        &self,
        gpu: &Gpu,
        mode: Mode,
        guidance: &Guidance<'_>,
        thresholded: bool,
        marks: &Marks,
    ) -> Result<Program> {
        let (pictures, step) = (self.latents.n, &self.step);
        let negative = guidance.negative;
        let output = &self.prediction.view;
        let mut all = Vec::new();
        for (i, &(t, place, weight)) in guidance.positive.iter().enumerate() {
            let first = i == 0;
            let part = Weighed { weight, first };
            let t = (t, place);
            all.push(latent::guidance(
                mode, negative, t, part, pictures, step, output,
            )?);
        }
        // To the spread of the first part's prediction.
        if let (true, Some(_), Some(&(t, place, _))) =
            (guidance.rescaled, negative, guidance.positive.first())
        {
            all.push(latent::rescale((t, place), pictures, step, output)?);
        }
        let watch = |mark: &Mark, x: &View| {
            let count = self.latents.rows() * self.latents.pitch * 4;
            mark.watch(gpu, mode, x, count, Some(step))
        };
        all.extend(watch(&marks.prediction, output)?);
        let state = State {
            sample: &self.latents.view,
            output,
            noise: &self.noise.view,
            history: &self.history,
        };
        let each = self.latents.rows_per_batch() * self.latents.pitch;
        let update = |share| latent::update(mode, &state, step, pictures * each, share);
        if thresholded {
            all.push(update(Share::First)?);
            let levels = latent::threshold(&self.history, step, pictures, each)?;
            all.push(levels);
            all.push(update(Share::Rest)?);
        } else {
            all.push(update(Share::Whole)?);
        }
        all.extend(watch(&marks.latents, &self.latents.view)?);
        Program::new(gpu, all)
    }

    /// Puts back what a mask keeps, after a step.
    pub fn put_back(&self, gpu: &Gpu, mode: Mode) -> Result<Program> {
        let (Some([original, noise]), Some(mask)) = (&self.kept, &self.mask) else {
            return Program::new(gpu, vec![]);
        };
        let kept = [&original.view, &noise.view, mask];
        let dispatch = latent::mask(mode, &self.latents, kept, &self.step)?;
        Program::new(gpu, vec![dispatch])
    }
}

/// The ways between planes on the host and the loop's tensors.
pub(super) struct Planes {
    /// f32 `[pictures, c, h, w]`, on the way in and out.
    buffer: Arc<Buffer>,
    /// The same for this step's noise, which is written while steps are under way.
    pub noise: Arc<Buffer>,
    latents: Program,
    pub import_noise: Program,
    kept: Option<[Program; 2]>,
    beside: Option<(Arc<Buffer>, Program)>,
    export: [Program; 2],
}

/// Which of the loop's tensors to read.
#[derive(Clone, Copy)]
pub(super) enum Read {
    Latents,
    Prediction,
}

impl Planes {
    pub fn new(gpu: &Gpu, mode: Mode, tensors: &Tensors) -> Result<Self> {
        let buffer = |label: &str, tensor: &Tensor| {
            let bytes = (tensor.rows() * tensor.c * 4) as u64;
            Ok::<_, Error>(Arc::new(gpu.buffer(label, bytes)?))
        };
        let planes = buffer("planes", &tensors.latents)?;
        let noise = buffer("noise planes", &tensors.noise)?;
        let import = |planes: &Arc<Buffer>, to: &Tensor| {
            let dispatch = layout::to_pixels(mode, &View::whole(planes), to, [1.0, 0.0])?;
            Program::new(gpu, vec![dispatch])
        };
        let export = |from: &Tensor| {
            let dispatch = layout::to_planes(mode, from, &View::whole(&planes), [1.0, 0.0])?;
            Program::new(gpu, vec![dispatch])
        };
        let has_beside = tensors.beside.rows() == tensors.latents.rows();
        Ok(Self {
            latents: import(&planes, &tensors.latents)?,
            import_noise: import(&noise, &tensors.noise)?,
            kept: match &tensors.kept {
                Some([a, b]) => Some([import(&planes, a)?, import(&planes, b)?]),
                None => None,
            },
            beside: match has_beside {
                true => {
                    let planes = buffer("mask and picture planes", &tensors.beside)?;
                    let program = import(&planes, &tensors.beside)?;
                    Some((planes, program))
                }
                false => None,
            },
            export: [export(&tensors.latents)?, export(&tensors.prediction)?],
            noise,
            buffer: planes,
        })
    }

    /// Brings the samples' tensors to the device.
    pub fn bring(&self, gpu: &Gpu, samples: &[&mut Sample]) -> Result<()> {
        let bring = |buffer: &Buffer, values: Vec<f32>, program: &Program| {
            gpu.upload(buffer, bytemuck::cast_slice(&values))?;
            program.run(gpu)
        };
        let latents = samples.iter().flat_map(|s| s.latents.clone()).collect();
        bring(&self.buffer, latents, &self.latents)?;
        for (i, program) in self.kept.iter().flatten().enumerate() {
            let kept = samples.iter().filter_map(|s| s.kept.as_ref());
            let values = kept.flat_map(|kept| kept[i].clone()).collect();
            bring(&self.buffer, values, program)?;
        }
        if let Some((buffer, program)) = &self.beside {
            let extra = samples.iter().flat_map(|s| s.extra.clone()).collect();
            bring(buffer, extra, program)?;
        }
        Ok(())
    }

    /// The `count` values of a tensor, once all has run.
    pub async fn read(&self, gpu: &Gpu, which: Read, count: usize) -> Result<Vec<f32>> {
        self.export[which as usize].run(gpu)?;
        let bytes = (count * 4) as u64;
        let bytes = gpu.download_async(&self.buffer, 0, bytes).await?;
        Ok(Storage::F32.decode(&bytes))
    }
}
