//! Jobs that wait for the device: first come, first served, with a turn for every
//! owner in between.

use super::caller::Owner;
use super::failure::Failure;
use super::job::Job;
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
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Arc<Job>>,
    /// Owners of slots that hold no job yet.
    promised: Vec<Owner>,
    /// When each owner had the last turn, counted in turns.
    turns: HashMap<Owner, u64>,
    turn: u64,
    stopped: bool,
    /// Running mean of a job's seconds.
    seconds: f64,
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
    pub fn new(most: usize, most_per_owner: usize) -> Self {
        Self {
            most,
            most_per_owner,
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
            return Err(Failure::Unavailable("the service is shutting down"));
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
        let seconds = ((state.seconds * ahead as f64).ceil() as u64).clamp(1, 3600);
        Err(Failure::QueueFull { why, seconds })
    }

    /// Puts `job` into its place.
    pub fn push(&self, slot: Slot<'_>, job: Arc<Job>) -> Result<(), Failure> {
        drop(slot);
        let mut state = self.state();
        if state.stopped {
            return Err(Failure::Unavailable("the service is shutting down"));
        }
        state.waiting.push(job);
        state.number();
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for the next job; `None` once the queue is stopped.
    pub fn next(&self) -> Option<Arc<Job>> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(at) = state.order().first().copied() {
                let job = state.waiting.remove(at);
                state.turn += 1;
                let turn = state.turn;
                state.turns.insert(job.owner, turn);
                state.number();
                return Some(job);
            }
            // Nobody waits: all begin anew.
            state.turns.clear();
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes a job out; whether it was still waiting.
    pub fn remove(&self, job: &Arc<Job>) -> bool {
        let mut state = self.state();
        let Some(at) = state.waiting.iter().position(|j| Arc::ptr_eq(j, job)) else {
            return false;
        };
        state.waiting.remove(at);
        state.number();
        true
    }

    /// Lets nobody in any more and gives back what waits.
    pub fn stop(&self) -> Vec<Arc<Job>> {
        let mut state = self.state();
        state.stopped = true;
        self.changed.notify_all();
        std::mem::take(&mut state.waiting)
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
    use super::*;

    fn pushed(queue: &Queue, owner: Owner, name: &str) -> Arc<Job> {
        let job = Arc::new(Job::for_test(name, owner));
        let slot = queue.admit(owner).unwrap();
        queue.push(slot, job.clone()).unwrap();
        job
    }

    fn drained(queue: &Queue) -> Vec<String> {
        (0..queue.len())
            .filter_map(|_| queue.next().map(|job| job.id.clone()))
            .collect()
    }

    #[test]
    fn one_owner_is_served_in_order() {
        let queue = Queue::new(8, 8);
        for name in ["a", "b", "c"] {
            pushed(&queue, None, name);
        }
        assert_eq!(drained(&queue), ["a", "b", "c"]);
    }

    #[test]
    fn owners_take_turns() {
        let queue = Queue::new(16, 16);
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
        let queue = Queue::new(16, 16);
        for name in ["a1", "a2"] {
            pushed(&queue, Some(1), name);
        }
        assert_eq!(queue.next().unwrap().id, "a1");
        pushed(&queue, Some(2), "b1");
        assert_eq!(drained(&queue), ["b1", "a2"]);
    }

    #[test]
    fn places_are_bounded_for_all_and_for_each() {
        let queue = Queue::new(3, 2);
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
        let queue = Queue::new(4, 4);
        let a = pushed(&queue, None, "a");
        pushed(&queue, None, "b");
        assert!(queue.remove(&a));
        assert!(!queue.remove(&a));
        assert_eq!(queue.stop().len(), 1);
        assert!(queue.next().is_none());
        assert!(queue.admit(None).is_err());
    }
}
