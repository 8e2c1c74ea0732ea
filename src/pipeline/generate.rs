//! A request carried out: text, the first latents, the loop of each model, the VAE.

use super::condition::{self, Conditioning};
use super::denoise::{Denoiser, Gathered, Progress, Sample, Setup, Shape, Tally};
use super::load::Model;
use super::preview::Previewer;
use super::route::{Leg, Route};
use super::start::{Departure, depart};
use super::{Event, Observer, Output, Pipeline, Request, Seconds};
use crate::kernel::Storage;
use crate::kernel::product::WeightStorage;
use crate::picture::Picture;
use crate::schedule::NoiseMix;
use crate::{Error, Result};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Pictures that a batch holds at the most where the request does not say.
const MOST_PICTURES: usize = 4;

impl Pipeline {
    /// Carries out a request.
    pub fn generate(&mut self, request: &Request, observer: &mut Observer<'_>) -> Result<Output> {
        self.check(request)?;
        let mut warnings = self.merge(&request.loras)?;
        if request.image.is_none() && request.negative_micro.is_half_said() {
            warnings.push(
                "the base model heeds the negative prompt's sizes and crop only where both \
                 negative_original_size and negative_target_size are given, as in diffusers"
                    .into(),
            );
        }
        // Before anything goes to the device.
        let refiner = self
            .refiner
            .as_ref()
            .map(|refiner| &refiner.model.checkpoint);
        let route = Route::new(request, &self.base.checkpoint, refiner)?;
        let mut seconds = Seconds {
            load: self.load_seconds,
            ..Default::default()
        };
        let mut watch = Stopwatch(Instant::now());
        (observer.events)(Event::Encoding);
        let conditionings = condition::encode(self, request, &route, observer)?;
        seconds.encode = watch.lap();
        let mut departure = depart(self, request, route.start, observer)?;
        seconds.encode_picture = watch.lap();

        let mut run = Run {
            pipeline: self,
            request,
            tally: Tally::default(),
            total: route.calls() * request.samples,
            done: 0,
            load: 0.0,
        };
        if let (Some(leg), Some(conditioning)) = (&route.base, &conditionings.base) {
            run.leg(&self.base, "", leg, conditioning, &mut departure, observer)?;
        }
        run.hand_over(&departure.samples, observer);
        if let Some(mix) = route.renoise {
            renoise(&mut departure.samples, mix);
        }
        if let (Some(leg), Some(conditioning), Some(refiner)) =
            (&route.refiner, &conditionings.refiner, &self.refiner)
        {
            // The refiner knows of no mask.
            departure.mask = None;
            let model = &refiner.model;
            run.leg(
                model,
                "refiner.",
                leg,
                conditioning,
                &mut departure,
                observer,
            )?;
        }
        let (load, stats) = (run.load, run.tally.stats());
        seconds.load += load;
        seconds.denoise = watch.lap() - load;

        (observer.events)(Event::Loading { part: "vae".into() });
        let pictures = self.decode(
            request,
            &departure.samples,
            observer,
            &mut watch,
            &mut seconds,
        )?;
        self.gpu.save_pipeline_cache();
        let info = self.gpu.info();
        let name = |half: bool| if half { "f16" } else { "f32" }.to_string();
        Ok(Output {
            pictures,
            seeds: request.seeds(),
            seconds,
            adapter: info.name.clone(),
            backend: info.backend.to_string(),
            dtype: name(self.precision.weights == WeightStorage::F16),
            activations: name(self.precision.activations == Storage::F16),
            peak_device_bytes: self
                .gpu
                .counters()
                .peak_device_bytes
                .load(Ordering::Relaxed),
            stats,
            warnings,
        })
    }

