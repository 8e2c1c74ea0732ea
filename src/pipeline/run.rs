//! A request's pictures through the models' steps, as many at a time as memory
//! allows. Each is the same whatever its company.

use super::condition::Conditioning;
use super::denoise::{Denoiser, Gathered, Progress, Sample, Setup, Shape, Stand, Tally};
use super::load::Model;
use super::preview::Previewer;
use super::route::Leg;
use super::start::Departure;
use super::{Event, Observer, Pipeline, Request};
use crate::Result;
use crate::kernel::finite;
use crate::model::unet;
use std::time::Instant;

use super::memory::BATCH_BYTES;

const NO_PREVIEW: &str =
    "no previews: the VAE that they are made with gives numbers that are not finite";

/// A request under way.
pub(super) struct Run<'a> {
    pipeline: &'a Pipeline,
    request: &'a Request,
    pub tally: Tally,
    /// Steps of the whole request, and how many are done.
    total: usize,
    done: usize,
    /// Seconds spent on loading UNets.
    pub load: f64,
    pub warnings: Vec<String>,
}

/// One model's part.
pub(super) struct Stage<'a> {
    /// Of its names in the trace.
    pub prefix: &'static str,
    pub model: &'a Model,
    /// Its UNet goes first where memory is short.
    pub other: Option<&'a Model>,
    pub leg: &'a Leg,
    pub conditioning: &'a Conditioning,
}

impl<'a> Run<'a> {
    /// A run of `calls` UNet calls for each picture.
    pub fn new(pipeline: &'a Pipeline, request: &'a Request, calls: usize) -> Self {
        Self {
            pipeline,
            request,
            tally: Tally::default(),
            total: calls * request.samples,
            done: 0,
            load: 0.0,
            warnings: Vec::new(),
        }
    }

    /// All pictures through one model's steps.
    pub fn stage(
        &mut self,
        stage: &Stage<'_>,
        departure: &mut Departure,
        observer: &mut Observer<'_>,
    ) -> Result<()> {
        (observer.events)(Event::Loading {
            part: format!("{}unet", stage.prefix.replace('.', " ")),
        });
        let shape = self.pipeline.latent_shape(self.request);
        let mut gathered = Gathered::default();
        let mut previewer = match observer.preview_every {
            0 => None,
            _ => match self.pipeline.previewer(observer.cancel) {
                Err(e) if e.is_not_finite() => {
                    self.warnings.push(NO_PREVIEW.into());
                    None
                }
                made => Some(made?),
            },
        };
        let mut batch = Batch::new(self.pipeline, self.request.samples);
        if self.pipeline.options.batch.is_none() {
            let bytes = |pictures| {
                let tokens = stage.conditioning.tokens;
                let size = unet::Size {
                    batch: stage.conditioning.predictions() * pictures,
                    height: shape.h,
                    width: shape.w,
                    tokens,
                };
                let checkpoint = &stage.model.checkpoint;
                let pass = match self.request.cache_interval {
                    1 => unet::Pass::Whole,
                    _ => unet::Pass::Keeping,
                };
                let graph = unet::graph_of(&checkpoint.unet, size, pass).optimise();
                let storage = self.pipeline.precision.activations;
                graph.planned_bytes(self.pipeline.context.mode, storage).0
            };
            batch.keep_below(BATCH_BYTES, &bytes);
            // The parts of a prompt may be many.
            if stage.conditioning.weights.len() > 1 && bytes(batch.pictures) > BATCH_BYTES {
                batch.batched = false;
            }
        }
        let mask = departure.mask.as_deref();
        let samples = &mut departure.samples;
        let mut made: Option<Denoiser<'_>> = None;
        let mut place = 0;
        while place < samples.len() {
            let rest = samples[place..].iter();
            let rest = rest.take_while(|s| s.progress != Stand::Ended).count();
            if rest == 0 {
                place += 1;
                continue;
            }
            let denoiser = match made.take() {
                Some(denoiser) if denoiser.pictures() <= rest => denoiser,
                // The old one's memory first.
                old => {
                    drop(old);
                    self.denoiser(stage, mask, &mut batch, rest, observer)?
                }
            };
            let count = denoiser.pictures();
            let now = &mut samples[place..place + count];
            let (before, total) = (self.done, self.total);
            let warnings = &mut self.warnings;
            let mut progress = |observer: &mut Observer<'_>, mut at: Progress<'_, '_>| {
                let index = before + at.done * count;
                (observer.events)(Event::Step { index, total });
                let Some(made) = &previewer else {
                    return Ok(());
                };
                if !at.done.is_multiple_of(observer.preview_every) {
                    return Ok(());
                }
                match preview(made, &at.expected()?, place, shape, observer) {
                    // The run may be sound all the same.
                    Err(e) if e.is_not_finite() => {
                        warnings.push(NO_PREVIEW.into());
                        previewer = None;
                        Ok(())
                    }
                    sent => sent,
                }
            };
            let tally = &mut self.tally;
            let done = denoiser.run(now, observer, &mut gathered, tally, &mut progress)?;
            now.iter_mut()
                .for_each(|sample| keep_unpainted(sample, mask));
            self.done += done * count;
            made = Some(denoiser);
            if observer.cancel.is_finishing() {
                break;
            }
            place += count;
        }
        if let Some(trace) = &mut observer.trace {
            gathered.record(stage.prefix, stage.leg, shape, trace);
        }
        Ok(())
    }

    /// A loop for at most `most` pictures, and for fewer where memory is short.
    fn denoiser<'b>(
        &mut self,
        stage: &Stage<'b>,
        mask: Option<&'b [f32]>,
        batch: &mut Batch,
        most: usize,
        observer: &mut Observer<'_>,
    ) -> Result<Denoiser<'b>>
    where
        'a: 'b,
    {
        let start = Instant::now();
        let (pipeline, request) = (self.pipeline, self.request);
        let other = stage.other.map(|model| &model.unet);
        let mut held = other.is_some();
        if let (true, Some(other)) = (pipeline.plan.one_unet, other) {
            other.clear();
        }
        let denoiser = loop {
            let setup = Setup {
                leg: stage.leg,
                request,
                conditioning: stage.conditioning,
                mask,
                pictures: batch.pictures.min(most),
                batched: batch.batched,
            };
            match Denoiser::new(pipeline, stage.model, &setup, observer.cancel) {
                Err(e) if e.is_out_of_memory() && held => {
                    tracing::warn!("{e}: the other UNet leaves the device");
                    other.inspect(|other| other.clear());
                    held = false;
                }
                Err(e)
                    if e.is_out_of_memory()
                        && batch.shrink(stage.conditioning.predictions() > 1) =>
                {
                    tracing::warn!("{e}: trying {batch:?}");
                }
                made => break made?,
            }
        };
        observer.cancel.check()?;
        self.load += start.elapsed().as_secs_f64();
        (observer.events)(Event::Step {
            index: self.done,
            total: self.total,
        });
        Ok(denoiser)
    }

    /// Notes what the base hands to the refiner or the VAE.
    pub fn hand_over(&self, samples: &[Sample], observer: &mut Observer<'_>) {
        let Some(trace) = &mut observer.trace else {
            return;
        };
        let Shape { h, w, c } = self.pipeline.latent_shape(self.request);
        let all: Vec<f32> = samples.iter().flat_map(|s| s.latents.clone()).collect();
        trace.put_f32("base_latents", &[samples.len(), c, h, w], &all);
    }
}

