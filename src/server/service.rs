//! What all front doors share: an order goes in, a job comes out.

use super::auth::Caller;
use super::bodies::Bodies;
use super::config::{Limits, Setup};
use super::failure::Failure;
use super::http::{Client, Network};
use super::job::{Drawn, Job, State};
use super::ledger::{Key, Ledger, Purpose, Reservation};
use super::media::Sources;
use super::metrics::Metrics;
use super::order::{Checked, Measured, Order, Prepared, Rules};
use super::price::Inputs;
use super::queue::{Owner, Queue};
use super::store::Store;
use super::turns::Turns;
use crate::Result;
use crate::error::Field;
use crate::pipeline::{Cancel, Context, Preset, Refinement, Request, model_name};
use crate::schedule;
use crate::text::Styles;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;

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

/// How long a job that failed or was cancelled can be asked about.
const FAILED_FOR: Duration = Duration::from_secs(60);
/// Jobs of one owner that are kept after their end, and their bytes.
const MOST_KEPT: usize = 500;
const MOST_KEPT_BYTES: usize = 16 << 20;

/// The jobs of owners that have too many which ended, the oldest.
fn too_many(jobs: &HashMap<String, Arc<Job>>) -> Vec<String> {
    let ended = jobs
        .values()
        .filter_map(|job| Some((job.ended_for()?, job)));
    let mut ended: Vec<_> = ended.collect();
    ended.sort_by_key(|(ago, _)| *ago);
    let mut held: HashMap<Owner, (usize, usize)> = HashMap::new();
    let too_many = ended.into_iter().filter(|(_, job)| {
        let (count, bytes) = held.entry(job.owner).or_default();
        *count += 1;
        *bytes += job.bytes();
        *count > MOST_KEPT || *bytes > MOST_KEPT_BYTES
    });
    too_many.map(|(_, job)| job.id.clone()).collect()
}

/// How a request came.
struct Arrival {
    owner: Owner,
    route: &'static str,
    request_id: String,
    /// Its results go to the store.
    kept: bool,
    since: Instant,
}

/// How long is waited for a request to be prepared.
struct Patience {
    /// Ends when the client goes away.
    gone: oneshot::Receiver<()>,
    end: tokio::time::Instant,
    /// Of the whole, for who is told.
    seconds: u64,
}

impl Patience {
    async fn over<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            _ = &mut self.gone => Err(Failure::Cancelled),
            () = tokio::time::sleep_until(self.end) => Err(Failure::TimedOut(self.seconds)),
        }
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
    /// Whose `X-Forwarded-` headers are believed.
    pub proxies: Arc<[Network]>,
    /// Memory for requests' bodies.
    pub bodies: Arc<Bodies>,
    /// The default one first.
    models: OnceLock<Vec<Model>>,
    /// Ends the loading of the model.
    pub(super) loading: Cancel,
    /// Whether the device can draw now.
    ready: std::sync::atomic::AtomicBool,
    /// All jobs that may be asked about: those that wait and run, and those whose
    /// results are kept.
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    /// Reservations that the ledger could not end when their jobs did, and what of each is
    /// spent; `None` for a refund.
    unsettled: Mutex<Vec<(Reservation, Option<i64>)>>,
    /// What the device works on.
    current: Mutex<Option<Arc<Job>>>,
    /// Decoding pictures.
    pub decoders: Arc<Turns>,
    /// Fetching pictures from elsewhere.
    fetchers: Arc<Turns>,
}

