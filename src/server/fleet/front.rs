//! A front end: gives the shares of its jobs to workers, and takes what they draw.

use super::broker::{self, Broker};
use super::crew::Crew;
use super::models;
use super::parcel::{self, Files, Label, Refusal};
use super::wire::{Drawing, Go, Sign, Task, Word};
use crate::Result;
use crate::pipeline::Request;
use crate::server::config::BrokerUrl;
use crate::server::work::{Failure, Outcome, Part, Service, Share, blocking};
use async_nats::jetstream::message::PublishMessage as Publish;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What all workers together are to the queue.
pub(super) const DEVICE: usize = 0;
pub(super) const KIND: &str = "workers";
/// How often a task's owner is asked whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(500);

/// A front end that is connected.
pub struct Front {
    pub service: Service,
    pub broker: Broker,
    pub id: String,
    /// Names and fingerprints, in the service's order.
    pub models: Vec<[String; 2]>,
    pub crew: Crew,
    tasks: Mutex<HashMap<String, Arc<Pending>>>,
    /// Tasks that are out.
    out: Mutex<usize>,
    changed: Condvar,
}

/// A task that is out.
pub struct Pending {
    share: Arc<Share>,
    /// The part of the order that the share is.
    request: Request,
    state: Mutex<State>,
}

struct State {
    /// The highest delivery that has begun, and whose it is.
    fence: u64,
    worker: Option<String>,
    /// When it was published, or its worker last said something.
    heard: Instant,
    /// An operator may draw it again, with its files.
    is_dead: bool,
    /// Hears the end, once.
    end: Option<oneshot::Sender<Outcome>>,
}

impl Pending {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a delivery begins; `None` where a later one has.
    fn claim(&self, sign: &Sign) -> Option<()> {
        let mut state = self.state();
        if sign.fence < state.fence {
            return None;
        }
        state.fence = sign.fence;
        state.worker = Some(sign.worker.clone());
        state.heard = Instant::now();
        Some(())
    }

    /// Whether a result of this delivery is taken.
    pub fn takes(&self, fence: u64) -> bool {
        let state = self.state();
        fence >= state.fence && state.end.is_some()
    }

    /// Whether nothing was heard of it for so long.
    fn is_silent(&self, time: Duration) -> bool {
        self.state().heard.elapsed() > time
    }

    /// It is published again, and its deliveries are counted anew.
    fn starts_over(&self) {
        let mut state = self.state();
        (state.fence, state.worker) = (0, None);
    }

    /// Ends the task; whether it had not ended before.
    pub fn end(&self, outcome: Outcome) -> bool {
        let end = self.state().end.take();
        end.is_some_and(|end| end.send(outcome).is_ok())
    }

    /// It was given out too often: its files stay for a while.
    pub fn dies(&self) {
        self.state().is_dead = true;
    }

    /// What a worker drew for it.
    ///
    /// # Errors
    /// It is not what was asked for.
    pub async fn fetch(&self, broker: &Broker, drawing: &Drawing) -> Result<Part, Refusal> {
        let pictures = parcel::fetch(broker, drawing, &self.request).await?;
        let (order, mut settings) = (&self.share.order, drawing.settings.clone());
        // The worker knows of its part alone.
        settings["seed"] = order.request.seed.into();
        settings["samples"] = order.request.samples.into();
        Ok(Part {
            pictures,
            interrupted: drawing.interrupted,
            settings,
            warnings: [order.warnings.clone(), drawing.warnings.clone()].concat(),
        })
    }

    /// What its worker is to do.
    fn go(&self) -> Go {
        let cancel = self.share.cancel();
        match (cancel.is_cancelled(), cancel.is_finishing()) {
            (true, _) => Go::Stop,
            (false, true) => Go::Finish,
            (false, false) => Go::On,
        }
    }
}

