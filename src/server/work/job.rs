//! One request on its way: waiting, running, done.

use super::caller::Owner;
use super::drawn::{Drawn, Made};
use super::failure::Failure;
use super::order::Prepared;
use super::shares::Shares;
use super::store::{Pictured, Record, age};
use crate::server::ledger::Reservation;
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

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

fn texts(prepared: &Prepared) -> usize {
    let request = &prepared.request;
    let others = [
        &request.prompt_2,
        &request.negative_prompt,
        &request.negative_prompt_2,
    ];
    let others = others.into_iter().flatten().map(String::len);
    request.prompt.len() + others.sum::<usize>()
}

/// One request on its way.
pub struct Job {
    /// 128 random bits, in hex: who knows it may see the results.
    pub id: String,
    pub owner: Owner,
    pub request_id: String,
    pub route: &'static str,
    /// Of the first picture.
    pub seed: u64,
    /// `None` of an earlier run's job.
    prepared: Mutex<Option<Arc<Prepared>>>,
    /// Bytes of its texts.
    texts: usize,
    /// Credits.
    pub cost: i64,
    pub reservation: Option<Reservation>,
    /// Results go to the store.
    pub kept: bool,
    shares: Mutex<Shares>,
    pub created: SystemTime,
    /// When the request came.
    pub since: Instant,
    started: Mutex<Option<Instant>>,
    ended: Mutex<Option<Instant>>,
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
        since: Instant,
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
            seed: prepared.request.seed,
            texts: texts(&prepared),
            shares: Mutex::new(Shares::new(prepared.request.samples)),
            prepared: Mutex::new(Some(Arc::new(prepared))),
            cost: bill.0,
            reservation: bill.1,
            kept,
            created: SystemTime::now(),
            since,
            started: Mutex::default(),
            ended: Mutex::default(),
            progress: watch::Sender::new(start),
        }
    }

    /// What is drawn; once the job has ended, without its pictures.
    ///
    /// # Errors
    /// The job is of an earlier run.
    pub fn prepared(&self) -> Result<Arc<Prepared>, Failure> {
        self.lock(&self.prepared).clone().ok_or(Failure::Internal)
    }

    /// How many pictures it is of.
    pub fn samples(&self) -> usize {
        self.shares().samples()
    }

    fn lock<'a, T>(&self, value: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
        value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since its end; `None` before it.
    pub fn ended_for(&self) -> Option<Duration> {
        self.lock(&self.ended).map(|at| at.elapsed())
    }

    /// About how many bytes it takes once it has ended: those of its texts.
    pub fn bytes(&self) -> usize {
        // The settings repeat them.
        2 * self.texts + 4096
    }

    /// A job of an earlier run, as it was recorded.
    pub fn recorded(record: Record) -> Self {
        let ended = Instant::now().checked_sub(age(record.ended));
        let pictures = record.pictures.into_iter().map(|picture| Made {
            seed: picture.seed,
            bytes: Bytes::new(),
            infotext: String::new(),
            file: Some(picture.file),
        });
        let drawn = Drawn {
            pictures: pictures.collect(),
            interrupted: record.interrupted,
            total: record.seconds,
            settings: record.settings,
            warnings: record.warnings,
            remaining: None,
        };
        let end = Snapshot {
            state: State::Done(Arc::new(drawn)),
            position: 0,
            step: record.steps,
            steps: record.steps,
            preview: None,
        };
        Self {
            id: record.job,
            owner: record.owner,
            request_id: String::new(),
            route: "",
            seed: record.seed,
            prepared: Mutex::default(),
            texts: 0,
            cost: record.cost,
            reservation: None,
            kept: true,
            shares: Mutex::new(Shares::new(0)),
            created: record.created,
            since: Instant::now(),
            started: Mutex::default(),
            ended: Mutex::new(Some(ended.unwrap_or_else(Instant::now))),
            progress: watch::Sender::new(end),
        }
    }

    /// What the next run is to know of this job, which came to `drawn` just now.
    pub fn record(&self, drawn: &Drawn) -> Record {
        let pictures = drawn.pictures.iter().filter_map(|made| {
            let (file, seed) = (made.file.clone()?, made.seed);
            Some(Pictured { file, seed })
        });
        Record {
            job: self.id.clone(),
            owner: self.owner,
            route: self.route.to_owned(),
            cost: self.cost,
            seed: self.seed,
            steps: self.snapshot().steps,
            created: self.created,
            ended: SystemTime::now(),
            pictures: pictures.collect(),
            seconds: drawn.total,
            interrupted: drawn.interrupted,
            settings: drawn.settings.clone(),
            warnings: drawn.warnings.clone(),
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
    /// Whether nothing of it runs: then the caller ends it.
    pub(super) fn stop(&self, why: Failure) -> bool {
        self.shares().fail(why)
    }

    /// Asks a running job to end with what there is of its pictures.
    pub fn finish(&self) {
        self.shares().finish();
    }

    /// Asks a running job to end the pictures that are drawn at the moment, and to go on
    /// with its others.
    pub fn skip(&self) {
        self.shares().skip();
    }

    /// Whether it was asked to end.
    pub fn is_ending(&self) -> bool {
        self.shares().is_ending()
    }

    /// How it is divided among devices.
    pub(super) fn shares(&self) -> std::sync::MutexGuard<'_, Shares> {
        self.lock(&self.shares)
    }

    pub(super) fn moved(&self, position: usize) {
        self.progress.send_if_modified(|s| {
            let changed = s.position != position;
            s.position = position;
            changed
        });
    }

    /// Whether it begins with this call: a share of it may have begun before.
    pub fn begins(&self) -> bool {
        let mut started = self.lock(&self.started);
        if started.is_some() {
            return false;
        }
        *started = Some(Instant::now());
        drop(started);
        self.progress.send_modify(|s| {
            s.state = State::Running;
            s.position = 0;
        });
        true
    }

    /// Between its arrival and its beginning, or until now where it still waits. One
    /// difference of two moments: that of two readings of the clock is negative where
    /// the thread pauses between them.
    pub fn waited(&self) -> Duration {
        let started = self.lock(&self.started);
        started.map_or_else(|| self.since.elapsed(), |at| at.duration_since(self.since))
    }

    /// Since it began to run; nothing before.
    pub fn running_for(&self) -> Duration {
        let started = self.lock(&self.started);
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

    /// UNet steps done, and in all.
    pub(super) fn steps(&self, [step, steps]: [usize; 2]) {
        self.progress.send_modify(|s| {
            (s.step, s.steps) = (step, steps);
        });
    }

    pub(super) fn preview(&self, preview: Preview) {
        self.progress
            .send_modify(|s| s.preview = Some(Arc::new(preview)));
    }

    /// The end; only the first counts. What was sent is dropped.
    pub(super) fn ends(&self, state: State) {
        self.lock(&self.ended).get_or_insert_with(Instant::now);
        let mut prepared = self.lock(&self.prepared);
        *prepared = prepared.take().map(|p| Arc::new(p.without_pictures()));
        drop(prepared);
        self.progress.send_if_modified(|s| {
            if s.state.is_final() {
                return false;
            }
            // A worker elsewhere tells its steps only so often.
            if matches!(&state, State::Done(drawn) if !drawn.interrupted) {
                s.step = s.steps;
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
        Self::for_test_of(id, owner, 1)
    }

    /// A job of so many pictures.
    pub fn for_test_of(id: &str, owner: Owner, samples: usize) -> Self {
        let mut prepared = Prepared::for_test();
        prepared.request.samples = samples;
        let mut job = Job::new(
            owner,
            String::new(),
            "/",
            prepared,
            (0, None),
            false,
            Instant::now(),
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
