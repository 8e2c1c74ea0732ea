//! A request carried out: text, the first latents, the loop of each model, the VAE.

use super::condition;
use super::denoise::{Sample, Shape};
use super::route::Route;
use super::run::{Run, Stage};
use super::start::depart;
use super::{Event, Observer, Output, Pipeline, Request, Seconds};
use crate::kernel::Storage;
use crate::kernel::product::WeightStorage;
use crate::picture::Picture;
use crate::schedule::NoiseMix;
use crate::schedule::automatic1111::names_of;
use crate::{Error, Result};
use std::sync::atomic::Ordering;
use std::time::Instant;

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

        let mut run = Run::new(self, request, route.calls());
        let refiner = self.refiner.as_ref().map(|refiner| &refiner.model);
        if let (Some(leg), Some(conditioning)) = (&route.base, &conditionings.base) {
            let stage = Stage {
                prefix: "",
                model: &self.base,
                other: refiner,
                leg,
                conditioning,
            };
            run.stage(&stage, &mut departure, observer)?;
        }
        run.hand_over(&departure.samples, observer);
        if let Some(mix) = route.renoise {
            renoise(&mut departure.samples, mix);
        }
        if let (Some(leg), Some(conditioning), Some(model)) =
            (&route.refiner, &conditionings.refiner, refiner)
        {
            // The refiner knows of no mask.
            departure.mask = None;
            let stage = Stage {
                prefix: "refiner.",
                model,
                other: Some(&self.base),
                leg,
                conditioning,
            };
            run.stage(&stage, &mut departure, observer)?;
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
        let solver = request.solver();
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
            names: names_of(&solver, &solver.config(&self.base.checkpoint.scheduler)?),
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
