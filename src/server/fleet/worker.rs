//! A worker: takes tasks from the broker, and lets this process' devices draw them.

use super::broker::{self, Broker};
use super::errand;
use super::wire::{Card, Go, PROTOCOL, Welcome, Word};
use crate::pipeline::ModelFacts;
use crate::server::config::BrokerUrl;
use crate::server::work::{Failure, Job, Service};
use crate::{Error, Result};
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const PAUSE: Duration = Duration::from_millis(500);
/// The broker's consumers are looked at again after so long.
const LOOK: Duration = Duration::from_secs(3);
/// A card is shown again after so long.
const CARD_EVERY: Duration = Duration::from_secs(4);

/// A worker that has joined.
pub struct Worker {
    pub service: Service,
    pub broker: Broker,
    pub id: String,
    /// Names and fingerprints, in the service's order.
    pub models: Vec<[String; 2]>,
    /// The tasks at hand.
    hands: Mutex<HashMap<String, Arc<Job>>>,
}

impl Worker {
    /// Connects to the broker.
    ///
    /// # Errors
    /// The broker refuses, or a checkpoint cannot be read.
    pub async fn connect(service: Service, url: &BrokerUrl) -> Result<Arc<Self>> {
        let id = format!("{:012x}", rand::random::<u64>() >> 16);
        let broker = Broker::connect(url, &service.setup.config, &format!("worker-{id}")).await?;
        let models = fingerprints(&service).await?;
        Ok(Arc::new(Self {
            service,
            broker,
            id,
            models,
            hands: Mutex::default(),
        }))
    }

