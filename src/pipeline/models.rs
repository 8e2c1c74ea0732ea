//! Several models on one device: each is loaded when it is first asked for, and those that
//! were not used for the longest time leave when memory is asked for.

use super::load::{base_checkpoint, refiner_name};
use super::together::{Member, answer_first, groups, open, samples};
use super::{LoadOptions, Observer, Output, Pipeline, Preset, Request, Watched, model_name};
use crate::checkpoint::Checkpoint;
use crate::gpu::{Gpu, block_on};
use crate::{Error, Field, Result};
use siphasher::sip::SipHasher13;
use std::sync::Arc;

/// What can be said of a model without a device.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFacts {
    /// The last part of its path.
    pub name: String,
    /// Width and height in pixels that it was trained for.
    pub native: (usize, usize),
    pub preset: Preset,
    pub has_refiner: bool,
}

impl ModelFacts {
    /// Opens the checkpoint and forgets it again.
    ///
    /// # Errors
    /// A checkpoint that cannot be opened.
    pub fn of(options: &LoadOptions) -> Result<Self> {
        let checkpoint = base_checkpoint(options)?;
        let side = checkpoint.native_size();
        Ok(Self {
            name: model_name(&options.model).to_owned(),
            native: (side, side),
            preset: Preset::of_checkpoint(&checkpoint),
            has_refiner: options.refiner.is_some(),
        })
    }
}

impl ModelFacts {
    /// 16 hex digits that differ for models that draw differently, see
    /// [`Checkpoint::fingerprint`], or have another name, which pictures tell.
    ///
    /// # Errors
    /// A checkpoint that cannot be read.
    pub fn fingerprint(options: &LoadOptions) -> Result<String> {
        let mut print = base_checkpoint(options)?.fingerprint()?;
        if let Some(name) = &options.refiner {
            print += &Checkpoint::open(refiner_name(name))?.fingerprint()?;
        }
        let named = format!("{print} {}", model_name(&options.model));
        let hash = SipHasher13::new().hash(named.as_bytes());
        Ok(format!("{hash:016x}"))
    }
}

/// Several models that share a device.
pub struct Models {
    known: Vec<Known>,
    /// Of the last request, counted in requests.
    turn: u64,
}

struct Known {
    options: LoadOptions,
    facts: ModelFacts,
    pipeline: Option<Pipeline>,
    used: u64,
}

impl Models {
    /// The models of `options`, of which there is at least one. The first is loaded.
    ///
    /// # Errors
    /// A checkpoint that cannot be opened, two models of one name, or no device.
    pub fn open(options: Vec<LoadOptions>, observer: &mut Observer<'_>) -> Result<Self> {
        let mut known: Vec<Known> = Vec::new();
        for options in options {
            let facts = ModelFacts::of(&options)?;
            if known.iter().any(|other| other.facts.name == facts.name) {
                let allowed = "give models of different names";
                return Err(Error::invalid(Field::Model, &facts.name, allowed));
            }
            known.push(Known {
                options,
                facts,
                pipeline: None,
                used: 0,
            });
        }
        if known.is_empty() {
            return Err(Error::invalid(Field::Model, "none", "give one at least"));
        }
        let mut models = Self { known, turn: 0 };
        models.load(0, observer)?;
        Ok(models)
    }

    /// What the models are, in the order in which they were given.
    pub fn facts(&self) -> impl Iterator<Item = &ModelFacts> {
        self.known.iter().map(|known| &known.facts)
    }

    /// What a model is loaded with.
    pub fn options(&self, model: usize) -> &LoadOptions {
        &self.known[model].options
    }

    /// Whether a model is loaded at the moment.
    pub fn is_loaded(&self, model: usize) -> bool {
        self.known[model].pipeline.is_some()
    }

    /// The places of the models that are loaded at the moment.
    pub fn all_loaded(&self) -> Vec<usize> {
        (0..self.known.len())
            .filter(|i| self.is_loaded(*i))
            .collect()
    }

    /// How many models are loaded at the moment.
    fn loaded(&self) -> usize {
        let pipelines = self.known.iter().map(|known| &known.pipeline);
        pipelines.flatten().count()
    }

    /// Memory on the device, of all models.
    pub fn device_bytes(&self) -> u64 {
        let mut pipelines = self
            .known
            .iter()
            .filter_map(|known| known.pipeline.as_ref());
        pipelines.next().map_or(0, Pipeline::device_bytes)
    }

    /// A model's pipeline, loaded if it was not.
    ///
    /// # Errors
    /// What goes wrong on loading.
    pub fn pipeline(&mut self, model: usize, observer: &mut Observer<'_>) -> Result<&mut Pipeline> {
        self.load(model, observer)?;
        let none = || Error::internal("models", "a model that was loaded is not there");
        self.known[model].pipeline.as_mut().ok_or_else(none)
    }

