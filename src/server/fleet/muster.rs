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
        if self.models.iter().any(|[_, print]| card.has(print)) {
            return None;
        }
        let names = |models: &[[String; 2]]| {
            let names: Vec<&str> = models.iter().map(|[name, _]| &name[..]).collect();
            names.join(", ")
        };
        Some(self.another(card).unwrap_or_else(|| {
            format!(
                "it has the models {}, the front end has {}",
                names(&card.models),
                names(&self.models)
            )
        }))
    }

    /// A model of the worker that has the name of one here and draws differently.
    fn another(&self, card: &Card) -> Option<String> {
        let ours = self.models.iter().filter(|[_, print]| !card.has(print));
        let mut pairs = ours.flat_map(|own| card.models.iter().map(move |other| (own, other)));
        let ([name, print], [_, other]) = pairs.find(|(own, other)| own[0] == other[0])?;
        Some(format!(
            "its model {name} is another: its fingerprint is {other}, the front end's is {print} \
             (a refiner, VAE or UNet of its own counts)"
        ))
    }
}

/// Answers workers that want to join, until it is aborted.
pub async fn admit(front: Arc<Front>) {
    let mut cards = front.broker.hear(broker::JOIN);
    loop {
        let message = cards.next().await;
        let Some(reply) = message.reply else { continue };
        let objection = match serde_json::from_slice::<Card>(&message.payload) {
            Ok(card) => {
                let (objection, worker) = (front.objection(&card), &card.worker);
                match (&objection, front.another(&card)) {
                    (Some(why), _) => tracing::warn!("worker {worker} is refused: {why}"),
                    (None, Some(why)) => tracing::warn!("worker {worker} draws a part: {why}"),
                    (None, None) => {}
                }
                objection
            }
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
            _ => {
                devices.holds(DEVICE, front.crew.models(&front.models));
                devices.opened(DEVICE, KIND, width);
            }
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
