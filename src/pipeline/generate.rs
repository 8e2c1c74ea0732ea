//! Requests carried out: the first latents, the loop of each model, the VAE.

use super::condition::{self, Conditionings};
use super::denoise::{Sample, Shape, Stand};
use super::finite::{Owner, wide_weights};
use super::route::Route;
use super::run::{Run, Stage};
use super::start::depart;
use super::together::{Member, open};
use super::{Event, Output, Pipeline, Request};
use crate::kernel::Storage;
use crate::kernel::product::WeightStorage;
use crate::picture::Picture;
use crate::schedule::NoiseMix;
use crate::schedule::automatic1111::names_of;
use crate::{Error, Result};
use std::sync::atomic::Ordering;
use web_time::Instant;

impl Pipeline {
    /// What is to be said of a request before it is drawn.
    pub(super) fn warnings(&self, request: &Request) -> Vec<String> {
        let mut warnings = condition::warnings(request);
        if request.image.is_none() && request.negative_micro.is_half_said() {
            warnings.push(
                "the base model heeds the negative prompt's sizes and crop only where both \
                 negative_original_size and negative_target_size are given, as in diffusers"
                    .into(),
            );
        }
        warnings.extend(paints_nothing(request, self.latent_shape(request)));
        warnings
    }

    /// Draws the pictures of members that may share, and whose texts go together. All of
    /// them have an answer after that, if there is no error.
    ///
    /// # Errors
    /// What is no member's in particular.
    pub(super) async fn party(
        &self,
        members: &mut [Member<'_, '_>],
        who: &[usize],
        told: &[Option<Conditionings>],
        route: &Route,
    ) -> Result<()> {
        let mut samples = Vec::new();
        let mut mask = None;
        for i in who {
            let member = &mut members[*i];
            let mut watch = Stopwatch(Instant::now());
            let warnings = &mut member.now.warnings;
            let request = (*i, member.request);
            match depart(self, request, route.start, member.observer, warnings).await {
                Err(e) if e.is_out_of_memory() => return Err(e),
                Err(e) => member.answer = Some(Err(e)),
                Ok(departure) => {
                    samples.extend(departure.samples);
                    mask = departure.mask;
                }
            }
            member.now.seconds.encode_picture = watch.lap();
        }
        let who = open(members, who);
        let mut watch = Stopwatch(Instant::now());
        let mut run = Run::new(self, members, &who, samples, mask, route.calls());
        let ran = self.legs(&mut run, told, route).await;
        let (load, mut samples) = (run.load, run.samples);
        let denoise = watch.lap() - load;
        for i in &who {
            members[*i].now.seconds.load += load;
            members[*i].now.seconds.denoise = denoise;
        }
        for i in open(members, &who) {
            let own = samples.extract_if(.., |sample| sample.place.request == i);
            let own: Vec<Sample> = own.collect();
            // Whoever ended before a batch went wrong has nothing to do with that.
            let is_over = |sample: &Sample| match sample.progress {
                Stand::Ended => true,
                Stand::Waiting => members[i].now.has_quit,
                Stand::Begun(_) | Stand::Done => false,
            };
            if ran.is_err() && !(who.len() > 1 && own.iter().all(is_over)) {
                continue;
            }
            match self.finish(&mut members[i], route, own).await {
                Err(e) if e.is_out_of_memory() => return Err(e),
                made => members[i].answer = Some(made),
            }
        }
        match (ran, &who[..]) {
            // Of nobody else.
            (Err(e), [i]) if !e.is_out_of_memory() => members[*i].answer = Some(Err(e)),
            (ran, _) => ran?,
        }
        Ok(())
    }