    pub fn hands(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn card(&self) -> Card {
        Card {
            worker: self.id.clone(),
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            models: self.models.clone(),
            devices: self.service.devices.kinds(),
            room: self.room(),
        }
    }

    /// How many tasks it takes at a time: a batch for each device, and one to go on with.
    fn room(&self) -> usize {
        let batch = self.service.setup.load.batch.unwrap_or(1);
        self.service.devices.len() * (batch + 1)
    }

    /// Draws what the broker brings until the service stops, and then ends what it has.
    ///
    /// # Errors
    /// The front ends refuse this worker.
    pub async fn run(self: Arc<Self>) -> Result<()> {
        while !self.service.is_ready() {
            if self.is_stopped() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.ask_to_join().await?;
        let showing = tokio::spawn(self.clone().show());
        let hearing = tokio::spawn(self.clone().hear());
        self.take().await;
        showing.abort();
        hearing.abort();
        let _ = self.broker.workers.delete(&self.id).await;
        let _ = self.broker.client.flush().await;
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.service.queue.is_stopped()
    }

    /// Asks the front ends, and waits for the first.
    async fn ask_to_join(&self) -> Result<()> {
        let mut said = false;
        while !self.is_stopped() {
            match self.welcome().await {
                Some(Welcome::Yes) => {
                    tracing::info!("worker {} has joined", self.id);
                    return Ok(());
                }
                Some(Welcome::No(why)) => {
                    let problem = format!("the front end refuses this worker: {why}");
                    let remedy = "start it with the front end's version and models";
                    return Err(Error::file("broker", problem, remedy));
                }
                None if !said => {
                    tracing::warn!("no front end is there yet; waiting for one");
                    said = true;
                }
                None => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// What front ends answer: the first that takes it, or else one that does not.
    async fn welcome(&self) -> Option<Welcome> {
        const FIRST: Duration = Duration::from_secs(2);
        const OTHERS: Duration = Duration::from_millis(300);
        let client = &self.broker.client;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.ok()?;
        let card = serde_json::to_vec(&self.card()).unwrap_or_default();
        let asked = client.publish_with_reply(broker::JOIN, inbox, card.into());
        asked.await.ok()?;
        let (mut refused, mut patience) = (None, FIRST);
        while let Ok(Some(answer)) = tokio::time::timeout(patience, answers.next()).await {
            match serde_json::from_slice(&answer.payload) {
                Ok(Welcome::Yes) => return Some(Welcome::Yes),
                Ok(no) => refused = Some(no),
                // Nobody listens.
                Err(_) => break,
            }
            patience = OTHERS;
        }
        refused
    }

    /// Shows the card until it is aborted.
    async fn show(self: Arc<Self>) {
        let mut every = tokio::time::interval(CARD_EVERY);
        loop {
            every.tick().await;
            let card = serde_json::to_vec(&self.card()).unwrap_or_default();
            if let Err(error) = self.broker.workers.put(&self.id, card.into()).await {
                tracing::warn!("the broker does not take this worker's card: {error}");
                self.broker.renew().await;
            }
        }
    }

    /// Hears what front ends say until it is aborted.
    async fn hear(self: Arc<Self>) {
        let mut words = self.broker.hear(broker::word(&self.id));
        loop {
            let message = words.next().await;
            if let Ok(Word { task, go }) = serde_json::from_slice(&message.payload) {
                self.follow(&task, go);
            }
        }
    }

    /// Does what a front end says.
    pub fn follow(&self, task: &str, go: Go) {
        let Some(job) = self.hands().get(task).cloned() else {
            return;
        };
        match go {
            Go::On => {}
            Go::Finish => job.finish(),
            Go::Skip => job.skip(),
            Go::Stop | Go::Leave => self.service.stop_job(&job, Failure::Cancelled),
        }
    }

    /// Takes tasks until the service stops; returns when all have ended.
    async fn take(self: &Arc<Self>) {
        let room = Arc::new(Semaphore::new(self.room()));
        let mut errands = JoinSet::new();
        let mut consumers: Vec<Option<PullConsumer>> = self.models.iter().map(|_| None).collect();
        let mut looked = Instant::now();
        while !self.is_stopped() {
            while errands.try_join_next().is_some() {}
            let free = tokio::time::timeout(PAUSE, room.clone().acquire_owned()).await;
            let Ok(Ok(place)) = free else { continue };
            if looked.elapsed() > LOOK {
                // A broker that has lost them brings nothing, and says nothing.
                consumers.fill_with(|| None);
                looked = Instant::now();
            }
            let mut taken = None;
            for (consumer, [_, model]) in consumers.iter_mut().zip(&self.models) {
                taken = self.next(consumer, model).await;
                if taken.is_some() {
                    break;
                }
            }
            if let Some(message) = taken {
                let worker = self.clone();
                errands.spawn(async move {
                    errand::run(&worker, message).await;
                    drop(place);
                });
            }
        }
        while errands.join_next().await.is_some() {}
    }

    /// A task for a model, if one comes soon.
    async fn next(&self, consumer: &mut Option<PullConsumer>, model: &str) -> Option<Message> {
        const EACH: Duration = Duration::from_millis(1000);
        /// Where there are others.
        const ONE_OF: Duration = Duration::from_millis(100);
        let wait = if self.models.len() > 1 { ONE_OF } else { EACH };
        if consumer.is_none() {
            match self.broker.tasks(model).await {
                Ok(made) => *consumer = Some(made),
                Err(error) => {
                    tracing::warn!("the broker brings no tasks: {error}");
                    self.broker.renew().await;
                    tokio::time::sleep(PAUSE).await;
                    return None;
                }
            }
        }
        let pulled = match consumer {
            Some(consumer) => {
                consumer
                    .batch()
                    .max_messages(1)
                    .expires(wait)
                    .messages()
                    .await
            }
            None => return None,
        };
        let message = match pulled {
            Ok(mut messages) => messages.next().await?.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match message {
            Ok(message) => Some(message),
            Err(error) => {
                tracing::debug!("no task: {error}");
                // It may be another broker now, without this consumer.
                *consumer = None;
                tokio::time::sleep(PAUSE).await;
                self.broker.renew().await;
                None
            }
        }
    }
}

/// Names and fingerprints of a service's models.
///
/// # Errors
/// A checkpoint cannot be read.
pub async fn fingerprints(service: &Service) -> Result<Vec<[String; 2]>> {
    let service = service.clone();
    let read = tokio::task::spawn_blocking(move || {
        let models = service.setup.models().map(|options| {
            let name = ModelFacts::of(options)?.name;
            Ok([name, ModelFacts::fingerprint(options)?])
        });
        models.collect::<Result<Vec<_>>>()
    });
    read.await
        .map_err(|e| Error::internal("fingerprints", e.to_string()))?
}
