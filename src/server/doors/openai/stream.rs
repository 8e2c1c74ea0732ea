//! A request answered as server-sent events.

use super::answer::{now, own_format};
use super::refusal::refusal;
use super::types::TokenUsage;
use crate::picture::Format;
use crate::server::work::{Drawn, Job, Preview, Snapshot, State, Ticket};
use axum::response::sse::{Event, KeepAlive, Sse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{iter, unfold};
use futures_util::{Stream, StreamExt};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;
use utoipa::ToSchema;

/// One server-sent event.
#[derive(ToSchema)]
#[allow(dead_code, reason = "read by utoipa alone")]
pub struct StreamEvent {
    /// image_generation.partial_image, image_generation.completed (image_edit.* for edits),
    /// or error.
    event: String,
    /// JSON: `{type, b64_json, created_at, size, quality, background, output_format}`.
    data: String,
}

/// A stream that has told this much. Dropped with its client, it stops the job.
struct Told {
    ticket: Ticket,
    watch: watch::Receiver<Snapshot>,
    job: Arc<Job>,
    /// Width and height of a picture.
    size: (usize, usize),
    format: Format,
    began: bool,
    /// How many previews are sent at the most, and were.
    partial: usize,
    sent: usize,
    /// Held, so that no other takes its place in memory.
    last: Option<Arc<Preview>>,
    event: &'static str,
}

/// Previews, up to `partial` of them, and the pictures; `event` begins their names.
pub fn events(
    ticket: Ticket,
    partial: usize,
    event: &'static str,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let told = ticket.job().cloned().and_then(|job| {
        let prepared = job.prepared().ok()?;
        Some(Told {
            ticket,
            watch: job.watch(),
            job,
            size: (prepared.request.width, prepared.request.height),
            format: prepared.format,
            began: false,
            partial,
            sent: 0,
            last: None,
            event,
        })
    });
    let stream = unfold(told, async |told| {
        let mut told = told?;
        if told.began && told.watch.changed().await.is_err() {
            return None;
        }
        told.began = true;
        let snapshot = told.watch.borrow_and_update().clone();
        let events = told.news(&snapshot);
        let ended = snapshot.state.is_final();
        let rest = match ended {
            true => {
                drop(told.ticket);
                None
            }
            false => Some(told),
        };
        Some((iter(events.into_iter().map(Ok)), rest))
    });
    Sse::new(stream.flatten()).keep_alive(KeepAlive::default())
}

impl Told {
    fn news(&mut self, snapshot: &Snapshot) -> Vec<Event> {
        match &snapshot.state {
            State::Done(drawn) => self.completed(drawn),
            State::Failed(failure) => {
                let (_, body) = refusal(failure.clone(), &self.job.request_id);
                vec![event("error", &body)]
            }
            _ => self
                .preview(snapshot.preview.as_ref())
                .into_iter()
                .collect(),
        }
    }

    fn preview(&mut self, preview: Option<&Arc<Preview>>) -> Option<Event> {
        let preview = preview?;
        let known = self
            .last
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, preview));
        if self.sent >= self.partial || known {
            return None;
        }
        self.last = Some(preview.clone());
        let mut data = self.frame("partial_image", &preview.jpeg);
        data["partial_image_index"] = self.sent.into();
        // What it is coming to is a JPEG, whatever the picture will be.
        data["output_format"] = "jpeg".into();
        self.sent += 1;
        Some(self.named("partial_image", &data))
    }

    fn completed(&self, drawn: &Drawn) -> Vec<Event> {
        let frames = drawn.pictures.iter().map(|made| {
            let mut data = self.frame("completed", &made.bytes);
            data["seed"] = made.seed.into();
            data["usage"] = json!(TokenUsage::default());
            self.named("completed", &data)
        });
        frames.collect()
    }

    fn frame(&self, kind: &str, bytes: &[u8]) -> Value {
        let (width, height) = self.size;
        json!({
            "type": format!("{}.{kind}", self.event),
            "b64_json": STANDARD.encode(bytes),
            "created_at": now(),
            "size": format!("{width}x{height}"),
            "quality": "auto",
            "background": "opaque",
            "output_format": own_format(self.format),
        })
    }

    fn named(&self, kind: &str, data: &Value) -> Event {
        event(&format!("{}.{kind}", self.event), data)
    }
}

fn event(name: &str, data: &Value) -> Event {
    Event::default().event(name).data(data.to_string())
}
