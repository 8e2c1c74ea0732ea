//! A worker at work.

use super::errand;
use super::worker::{PAUSE, Worker};
use crate::Result;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The broker's consumers are looked at again after so long.
const LOOK: Duration = Duration::from_secs(3);

impl Worker {
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

    /// Takes tasks until the service stops; returns when all have ended.
    async fn take(self: &Arc<Self>) {
        let room = Arc::new(Semaphore::new(self.room()));
        let mut errands = JoinSet::new();
        let mut consumers: Vec<Option<PullConsumer>> = self.models.iter().map(|_| None).collect();
        let (mut looked, mut turn) = (Instant::now(), 0);
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
            turn += 1;
            for place in self.order(turn) {
                let [_, model] = &self.models[place];
                taken = self.next(&mut consumers[place], model).await;
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
