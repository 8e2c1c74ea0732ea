//! Which workers draw for a front end: those that it admits and whose cards it reads.

use super::broker::{self, Broker};
use super::front::{DEVICE, Front, KIND};
use super::wire::{Card, PROTOCOL, Welcome};
use futures_util::TryStreamExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the cards are read.
const EVERY: Duration = Duration::from_millis(500);
/// How long workers are thought to be there after the last card was read.
const PATIENCE: Duration = Duration::from_secs(60);

impl Front {
    /// Why a worker cannot draw for this front end.
    fn objection(&self, card: &Card) -> Option<String> {
        let version = env!("CARGO_PKG_VERSION");
        if card.protocol != PROTOCOL || card.version != version {
            return Some(format!(
                "it is calotype {} and speaks version {} of the protocol; the front end is \
                 calotype {version} and speaks version {PROTOCOL}",
                card.version, card.protocol
            ));
        }
        let prints = |models: &[[String; 2]], name: &str| {
            let mut models = models.iter();
            models.find_map(|[own, print]| (own == name).then(|| print.clone()))
        };
        let mut ours = self.models.iter();
        if ours.any(|[_, print]| card.models.iter().any(|[_, other]| other == print)) {
            return None;
        }
        let names = |models: &[[String; 2]]| {
            let names: Vec<&str> = models.iter().map(|[name, _]| &name[..]).collect();
            names.join(", ")
        };
        let same = self.models.iter().find_map(|[name, print]| {
            let other = prints(&card.models, name)?;
            Some(format!(
                "its model {name} is another: its fingerprint is {other}, the front end's is \
                 {print} (a refiner, VAE or UNet of its own counts)"
            ))
        });
        Some(same.unwrap_or_else(|| {
            format!(
                "it has the models {}, the front end has {}",
                names(&card.models),
                names(&self.models)
            )
        }))
    }
}

/// Answers workers that want to join, until it is aborted.
pub async fn admit(front: Arc<Front>) {
    let mut cards = front.broker.hear(broker::JOIN);
    loop {
        let message = cards.next().await;
        let Some(reply) = message.reply else { continue };
        let objection = match serde_json::from_slice::<Card>(&message.payload) {
            Ok(card) => front
                .objection(&card)
                .inspect(|why| tracing::warn!("worker {} is refused: {why}", card.worker)),
            Err(error) => Some(format!("its card cannot be read: {error}")),
        };
        let answer = objection.map_or(Welcome::Yes, Welcome::No);
        let answer = serde_json::to_vec(&answer).unwrap_or_default();
        let _ = front.broker.client.publish(reply, answer.into()).await;
    }
}

/// Reads the cards of workers until it is aborted.
pub async fn watch(front: Arc<Front>) {
    let mut seen = Instant::now();
    loop {
        match cards(&front.broker).await {
            Ok(mut found) => {
                found.retain(|card| front.objection(card).is_none());
                front.crew.set(found);
                seen = Instant::now();
            }
            Err(error) => {
                tracing::warn!("the workers' cards cannot be read: {error}");
                front.broker.renew().await;
                if seen.elapsed() > PATIENCE {
                    front.crew.set(Vec::new());
                }
            }
        }
        let (devices, width) = (&front.service.devices, front.crew.width());
        match front.crew.devices() {
            0 => devices.lost(DEVICE),
            _ => devices.opened(DEVICE, KIND, width),
        }
        front.service.queue.wake();
        let counts = [
            front.crew.workers(),
            front.crew.devices(),
            front.tasks_out(),
        ];
        front.service.metrics.fleet(front.broker.is_up(), counts);
        tokio::time::sleep(EVERY).await;
    }
}

async fn cards(broker: &Broker) -> Result<Vec<Card>, async_nats::Error> {
    let names: Vec<String> = broker.workers.keys().await?.try_collect().await?;
    let mut cards = Vec::new();
    for name in names {
        let bytes = broker.workers.get(name).await?;
        cards.extend(bytes.and_then(|bytes| serde_json::from_slice::<Card>(&bytes).ok()));
    }
    Ok(cards)
}