/// The picture's own latents where the mask keeps them, in one that was ended early.
fn keep_unpainted(sample: &mut Sample, mask: Option<&[f32]>) {
    if let (Stand::Ended, Some(mask), Some([picture, _])) = (&sample.progress, mask, &sample.kept) {
        for (at, (latent, kept)) in sample.latents.iter_mut().zip(picture).enumerate() {
            if mask[at % mask.len()] < 0.5 {
                *latent = *kept;
            }
        }
    }
}

/// How many pictures go through the UNet at a time.
#[derive(Debug)]
struct Batch {
    pictures: usize,
    /// All prompts of a step in one call.
    batched: bool,
}

impl Batch {
    fn new(pipeline: &Pipeline, samples: usize) -> Self {
        Self {
            pictures: pipeline.plan.pictures.clamp(1, samples.max(1)),
            batched: pipeline.plan.batched,
        }
    }

    /// Takes fewer pictures while `bytes` of so many are above `limit`.
    fn keep_below(&mut self, limit: u64, bytes: &dyn Fn(usize) -> u64) {
        while self.pictures > 1 && bytes(self.pictures) > limit {
            self.pictures /= 2;
        }
    }

    /// Takes half the pictures, or else a UNet call for each prompt of a step, where
    /// there are `several`; whether there was anything left to give up.
    fn shrink(&mut self, several: bool) -> bool {
        if self.pictures > 1 {
            self.pictures /= 2;
            return true;
        }
        std::mem::replace(&mut self.batched, false) && several
    }
}

/// Sends previews of pictures `place` and on from their latents, planes.
fn preview(
    previewer: &Previewer<'_>,
    latents: &[f32],
    place: usize,
    shape: Shape,
    observer: &mut Observer<'_>,
) -> Result<()> {
    for (i, latents) in latents.chunks(shape.count()).enumerate() {
        // The loop says at its end that these are not finite.
        if !finite::twin(latents) {
            continue;
        }
        let picture = previewer.picture(latents, shape.h, shape.w, observer.cancel)?;
        let index = place + i;
        (observer.events)(Event::Preview { index, picture });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Batch;

    #[test]
    fn batches_give_up_pictures_before_they_give_up_guidance_in_one_call() {
        let mut batch = Batch {
            pictures: 8,
            batched: true,
        };
        batch.keep_below(100, &|pictures| 30 * pictures as u64);
        assert_eq!(batch.pictures, 2);
        assert!(batch.shrink(true));
        assert_eq!((batch.pictures, batch.batched), (1, true));
        assert!(batch.shrink(true));
        assert_eq!((batch.pictures, batch.batched), (1, false));
        assert!(!batch.shrink(true));
        // Without guidance a step is one call of one picture already.
        let mut single = Batch {
            pictures: 1,
            batched: true,
        };
        assert!(!single.shrink(false));
    }
}
