//! A request carried out: text, the first latents, the loop of each model, the VAE.

use super::condition;
use super::denoise::{Sample, Shape, Stand};
use super::finite::{Owner, wide_weights};
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
    /// Carries out a request, within the memory that there is (see [`Self::memory_plan`]).
    /// Where the device has less than it was thought to have, once more with a plan that
    /// needs less.
    pub fn generate(&mut self, request: &Request, observer: &mut Observer<'_>) -> Result<Output> {
        self.draw(request, observer, true)
    }

    /// [`Self::generate`], which takes a plan that needs less only if it `gives_up`.
    pub(super) fn draw(
        &mut self,
        request: &Request,
        observer: &mut Observer<'_>,
        gives_up: bool,
    ) -> Result<Output> {
        self.check(request)?;
        let mut shortages = Vec::new();
        loop {
            let plan = self.memory_plan(request);
            if let (false, Some(limit)) = (plan.fits, plan.limit) {
                return Err(self.too_little(&plan, limit));
            }
            self.adopt(plan);
            match self.attempt(request, observer) {
                Err(e) if e.is_out_of_memory() && gives_up && self.gives_up_more(request) => {
                    let said = format!("{e}: trying with less memory\n{}", self.plan);
                    tracing::warn!("{said}");
                    shortages.push(format!("{e}: drawn with less memory"));
                }
                made => {
                    let mut made = made?;
                    made.warnings.extend(shortages);
                    return Ok(made);
                }
            }
        }
    }

    fn attempt(&mut self, request: &Request, observer: &mut Observer<'_>) -> Result<Output> {
        let mut warnings = self.merge(&request.loras)?;
        warnings.extend(condition::warnings(request));
        if request.image.is_none() && request.negative_micro.is_half_said() {
            warnings.push(
                "the base model heeds the negative prompt's sizes and crop only where both \
                 negative_original_size and negative_target_size are given, as in diffusers"
                    .into(),
            );
        }
        warnings.extend(paints_nothing(request, self.latent_shape(request)));
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
        warnings.extend(conditionings.warnings);
        let mut departure = depart(self, request, route.start, observer, &mut warnings)?;
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
        let goes_on = !observer.cancel.is_finishing();
        if let (Some(mix), true) = (route.renoise, goes_on) {
            renoise(&mut departure.samples, mix);
        }
        if let (Some(leg), Some(conditioning), Some(model), true) =
            (&route.refiner, &conditionings.refiner, refiner, goes_on)
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
        warnings.append(&mut run.warnings);
        seconds.load += load;
        seconds.denoise = watch.lap() - load;

        let interrupted = departure.samples.iter().any(|s| s.progress != Stand::Done);
        let (samples, seeds) = drawn(departure.samples, request.seeds());
        (observer.events)(Event::Loading { part: "vae".into() });
        let decoded = self.decode(
            request,
            &samples,
            observer,
            &mut watch,
            &mut seconds,
            &mut warnings,
        )?;
        let decoded = decoded.iter();
        let pictures = decoded.map(|planes| {
            let picture = self.picture(request, planes)?;
            match &request.overlay {
                Some(overlay) => overlay.laid_over(&picture),
                None => Ok(picture),
            }
        });
        let pictures = pictures.collect::<Result<_>>()?;
        seconds.decode = watch.lap();
        warnings.extend(self.wide_weights(&route));
        self.gpu.save_pipeline_cache();
        let info = self.gpu.info();
        let solver = request.solver();
        let name = |half: bool| if half { "f16" } else { "f32" }.to_string();
        Ok(Output {
            pictures,
            seeds,
            interrupted,
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
            peak_reserved_bytes: self
                .gpu
                .counters()
                .peak_reserved_bytes
                .load(Ordering::Relaxed),
            unet_device_bytes: self.base.unet.bytes(),
            unet_shared_bytes: self.base.unet.shared_bytes(),
            plan: self.plan.clone(),
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

    /// Planes of every picture, -1 to 1.
    fn decode(
        &self,
        request: &Request,
        samples: &[Sample],
        observer: &mut Observer<'_>,
        watch: &mut Stopwatch,
        seconds: &mut Seconds,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Vec<f32>>> {
        let vae = self.planned_vae();
        let shape = self.latent_shape(request);
        let decoder = vae.decoder([shape.h, shape.w])?;
        seconds.load += watch.lap();
        let total = samples.len();
        let latents: Vec<&[f32]> = samples.iter().map(|s| &s.latents[..]).collect();
        let mut next = |index| (observer.events)(Event::Decoding { index, total });
        let decoded = vae.decode_all(decoder, &latents, observer.cancel, &mut next, warnings)?;
        if let Some(trace) = &mut observer.trace {
            let c = self.base.checkpoint.vae.picture_channels();
            let shape = [total, c, request.height, request.width];
            trace.put_f32("decoded", &shape, &decoded.concat());
        }
        Ok(decoded)
    }

    /// Which weights in use are not in the precision that was asked for.
    fn wide_weights(&self, route: &Route) -> Vec<String> {
        let refiner = self.refiner.as_ref().map(|refiner| &refiner.model);
        let unets = [(&route.base, Some(&self.base)), (&route.refiner, refiner)];
        let unets = unets.into_iter().filter_map(|(leg, model)| {
            let model = model.filter(|_| leg.is_some())?;
            let owner = Owner::of(&model.checkpoint);
            wide_weights(format!("the {owner}'s UNet"), &model.unet)
        });
        unets.chain(wide_weights("the VAE", &self.vae)).collect()
    }

    /// RGB from the VAE's planes; a model of one channel is grey.
    fn picture(&self, request: &Request, planes: &[f32]) -> Result<Picture> {
        let c = self.base.checkpoint.vae.picture_channels();
        let plane = request.width * request.height;
        if c == 3 {
            return Picture::from_planar(request.width, request.height, planes);
        }
        let rgb: Vec<f32> = [0, 1.min(c - 1), 2.min(c - 1)]
            .iter()
            .flat_map(|i| &planes[i * plane..(i + 1) * plane])
            .copied()
            .collect();
        Picture::from_planar(request.width, request.height, &rgb)
    }
}

/// Whether a mask leaves no latent to paint, and what to say then.
fn paints_nothing(request: &Request, shape: Shape) -> Option<String> {
    let mask = request.mask.as_ref()?;
    if mask.to_latent(shape.w, shape.h).contains(&1.0) {
        return None;
    }
    let why = match mask.painted() {
        0 => "no pixel of it is lighter than the middle grey once it is inverted and blurred",
        _ => "what it paints is smaller than a latent's 8x8 pixels",
    };
    Some(format!(
        "the mask paints nothing: {why}; the picture is not drawn over"
    ))
}

/// What there is to decode, each with its seed: without what has not begun, and what
/// was begun as far as it is.
fn drawn(samples: Vec<Sample>, seeds: Vec<u64>) -> (Vec<Sample>, Vec<u64>) {
    let pairs = samples.into_iter().zip(seeds);
    pairs
        .filter_map(|(mut sample, seed)| match sample.progress {
            Stand::Waiting => None,
            Stand::Begun(latents) => {
                sample.latents = latents;
                sample.progress = Stand::Ended;
                Some((sample, seed))
            }
            Stand::Done | Stand::Ended => Some((sample, seed)),
        })
        .unzip()
}

/// Noise over finished latents, for a pass of the refiner's own.
fn renoise(samples: &mut [Sample], mix: NoiseMix) {
    let (a, b) = (mix.original as f32, mix.noise as f32);
    for sample in samples.iter_mut().filter(|s| s.progress != Stand::Ended) {
        sample.progress = Stand::Begun(sample.latents.clone());
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
