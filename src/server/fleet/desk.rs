//! What an operator does with tasks: looks at them, drops them, draws dead ones again.

use super::broker::{self, Broker};
use super::parcel::{self, Refusal};
use super::wire::{End, Fault, Go, Report, Sign, Task, Word};
use crate::error::Code;
use crate::picture::write_file;
use crate::pipeline::{Portable, Request};
use crate::server::config::Config;
use crate::{Error, Field, Result};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long a dead task is waited for that is drawn again.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A task as the broker keeps it.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    pub task: String,
    pub request_id: String,
    /// The model's fingerprint.
    pub model: String,
    /// When it came: UTC, as RFC 3339.
    pub created: String,
    /// Why it is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A connection of an operator.
pub struct Desk {
    broker: Broker,
    runtime: Runtime,
}

impl Desk {
    /// Connects to the broker of `config`.
    ///
    /// # Errors
    /// It names none; see [`Broker::connect`].
    pub fn open(config: &Config) -> Result<Self> {
        let url = config.broker.as_ref().ok_or_else(|| {
            let allowed = "give --broker nats://HOST:PORT, that of the front ends";
            Error::invalid("broker", "missing", allowed)
        })?;
        let runtime = Runtime::new().map_err(|e| Error::file("/", e, "allow more threads"))?;
        let broker = runtime.block_on(Broker::connect(url, config, "desk"))?;
        Ok(Self { broker, runtime })
    }

    /// Tasks that no worker has ended.
    ///
    /// # Errors
    /// The broker does not answer.
    pub fn open_tasks(&self) -> Result<Vec<Entry>> {
        self.runtime.block_on(entries(&self.broker.work))
    }

    /// Tasks that were given out too often, of the last week.
    ///
    /// # Errors
    /// The broker does not answer.
    pub fn dead_tasks(&self) -> Result<Vec<Entry>> {
        self.runtime.block_on(entries(&self.broker.dead))
    }

    /// Removes a task: a dead one, or one that is open, whose request then fails.
    ///
    /// # Errors
    /// There is no such task; the broker does not answer.
    pub fn drop_task(&self, name: &str) -> Result<()> {
        self.runtime.block_on(async {
            for stream in [&self.broker.dead, &self.broker.work] {
                let Some(message) = find(stream, name).await? else {
                    continue;
                };
                let is_open = message.subject.starts_with("calotype.work.");
                if is_open && let Ok(task) = serde_json::from_slice(&message.payload) {
                    self.tell_dropped(task).await?;
                }
                let deleted = stream.delete_message(message.sequence).await;
                // The front end deletes it too.
                return match is_open {
                    true => Ok(()),
                    false => deleted.map(drop).map_err(lost),
                };
            }
            Err(none(name))
        })
    }

    /// The front end ends the job.
    async fn tell_dropped(&self, task: Task) -> Result<()> {
        let subject = broker::result(&task.front);
        let report = Report {
            task: task.task,
            fence: u64::MAX,
            worker: "the operator".into(),
            end: End::Failed(Fault {
                code: Code::Cancelled.as_str().to_owned(),
                invalid: None,
                problem: "the operator stopped this".into(),
                remedy: String::new(),
            }),
        };
        let bytes = serde_json::to_vec(&report).unwrap_or_default();
        let sent = self.broker.jetstream.publish(subject, bytes.into()).await;
        sent.map_err(lost)?.await.map_err(lost)?;
        Ok(())
    }

    /// Draws a dead task again, for nobody's credits, and writes its pictures to `folder`.
    ///
    /// # Errors
    /// There is no such task, or its own pictures are gone, which are kept for an hour; no
    /// worker draws it; a file cannot be written.
    pub fn retry(&self, name: &str, folder: &Path) -> Result<Vec<PathBuf>> {
        self.runtime.block_on(async {
            let message = find(&self.broker.dead, name)
                .await?
                .ok_or_else(|| none(name))?;
            let unreadable = |e: serde_json::Error| Error::internal(name, e.to_string());
            let mut task: Task = serde_json::from_slice(&message.payload).map_err(unreadable)?;
            task.front = format!("desk{:012x}", rand::random::<u64>() >> 16);
            task.task = format!("{name}-{:04x}", rand::random::<u16>());
            let files = self.draw(&task, folder).await?;
            let deleted = self.broker.dead.delete_message(message.sequence).await;
            deleted.map_err(lost)?;
            Ok(files)
        })
    }

