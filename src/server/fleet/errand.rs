//! One task in a worker's hands, from its claim to its report.

use super::broker::{self, Broker, DELIVERIES};
use super::parcel;
use super::wire::{End, Go, Report, Sign, Task, Word};
use super::worker::Worker;
use crate::server::work::{Failure, Job, Snapshot};
use async_nats::client::RequestErrorKind;
use async_nats::jetstream::{AckKind, Message};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Progress is told at most so often.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// How long a front end may be silent before its task is given up: before it is begun, and
/// while it is drawn.
const CLAIM_PATIENCE: Duration = Duration::from_secs(10);
const FRONT_PATIENCE: Duration = Duration::from_secs(30);
/// How long a report is tried.
const REPORT_PATIENCE: Duration = Duration::from_secs(300);

/// A task that was taken.
struct Errand<'a> {
    worker: &'a Arc<Worker>,
    message: &'a Message,
    task: Task,
    fence: u64,
}

/// Carries out the task of a message.
pub async fn run(worker: &Arc<Worker>, message: Message) {
    let fence = match message.info() {
        Ok(info) => u64::try_from(info.delivered).unwrap_or(1),
        Err(error) => return tracing::error!("a task without a delivery: {error}"),
    };
    let task: Task = match serde_json::from_slice(&message.payload) {
        Ok(task) => task,
        Err(error) => {
            tracing::error!("a task that cannot be read: {error}");
            bury(&worker.broker, "unreadable", &message, "it cannot be read").await;
            return end(&message, AckKind::Term).await;
        }
    };
    let errand = Errand {
        worker,
        message: &message,
        task,
        fence,
    };
    errand.run().await;
}