    /// What only the model at hand can say of a request.
    fn check(&self, request: &Request) -> Result<()> {
        let checkpoint = &self.base.checkpoint;
        let scale = checkpoint.vae_scale();
        for (field, value) in [("width", request.width), ("height", request.height)] {
            if value % scale != 0 {
                let allowed = format!("this model's sizes are multiples of {scale} pixels");
                return Err(Error::invalid(field, value, allowed));
            }
        }
        if checkpoint.unet.in_channels > checkpoint.vae.latent_channels() && request.mask.is_none()
        {
            let allowed = "this is an inpainting model; give an image and a mask";
            return Err(Error::invalid("mask", "missing", allowed));
        }
        let layers = [
            checkpoint.text_encoder.as_ref(),
            Some(&checkpoint.text_encoder_2),
        ];
        let layers = layers.into_iter().flatten().map(|c| c.num_hidden_layers);
        let most = layers.min().unwrap_or(1).saturating_sub(1);
        if request.clip_skip > most {
            let allowed = format!("this model's text encoders have layers for 0 to {most}");
            return Err(Error::invalid("clip_skip", request.clip_skip, allowed));
        }
        Ok(())
    }

    /// Of the latents of `request`.
    pub(super) fn latent_shape(&self, request: &Request) -> Shape {
        let checkpoint = &self.base.checkpoint;
        let scale = checkpoint.vae_scale();
        Shape {
            h: request.height / scale,
            w: request.width / scale,
            c: checkpoint.vae.latent_channels(),
        }
    }

    fn decode(
        &self,
        request: &Request,
        samples: &[Sample],
        observer: &mut Observer<'_>,
        watch: &mut Stopwatch,
        seconds: &mut Seconds,
    ) -> Result<Vec<Picture>> {
        let vae = self.vae(self.options.vae_tiling);
        let shape = self.latent_shape(request);
        let decoder = vae.decoder([shape.h, shape.w])?;
        seconds.load += watch.lap();
        let total = samples.len();
        let mut pictures = Vec::new();
        let mut decoded = Vec::new();
        for (index, sample) in samples.iter().enumerate() {
            (observer.events)(Event::Decoding { index, total });
            let pixels = decoder.decode(&sample.latents, observer.cancel)?;
            if observer.trace.is_some() {
                decoded.extend_from_slice(&pixels);
            }
            pictures.push(self.picture(request, &pixels)?);
        }
        if let Some(trace) = &mut observer.trace {
            let c = self.base.checkpoint.vae.picture_channels();
            let shape = [total, c, request.height, request.width];
            trace.put_f32("decoded", &shape, &decoded);
        }
        seconds.decode = watch.lap();
        Ok(pictures)
    }

    /// RGB from the VAE's planes; a model of one channel is grey.
    fn picture(&self, request: &Request, planes: &[f32]) -> Result<Picture> {
        let c = self.base.checkpoint.vae.picture_channels();
        let plane = request.width * request.height;
        let rgb: Vec<f32> = [0, 1.min(c - 1), 2.min(c - 1)]
            .iter()
            .flat_map(|i| &planes[i * plane..(i + 1) * plane])
            .copied()
            .collect();
        Picture::from_planar(request.width, request.height, &rgb)
    }
}

/// A request under way.
struct Run<'a> {
    pipeline: &'a Pipeline,
    request: &'a Request,
    tally: Tally,
    /// Steps of the whole request, and how many are done.
    total: usize,
    done: usize,
    /// Seconds spent on loading UNets.
    load: f64,
}

