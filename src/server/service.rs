//! What all front doors share: an order goes in, a job comes out.

use super::auth::Caller;
use super::config::{Limits, Setup};
use super::failure::Failure;
use super::job::{Drawn, Job, State};
use super::ledger::{Key, Ledger, Purpose, Reservation};
use super::media::Sources;
use super::metrics::Metrics;
use super::order::{Order, Prepared, Rules};
use super::queue::Queue;
use super::store::Store;
use crate::Result;
use crate::error::Field;
use crate::pipeline::{Cancel, Context, Preset, Refinement, model_name};
use crate::schedule;
use crate::text::Styles;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// What the loaded model is, for those who do not hold it.
#[derive(Debug, Clone)]
pub struct Model {
    /// The last part of its path.
    pub name: String,
    /// Width and height in pixels.
    pub native: (usize, usize),
    pub preset: Preset,
    pub refiner: bool,
    /// When it was loaded.
    pub loaded: SystemTime,
}

/// The service; clones share it.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

impl Deref for Service {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// See [`Service`].
pub struct Inner {
    pub setup: Setup,
    pub limits: Limits,
    pub styles: Styles,
    pub sources: Sources,
    pub ledger: Option<Ledger>,
    pub queue: Queue,
    pub metrics: Metrics,
    pub store: Store,
    /// The default one first.
    models: OnceLock<Vec<Model>>,
    /// Ends the loading of the model.
    pub(super) loading: Cancel,
    /// Whether the device can draw now.
    ready: std::sync::atomic::AtomicBool,
    /// All jobs that may be asked about: those that wait and run, and those whose
    /// results are kept.
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    /// What the device works on.
    current: Mutex<Option<Arc<Job>>>,
    /// How many requests' pictures are decoded at a time.
    decoders: tokio::sync::Semaphore,
}

impl Service {
    /// Opens the database, the results and the styles; the model comes later.
    pub fn open(setup: Setup) -> Result<Self> {
        let config = &setup.config;
        config.check()?;
        let fetch = Duration::from_secs(config.read_timeout);
        let most = config.max_body;
        Ok(Self(Arc::new(Inner {
            limits: config.limits(),
            styles: match &config.styles_file {
                Some(path) => Styles::with_file(path)?,
                None => Styles::builtin(),
            },
            sources: Sources::new(&config.image_hosts, most, config.max_input_pixels, fetch)?,
            ledger: config.keys.as_deref().map(Ledger::serve).transpose()?,
            queue: Queue::new(config.queue, config.per_key()),
            metrics: Metrics::default(),
            store: Store::open(
                config.results.as_deref(),
                Duration::from_secs(config.results_for),
                config.results_most,
            )?,
            models: OnceLock::new(),
            loading: Cancel::default(),
            ready: Default::default(),
            jobs: Mutex::default(),
            current: Mutex::default(),
            decoders: tokio::sync::Semaphore::new(2),
            setup,
        })))
    }

    /// Lets a job in: it will be drawn, unless the ticket is dropped before.
    pub async fn submit(
        &self,
        caller: &Caller,
        order: Order,
        route: &'static str,
        request_id: &str,
        kept: bool,
    ) -> Result<Ticket, Failure> {
        let (service, owner) = (self.clone(), caller.owner());
        let request_id = request_id.to_owned();
        // A task of its own: a client that goes away meanwhile drops this future,
        // and what was reserved must still find its job, which the ticket ends.
        let admitted = tokio::spawn(async move {
            let slot = service.queue.admit(owner)?;
            let prepared = service.prepare(order).await?;
            let cost = service.price(&prepared)?;
            let reservation = service
                .reserve(owner, cost, &prepared, route, &request_id)
                .await?;
            let bill = (cost, reservation);
            let job = Job::new(owner, request_id, route, prepared, bill, kept);
            let job = Arc::new(job);
            let ticket = Ticket::new(service.clone(), job.clone());
            service.jobs().insert(job.id.clone(), job.clone());
            if let Err(failure) = service.queue.push(slot, job.clone()) {
                service.finish_soon(job, failure.clone());
                return Err(failure);
            }
            service.give_up_in_time(&job);
            Ok(ticket)
        });
        admitted.await.map_err(Failure::internal)?
    }

