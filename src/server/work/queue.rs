//! Jobs that wait for a device: first come, first served, with a turn for every owner in
//! between. Where more devices are free than jobs wait, several draw one job.

use super::caller::Owner;
use super::devices::Devices;
use super::failure::Failure;
use super::job::Job;
use super::share::Share;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A bounded queue.
///
/// An owner's jobs go in the order in which they came. Among the owners' first jobs
/// the next is that of the owner whose last turn is longest ago; who never had one
/// comes first, and among equals who came first.
pub struct Queue {
    most: usize,
    most_per_owner: usize,
    devices: Arc<Devices>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Arc<Job>>,
    /// Those of which a device has drawn or draws something, and other pictures wait.
    begun: Vec<Begun>,
    /// Owners of slots that hold no job yet.
    promised: Vec<Owner>,
    /// When each owner had the last turn, counted in turns.
    turns: HashMap<Owner, u64>,
    turn: u64,
    stopped: bool,
    /// Running mean of a job's seconds.
    seconds: f64,
}

/// A job that goes on where it began, on devices whose pictures are equal.
struct Begun {
    job: Arc<Job>,
    /// See [`Devices::opened`].
    kind: String,
}

/// A place in the queue for a job that is being prepared.
pub struct Slot<'a> {
    queue: &'a Queue,
    owner: Owner,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if let Some(at) = state.promised.iter().position(|o| *o == self.owner) {
            state.promised.swap_remove(at);
        }
    }
}

