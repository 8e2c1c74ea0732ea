//! What workers send back: taken once, and looked at before it is paid for.

use super::front::Front;
use super::parcel::{self, Refusal};
use super::wire::{End, Report};
use crate::error::Code;
use crate::server::work::{Failure, Outcome};
use async_nats::jetstream::{AckKind, Message};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;

/// Results that are looked at side by side.
const AT_ONCE: usize = 8;
const PAUSE: Duration = Duration::from_millis(500);

/// Takes results until it is aborted.
pub async fn take(front: Arc<Front>) {
    loop {
        if let Err(error) = take_some(&front).await {
            tracing::warn!("the broker brings no results: {error}");
            front.broker.renew().await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn take_some(front: &Arc<Front>) -> Result<(), async_nats::Error> {
    let consumer = front.broker.results_of(&front.id).await?;
    let messages = consumer.messages().await?;
    let mut ends = messages
        .map(|message| async {
            look(front, message?).await;
            Ok::<_, async_nats::Error>(())
        })
        .buffer_unordered(AT_ONCE);
    while let Some(looked) = ends.next().await {
        looked?;
    }
    Ok(())
}

/// Looks at a result.
async fn look(front: &Arc<Front>, message: Message) {
    let kind = match serde_json::from_slice::<Report>(&message.payload) {
        Ok(report) => hear(front, report).await,
        Err(error) => {
            tracing::error!("a result that cannot be read: {error}");
            AckKind::Term
        }
    };
    if let Err(error) = message.ack_with(kind).await {
        tracing::warn!("a result is not let go: {error}");
    }
}

async fn hear(front: &Arc<Front>, report: Report) -> AckKind {
    let Report {
        task,
        fence,
        worker,
        end,
    } = report;
    let pending = front.task(&task).filter(|pending| pending.takes(fence));
    let Some(pending) = pending else {
        tracing::warn!("task {task}: result {fence} of worker {worker} comes too late");
        front.service.metrics.refused();
        forget(front, &end).await;
        return AckKind::Ack;
    };
    let outcome = match &end {
        End::Drawn(drawing) => match pending.fetch(&front.broker, drawing).await {
            Ok(part) => Outcome::Drawn(part),
            Err(Refusal::Later(why)) => {
                tracing::warn!("task {task}: {why}");
                return AckKind::Nak(Some(PAUSE));
            }
            Err(Refusal::Broken(why)) => {
                tracing::error!("task {task}: worker {worker} sent what is no picture: {why}");
                Outcome::Lost(Failure::Internal)
            }
        },
        End::Failed(fault) => Outcome::Failed(parcel::heard(fault.clone())),
        End::Lost(why) => {
            tracing::error!("task {task}: worker {worker}: {why}");
            Outcome::Lost(Failure::Internal)
        }
        End::Dead(why) => {
            tracing::error!("task {task} is dead: {why}");
            pending.dies();
            Outcome::Failed(Failure::Failed {
                code: Code::Internal,
                problem: "several workers were given this, and none ended it".into(),
                remedy: "try again later, or tell the operator".into(),
            })
        }
    };
    // Another result may have been quicker.
    if !pending.end(outcome) {
        front.service.metrics.refused();
    }
    forget(front, &end).await;
    AckKind::Ack
}

/// Removes the pictures of a result.
async fn forget(front: &Front, end: &End) {
    if let End::Drawn(drawing) = end {
        let mut names = Vec::new();
        names.extend(drawing.pictures.iter().map(|piece| piece.object.clone()));
        front.broker.forget(names).await;
    }
}