    /// As a front end does.
    async fn draw(&self, task: &Task, folder: &Path) -> Result<Vec<PathBuf>> {
        let broker = &self.broker;
        let mut pictures = Vec::new();
        for name in &task.pictures {
            pictures.push(broker.get(name).await.map_err(lost)?.to_vec());
        }
        let request = Request::from_portable(Portable {
            request: task.request.clone(),
            pictures,
        })?;
        let results = broker.results_of(&task.front).await.map_err(lost)?;
        let bytes = serde_json::to_vec(task).unwrap_or_default();
        let sent = broker
            .jetstream
            .publish(broker::work(&task.model), bytes.into())
            .await;
        sent.map_err(lost)?.await.map_err(lost)?;
        let answering = self
            .runtime
            .spawn(agree(broker.clone(), task.front.clone()));
        let mut results = results.messages().await.map_err(lost)?;
        let ended = tokio::time::timeout(PATIENCE, results.next()).await;
        answering.abort();
        let message = match ended {
            Ok(Some(message)) => message.map_err(lost)?,
            _ => {
                let problem = "no worker ended it within an hour";
                return Err(Error::file(&task.task, problem, "see the workers' logs"));
            }
        };
        let report: Report = serde_json::from_slice(&message.payload)
            .map_err(|e| Error::internal(&task.task, e.to_string()))?;
        message.ack().await.map_err(lost)?;
        let failed = |why: String| Error::file(&task.task, why, "see the workers' logs");
        let drawing = match report.end {
            End::Drawn(drawing) => drawing,
            End::Failed(fault) => return Err(failed(fault.problem)),
            End::Lost(why) | End::Dead(why) => return Err(failed(why)),
        };
        let pictures = parcel::fetch(broker, &drawing, &request).await;
        let pictures = pictures.map_err(|refusal| match refusal {
            Refusal::Later(why) | Refusal::Broken(why) => failed(why),
        })?;
        let mut written = Vec::new();
        for made in pictures {
            let path = folder.join(format!("{}-{}.{}", task.task, made.seed, task.format));
            write_file(&path, &made.bytes)?;
            written.push(path);
        }
        Ok(written)
    }
}

/// Tells workers to draw until it is aborted.
async fn agree(broker: Broker, front: String) {
    let mut signs = broker.hear(broker::front(&front));
    loop {
        let message = signs.next().await;
        if let (Some(reply), Ok(sign)) = (
            message.reply,
            serde_json::from_slice::<Sign>(&message.payload),
        ) {
            let (task, go) = (sign.task, Go::On);
            let word = serde_json::to_vec(&Word { task, go }).unwrap_or_default();
            let _ = broker.client.publish(reply, word.into()).await;
        }
    }
}

async fn entries(stream: &Stream) -> Result<Vec<Entry>> {
    let all = messages(stream).await?;
    Ok(all.iter().map(entry).collect())
}

fn entry(message: &StreamMessage) -> Entry {
    let task = serde_json::from_slice::<Task>(&message.payload).ok();
    let of = |get: fn(&Task) -> &String| task.as_ref().map(get).cloned().unwrap_or_default();
    Entry {
        task: of(|task| &task.task),
        request_id: of(|task| &task.request_id),
        model: of(|task| &task.model),
        created: message.time.to_string(),
        why: message.headers.get("why").map(ToString::to_string),
    }
}

async fn find(stream: &Stream, name: &str) -> Result<Option<StreamMessage>> {
    let all = messages(stream).await?;
    Ok(all.into_iter().find(|message| entry(message).task == name))
}

/// All messages of a stream, oldest first.
async fn messages(stream: &Stream) -> Result<Vec<StreamMessage>> {
    let info = stream.get_info().await.map_err(lost)?;
    let mut found = Vec::new();
    if info.state.messages == 0 {
        return Ok(found);
    }
    for sequence in info.state.first_sequence..=info.state.last_sequence {
        // One that is gone meanwhile, or was before.
        if let Ok(message) = stream.get_raw_message(sequence).await {
            found.push(message);
        }
    }
    Ok(found)
}

fn none(name: &str) -> Error {
    let allowed =
        "no such task; `calotype jobs list` and `calotype jobs dead` show those there are";
    Error::invalid(Field::from("task"), name, allowed)
}

fn lost(error: impl std::fmt::Display) -> Error {
    Error::file("broker", error.to_string(), "see that nats-server runs")
}