    async fn prepare(&self, order: Order) -> Result<Prepared, Failure> {
        let (index, model) = self.pick(order.model.as_deref())?;
        let _permit = self.decoders.acquire().await.map_err(Failure::internal)?;
        let service = self.clone();
        blocking(move || {
            order.prepare(&Rules {
                limits: &service.limits,
                sources: &service.sources,
                loras: service.setup.config.lora_dir.as_deref(),
                model: index,
                context: Context {
                    native: model.native,
                    preset: service.preset(&model),
                    refiner: model.refiner,
                    styles: &service.styles,
                },
            })
        })
        .await?
    }

    /// Ends a job if it is not finished in time.
    fn give_up_in_time(&self, job: &Arc<Job>) {
        let (service, job) = (self.clone(), Arc::downgrade(job));
        let limit = self.setup.config.timeout();
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            if let Some(job) = job.upgrade()
                && !job.snapshot().state.is_final()
            {
                service.stop_job(&job, Failure::TimedOut(limit.as_secs()));
            }
        });
    }

    /// Stops a job that waits or runs; `why` is what its owner is told.
    pub fn stop_job(&self, job: &Arc<Job>, why: Failure) {
        job.stop(why.clone());
        if self.queue.remove(job) {
            self.finish_soon(job.clone(), why);
        }
    }

    /// [`Service::finish`], not on the threads that answer requests: the database
    /// waits for the disk.
    fn finish_soon(&self, job: Arc<Job>, failure: Failure) {
        let service = self.clone();
        tokio::task::spawn_blocking(move || service.finish(&job, Err(failure)));
    }

    /// Ends a job: pays for it or refunds it, and tells whoever waits. Called once
    /// for every job, by whoever took it out of the queue.
    pub fn finish(&self, job: &Arc<Job>, result: Result<Drawn, Failure>) {
        let result = result.and_then(|mut drawn| {
            if let (Some(ledger), Some(reservation)) = (&self.ledger, &job.reservation) {
                let spent = job.spent(&drawn);
                let balance = ledger.settle(reservation, spent);
                let balance = balance.map_err(Failure::internal)?;
                drawn.remaining = Some(balance.remaining);
            }
            Ok(drawn)
        });
        let state = match result {
            Ok(drawn) => State::Done(Arc::new(drawn)),
            Err(failure) => {
                if let (Some(ledger), Some(reservation)) = (&self.ledger, &job.reservation)
                    && let Err(error) = ledger.refund(reservation)
                {
                    // The next start refunds it.
                    tracing::error!("{error}");
                }
                State::Failed(failure)
            }
        };
        tracing::info!(
            request_id = job.request_id,
            job = job.id,
            route = job.route,
            state = state.name(),
            cost = job.cost,
            seconds = job.running_for().as_secs_f64(),
        );
        if !job.kept {
            self.jobs().remove(&job.id);
        }
        job.ends(state);
        self.forget_old();
    }

    /// Forgets jobs whose results are kept no longer.
    fn forget_old(&self) {
        let gone = self.store.evict();
        let limit = Duration::from_secs(self.setup.config.results_for);
        let old = |job: &Job| {
            job.snapshot().state.is_final()
                && (gone.contains(&job.id) || job.since.elapsed() > limit)
        };
        self.jobs().retain(|_, job| !old(job));
    }

    /// Stops taking requests; those that wait are turned away, and a model that is
    /// being loaded is given up.
    pub fn stop(&self) {
        self.loading.cancel();
        for job in self.queue.stop() {
            self.finish_soon(job, Failure::Unavailable("the service is shutting down"));
        }
    }

    /// The key that a request shows, if the service has keys and it is one.
    pub async fn authenticate(&self, presented: Option<String>) -> Result<Option<Key>, Failure> {
        if self.ledger.is_none() {
            return Ok(None);
        }
        let found = self
            .with_ledger(move |ledger| ledger.authenticate(presented.as_deref()))
            .await?;
        match found {
            Some(key) => Ok(Some(key)),
            None => Err(Failure::Unauthorized),
        }
    }

    /// Credits left to a caller; `None` where the service has no keys.
    pub async fn credits(&self, caller: &Caller) -> Result<Option<i64>, Failure> {
        let Some(key) = caller.owner() else {
            return Ok(None);
        };
        let balance = self.with_ledger(move |ledger| ledger.balance(key)).await?;
        Ok(Some(balance.remaining))
    }

    async fn with_ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let service = self.clone();
        blocking(move || match &service.ledger {
            Some(ledger) => work(ledger).map_err(Failure::internal),
            None => Err(Failure::internal("there is no database of keys")),
        })
        .await?
    }

    async fn reserve(
        &self,
        owner: Option<i64>,
        cost: i64,
        prepared: &Prepared,
        route: &'static str,
        request_id: &str,
    ) -> Result<Option<Reservation>, Failure> {
        let Some(key) = owner else {
            return Ok(None);
        };
        let request = &prepared.request;
        let (samples, steps) = (request.samples, request.steps);
        let (width, height) = (request.width, request.height);
        let refiner = request.refinement != Refinement::None;
        let request_id = request_id.to_owned();
        let reserved = self
            .with_ledger(move |ledger| {
                let purpose = Purpose {
                    route,
                    request_id: &request_id,
                    samples,
                    steps,
                    width,
                    height,
                    refiner,
                };
                Ok(match ledger.reserve(key, cost, &purpose)? {
                    Some(reservation) => Ok(reservation),
                    None => Err(ledger.balance(key)?.remaining),
                })
            })
            .await?;
        reserved
            .map(Some)
            .map_err(|remaining| Failure::Credits { cost, remaining })
    }

    fn price(&self, prepared: &Prepared) -> Result<i64, Failure> {
        let native = self.models()?[prepared.model].native;
        Ok(self.setup.config.price.of(&prepared.request, native))
    }

    /// Where a request is silent: what the model asks for, and the operator.
    pub fn preset(&self, model: &Model) -> Preset {
        let mut preset = model.preset.clone();
        preset.steps = self.limits.default_steps.unwrap_or(preset.steps);
        preset.steps = preset.steps.min(self.limits.max_steps);
        preset
    }

    /// The model, once it is loaded and while requests are taken.
    pub fn model(&self) -> Result<Model, Failure> {
        let models = self.models()?;
        models.first().cloned().ok_or(Failure::Internal)
    }

    /// All models, the default one first, once that is loaded and while requests are
    /// taken.
    pub fn models(&self) -> Result<&[Model], Failure> {
        match self.models.get() {
            Some(models) if self.is_ready() => Ok(models),
            _ => Err(Failure::Unavailable("the model is being loaded")),
        }
    }

    /// The model of a name, as clients write it (see [`same`]), and its number; the
    /// default one where none is named.
    pub fn pick(&self, name: Option<&str>) -> Result<(usize, Model), Failure> {
        let models = self.models()?;
        let Some(name) = name else {
            return Ok((0, self.model()?));
        };
        let known = models.iter().position(|model| same(name, &model.name));
        match known {
            Some(index) => Ok((index, models[index].clone())),
            None => {
                let names: Vec<&str> = models.iter().map(|model| &model.name[..]).collect();
                let allowed = format!("this service has {}", names.join(", "));
                Err(Failure::invalid(Field::Model, name, allowed))
            }
        }
    }

    /// The name, if it means one of the models; clients of other services name theirs,
    /// which the default one stands for.
    pub fn if_known(&self, name: &str) -> Option<String> {
        let mut models = self.setup.models();
        let known = models.any(|options| same(name, model_name(&options.model)));
        known.then(|| name.to_owned())
    }

    /// What `/v1/info` tells of the model: `None` before it is loaded.
    pub fn known_model(&self) -> Option<&Model> {
        self.known_models().first()
    }

    /// All models; none before the default one is loaded.
    pub fn known_models(&self) -> &[Model] {
        self.models.get().map_or(&[], Vec::as_slice)
    }

    /// Whether the scheduler of this name draws with the model; any, before the model is
    /// known.
    pub fn goes_with_model(&self, scheduler: &str) -> bool {
        let training = self
            .known_model()
            .and_then(|model| model.preset.training.as_ref());
        let name = schedule::canonical_name(scheduler).unwrap_or_default();
        training.is_none_or(|training| {
            let mut fitting = schedule::list_for(training).into_iter();
            fitting.any(|info| info.name == name)
        })
    }

    pub fn model_name(&self) -> &str {
        model_name(&self.setup.load.model)
    }

    pub(super) fn loaded(&self, models: Vec<Model>) {
        // Models that are loaded again are the same.
        let _ = self.models.set(models);
    }

    pub(super) fn set_ready(&self, ready: bool) {
        let order = std::sync::atomic::Ordering::Relaxed;
        self.ready.store(ready, order);
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job of this caller.
    pub fn job(&self, caller: &Caller, id: &str) -> Result<Arc<Job>, Failure> {
        let found = self.jobs().get(id).cloned();
        found
            .filter(|job| job.owner == caller.owner())
            .ok_or_else(|| Failure::NotFound("there is no such job, or it is forgotten".into()))
    }

    /// What the device works on, if it is this caller's.
    pub fn current(&self, caller: &Caller) -> Option<Arc<Job>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clone().filter(|job| job.owner == caller.owner())
    }

    /// Jobs of a caller that wait, in no order.
    pub fn waiting(&self, caller: &Caller) -> usize {
        let jobs = self.jobs();
        let waits = |job: &&Arc<Job>| {
            job.owner == caller.owner() && matches!(job.snapshot().state, State::Queued)
        };
        jobs.values().filter(waits).count()
    }

    pub(super) fn set_current(&self, job: Option<Arc<Job>>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = job;
    }
}