impl Errand<'_> {
    fn broker(&self) -> &Broker {
        &self.worker.broker
    }

    async fn run(&self) {
        let name = &self.task.task;
        if self.fence > DELIVERIES {
            let why = format!("it was given out {DELIVERIES} times, and no worker ended it");
            tracing::error!("task {name} is dead: {why}");
            bury(self.broker(), &self.task.model, self.message, &why).await;
            return self.report(End::Dead(why)).await;
        }
        let go = match self.claim().await {
            Some(Go::Leave) => return,
            Some(Go::Stop) => return end(self.message, AckKind::Ack).await,
            Some(go) => go,
            None => {
                tracing::warn!("task {name}: its front end is gone");
                return end(self.message, AckKind::Term).await;
            }
        };
        match self.begin().await {
            Ok(job) => {
                self.worker.hands().insert(name.clone(), job.clone());
                self.worker.follow(name, go);
                let went = self.watch(&job).await;
                self.worker.hands().remove(name);
                self.finish(&job, went).await;
            }
            Err(failure) => self.report(parcel::told(&failure)).await,
        }
    }

    fn sign(&self, steps: Option<[usize; 2]>) -> Bytes {
        let sign = Sign {
            task: self.task.task.clone(),
            fence: self.fence,
            worker: self.worker.id.clone(),
            steps,
        };
        serde_json::to_vec(&sign).unwrap_or_default().into()
    }

    /// Asks the front end; `None` where it does not answer.
    async fn ask(&self, sign: Bytes) -> Option<Go> {
        let subject = broker::front(&self.task.front);
        match self.broker().client.request(subject, sign).await {
            Ok(answer) => {
                let word = serde_json::from_slice::<Word>(&answer.payload);
                word.ok().map(|word| word.go)
            }
            Err(error) => {
                if error.kind() != RequestErrorKind::NoResponders {
                    tracing::warn!("task {}: {error}", self.task.task);
                }
                None
            }
        }
    }

    /// Whether to draw; asks for a while.
    async fn claim(&self) -> Option<Go> {
        let start = Instant::now();
        while start.elapsed() < CLAIM_PATIENCE {
            if let Some(go) = self.ask(self.sign(None)).await {
                return Some(go);
            }
            self.hold().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        None
    }

    /// Renews the lease.
    async fn hold(&self) {
        if let Err(error) = self.message.ack_with(AckKind::Progress).await {
            tracing::warn!("task {}: its lease is not renewed: {error}", self.task.task);
        }
    }

    /// Hands the task to the devices.
    async fn begin(&self) -> Result<Arc<Job>, Failure> {
        let mut files = Vec::new();
        for name in &self.task.pictures {
            files.push(self.broker().get(name).await.map_err(Failure::internal)?);
        }
        let mut models = self.worker.models.iter();
        let model = models.position(|[_, print]| *print == self.task.model);
        let model = model.ok_or_else(|| Failure::internal("a task for another model"))?;
        let service = &self.worker.service;
        let loras = service.setup.config.lora_dir.as_deref();
        let prepared = parcel::unpack(&self.task, files, model, loras)?;
        service.take_in(prepared, &self.task.request_id)
    }

    /// Tells how far it is until it ends; whether it is still this worker's.
    async fn watch(&self, job: &Arc<Job>) -> Option<Go> {
        let mut watch = job.watch();
        let mut beat = tokio::time::interval(self.broker().lease / 6);
        beat.tick().await;
        let (mut told, mut seen) = (Instant::now(), Instant::now());
        let mut preview = 0;
        loop {
            let snapshot = watch.borrow_and_update().clone();
            if snapshot.state.is_final() {
                return Some(Go::On);
            }
            if told.elapsed() >= TELL_EVERY {
                self.tell(&snapshot, &mut preview).await;
                told = Instant::now();
            }
            tokio::select! {
                changed = watch.changed() => if changed.is_err() { return Some(Go::On) },
                _ = beat.tick() => {
                    self.hold().await;
                    match self.ask(self.sign(steps(&snapshot))).await {
                        Some(go @ (Go::Stop | Go::Leave)) => {
                            self.worker.follow(&self.task.task, go);
                            return Some(go);
                        }
                        Some(go) => {
                            self.worker.follow(&self.task.task, go);
                            seen = Instant::now();
                        }
                        None if seen.elapsed() > FRONT_PATIENCE && self.broker().is_up() => {
                            self.worker.follow(&self.task.task, Go::Stop);
                            return None;
                        }
                        None => {}
                    }
                }
            }
        }
    }

    /// Says how far it is; it may get lost.
    async fn tell(&self, snapshot: &Snapshot, preview: &mut usize) {
        let client = &self.broker().client;
        if snapshot.steps > 0 {
            let subject = broker::front(&self.task.front);
            let _ = client.publish(subject, self.sign(steps(snapshot))).await;
        }
        let Some(picture) = &snapshot.preview else {
            return;
        };
        let place = Arc::as_ptr(picture) as usize;
        if std::mem::replace(preview, place) != place {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("task", self.task.task.as_str());
            headers.insert("index", picture.index.to_string());
            let subject = broker::preview(&self.task.front);
            let jpeg = Bytes::from(picture.jpeg.clone());
            let _ = client.publish_with_headers(subject, headers, jpeg).await;
        }
    }

    /// Ends the task as its job has ended, or the front end said.
    async fn finish(&self, job: &Arc<Job>, went: Option<Go>) {
        let finished = job.finished().await;
        match went {
            None => return end(self.message, AckKind::Term).await,
            Some(Go::Leave) => return,
            Some(Go::Stop) => return end(self.message, AckKind::Ack).await,
            Some(_) => {}
        }
        let drawn = match finished {
            Ok(drawn) => drawn,
            // As the front end said, which has seen to the message.
            Err(Failure::Cancelled) => return,
            // Another worker is to take it at once.
            Err(Failure::STOPPING) => return end(self.message, AckKind::Nak(None)).await,
            Err(failure) => return self.report(parcel::told(&failure)).await,
        };
        let start = format!("{}-out-{}", self.task.task, self.fence);
        let (begun, broker) = (Instant::now(), self.broker());
        while begun.elapsed() < REPORT_PATIENCE {
            match parcel::send(broker, &start, &drawn).await {
                Ok(drawing) => return self.report(End::Drawn(drawing)).await,
                Err(error) => tracing::warn!("task {}: {error}", self.task.task),
            }
            self.hold().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Tells the end. The front end removes the task: an acknowledgement from here could be
    /// late, and would end what another worker has.
    async fn report(&self, end_of: End) {
        let report = Report {
            task: self.task.task.clone(),
            fence: self.fence,
            worker: self.worker.id.clone(),
            end: end_of,
        };
        let bytes: Bytes = serde_json::to_vec(&report).unwrap_or_default().into();
        let begun = Instant::now();
        while begun.elapsed() < REPORT_PATIENCE {
            let subject = broker::result(&self.task.front);
            let sent = match self
                .broker()
                .jetstream
                .publish(subject, bytes.clone())
                .await
            {
                Ok(ack) => ack.await.map(drop),
                Err(error) => Err(error),
            };
            match sent {
                Ok(()) => return,
                Err(error) => tracing::warn!("task {}: {error}", self.task.task),
            }
            self.hold().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn steps(snapshot: &Snapshot) -> Option<[usize; 2]> {
    (snapshot.steps > 0).then_some([snapshot.step, snapshot.steps])
}

/// Lets go of a task; where that is lost, the front end refuses what comes of it.
async fn end(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::warn!("a task is not let go: {error}");
    }
}

/// Keeps a task that nobody could end.
async fn bury(broker: &Broker, model: &str, message: &Message, why: &str) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("why", why);
    let subject = broker::dead(model);
    let payload = message.payload.clone();
    let sent = broker
        .jetstream
        .publish_with_headers(subject, headers, payload)
        .await;
    if let Err(error) = sent {
        tracing::error!("the broker does not keep a dead task: {error}");
    }
}
