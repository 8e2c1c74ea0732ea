//! What a run says while it goes, and how it is stopped.

use crate::picture::Picture;
use crate::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Progress, in the order in which it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A part of the checkpoint is being read, such as `unet`.
    Loading { part: String },
    /// The prompts are being encoded.
    Encoding,
    /// `index` of `total` UNet steps of the whole request are done; the first
    /// event has index 0.
    Step { index: usize, total: usize },
    /// What picture `index`, counted from 0, is coming to.
    Preview { index: usize, picture: Picture },
    /// Picture `index` of `total`, counted from 0, is being decoded.
    Decoding { index: usize, total: usize },
    /// Something that the user should know and that does not stop the run.
    Warning(String),
}

/// A flag that stops a run at its next step; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the run to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// [`Error::Cancelled`] if it was asked to.
    pub fn check(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }
}
