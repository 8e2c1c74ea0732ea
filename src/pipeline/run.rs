//! Pictures through the models' steps, those of several requests where they share, as
//! many at a time as memory allows. Each is the same whatever its company.

use super::condition::Conditioning;
use super::denoise::{Denoiser, Gathered, Place, Sample, Setup, Shape, Stand, Tally, Texts};
use super::load::Model;
use super::memory::BATCH_BYTES;
use super::preview::Previewer;
use super::route::Leg;
use super::together::{Member, open};
use super::watch::{NO_PREVIEW, Watch};
use super::{Cancel, Event, Pipeline};
use crate::model::unet;
use crate::{Error, Result};
use web_time::Instant;

/// Requests under way whose pictures go through the same loops.
pub(super) struct Run<'r, 'm, 'o> {
    pipeline: &'r Pipeline,
    members: &'r mut [Member<'m, 'o>],
    /// The places of those whose pictures these are.
    who: &'r [usize],
    pub samples: Vec<Sample>,
    /// Latents that are painted anew, 1 or 0, `[h, w]`.
    pub mask: Option<Vec<f32>>,
    /// Seconds spent on loading UNets.
    pub load: f64,
}

/// One model's part.
pub(super) struct Stage<'a> {
    /// Of its names in the trace.
    pub prefix: &'static str,
    pub model: &'a Model,
    /// Its UNet goes first where memory is short.
    pub other: Option<&'a Model>,
    pub leg: &'a Leg,
    /// What it is told of each member's texts; all of it goes together.
    pub told: Vec<Option<&'a Conditioning>>,
}

impl<'a> Stage<'a> {
    /// What the pictures at these places are told.
    fn texts(&self, places: &[Place]) -> Result<Texts<'a>> {
        let mut owners: Vec<usize> = Vec::new();
        let mut texts = Texts {
            told: Vec::new(),
            of: Vec::new(),
        };
        for place in places {
            let known = owners.iter().position(|owner| *owner == place.request);
            let known = match known {
                Some(known) => known,
                None => {
                    owners.push(place.request);
                    texts.told.push(self.of(place.request)?);
                    owners.len() - 1
                }
            };
            texts.of.push(known);
        }
        Ok(texts)
    }

    fn of(&self, member: usize) -> Result<&'a Conditioning> {
        let told = self.told.get(member).copied().flatten();
        told.ok_or_else(|| Error::internal("a request", "its texts were not encoded"))
    }
}

impl<'r, 'm, 'o> Run<'r, 'm, 'o> {
    /// A run of `calls` UNet calls for each picture.
    pub fn new(
        pipeline: &'r Pipeline,
        members: &'r mut [Member<'m, 'o>],
        who: &'r [usize],
        samples: Vec<Sample>,
        mask: Option<Vec<f32>>,
        calls: usize,
    ) -> Self {
        for i in who {
            members[*i].now.total = calls * members[*i].request.samples;
        }
        Self {
            pipeline,
            members,
            who,
            samples,
            mask,
            load: 0.0,
        }
    }

    /// All pictures through one model's steps.
    pub async fn stage(&mut self, stage: &Stage<'_>) -> Result<()> {
        for i in open(self.members, self.who) {
            self.members[i].tell(Event::Loading {
                part: format!("{}unet", stage.prefix.replace('.', " ")),
            });
        }
        let mut previewer = self.previewer().await?;
        let mut gathered = self.is_traced().then(Gathered::default);
        let mask = self.mask.take();
        let mut batch = None;
        let mut made: Option<Denoiser<'_>> = None;
        let mut drawn = vec![false; self.samples.len()];
        loop {
            self.drop_cancelled();
            let rest = self.rest(&drawn);
            let Some(first) = rest.first() else { break };
            let batch = match &mut batch {
                Some(batch) => batch,
                none => none.insert(self.batch(stage, *first)?),
            };
            let denoiser = match made.take() {
                Some(denoiser) if denoiser.pictures() <= rest.len() => denoiser,
                // The old one's memory first.
                old => {
                    drop(old);
                    match self.denoiser(stage, mask.as_deref(), batch, &rest) {
                        Err(Error::Cancelled) if self.drop_cancelled() => continue,
                        made => made?,
                    }
                }
            };
            let now = &rest[..denoiser.pictures().min(rest.len())];
            now.iter().for_each(|i| drawn[*i] = true);
            let gathered = gathered.as_mut();
            self.draw(stage, &denoiser, now, gathered, &mut previewer)
                .await?;
            for i in now {
                keep_unpainted(&mut self.samples[*i], mask.as_deref());
            }
            made = Some(denoiser);
        }
        drop(made);
        self.mask = mask;
        if let (Some(gathered), [i]) = (gathered, self.who)
            && let Some(trace) = &mut self.members[*i].observer.trace
        {
            let shape = self.pipeline.latent_shape(self.members[*i].request);
            gathered.record(stage.prefix, stage.leg, shape, trace);
        }
        Ok(())
    }

