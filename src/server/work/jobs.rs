//! Jobs from the queue to their end, and how long they are known after it.

use super::caller::{Caller, Owner};
use super::drawn::Drawn;
use super::failure::Failure;
use super::job::{Job, State};
use super::order::Prepared;
use super::service::Service;
use super::share::Share;
use super::shares::{Ended, Outcome};
use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a job that failed or was cancelled can be asked about.
const FAILED_FOR: Duration = Duration::from_secs(60);
/// Jobs of one owner that are kept after their end, and their bytes.
const MOST_KEPT: usize = 500;
const MOST_KEPT_BYTES: usize = 16 << 20;

/// The jobs of owners that have too many which ended, the oldest.
fn too_many(jobs: &HashMap<String, Arc<Job>>) -> Vec<String> {
    let ended = jobs
        .values()
        .filter_map(|job| Some((job.ended_for()?, job)));
    let mut ended: Vec<_> = ended.collect();
    ended.sort_by_key(|(ago, _)| *ago);
    let mut held: HashMap<Owner, (usize, usize)> = HashMap::new();
    let too_many = ended.into_iter().filter(|(_, job)| {
        let (count, bytes) = held.entry(job.owner).or_default();
        *count += 1;
        *bytes += job.bytes();
        *count > MOST_KEPT || *bytes > MOST_KEPT_BYTES
    });
    too_many.map(|(_, job)| job.id.clone()).collect()
}

impl Service {
    /// Stops a job that waits or runs; `why` is what its owner is told.
    pub fn stop_job(&self, job: &Arc<Job>, why: Failure) {
        if job.stop(why.clone()) {
            self.queue.remove(job);
            self.finish_soon(job.clone(), why);
        }
    }

    /// [`Service::finish`], not on the threads that answer requests: the database
    /// waits for the disk.
    pub(super) fn finish_soon(&self, job: Arc<Job>, failure: Failure) {
        let service = self.clone();
        tokio::task::spawn_blocking(move || service.finish(&job, Err(failure)));
    }

    /// Ends a job: pays for it or refunds it, and tells whoever waits. Called once for
    /// every job, by whoever the job told that it is over.
    pub fn finish(&self, job: &Arc<Job>, result: Result<Drawn, Failure>) {
        let spent = result.as_ref().ok().map(|drawn| job.spent(drawn));
        let state = match result {
            Ok(mut drawn) => {
                // First: what is paid for is there after a crash too.
                if job.kept
                    && let Err(error) = self.store.note(&job.record(&drawn))
                {
                    tracing::error!("{error}");
                }
                drawn.remaining = self.settle(job.reservation, spent);
                State::Done(Arc::new(drawn))
            }
            Err(failure) => {
                self.settle(job.reservation, None);
                State::Failed(failure)
            }
        };
        tracing::info!(
            request_id = job.request_id,
            job = job.id,
            route = job.route,
            state = state.name(),
            cost = job.cost,
            seconds = job.running_for().as_secs_f64(),
        );
        if !job.kept {
            self.jobs().remove(&job.id);
        }
        job.ends(state);
        self.forget_old();
    }

    /// Ends a share, and its job if that is over with it; `kind` is its device's.
    pub fn end_share(&self, share: &Share, outcome: Outcome, kind: &str) {
        let job = &share.job;
        match share.end(outcome) {
            Ended::GoesOn => {}
            Ended::Again => self.queue.again(job, kind),
            Ended::Job(drawn) => {
                self.queue.took(job.running_for().as_secs_f64());
                let kept = drawn.and_then(|drawn| self.keep(job, drawn));
                self.finish(job, kept);
            }
        }
    }

    /// Moves the pictures of a job to the store, if they are kept.
    fn keep(&self, job: &Job, mut drawn: Drawn) -> Result<Drawn, Failure> {
        if !job.kept {
            return Ok(drawn);
        }
        let ending = job.prepared()?.format.extension();
        let pictures = drawn.pictures.iter();
        let bytes: Vec<&[u8]> = pictures.map(|made| &made.bytes[..]).collect();
        let names = self.store.put(&job.id, ending, &bytes)?;
        for (made, name) in drawn.pictures.iter_mut().zip(names) {
            made.bytes = Default::default();
            // It is in the file too.
            made.infotext = String::new();
            made.file = Some(name);
        }
        Ok(drawn)
    }

    /// A device draws no more. Where it was the last one, what is left cannot be drawn.
    pub fn end_device(&self, device: usize) {
        let is_last = self.devices.ended(device);
        // Those of other kinds go on with what it has begun.
        self.queue.wake();
        if is_last {
            for job in self.queue.close() {
                if job.stop(Failure::STOPPING) {
                    self.finish(&job, Err(Failure::STOPPING));
                }
            }
        }
    }

    /// Lets in what another process' front door has prepared, and counts.
    pub fn take_in(&self, prepared: Prepared, request_id: &str) -> Result<Arc<Job>, Failure> {
        let slot = self.queue.admit(None)?;
        let (route, since) = ("task", Instant::now());
        let id = request_id.to_owned();
        let job = Arc::new(Job::new(None, id, route, prepared, (0, None), false, since));
        self.jobs().insert(job.id.clone(), job.clone());
        if let Err(failure) = self.queue.push(slot, job.clone()) {
            self.jobs().remove(&job.id);
            return Err(failure);
        }
        Ok(job)
    }

    /// Does what is due: forgets what is too old, and settles what could not be settled.
    pub fn tidy(&self) {
        self.forget_old();
        let due = std::mem::take(&mut *self.unsettled());
        for (reservation, spent) in due {
            self.settle(Some(reservation), spent);
        }
    }

    /// Forgets jobs whose results are kept no longer, and those that failed or of which a
    /// key has too many.
    pub fn forget_old(&self) {
        let mut gone = self.store.evict();
        let results_for = Duration::from_secs(self.setup.config.results_for);
        let mut jobs = self.jobs();
        jobs.retain(|id, job| {
            let Some(ended) = job.ended_for() else {
                return true;
            };
            let limit = match job.snapshot().state {
                State::Done(_) => results_for,
                _ => results_for.min(FAILED_FOR),
            };
            !gone.contains(id) && ended <= limit
        });
        gone = too_many(&jobs);
        for id in &gone {
            jobs.remove(id);
        }
        drop(jobs);
        self.store.remove(&gone);
    }

    pub(super) fn jobs(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job of this caller.
    pub fn job(&self, caller: &Caller, id: &str) -> Result<Arc<Job>, Failure> {
        let found = self.jobs().get(id).cloned();
        found
            .filter(|job| job.owner == caller.owner())
            .ok_or_else(|| Failure::NotFound("there is no such job, or it is forgotten".into()))
    }

    /// The caller's job that has been drawn for the longest time.
    pub fn current(&self, caller: &Caller) -> Option<Arc<Job>> {
        let jobs = self.jobs();
        let runs = |job: &&Arc<Job>| {
            job.owner == caller.owner() && matches!(job.snapshot().state, State::Running)
        };
        let running = jobs.values().filter(runs);
        running.max_by_key(|job| job.running_for()).cloned()
    }

    /// Jobs of a caller that wait, in no order.
    pub fn waiting(&self, caller: &Caller) -> usize {
        let jobs = self.jobs();
        let waits = |job: &&Arc<Job>| {
            job.owner == caller.owner() && matches!(job.snapshot().state, State::Queued)
        };
        jobs.values().filter(waits).count()
    }
}