    /// What draws: the adapter, its driver and the precision there. Models of equal ones
    /// draw equal pictures.
    pub fn kind(&self) -> String {
        let loaded = self
            .known
            .iter()
            .filter_map(|known| known.pipeline.as_ref());
        let kinds = loaded.map(|pipeline| {
            let info = pipeline.gpu().info();
            let precision = pipeline.precision;
            format!(
                "{}, {} {}, {}, weights {:?}, activations {:?}",
                info.name,
                info.driver,
                info.driver_info,
                info.backend,
                precision.weights,
                precision.activations
            )
        });
        kinds.take(1).collect()
    }

    /// The name of the adapter.
    pub fn adapter(&self) -> String {
        self.gpu()
            .map(|gpu| gpu.info().name.clone())
            .unwrap_or_default()
    }

    /// Fails if anything went wrong on the device: it draws no more.
    ///
    /// # Errors
    /// What went wrong.
    pub fn check_device(&self) -> Result<()> {
        self.gpu().map_or(Ok(()), |gpu| gpu.check())
    }

    /// As a driver's reset does.
    #[cfg(test)]
    pub(crate) fn lose_device(&self) {
        self.gpu().inspect(|gpu| gpu.lose());
    }

    fn gpu(&self) -> Option<Arc<Gpu>> {
        let mut pipelines = self
            .known
            .iter()
            .filter_map(|known| known.pipeline.as_ref());
        pipelines.next().map(|pipeline| pipeline.gpu().clone())
    }

    fn load(&mut self, model: usize, observer: &mut Observer<'_>) -> Result<()> {
        self.turn += 1;
        self.known[model].used = self.turn;
        if self.known[model].pipeline.is_none() {
            let gpu = self.gpu();
            let options = &self.known[model].options;
            let made = match gpu {
                Some(gpu) => Pipeline::load_on(gpu, options, observer)?,
                None => Pipeline::load(options, observer)?,
            };
            self.known[model].pipeline = Some(made);
        }
        Ok(())
    }

    /// Lets go of the model that was not used for the longest time, other than `kept`;
    /// whether there was one.
    fn drop_oldest(&mut self, kept: usize) -> bool {
        let loaded = self.known.iter_mut().enumerate();
        let others = loaded.filter(|(i, known)| *i != kept && known.pipeline.is_some());
        let Some((_, oldest)) = others.min_by_key(|(_, known)| known.used) else {
            return false;
        };
        tracing::info!("{} leaves the device", oldest.facts.name);
        oldest.pipeline = None;
        true
    }

    /// Carries out a request with a model. Others leave the device, those first that were
    /// not used for the longest time, as far as the memory that may be used asks for it.
    ///
    /// # Errors
    /// As [`Pipeline::generate`].
    pub fn generate(
        &mut self,
        model: usize,
        request: &Request,
        observer: &mut Observer<'_>,
    ) -> Result<Output> {
        let mut members = [Member::new(request, observer)];
        self.draw_all(model, &mut members);
        let [member] = members;
        member.into_answer()
    }

    /// The same for several requests with one model, as [`Pipeline::generate_together`].
    pub fn generate_together(
        &mut self,
        model: usize,
        runs: &mut [Watched<'_, '_>],
    ) -> Vec<Result<Output>> {
        let mut members = Member::all(runs);
        self.draw_all(model, &mut members);
        members.into_iter().map(Member::into_answer).collect()
    }

    /// How many pictures are worth drawing at a time, see [`Pipeline::pictures_at_once`]; 1
    /// for a model that is not loaded.
    pub fn pictures_at_once(&self, model: usize, request: &Request) -> usize {
        let pipeline = self
            .known
            .get(model)
            .and_then(|known| known.pipeline.as_ref());
        pipeline.map_or(1, |pipeline| pipeline.pictures_at_once(request))
    }

    fn draw_all(&mut self, model: usize, members: &mut [Member<'_, '_>]) {
        for group in groups(members) {
            while let Err(e) = self.draw(model, members, &group) {
                answer_first(members, &group, e);
            }
        }
    }

    /// Draws members that may share, until each has its answer.
    ///
    /// # Errors
    /// What is the answer of the first that has none.
    fn draw(&mut self, model: usize, members: &mut [Member<'_, '_>], who: &[usize]) -> Result<()> {
        loop {
            let waiting = open(members, who);
            let Some(first) = waiting.first().map(|i| &mut members[*i]) else {
                return Ok(());
            };
            let request = first.request;
            let pipeline = self.pipeline(model, first.observer)?;
            let plan = pipeline.plan_for(request, samples(members, &waiting));
            let others = pipeline.device_bytes().saturating_sub(pipeline.own_bytes());
            let crowded = plan.limit.is_some_and(|limit| plan.peak() + others > limit);
            if crowded && self.drop_oldest(model) {
                continue;
            }
            // Others leave before this one does with less.
            let alone = self.loaded() == 1;
            let pipeline = self.pipeline(model, members[waiting[0]].observer)?;
            match block_on(pipeline.draw(members, &waiting, alone)) {
                Err(e) if e.is_out_of_memory() && self.drop_oldest(model) => {}
                made => return made,
            }
        }
    }
}