    /// Whether the tensors of every step are kept: of a request that is alone.
    fn is_traced(&self) -> bool {
        match self.who {
            [i] => self.members[*i].observer.trace.is_some(),
            _ => false,
        }
    }

    /// Those who were cancelled have their answer; whether there were any.
    fn drop_cancelled(&mut self) -> bool {
        let mut any = false;
        for i in open(self.members, self.who) {
            if self.members[i].is_cancelled() {
                self.members[i].answer = Some(Err(Error::Cancelled));
                any = true;
            }
        }
        any
    }

    /// Whether a picture is wanted any further.
    fn goes_on(members: &[Member<'_, '_>], sample: &Sample) -> bool {
        let member = &members[sample.place.request];
        member.is_open() && !member.now.has_quit && sample.progress != Stand::Ended
    }

    /// The pictures that are wanted any further.
    pub fn going_on(&mut self) -> impl Iterator<Item = &mut Sample> + use<'_, 'r, 'm, 'o> {
        let members = &*self.members;
        let samples = self.samples.iter_mut();
        samples.filter(|sample| Self::goes_on(members, sample))
    }

    /// The places of pictures that are still to be drawn.
    fn rest(&self, drawn: &[bool]) -> Vec<usize> {
        let samples = self.samples.iter().enumerate();
        let rest = samples.filter(|(i, s)| !drawn[*i] && Self::goes_on(self.members, s));
        rest.map(|(i, _)| i).collect()
    }

