//! Some of a job's pictures, for one device.

use super::job::{Job, Preview};
use super::order::Prepared;
use super::shares::{Ended, Outcome, Taken};
use crate::pipeline::{Cancel, Request};
use std::ops::Range;
use std::sync::Arc;

/// Some of a job's pictures, for one device.
pub struct Share {
    pub job: Arc<Job>,
    /// What the job asks for.
    pub order: Arc<Prepared>,
    taken: Taken,
}

impl Share {
    /// One of `ways` equal parts of the pictures of `job` that wait for a device.
    pub fn of(job: &Arc<Job>, ways: usize) -> Option<Self> {
        // One of an earlier run has none, and does not wait.
        let order = job.prepared().ok()?;
        let taken = job.shares().take(ways)?;
        let job = job.clone();
        Some(Self { job, order, taken })
    }

    /// Which of the job's pictures, from 0.
    pub fn samples(&self) -> Range<usize> {
        self.taken.samples.clone()
    }

    /// The part of the order that it is.
    pub fn request(&self) -> Request {
        self.order.request.part(self.samples())
    }

    /// Ends it.
    pub fn cancel(&self) -> &Cancel {
        &self.taken.cancel
    }

    /// Notes how far it is: UNet steps done, and in all.
    pub fn steps(&self, steps: [usize; 2]) {
        let all = self.job.shares().steps(&self.taken, steps);
        self.job.steps(all);
    }

    /// Shows what a picture, counted from 0 in this share, is coming to.
    pub fn preview(&self, index: usize, jpeg: Vec<u8>) {
        let index = self.taken.samples.start + index;
        self.job.preview(Preview { index, jpeg });
    }

    /// What its end means for the job.
    pub fn end(&self, outcome: Outcome) -> Ended {
        let mut ended = self.job.shares().end(&self.taken, outcome);
        if let Ended::Job(Ok(drawn)) = &mut ended {
            drawn.total = self.job.running_for().as_secs_f64();
        }
        ended
    }
}