impl Queue {
    pub fn new(most: usize, most_per_owner: usize, devices: Arc<Devices>) -> Self {
        Self {
            most,
            most_per_owner,
            devices,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Nothing in here panics half-way, so what a poisoned lock holds is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many jobs wait.
    pub fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Whether nobody is let in any more.
    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// A place, before the work of preparing a job is done.
    pub fn admit(&self, owner: Owner) -> Result<Slot<'_>, Failure> {
        let mut state = self.state();
        if state.stopped {
            return Err(Failure::STOPPING);
        }
        let of_owner = state.owners().filter(|o| *o == owner).count();
        let ahead = state.owners().count();
        let why = match ahead {
            n if n >= self.most => "the queue is full",
            _ if of_owner >= self.most_per_owner => "this key has its share of the queue",
            _ => {
                state.promised.push(owner);
                return Ok(Slot { queue: self, owner });
            }
        };
        // When those before it will have been drawn.
        let each = state.seconds / self.devices.ready().max(1) as f64;
        let seconds = ((each * ahead as f64).ceil() as u64).clamp(1, 3600);
        Err(Failure::QueueFull { why, seconds })
    }

    /// Puts `job` into its place.
    pub fn push(&self, slot: Slot<'_>, job: Arc<Job>) -> Result<(), Failure> {
        drop(slot);
        let mut state = self.state();
        if state.stopped {
            return Err(Failure::STOPPING);
        }
        state.waiting.push(job);
        state.number();
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for what a device draws next: what goes on of a job that has begun, or the
    /// next job, all of it or a part where other devices have nothing else to do. `None`
    /// once the queue is stopped and nothing goes on.
    pub fn next(&self, device: usize) -> Option<Share> {
        let mut state = self.state();
        loop {
            if let Some(kind) = self.devices.kind(device) {
                let share = state.go_on(&self.devices, &kind);
                if let Some(share) = share.or_else(|| state.begin(&self.devices, &kind)) {
                    // Other devices draw the rest, or it was all that was left of a queue
                    // that is stopped.
                    self.changed.notify_all();
                    return Some(share);
                }
            }
            if state.is_over() {
                return None;
            }
            if state.waiting.is_empty() {
                // All begin anew.
                state.turns.clear();
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes jobs that `fit`, whole, of at most `room` pictures in all, in the order in
    /// which they would have their turn. Whoever is passed over comes next.
    pub fn join(&self, mut room: usize, fits: impl Fn(&Job) -> bool) -> Vec<Share> {
        let mut state = self.state();
        let order = state.order();
        let jobs = order.into_iter().map(|at| state.waiting[at].clone());
        let mut taken = Vec::new();
        for job in jobs.collect::<Vec<_>>() {
            if job.samples() > room || !fits(&job) {
                continue;
            }
            state.leave(&job);
            if let Some(share) = Share::of(&job, 1) {
                room -= job.samples();
                taken.push(share);
            }
        }
        taken
    }

    /// Lets those look again who wait for something to draw: devices came or went.
    pub fn wake(&self) {
        let _state = self.state();
        self.changed.notify_all();
    }

    /// Lets a job go on whose device of this kind was lost.
    pub fn again(&self, job: &Arc<Job>, kind: &str) {
        let mut state = self.state();
        if job.shares().waits() && !state.begun.iter().any(|begun| Arc::ptr_eq(&begun.job, job)) {
            let (job, kind) = (job.clone(), kind.to_owned());
            state.begun.insert(0, Begun { job, kind });
        }
        self.changed.notify_all();
    }

    /// Takes a job out, if it is there.
    pub fn remove(&self, job: &Arc<Job>) {
        let mut state = self.state();
        state.begun.retain(|begun| !Arc::ptr_eq(&begun.job, job));
        state.waiting.retain(|waiting| !Arc::ptr_eq(waiting, job));
        state.number();
        self.changed.notify_all();
    }

    /// Lets nobody in any more and gives back what waits; what has begun goes on.
    pub fn stop(&self) -> Vec<Arc<Job>> {
        let mut state = self.state();
        state.stopped = true;
        self.changed.notify_all();
        std::mem::take(&mut state.waiting)
    }

    /// Lets nobody in any more; what is there is drawn.
    pub fn drain(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// [`Queue::stop`], where no device is left: nothing goes on.
    pub fn close(&self) -> Vec<Arc<Job>> {
        let mut jobs = self.stop();
        let begun = std::mem::take(&mut self.state().begun);
        jobs.extend(begun.into_iter().map(|begun| begun.job));
        jobs
    }

    /// Notes how long a job took, for the times that are told to who must wait.
    pub fn took(&self, seconds: f64) {
        const WEIGHT: f64 = 0.2;
        let mut state = self.state();
        state.seconds = match state.seconds {
            0.0 => seconds,
            mean => mean + WEIGHT * (seconds - mean),
        };
    }
}

impl State {
    /// Whether nothing is drawn any more.
    fn is_over(&self) -> bool {
        let begun = self.begun.iter().any(|begun| begun.job.shares().waits());
        self.stopped && self.waiting.is_empty() && !begun
    }

    /// What waits of a job that has begun on a device of this kind, or of one whose
    /// devices all are lost.
    fn go_on(&mut self, devices: &Devices, kind: &str) -> Option<Share> {
        self.begun.retain(|begun| begun.job.shares().waits());
        let fits = |begun: &&Begun| begun.kind == kind || devices.of_kind(&begun.kind) == 0;
        let job = self.begun.iter().find(fits)?.job.clone();
        Share::of(&job, self.ways(devices, kind))
    }

    /// The next job that has not begun.
    fn begin(&mut self, devices: &Devices, kind: &str) -> Option<Share> {
        while let Some(at) = self.order().first().copied() {
            let job = self.waiting[at].clone();
            self.leave(&job);
            // It may have been stopped meanwhile.
            let Some(share) = Share::of(&job, self.ways(devices, kind)) else {
                continue;
            };
            if job.shares().waits() {
                let kind = kind.to_owned();
                self.begun.push(Begun { job, kind });
            }
            return Some(share);
        }
        None
    }

    /// A job that waits has its turn.
    fn leave(&mut self, job: &Arc<Job>) {
        self.waiting.retain(|waiting| !Arc::ptr_eq(waiting, job));
        self.turn += 1;
        self.turns.insert(job.owner, self.turn);
        self.number();
    }

    /// Among how many devices a job is divided: those that draw it equally and that no
    /// other job waits for.
    fn ways(&self, devices: &Devices, kind: &str) -> usize {
        let ready = devices.of_kind(kind);
        ready.saturating_sub(self.waiting.len()).max(1)
    }

    fn owners(&self) -> impl Iterator<Item = Owner> + '_ {
        let waiting = self.waiting.iter().map(|job| job.owner);
        waiting.chain(self.promised.iter().copied())
    }

    /// Places in `waiting`, in the order in which they will have their turn.
    fn order(&self) -> Vec<usize> {
        let mut turns = self.turns.clone();
        let mut turn = self.turn;
        let mut rest: Vec<usize> = (0..self.waiting.len()).collect();
        let mut order = Vec::with_capacity(rest.len());
        let last = |turns: &HashMap<Owner, u64>, at: usize| {
            turns.get(&self.waiting[at].owner).copied().unwrap_or(0)
        };
        // The first of the least: `rest` is in order of arrival.
        while let Some(next) = (0..rest.len()).min_by_key(|i| last(&turns, rest[*i])) {
            let at = rest.remove(next);
            turn += 1;
            turns.insert(self.waiting[at].owner, turn);
            order.push(at);
        }
        order
    }

    /// Tells every waiting job its position, from 1.
    fn number(&self) {
        for (place, at) in self.order().into_iter().enumerate() {
            self.waiting[at].moved(place + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::shares::{Ended, Outcome};
    use super::*;

    /// Of a service with one device, which can draw.
    fn queue(most: usize, most_per_owner: usize) -> Queue {
        let devices = Arc::new(Devices::new(1));
        devices.opened(0, "a", 1);
        Queue::new(most, most_per_owner, devices)
    }

    fn pushed(queue: &Queue, owner: Owner, name: &str) -> Arc<Job> {
        let job = Arc::new(Job::for_test(name, owner));
        let slot = queue.admit(owner).unwrap();
        queue.push(slot, job.clone()).unwrap();
        job
    }

    fn drained(queue: &Queue) -> Vec<String> {
        (0..queue.len())
            .filter_map(|_| queue.next(0).map(|share| share.job.id.clone()))
            .collect()
    }

    /// Of devices of these kinds.
    fn on(kinds: &[&str]) -> (Queue, Arc<Devices>) {
        let devices = Arc::new(Devices::new(kinds.len()));
        for (device, kind) in kinds.iter().enumerate() {
            devices.opened(device, kind, 1);
        }
        (Queue::new(8, 8, devices.clone()), devices)
    }

    fn pushed_of(queue: &Queue, name: &str, samples: usize) {
        let job = Arc::new(Job::for_test_of(name, None, samples));
        let slot = queue.admit(None).unwrap();
        queue.push(slot, job).unwrap();
    }

    fn taken(queue: &Queue, device: usize) -> (String, std::ops::Range<usize>) {
        let share = queue.next(device).unwrap();
        (share.job.id.clone(), share.samples())
    }

    #[test]
    fn devices_that_draw_alike_share_a_job_that_nobody_waits_behind() {
        let (queue, _) = on(&["a", "b", "a", "a"]);
        pushed_of(&queue, "x", 6);
        assert_eq!(taken(&queue, 0), ("x".into(), 0..2));
        // Another kind of device draws other pictures, and begins another job.
        pushed_of(&queue, "y", 2);
        assert_eq!(taken(&queue, 1), ("y".into(), 0..2));
        assert_eq!(taken(&queue, 2), ("x".into(), 2..4));
        pushed_of(&queue, "z", 5);
        pushed_of(&queue, "w", 1);
        // What has begun goes on first, whole where others wait.
        assert_eq!(taken(&queue, 3), ("x".into(), 4..6));
        assert_eq!(taken(&queue, 0), ("z".into(), 0..3));
        assert_eq!(taken(&queue, 2), ("z".into(), 3..4));
    }

    #[test]
    fn jobs_that_fit_join_and_who_is_passed_over_comes_next() {
        let queue = queue(16, 16);
        for (owner, name) in [(1, "a1"), (2, "no"), (1, "a2"), (3, "c1"), (1, "a3")] {
            pushed(&queue, Some(owner), name);
        }
        let lead = queue.next(0).unwrap();
        assert_eq!(lead.job.id, "a1");
        let joined = queue.join(2, |job| job.id != "no");
        let names: Vec<&str> = joined.iter().map(|share| &share.job.id[..]).collect();
        assert_eq!(names, ["c1", "a2"]);
        assert!(queue.join(0, |_| true).is_empty());
        assert_eq!(drained(&queue), ["no", "a3"]);
    }

    #[test]
    fn another_kind_of_device_goes_on_where_none_of_the_first_kind_is_left() {
        let (queue, devices) = on(&["a", "b"]);
        pushed_of(&queue, "x", 1);
        let share = queue.next(0).unwrap();
        devices.lost(0);
        let ended = share.end(Outcome::Lost(Failure::Internal));
        assert!(matches!(ended, Ended::Again));
        queue.again(&share.job, "a");
        assert_eq!(queue.len(), 0);
        // Also while the service stops.
        assert!(queue.stop().is_empty());
        assert_eq!(taken(&queue, 1), ("x".into(), 0..1));
        assert!(queue.next(1).is_none());
    }

    /// Whoever waits for something else hears that a stopped queue has nothing more.
    #[test]
    fn a_stopped_queue_lets_every_device_go() {
        let (queue, _) = on(&["a", "b"]);
        pushed_of(&queue, "x", 1);
        let share = queue.next(0).unwrap();
        share.end(Outcome::Lost(Failure::Internal));
        queue.again(&share.job, "a");
        queue.stop();
        let (told, ended) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| told.send(queue.next(1).is_none()));
            // It waits: the job goes on elsewhere.
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert_eq!(taken(&queue, 0), ("x".into(), 0..1));
            let patience = std::time::Duration::from_secs(10);
            let heard = ended.recv_timeout(patience);
            queue.wake();
            assert_eq!(heard, Ok(true));
        });
    }

    #[test]
    fn what_was_stopped_is_not_begun_and_what_is_left_is_given_back() {
        let (queue, _) = on(&["a"]);
        let a = pushed(&queue, None, "a");
        pushed(&queue, None, "b");
        assert!(a.stop(Failure::Cancelled));
        let share = queue.next(0).unwrap();
        assert_eq!(share.job.id, "b");
        let ended = share.end(Outcome::Lost(Failure::Internal));
        assert!(matches!(ended, Ended::Again));
        queue.again(&share.job, "a");
        queue.again(&share.job, "a");
        assert_eq!(queue.close().len(), 1);
    }

    #[test]
    fn one_owner_is_served_in_order() {
        let queue = queue(8, 8);
        for name in ["a", "b", "c"] {
            pushed(&queue, None, name);
        }
        assert_eq!(drained(&queue), ["a", "b", "c"]);
    }

    #[test]
    fn owners_take_turns() {
        let queue = queue(16, 16);
        for name in ["a1", "a2", "a3", "a4"] {
            pushed(&queue, Some(1), name);
        }
        let b1 = pushed(&queue, Some(2), "b1");
        pushed(&queue, Some(3), "c1");
        pushed(&queue, Some(2), "b2");
        assert_eq!(b1.snapshot().position, 2);
        assert_eq!(drained(&queue), ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]);
    }

    #[test]
    fn who_had_a_turn_waits_for_the_others() {
        let queue = queue(16, 16);
        for name in ["a1", "a2"] {
            pushed(&queue, Some(1), name);
        }
        assert_eq!(queue.next(0).unwrap().job.id, "a1");
        pushed(&queue, Some(2), "b1");
        assert_eq!(drained(&queue), ["b1", "a2"]);
    }

    #[test]
    fn places_are_bounded_for_all_and_for_each() {
        let queue = queue(3, 2);
        let first = queue.admit(Some(1)).unwrap();
        pushed(&queue, Some(1), "a");
        let full = queue.admit(Some(1)).err().unwrap();
        assert!(full.to_string().contains("share"), "{full}");
        pushed(&queue, Some(2), "b");
        let full = queue.admit(Some(3)).err().unwrap();
        assert_eq!(full.to_string(), "the queue is full; try again in 1 s");
        queue.took(10.0);
        let full = queue.admit(Some(3)).err().unwrap();
        assert_eq!(full.retry_after(), Some(30));
        drop(first);
        assert!(queue.admit(Some(3)).is_ok());
    }

    #[test]
    fn a_stopped_queue_gives_back_what_waits() {
        let queue = queue(4, 4);
        let a = pushed(&queue, None, "a");
        pushed(&queue, None, "b");
        queue.remove(&a);
        queue.remove(&a);
        assert_eq!(queue.stop().len(), 1);
        assert!(queue.next(0).is_none());
        assert!(queue.admit(None).is_err());
    }
}
