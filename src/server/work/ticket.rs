//! A job that somebody waits for.

use super::drawn::Drawn;
use super::failure::Failure;
use super::job::Job;
use super::service::Service;
use std::sync::Arc;

/// A job that somebody waits for: when the ticket is dropped, the job stops.
pub struct Ticket {
    service: Service,
    job: Option<Arc<Job>>,
}

impl Ticket {
    pub(super) fn new(service: Service, job: Arc<Job>) -> Self {
        let job = Some(job);
        Self { service, job }
    }

    /// The job, which goes on by itself now.
    pub fn release(mut self) -> Option<Arc<Job>> {
        self.job.take()
    }

    /// The job.
    pub fn job(&self) -> Option<&Arc<Job>> {
        self.job.as_ref()
    }

    /// Waits until the job is done.
    pub async fn drawn(self) -> Result<Finished, Failure> {
        let job = self.job.clone().ok_or(Failure::Internal)?;
        let drawn = job.finished().await?;
        Ok(Finished { job, drawn })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(job) = &self.job
            && !job.snapshot().state.is_final()
        {
            self.service.stop_job(job, Failure::Cancelled);
        }
    }
}

/// A job and what it came to.
pub struct Finished {
    pub job: Arc<Job>,
    pub drawn: Arc<Drawn>,
}