impl Service {
    /// Opens the database, the results and the styles; the model comes later.
    pub fn open(setup: Setup) -> Result<Self> {
        let config = &setup.config;
        config.check()?;
        let fetch = Duration::from_secs(config.read_timeout);
        let most = config.max_body;
        let ledger = config.keys.as_deref().map(Ledger::serve).transpose()?;
        let (store, records) = Store::open(
            config.results.as_deref(),
            Duration::from_secs(config.results_for),
            config.results_most,
        )?;
        let jobs = records.into_iter().map(Job::recorded);
        Ok(Self(Arc::new(Inner {
            limits: config.limits(),
            styles: match &config.styles_file {
                Some(path) => Styles::with_file(path)?,
                None => Styles::builtin(),
            },
            sources: Sources::new(&config.image_hosts, most, config.max_input_pixels, fetch)?,
            ledger,
            queue: Queue::new(config.queue, config.per_key()),
            metrics: Metrics::default(),
            store,
            proxies: networks(&config.trusted_proxies)?,
            bodies: Bodies::new(config.max_bodies),
            models: OnceLock::new(),
            loading: Cancel::default(),
            ready: Default::default(),
            jobs: Mutex::new(jobs.map(|job| (job.id.clone(), Arc::new(job))).collect()),
            unsettled: Mutex::default(),
            current: Mutex::default(),
            decoders: Turns::new(2),
            fetchers: Turns::new(8),
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
        let since = Instant::now();
        let service = self.clone();
        let arrival = Arrival {
            owner: caller.owner(),
            route,
            request_id: request_id.to_owned(),
            kept,
            since,
        };
        // Dropped with this future, when the client goes away.
        let (_here, gone) = oneshot::channel::<()>();
        // A task of its own: what was reserved must still find its job, which the ticket
        // ends.
        let admitted = tokio::spawn(async move { service.let_in(order, arrival, gone).await });
        admitted.await.map_err(Failure::internal)?
    }

    /// [`Service::submit`], until the client is `gone`.
    async fn let_in(
        &self,
        order: Order,
        arrival: Arrival,
        gone: oneshot::Receiver<()>,
    ) -> Result<Ticket, Failure> {
        let slot = self.queue.admit(arrival.owner)?;
        let (index, model) = self.pick(order.model.as_deref())?;
        let model = Arc::new((index, model));
        let limit = self.setup.config.timeout();
        let mut wait = Patience {
            gone,
            end: tokio::time::Instant::from_std(arrival.since + limit),
            seconds: limit.as_secs(),
        };
        let measured = wait.over(self.measure(order, &arrival, &model)).await?;
        let inputs = Inputs {
            prompt_bytes: measured.prompt_bytes,
            pixels: measured.input_pixels,
        };
        let price = &self.setup.config.price;
        let cost = price.of(measured.dry(), inputs, model.1.native);
        // Not given up half-way: what is reserved must be known.
        let reservation = self.reserve(cost, measured.dry(), &arrival).await?;
        let cancel = Cancel::default();
        let decoded = self.decode(measured, arrival.owner, &model, &cancel);
        let prepared = match wait.over(decoded).await {
            Ok(prepared) => prepared,
            Err(failure) => {
                cancel.cancel();
                if let Some(reservation) = reservation {
                    self.give_back(reservation).await;
                }
                return Err(failure);
            }
        };
        let Arrival {
            owner,
            route,
            request_id,
            kept,
            since,
        } = arrival;
        let bill = (cost, reservation);
        let job = Job::new(owner, request_id, route, prepared, bill, kept, since);
        let job = Arc::new(job);
        let ticket = Ticket::new(self.clone(), job.clone());
        self.jobs().insert(job.id.clone(), job.clone());
        if let Err(failure) = self.queue.push(slot, job.clone()) {
            self.finish_soon(job, failure.clone());
            return Err(failure);
        }
        self.give_up_in_time(&job);
        Ok(ticket)
    }

    /// What an order asks for, by the headers of its pictures.
    async fn measure(
        &self,
        order: Order,
        arrival: &Arrival,
        model: &Arc<(usize, Model)>,
    ) -> Result<Measured, Failure> {
        let checked = self.ruled(model, |rules| order.check(rules)).await?;
        if !checked.is_remote() {
            return self.ruled(model, |rules| checked.measure(rules)).await;
        }
        let checked = self.afford(arrival.owner, model, checked).await?;
        let turn = self.fetchers.turn(arrival.owner).await;
        let fetch = move |rules: &Rules<'_>| {
            let _turn = turn;
            checked.measure(rules)
        };
        self.ruled(model, fetch).await
    }

    /// Decodes an order's pictures, in turn with other keys.
    async fn decode(
        &self,
        measured: Measured,
        owner: Owner,
        model: &Arc<(usize, Model)>,
        cancel: &Cancel,
    ) -> Result<Prepared, Failure> {
        let turn = match measured.has_pictures() {
            true => self.decoders.turn(owner).await,
            false => None,
        };
        let cancel = cancel.clone();
        let decode = move |rules: &Rules<'_>| {
            let _turn = turn;
            measured.decode(rules, &cancel)
        };
        self.ruled(model, decode).await
    }

    /// Refuses who cannot pay for an order whatever its pictures are, before they are
    /// fetched.
    async fn afford(
        &self,
        owner: Owner,
        model: &Arc<(usize, Model)>,
        checked: Checked,
    ) -> Result<Checked, Failure> {
        let dry = move |rules: &Rules<'_>| {
            let dry = checked.dry(rules)?;
            Ok((dry, checked))
        };
        let ((request, prompt_bytes), checked) = self.ruled(model, dry).await?;
        let inputs = Inputs {
            prompt_bytes,
            pixels: 0,
        };
        let cost = self.setup.config.price.of(&request, inputs, model.1.native);
        self.require_credits(owner, cost).await?;
        Ok(checked)
    }

    /// Refuses a key that has fewer credits than `cost`.
    pub async fn require_credits(&self, owner: Owner, cost: i64) -> Result<(), Failure> {
        let Some(key) = owner else { return Ok(()) };
        let balance = self.with_ledger(move |ledger| ledger.balance(key)).await?;
        match balance.remaining {
            remaining if remaining < cost => Err(Failure::Credits { cost, remaining }),
            _ => Ok(()),
        }
    }

    /// Runs `work`, which may wait, with what orders for this model are measured against.
    async fn ruled<T: Send + 'static>(
        &self,
        model: &Arc<(usize, Model)>,
        work: impl FnOnce(&Rules<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (service, model) = (self.clone(), model.clone());
        blocking(move || {
            let (index, model) = &*model;
            work(&Rules {
                limits: &service.limits,
                sources: &service.sources,
                loras: service.setup.config.lora_dir.as_deref(),
                model: *index,
                context: Context {
                    native: model.native,
                    preset: service.preset(model),
                    refiner: model.refiner,
                    styles: &service.styles,
                },
            })
        })
        .await?
    }

    /// Refunds what no job was made of.
    async fn give_back(&self, reservation: Reservation) {
        let service = self.clone();
        // It panics at nothing; and what it cannot do is done later.
        let _ = blocking(move || service.settle(Some(reservation), None)).await;
    }

    /// Ends a job if it is not finished in time.
    fn give_up_in_time(&self, job: &Arc<Job>) {
        let limit = self.setup.config.timeout();
        let end = tokio::time::Instant::from_std(job.since + limit);
        let (service, job) = (self.clone(), Arc::downgrade(job));
        tokio::spawn(async move {
            tokio::time::sleep_until(end).await;
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
        let spent = result.as_ref().ok().map(|drawn| job.spent(drawn));
        let state = match result {
            Ok(mut drawn) => {
                // First: what is paid for is there after a crash too.
                if job.kept
                    && let Err(error) = self.store.note(&job.record(&drawn))
                {
                    tracing::error!("{error}");
                }
                drawn.remaining = self.settle(job.reservation, spent);
                State::Done(Arc::new(drawn))
            }
            Err(failure) => {
                self.settle(job.reservation, None);
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

    /// Pays `spent` of what was reserved, or refunds it; the credits that remain. Where the
    /// ledger cannot be written it is done later.
    fn settle(&self, reservation: Option<Reservation>, spent: Option<i64>) -> Option<i64> {
        let (ledger, reservation) = (self.ledger.as_ref()?, reservation?);
        let settled = match spent {
            Some(spent) => ledger.settle(&reservation, spent),
            None => ledger.refund(&reservation),
        };
        match settled {
            Ok(balance) => {
                self.metrics.paid(spent.unwrap_or_default());
                Some(balance.remaining)
            }
            Err(error) => {
                tracing::error!("{error}");
                if !ledger.is_well() {
                    self.unsettled().push((reservation, spent));
                }
                None
            }
        }
    }

    fn unsettled(&self) -> MutexGuard<'_, Vec<(Reservation, Option<i64>)>> {
        self.unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is due: forgets what is too old, and settles what could not be settled.
    pub fn tidy(&self) {
        self.forget_old();
        let due = std::mem::take(&mut *self.unsettled());
        for (reservation, spent) in due {
            self.settle(Some(reservation), spent);
        }
    }

    /// Forgets jobs whose results are kept no longer, and those that failed or of which a
    /// key has too many.
    pub fn forget_old(&self) {
        let mut gone = self.store.evict();
        let results_for = Duration::from_secs(self.setup.config.results_for);
        let mut jobs = self.jobs();
        jobs.retain(|id, job| {
            let Some(ended) = job.ended_for() else {
                return true;
            };
            let limit = match job.snapshot().state {
                State::Done(_) => results_for,
                _ => results_for.min(FAILED_FOR),
            };
            !gone.contains(id) && ended <= limit
        });
        gone = too_many(&jobs);
        for id in &gone {
            jobs.remove(id);
        }
        drop(jobs);
        self.store.remove(&gone);
    }

    /// Stops taking requests; those that wait are turned away, and a model that is
    /// being loaded is given up.
    pub fn stop(&self) {
        self.loading.cancel();
        for job in self.queue.stop() {
            self.finish_soon(job, Failure::Unavailable("the service is shutting down"));
        }
    }

    /// Whether all that drawing needs is well.
    pub async fn check_ready(&self) -> Result<(), Failure> {
        self.model()?;
        if self.queue.is_stopped() {
            return Err(Failure::Unavailable("the service is shutting down"));
        }
        match self.ledger {
            Some(_) => self.with_ledger(Ledger::probe).await,
            None => Ok(()),
        }
    }

    /// The path below which links for this client lead.
    pub fn below(&self, client: &Client) -> String {
        client.path(self.setup.config.public_url.as_deref())
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
            Some(ledger) => work(ledger).map_err(|error| match ledger.is_well() {
                true => Failure::internal(error),
                false => {
                    tracing::error!("{error}");
                    Failure::Unavailable("the books of keys and credits cannot be used now")
                }
            }),
            None => Err(Failure::internal("there is no database of keys")),
        })
        .await?
    }

    async fn reserve(
        &self,
        cost: i64,
        request: &Request,
        arrival: &Arrival,
    ) -> Result<Option<Reservation>, Failure> {
        let Some(key) = arrival.owner else {
            return Ok(None);
        };
        let (samples, steps) = (request.samples, request.steps);
        let (width, height) = (request.width, request.height);
        let refiner = request.refinement != Refinement::None;
        let (route, request_id) = (arrival.route, arrival.request_id.clone());
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

fn networks(texts: &[String]) -> Result<Arc<[Network]>> {
    texts.iter().map(|text| text.parse()).collect()
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