impl Front {
    /// Connects to the broker.
    ///
    /// # Errors
    /// The broker refuses, or a checkpoint cannot be read.
    pub async fn connect(service: Service, url: &BrokerUrl) -> Result<Arc<Self>> {
        let (id, broker, models) = models::connect(&service, url, "front").await?;
        Ok(Arc::new(Self {
            service,
            broker,
            id,
            models,
            crew: Crew::default(),
            tasks: Mutex::default(),
            out: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<String, Arc<Pending>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many tasks are out.
    pub fn tasks_out(&self) -> usize {
        self.tasks().len()
    }

    pub fn task(&self, name: &str) -> Option<Arc<Pending>> {
        self.tasks().get(name).cloned()
    }

    /// Waits for room, then for a share, and gives it out.
    pub(super) fn give_out(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        loop {
            let queue = &self.service.queue;
            self.wait_for(|out| out < self.crew.room() || queue.is_stopped());
            let Some(share) = queue.next(DEVICE) else {
                break;
            };
            *self.out() += 1;
            let front = self.clone();
            runtime.spawn(async move {
                front.draw(share).await;
                *front.out() -= 1;
                front.changed.notify_all();
            });
        }
        self.wait_for(|out| out == 0);
    }

    fn out(&self) -> MutexGuard<'_, usize> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many tasks are out.
    fn wait_for(&self, holds: impl Fn(usize) -> bool) {
        let mut out = self.out();
        while !holds(*out) {
            // The crew may have grown.
            let waited = self.changed.wait_timeout(out, LOOK);
            (out, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One share, from the queue to its end.
    async fn draw(&self, share: Share) {
        let share = Arc::new(share);
        let outcome = self.outcome(&share).await.unwrap_or_else(Outcome::Failed);
        let service = self.service.clone();
        let ended = move || service.end_share(&share, outcome, KIND);
        if let Err(error) = tokio::task::spawn_blocking(ended).await {
            tracing::error!("{error}");
        }
    }

    async fn outcome(&self, share: &Arc<Share>) -> Result<Outcome, Failure> {
        let prepared = &share.order;
        let request = share.request();
        let [_, model] = self.models.get(prepared.model).ok_or(Failure::Internal)?;
        let (job, first) = (&share.job, share.samples().start);
        let name = format!("{}-{first}-{:08x}", job.id, rand::random::<u32>());
        let label = Label {
            task: name.clone(),
            front: self.id.clone(),
            request_id: job.request_id.clone(),
            model: model.clone(),
        };
        let (parts, asked) = (prepared.clone(), request.clone());
        let pack = move || parcel::pack(label, &parts, &asked);
        let (task, files) = blocking(pack).await??;
        let (send, end) = oneshot::channel();
        let pending = Arc::new(Pending {
            share: share.clone(),
            request,
            state: Mutex::new(State {
                fence: 0,
                worker: None,
                heard: Instant::now(),
                is_dead: false,
                end: Some(send),
            }),
        });
        self.tasks().insert(name.clone(), pending.clone());
        let outcome = self.follow(&pending, &task, &files, end).await;
        self.tasks().remove(&name);
        if !pending.state().is_dead {
            self.broker.forget(task.pictures).await;
        }
        Ok(outcome)
    }

    /// Publishes a task and waits for its end.
    async fn follow(
        &self,
        pending: &Pending,
        task: &Task,
        files: &Files,
        mut end: oneshot::Receiver<Outcome>,
    ) -> Outcome {
        let mut place = loop {
            match self.publish(task, files).await {
                Ok(place) => break place,
                Err(error) => tracing::warn!("task {}: {error}", task.task),
            }
            tokio::time::sleep(PAUSE).await;
            self.broker.renew().await;
            if pending.go() == Go::Stop {
                return Outcome::Failed(Failure::Cancelled);
            }
        };
        let mut said = Go::On;
        let outcome = loop {
            tokio::select! {
                outcome = &mut end => {
                    break outcome.unwrap_or(Outcome::Failed(Failure::Internal));
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            if pending.share.cancel().takes_skip() {
                self.say(pending, task, Go::Skip).await;
            }
            if pending.is_silent(3 * self.broker.lease) {
                if !self.broker.has_task(place).await {
                    tracing::warn!("task {} is lost, and published again", task.task);
                    place = self.publish(task, files).await.unwrap_or(place);
                    pending.starts_over();
                }
                pending.state().heard = Instant::now();
            }
            let go = pending.go();
            if go != said {
                self.say(pending, task, go).await;
                said = go;
            }
            if go == Go::Stop {
                break Outcome::Failed(Failure::Cancelled);
            }
        };
        // Where this is lost, the task is refused to the next who takes it.
        let _ = self.broker.work.delete_message(place).await;
        outcome
    }

    /// Its place in the stream.
    async fn publish(&self, task: &Task, files: &Files) -> Result<u64, async_nats::Error> {
        for (name, bytes) in files {
            self.broker.put(name, bytes).await?;
        }
        let bytes = serde_json::to_vec(task)?;
        // What is published again is no duplicate.
        let id = format!("{}-{:08x}", task.task, rand::random::<u32>());
        let publish = Publish::build().payload(bytes.into()).message_id(id);
        let subject = broker::work(&task.model);
        let ack = self
            .broker
            .jetstream
            .send_publish(subject, publish)
            .await?
            .await?;
        Ok(ack.sequence)
    }

    /// Tells a task's worker; it asks anyway, later.
    async fn say(&self, pending: &Pending, task: &Task, go: Go) {
        let Some(worker) = pending.state().worker.clone() else {
            return;
        };
        let task = task.task.clone();
        let word = serde_json::to_vec(&Word { task, go }).unwrap_or_default();
        let subject = broker::word(&worker);
        let _ = self.broker.client.publish(subject, word.into()).await;
    }

    /// Answers workers that ask what to do, until it is aborted.
    pub(super) async fn answer(self: Arc<Self>) {
        let mut signs = self.broker.hear(broker::front(&self.id));
        loop {
            let message = signs.next().await;
            let Ok(sign) = serde_json::from_slice::<Sign>(&message.payload) else {
                continue;
            };
            let go = self.heard(&sign);
            let Some(reply) = message.reply else { continue };
            let task = sign.task;
            let word = serde_json::to_vec(&Word { task, go }).unwrap_or_default();
            let _ = self.broker.client.publish(reply, word.into()).await;
        }
    }

    /// Notes how far a worker is; what it is to do.
    fn heard(&self, sign: &Sign) -> Go {
        let Some(pending) = self.task(&sign.task) else {
            return Go::Stop;
        };
        if pending.claim(sign).is_none() {
            return Go::Leave;
        }
        let share = &pending.share;
        match sign.steps {
            Some(steps) => share.steps(steps),
            None if share.job.begins() => self.service.metrics.waited(share.job.waited()),
            None => {}
        }
        pending.go()
    }

    /// Shows what workers' pictures are coming to, until it is aborted.
    pub(super) async fn show(self: Arc<Self>) {
        let mut previews = self.broker.hear(broker::preview(&self.id));
        loop {
            let message = previews.next().await;
            let headers = message.headers.as_ref();
            let header = |name| Some(headers?.get(name)?.to_string());
            let index = header("index").and_then(|index| index.parse().ok());
            let pending = header("task").and_then(|task| self.task(&task));
            if let (Some(pending), Some(index)) = (pending, index) {
                pending.share.preview(index, message.payload.to_vec());
            }
        }
    }
}