impl<'a> Run<'a> {
    /// All pictures through one model's steps, as many at a time as memory allows.
    fn leg(
        &mut self,
        model: &Model,
        prefix: &str,
        leg: &Leg,
        conditioning: &Conditioning,
        departure: &mut Departure,
        observer: &mut Observer<'_>,
    ) -> Result<()> {
        (observer.events)(Event::Loading {
            part: format!("{}unet", prefix.replace('.', " ")),
        });
        let shape = self.pipeline.latent_shape(self.request);
        let mut gathered = Gathered::default();
        let mut batch = Batch::new(self.pipeline, self.request.samples);
        let previewer = match observer.preview_every {
            0 => None,
            _ => Some(self.pipeline.previewer(observer.cancel)?),
        };
        let mut rest = &mut departure.samples[..];
        let mut made: Option<(usize, Denoiser<'_>)> = None;
        while !rest.is_empty() {
            let place = self.request.samples - rest.len();
            let start = Instant::now();
            let count = batch.pictures.min(rest.len());
            if made.as_ref().is_none_or(|(pictures, _)| *pictures != count) {
                // The old one's memory first.
                drop(made.take());
                let setup = |batch: &Batch| Setup {
                    leg,
                    request: self.request,
                    conditioning,
                    mask: departure.mask.as_deref(),
                    pictures: batch.pictures.min(count),
                    batched: batch.batched,
                };
                let denoiser = batch.fit(self.request.guided(), &|batch| {
                    Denoiser::new(self.pipeline, model, &setup(batch), observer.cancel)
                })?;
                made = Some((batch.pictures.min(count), denoiser));
                observer.cancel.check()?;
                (observer.events)(Event::Step {
                    index: self.done,
                    total: self.total,
                });
            }
            self.load += start.elapsed().as_secs_f64();
            let Some((count, denoiser)) = &made else {
                break;
            };
            let (now, later) = rest.split_at_mut(*count);
            rest = later;
            let (before, total) = (self.done, self.total);
            let mut progress = |observer: &mut Observer<'_>, mut at: Progress<'_, '_>| {
                let index = before + at.done * count;
                (observer.events)(Event::Step { index, total });
                match &previewer {
                    Some(previewer) if at.done.is_multiple_of(observer.preview_every) => {
                        preview(previewer, &at.expected()?, place, shape, observer)
                    }
                    _ => Ok(()),
                }
            };
            let tally = &mut self.tally;
            denoiser.run(now, observer, &mut gathered, tally, &mut progress)?;
            self.done += leg.steps.len() * count;
        }
        if let Some(trace) = &mut observer.trace {
            gathered.record(prefix, leg, shape, trace);
        }
        Ok(())
    }

    /// Notes what the base hands to the refiner or the VAE.
    fn hand_over(&self, samples: &[Sample], observer: &mut Observer<'_>) {
        let Some(trace) = &mut observer.trace else {
            return;
        };
        let Shape { h, w, c } = self.pipeline.latent_shape(self.request);
        let all: Vec<f32> = samples.iter().flat_map(|s| s.latents.clone()).collect();
        trace.put_f32("base_latents", &[samples.len(), c, h, w], &all);
    }
}

/// How many pictures go through the UNet at a time.
struct Batch {
    pictures: usize,
    /// Both prompts of a guided step in one call.
    batched: bool,
}

impl Batch {
    fn new(pipeline: &Pipeline, samples: usize) -> Self {
        let low_memory = pipeline.options.low_memory;
        let most = match pipeline.options.batch {
            Some(most) => most,
            None if low_memory => 1,
            None => MOST_PICTURES,
        };
        Self {
            pictures: most.clamp(1, samples.max(1)),
            batched: !low_memory,
        }
    }

    /// Makes a loop, with fewer pictures at a time where memory is short.
    fn fit<T>(&mut self, guided: bool, make: &dyn Fn(&Batch) -> Result<T>) -> Result<T> {
        loop {
            match make(self) {
                Err(e) if e.is_out_of_memory() && self.pictures > 1 => {
                    self.pictures /= 2;
                    tracing::warn!("{e}: trying {} pictures at a time", self.pictures);
                }
                // Memory may suffice for two calls of half the batch.
                Err(e) if e.is_out_of_memory() && self.batched && guided => {
                    self.batched = false;
                    tracing::warn!("{e}: trying two UNet calls a step");
                }
                made => return made,
            }
        }
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
        let picture = previewer.picture(latents, shape.h, shape.w, observer.cancel)?;
        let index = place + i;
        (observer.events)(Event::Preview { index, picture });
    }
    Ok(())
}

/// Noise over finished latents, for a pass of the refiner's own.
fn renoise(samples: &mut [Sample], mix: NoiseMix) {
    let (a, b) = (mix.original as f32, mix.noise as f32);
    for sample in samples {
        let noise = sample.generator.randn(sample.latents.len());
        for (x, n) in sample.latents.iter_mut().zip(noise) {
            *x = a * *x + b * n;
        }
    }
}

/// Seconds between calls.
struct Stopwatch(Instant);

impl Stopwatch {
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = now.duration_since(self.0).as_secs_f64();
        self.0 = now;
        seconds
    }
}
