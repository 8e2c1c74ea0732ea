//! One request on its way: waiting, running, done.

use super::failure::Failure;
use super::ledger::Reservation;
use super::order::Prepared;
use super::queue::Owner;
use crate::pipeline::{Cancel, Seconds};
use axum::body::Bytes;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// A picture that was made.
#[derive(Debug, Clone)]
pub struct Made {
    pub seed: u64,
    /// The encoded file; empty once it is kept on disk.
    pub bytes: Bytes,
    /// Its settings as AUTOMATIC1111's program writes them.
    pub infotext: String,
    /// Its name in the store of results, if it is kept.
    pub file: Option<String>,
}

/// What a job came to.
#[derive(Debug)]
pub struct Drawn {
    pub pictures: Vec<Made>,
    /// Pictures were ended early at the owner's wish.
    pub interrupted: bool,
    /// Wall time of each stage.
    pub seconds: Seconds,
    /// Wall time of the whole, without waiting.
    pub total: f64,
    /// The request as it was carried out.
    pub settings: Value,
    pub warnings: Vec<String>,
    /// Credits left to the key, where there are keys.
    pub remaining: Option<i64>,
}

/// Where a job stands.
#[derive(Debug, Clone)]
pub enum State {
    Queued,
    Running,
    Done(Arc<Drawn>),
    Failed(Failure),
}

impl State {
    pub fn is_final(&self) -> bool {
        matches!(self, State::Done(_) | State::Failed(_))
    }

    pub fn name(&self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Done(_) => "done",
            State::Failed(Failure::Cancelled) => "cancelled",
            State::Failed(_) => "failed",
        }
    }
}

/// What a picture is coming to.
#[derive(Debug)]
pub struct Preview {
    /// Which of the job's pictures, from 0.
    pub index: usize,
    pub jpeg: Vec<u8>,
}

/// A job as it is at this moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub state: State,
    /// In the queue, from 1; 0 once it left.
    pub position: usize,
    /// UNet steps done.
    pub step: usize,
    /// UNet steps in all, of all pictures.
    pub steps: usize,
    pub preview: Option<Arc<Preview>>,
}

/// One request on its way.
pub struct Job {
    /// 128 random bits, in hex: who knows it may see the results.
    pub id: String,
    pub owner: Owner,
    pub request_id: String,
    pub route: &'static str,
    pub prepared: Prepared,
    /// Credits.
    pub cost: i64,
    pub reservation: Option<Reservation>,
    /// Results go to the store.
    pub kept: bool,
    pub cancel: Cancel,
    pub created: SystemTime,
    pub since: Instant,
    started: Mutex<Option<Instant>>,
    /// Why it was stopped, if not by its owner.
    stopped: Mutex<Option<Failure>>,
    progress: watch::Sender<Snapshot>,
}

impl Job {
    pub fn new(
        owner: Owner,
        request_id: String,
        route: &'static str,
        prepared: Prepared,
        bill: (i64, Option<Reservation>),
        kept: bool,
    ) -> Self {
        let start = Snapshot {
            state: State::Queued,
            position: 0,
            step: 0,
            steps: 0,
            preview: None,
        };
        Self {
            id: format!("{:032x}", rand::random::<u128>()),
            owner,
            request_id,
            route,
            prepared,
            cost: bill.0,
            reservation: bill.1,
            kept,
            cancel: Cancel::default(),
            created: SystemTime::now(),
            since: Instant::now(),
            started: Mutex::default(),
            stopped: Mutex::default(),
            progress: watch::Sender::new(start),
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        self.progress.borrow().clone()
    }

    /// Hears of every change; a slow listener hears of the last one only.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.progress.subscribe()
    }

    /// Asks a running job to stop at its next step; `why` is what its owner is told.
    pub fn stop(&self, why: Failure) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.get_or_insert(why);
        self.cancel.cancel();
    }

    /// Why it was stopped.
    pub fn stopped(&self) -> Option<Failure> {
        self.stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn moved(&self, position: usize) {
        self.progress.send_if_modified(|s| {
            let changed = s.position != position;
            s.position = position;
            changed
        });
    }

    pub(super) fn begins(&self) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        *started = Some(Instant::now());
        self.progress.send_modify(|s| {
            s.state = State::Running;
            s.position = 0;
        });
    }

    /// Between its arrival and its beginning, or until now where it still waits. One
    /// difference of two moments: that of two readings of the clock is negative where
    /// the thread pauses between them.
    pub fn waited(&self) -> Duration {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.map_or_else(|| self.since.elapsed(), |at| at.duration_since(self.since))
    }

    /// Since it began to run.
    pub fn running_for(&self) -> Duration {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Credits for what was drawn: all that was reserved, or where pictures were ended
    /// early the share of the steps that were done, rounded up.
    pub fn spent(&self, drawn: &Drawn) -> i64 {
        let snapshot = self.progress.borrow();
        let (done, all) = (snapshot.step as i128, snapshot.steps as i128);
        match drawn.interrupted && done < all {
            true => ((i128::from(self.cost) * done + all - 1) / all) as i64,
            false => self.cost,
        }
    }

    pub(super) fn steps(&self, step: usize, steps: usize) {
        self.progress.send_modify(|s| {
            (s.step, s.steps) = (step, steps);
        });
    }

    pub(super) fn preview(&self, preview: Preview) {
        self.progress
            .send_modify(|s| s.preview = Some(Arc::new(preview)));
    }

    /// The end; only the first counts.
    pub(super) fn ends(&self, state: State) {
        self.progress.send_if_modified(|s| {
            if s.state.is_final() {
                return false;
            }
            s.state = state;
            s.position = 0;
            s.preview = None;
            true
        });
    }

    /// The end, when it comes.
    pub async fn finished(&self) -> Result<Arc<Drawn>, Failure> {
        let mut watch = self.watch();
        let end = watch.wait_for(|s| s.state.is_final()).await;
        // The sender lives in this job, so it is never gone.
        match end.map(|s| s.state.clone()) {
            Ok(State::Done(drawn)) => Ok(drawn),
            Ok(State::Failed(failure)) => Err(failure),
            _ => Err(Failure::Internal),
        }
    }
}

#[cfg(test)]
impl Job {
    pub fn for_test(id: &str, owner: Owner) -> Self {
        let mut job = Job::new(
            owner,
            String::new(),
            "/",
            Prepared::for_test(),
            (0, None),
            false,
        );
        job.id = id.into();
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two moments of a wait are read by two threads, which may be in either order.
    #[test]
    fn a_wait_is_never_negative() {
        let mut job = Job::for_test("a", None);
        assert!(job.waited() <= job.since.elapsed());
        job.begins();
        let waited = job.waited();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(job.waited(), waited);
        job.since = Instant::now();
        assert_eq!(job.waited(), Duration::ZERO);
    }
}