    /// What previews are made with, where anybody wants some.
    async fn previewer(&mut self) -> Result<Option<Previewer<'r>>> {
        let mut wanting = open(self.members, self.who);
        wanting.retain(|i| self.members[*i].wants_previews());
        for i in &wanting {
            let cancel = self.members[*i].observer.cancel;
            match self.pipeline.previewer_async(cancel).await {
                // Another may still want them.
                Err(Error::Cancelled) => {}
                Err(e) if e.is_not_finite() => {
                    for i in &wanting {
                        self.members[*i].now.warnings.push(NO_PREVIEW.into());
                        self.members[*i].now.no_previews = true;
                    }
                    return Ok(None);
                }
                made => return made.map(Some),
            }
        }
        Ok(None)
    }

    /// How many pictures a loop takes at a time; the first is that at `first`.
    fn batch(&self, stage: &Stage<'_>, first: usize) -> Result<Batch> {
        let pipeline = self.pipeline;
        let member = self.samples[first].place.request;
        let (request, told) = (self.members[member].request, stage.of(member)?);
        let mut batch = Batch::new(pipeline, self.samples.len());
        if pipeline.options.batch.is_some() {
            return Ok(batch);
        }
        let shape = pipeline.latent_shape(request);
        let bytes = |pictures| {
            let size = unet::Size {
                batch: told.predictions() * pictures,
                height: shape.h,
                width: shape.w,
                tokens: told.tokens,
            };
            let pass = match request.cache_interval {
                1 => unet::Pass::Whole,
                _ => unet::Pass::Keeping,
            };
            let graph = unet::graph_of(&stage.model.checkpoint.unet, size, pass).optimise();
            let storage = pipeline.precision.activations;
            graph.planned_bytes(pipeline.context.mode, storage).0
        };
        batch.keep_below(BATCH_BYTES, &bytes);
        // The parts of a prompt may be many.
        if told.weights.len() > 1 && bytes(batch.pictures) > BATCH_BYTES {
            batch.batched = false;
        }
        Ok(batch)
    }

    /// A loop for pictures at these places, for fewer of them where memory is short.
    fn denoiser<'b>(
        &mut self,
        stage: &Stage<'b>,
        mask: Option<&'b [f32]>,
        batch: &mut Batch,
        rest: &[usize],
    ) -> Result<Denoiser<'b>>
    where
        'r: 'b,
        'm: 'b,
    {
        let start = Instant::now();
        let pipeline = self.pipeline;
        let mut owners: Vec<usize> = rest
            .iter()
            .map(|i| self.samples[*i].place.request)
            .collect();
        owners.dedup();
        let Some(first) = owners.first().copied() else {
            return Err(Error::internal("a loop", "no picture to draw"));
        };
        let (request, conditioning) = (self.members[first].request, stage.of(first)?);
        let waiting = owners.iter().map(|i| self.members[*i].observer.cancel);
        let waiting: Vec<Cancel> = waiting.cloned().collect();
        let cancelled = || waiting.iter().all(Cancel::is_cancelled);
        let other = stage.other.map(|model| &model.unet);
        let mut held = other.is_some();
        if let (true, Some(other)) = (pipeline.plan.one_unet, other) {
            other.clear();
        }
        let denoiser = loop {
            let pictures = batch.pictures.min(rest.len());
            let setup = Setup {
                leg: stage.leg,
                request,
                conditioning,
                texts: owners.len().min(pictures),
                mask,
                pictures,
                batched: batch.batched,
            };
            match Denoiser::new(pipeline, stage.model, &setup, &cancelled) {
                Err(e) if e.is_out_of_memory() && held => {
                    tracing::warn!("{e}: the other UNet leaves the device");
                    other.inspect(|other| other.clear());
                    held = false;
                }
                Err(e) if e.is_out_of_memory() && batch.shrink(conditioning.predictions() > 1) => {
                    tracing::warn!("{e}: trying {batch:?}");
                }
                made => break made?,
            }
        };
        if cancelled() {
            return Err(Error::Cancelled);
        }
        self.load += start.elapsed().as_secs_f64();
        // They hear that steps go on from here.
        for i in rest.iter().take(denoiser.pictures()) {
            self.members[self.samples[*i].place.request].now.has_begun = false;
        }
        Ok(denoiser)
    }

    /// Takes the pictures at the places `now` through the loop.
    async fn draw(
        &mut self,
        stage: &Stage<'_>,
        denoiser: &Denoiser<'_>,
        now: &[usize],
        gathered: Option<&mut Gathered>,
        previewer: &mut Option<Previewer<'r>>,
    ) -> Result<()> {
        let places: Vec<Place> = now.iter().map(|i| self.samples[*i].place).collect();
        let texts = stage.texts(&places)?;
        let shape = denoiser.shape();
        let mut watch = Watch::new(self.members, &places, previewer, shape);
        watch.begin();
        let samples = self.samples.iter_mut().enumerate();
        let samples = samples.filter(|(i, _)| now.contains(i));
        let mut samples: Vec<&mut Sample> = samples.map(|(_, sample)| sample).collect();
        let mut tally = Tally::default();
        let ran = denoiser.run(&mut samples, &texts, &mut watch, gathered, &mut tally);
        let ran = ran.await;
        watch.end(&tally);
        match ran {
            // Nobody who waited for these pictures does so any more.
            Err(Error::Cancelled) if self.drop_cancelled() => Ok(()),
            ran => ran,
        }
    }

    /// After the base: notes what it hands to the refiner or the VAE. Whoever is asked to
    /// finish goes no further.
    pub fn hand_over(&mut self) {
        for i in open(self.members, self.who) {
            let member = &mut self.members[i];
            member.now.has_quit |= member.observer.cancel.is_finishing();
            if let Some(trace) = &mut member.observer.trace {
                let Shape { h, w, c } = self.pipeline.latent_shape(member.request);
                let own = self.samples.iter().filter(|s| s.place.request == i);
                let all: Vec<f32> = own.flat_map(|s| s.latents.clone()).collect();
                let shape = [member.request.samples, c, h, w];
                trace.put_f32("base_latents", &shape, &all);
            }
        }
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
