//! A worker: takes tasks from the broker, and lets this process' devices draw them.

use super::broker::{self, Broker};
use super::models;
use super::wire::{Card, Go, PROTOCOL, Welcome, Word};
use crate::server::config::BrokerUrl;
use crate::server::work::{Failure, Job, Service};
use crate::{Error, Result};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) const PAUSE: Duration = Duration::from_millis(500);
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
        let (id, broker, models) = models::connect(&service, url, "worker").await?;
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
            loaded: self.loaded().map(|[_, print]| print.clone()).collect(),
            devices: self.service.devices.kinds(),
            room: self.room(),
        }
    }

    /// The models that a device holds now.
    fn loaded(&self) -> impl Iterator<Item = &[String; 2]> {
        let models = self.models.iter().enumerate();
        let loaded = models.filter(|(i, _)| self.service.devices.has_loaded(*i));
        loaded.map(|(_, model)| model)
    }

    /// The places of the models in the order in which their tasks are taken: those that
    /// are loaded first, but every fourth `turn` the others, which else might wait for
    /// ever.
    pub(super) fn order(&self, turn: usize) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.models.len()).collect();
        let loaded_first = !turn.is_multiple_of(4);
        places.sort_by_key(|i| self.service.devices.has_loaded(*i) != loaded_first);
        places
    }

    /// How many tasks it takes at a time: a batch for each device, and one to go on with.
    pub(super) fn room(&self) -> usize {
        let batch = self.service.setup.load.batch.unwrap_or(1);
        self.service.devices.len() * (batch + 1)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.service.queue.is_stopped()
    }

    /// Asks the front ends, and waits for the first.
    pub(super) async fn ask_to_join(&self) -> Result<()> {
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
    pub(super) async fn show(self: Arc<Self>) {
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
    pub(super) async fn hear(self: Arc<Self>) {
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
}