    /// The loop of each model.
    async fn legs(
        &self,
        run: &mut Run<'_, '_, '_>,
        told: &[Option<Conditionings>],
        route: &Route,
    ) -> Result<()> {
        let refiner = self.refiner.as_ref().map(|refiner| &refiner.model);
        type Part = fn(&Conditionings) -> Option<&condition::Conditioning>;
        let texts = |part: Part| told.iter().map(|of| of.as_ref().and_then(part)).collect();
        if let Some(leg) = &route.base {
            let stage = Stage {
                prefix: "",
                model: &self.base,
                other: refiner,
                leg,
                told: texts(|told| told.base.as_ref()),
            };
            run.stage(&stage).await?;
        }
        run.hand_over();
        if let Some(mix) = route.renoise {
            run.going_on().for_each(|sample| renoise(sample, mix));
        }
        let goes_on = run.going_on().next().is_some();
        if let (Some(leg), Some(model), true) = (&route.refiner, refiner, goes_on) {
            // The refiner knows of no mask.
            run.mask = None;
            let stage = Stage {
                prefix: "refiner.",
                model,
                other: Some(&self.base),
                leg,
                told: texts(|told| told.refiner.as_ref()),
            };
            run.stage(&stage).await?;
        }
        Ok(())
    }

    /// Decodes a member's pictures.
    async fn finish(
        &self,
        member: &mut Member<'_, '_>,
        route: &Route,
        samples: Vec<Sample>,
    ) -> Result<Output> {
        let request = member.request;
        let interrupted = samples.iter().any(|s| s.progress != Stand::Done);
        let (samples, seeds) = drawn(samples, request.seeds());
        member.tell(Event::Loading { part: "vae".into() });
        let mut watch = Stopwatch(Instant::now());
        let decoded = self.decode(member, &samples, &mut watch).await?;
        let decoded = decoded.iter();
        let pictures = decoded.map(|planes| {
            let picture = self.picture(request, planes)?;
            match &request.overlay {
                Some(overlay) => overlay.laid_over(&picture),
                None => Ok(picture),
            }
        });
        let pictures = pictures.collect::<Result<_>>()?;
        member.now.seconds.decode = watch.lap();
        let mut warnings = std::mem::take(&mut member.now.warnings);
        warnings.extend(self.wide_weights(route));
        self.gpu.save_pipeline_cache();
        let info = self.gpu.info();
        let counters = self.gpu.counters();
        let solver = request.solver();
        let name = |half: bool| if half { "f16" } else { "f32" }.to_string();
        Ok(Output {
            pictures,
            seeds,
            interrupted,
            seconds: member.now.seconds,
            adapter: info.name.clone(),
            backend: info.backend.to_string(),
            dtype: name(self.precision.weights == WeightStorage::F16),
            activations: name(self.precision.activations == Storage::F16),
            peak_device_bytes: counters.peak_device_bytes.load(Ordering::Relaxed),
            peak_reserved_bytes: counters.peak_reserved_bytes.load(Ordering::Relaxed),
            unet_device_bytes: self.base.unet.bytes(),
            unet_shared_bytes: self.base.unet.shared_bytes(),
            plan: self.plan.clone(),
            stats: member.now.tally.stats(),
            warnings,
            names: names_of(&solver, &solver.config(&self.base.checkpoint.scheduler)?),
        })
    }

    /// What only the model at hand can say of a request.
    pub(super) fn check(&self, request: &Request) -> Result<()> {
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
    async fn decode(
        &self,
        member: &mut Member<'_, '_>,
        samples: &[Sample],
        watch: &mut Stopwatch,
    ) -> Result<Vec<Vec<f32>>> {
        let (request, observer) = (member.request, &mut *member.observer);
        let vae = self.planned_vae();
        let shape = self.latent_shape(request);
        let decoder = vae.decoder([shape.h, shape.w])?;
        member.now.seconds.load += watch.lap();
        let total = samples.len();
        let latents: Vec<&[f32]> = samples.iter().map(|s| &s.latents[..]).collect();
        let mut next = |index| (observer.events)(Event::Decoding { index, total });
        let warnings = &mut member.now.warnings;
        let decoded = vae.decode_all(decoder, &latents, observer.cancel, &mut next, warnings);
        let decoded = decoded.await?;
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
fn renoise(sample: &mut Sample, mix: NoiseMix) {
    let (a, b) = (mix.original as f32, mix.noise as f32);
    sample.progress = Stand::Begun(sample.latents.clone());
    let noise = sample.generator.randn(sample.latents.len());
    for (x, n) in sample.latents.iter_mut().zip(noise) {
        *x = a * *x + b * n;
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