/// Whether a client's name means this one: `folder/NAME.safetensors [hash]` does.
pub fn same(given: &str, name: &str) -> bool {
    let title = given.split(" [").next().unwrap_or_default().trim();
    let file = title.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = [".safetensors", ".ckpt"]
        .iter()
        .find_map(|end| file.strip_suffix(end))
        .unwrap_or(file);
    stem.eq_ignore_ascii_case(name)
}

/// Runs `work` where it may wait.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Failure::internal)
}

/// A job that somebody waits for: when the ticket is dropped, the job stops.
pub struct Ticket {
    service: Service,
    job: Option<Arc<Job>>,
}

impl Ticket {
    fn new(service: Service, job: Arc<Job>) -> Self {
        let job = Some(job);
        Self { service, job }
    }

    /// The job, which goes on by itself now.
    pub fn release(mut self) -> Option<Arc<Job>> {
        self.job.take()
    }

    /// The job.
    pub fn job(&self) -> Option<&Arc<Job>> {
        self.job.as_ref()
    }

    /// Waits until the job is done.
    pub async fn drawn(self) -> Result<Finished, Failure> {
        let job = self.job.clone().ok_or(Failure::Internal)?;
        let drawn = job.finished().await?;
        Ok(Finished { job, drawn })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(job) = &self.job
            && !job.snapshot().state.is_final()
        {
            self.service.stop_job(job, Failure::Cancelled);
        }
    }
}

/// A job and what it came to.
pub struct Finished {
    pub job: Arc<Job>,
    pub drawn: Arc<Drawn>,
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn a_model_is_known_by_its_titles() {
        for given in [
            "sd_xl_base_1.0",
            "SD_XL_base_1.0.safetensors",
            "sd_xl_base_1.0.safetensors [31e35c80fc]",
            "xl\\sd_xl_base_1.0.safetensors [31e35c80fc]",
        ] {
            assert!(same(given, "sd_xl_base_1.0"), "{given}");
        }
        assert!(!same("sd_xl_base", "sd_xl_base_1.0"));
        assert!(!same("", "sd_xl_base_1.0"));
    }
}
