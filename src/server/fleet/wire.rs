//! What front ends and workers tell each other, as JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Counts up with every change that an older program would not understand.
pub const PROTOCOL: u32 = 1;

/// Something to draw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// Its name, which no other has.
    pub task: String,
    /// The front end that waits for it.
    pub front: String,
    pub request_id: String,
    /// The model's fingerprint.
    pub model: String,
    /// See [`crate::pipeline::Portable`].
    pub request: Value,
    /// Its pictures, by their names in the object store.
    pub pictures: Vec<String>,
    /// Of the files to make: an ending such as `png`.
    pub format: String,
    pub quality: u8,
    pub preview_every: usize,
}

/// What a worker says of a task before it draws and while it does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sign {
    pub task: String,
    /// The number of the delivery.
    pub fence: u64,
    pub worker: String,
    /// UNet steps done, and in all; `None` before the first.
    pub steps: Option<[usize; 2]>,
}

/// What a front end answers, and what it says when that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    pub task: String,
    pub go: Go,
}

/// What a worker is to do with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Go {
    /// Draw.
    On,
    /// End with what there is.
    Finish,
    /// End the pictures at hand, and go on with the others.
    Skip,
    /// Nobody waits for it any more.
    Stop,
    /// Another worker has it.
    Leave,
}

/// The end of a task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub task: String,
    pub fence: u64,
    pub worker: String,
    pub end: End,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Drawn(Drawing),
    /// The request is to blame.
    Failed(Fault),
    /// The worker is to blame; another may do better.
    Lost(String),
    /// It was given out too often.
    Dead(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drawing {
    pub pictures: Vec<Piece>,
    pub interrupted: bool,
    pub settings: Value,
    pub warnings: Vec<String>,
}

/// A picture of a [`Drawing`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Piece {
    pub seed: u64,
    pub infotext: String,
    /// Its name in the object store.
    pub object: String,
}

/// Why a request cannot be drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// See [`crate::error::Code`].
    pub code: String,
    /// The field at fault, its value and what is allowed.
    pub invalid: Option<[String; 3]>,
    pub problem: String,
    pub remedy: String,
}

/// What a worker is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    pub worker: String,
    pub protocol: u32,
    /// Of the program.
    pub version: String,
    /// Names and fingerprints.
    pub models: Vec<[String; 2]>,
    /// Fingerprints of those that are loaded, whose tasks it takes before others.
    pub loaded: Vec<String>,
    /// What each of its devices is; pictures of equal ones are equal.
    pub devices: Vec<String>,
    /// How many tasks it takes at a time.
    pub room: usize,
}

impl Card {
    /// Whether it has the model of this fingerprint.
    pub fn has(&self, print: &str) -> bool {
        self.models.iter().any(|[_, own]| own == print)
    }
}

/// A front end's answer to a worker that wants to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Welcome {
    Yes,
    /// Why not, and what helps.
    No(String),
}
