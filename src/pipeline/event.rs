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

/// Stops a run at its next step, with or without its pictures; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Wishes>);

#[derive(Debug, Default)]
struct Wishes {
    cancelled: AtomicBool,
    finish: AtomicBool,
    skip: AtomicBool,
}

impl Cancel {
    /// Asks the run to stop, and to give nothing.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Asks the run to stop after its step, the first one if none is done, and to give
    /// what has been drawn of its pictures; those that have not begun are left out.
    pub fn finish(&self) {
        self.0.finish.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_finishing(&self) -> bool {
        self.0.finish.load(Ordering::Relaxed)
    }

    /// Asks the run to stop drawing those pictures that it draws at the moment, as
    /// [`Cancel::finish`], and to go on with the others.
    pub fn skip(&self) {
        self.0.skip.store(true, Ordering::Relaxed);
    }

    /// Whether pictures were to be skipped; the wish is used up.
    #[cfg(feature = "server")]
    pub(crate) fn takes_skip(&self) -> bool {
        self.0.skip.swap(false, Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn is_skipping(&self) -> bool {
        self.0.skip.load(Ordering::Relaxed)
    }

    /// Whether the pictures at hand are to end; a wish to skip is used up.
    pub(super) fn ends_pictures(&self) -> bool {
        self.is_finishing() | self.0.skip.swap(false, Ordering::Relaxed)
    }

    /// [`Error::Cancelled`] if it was asked to.
    pub fn check(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }
}
