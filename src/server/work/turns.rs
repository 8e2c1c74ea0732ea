//! Turns at work that few may do at a time: decoding pictures, fetching them.

use super::caller::Owner;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// A number of places, of which no key has all while there are several: the next turn is
/// that of the owner whose last turn is longest ago, as in [`super::queue::Queue`].
pub struct Turns {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Vec<Owner>,
    /// In order of arrival.
    waiting: Vec<(Owner, oneshot::Sender<Turn>)>,
    /// When each owner had the last turn, counted in turns.
    last: HashMap<Owner, u64>,
    turn: u64,
}

/// A place; dropping it gives the next one a turn.
pub struct Turn {
    turns: Arc<Turns>,
    owner: Owner,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        if let Some(at) = state.running.iter().position(|o| *o == self.owner) {
            state.running.swap_remove(at);
        }
        drop(state);
        self.turns.clone().pass_on();
    }
}

impl Turns {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn. Who stops waiting has none.
    pub async fn turn(self: &Arc<Self>, owner: Owner) -> Option<Turn> {
        let (give, given) = oneshot::channel();
        self.state().waiting.push((owner, give));
        self.clone().pass_on();
        given.await.ok()
    }

    /// Gives free places to those who wait.
    fn pass_on(self: Arc<Self>) {
        while let Some((owner, give)) = self.next() {
            let turns = self.clone();
            // Who waits no longer gives it back by dropping it.
            let _ = give.send(Turn { turns, owner });
        }
    }

    fn next(&self) -> Option<(Owner, oneshot::Sender<Turn>)> {
        let mut state = self.state();
        state.waiting.retain(|(_, give)| !give.is_closed());
        if state.running.len() >= self.most {
            return None;
        }
        let may = |owner: Owner| {
            let held = state.running.iter().filter(|o| **o == owner).count();
            owner.is_none() || held < (self.most - 1).max(1)
        };
        let waiting = state.waiting.iter().enumerate();
        let next = waiting
            .filter(|(_, (owner, _))| may(*owner))
            .min_by_key(|(_, (owner, _))| state.last.get(owner).copied().unwrap_or(0));
        let Some(at) = next.map(|(at, _)| at) else {
            if state.running.is_empty() {
                state.last.clear();
            }
            return None;
        };
        let chosen = state.waiting.remove(at);
        state.turn += 1;
        let turn = state.turn;
        state.last.insert(chosen.0, turn);
        state.running.push(chosen.0);
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    fn given(wait: Pin<&mut impl Future<Output = Option<Turn>>>) -> Option<Turn> {
        match wait.poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(turn) => turn,
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn one_key_never_has_all_places() {
        let turns = Turns::new(2);
        let first = given(pin!(turns.turn(Some(1)))).unwrap();
        let mut second = pin!(turns.turn(Some(1)));
        assert!(given(second.as_mut()).is_none());
        let other = given(pin!(turns.turn(Some(2)))).unwrap();
        drop(other);
        assert!(given(second.as_mut()).is_none());
        drop(first);
        assert!(given(second.as_mut()).is_some());
    }

    #[test]
    fn without_keys_all_places_are_used() {
        let turns = Turns::new(2);
        let first = given(pin!(turns.turn(None)));
        let second = given(pin!(turns.turn(None)));
        assert!(first.is_some() && second.is_some());
        assert!(given(pin!(turns.turn(None))).is_none());
    }

    #[test]
    fn who_had_no_turn_comes_before_who_waits_for_another() {
        let turns = Turns::new(2);
        let held = given(pin!(turns.turn(Some(1)))).unwrap();
        let mut again = pin!(turns.turn(Some(1)));
        let other = given(pin!(turns.turn(Some(2)))).unwrap();
        let mut new = pin!(turns.turn(Some(3)));
        assert!(given(again.as_mut()).is_none() && given(new.as_mut()).is_none());
        drop(held);
        assert!(given(again.as_mut()).is_none());
        assert!(given(new.as_mut()).is_some());
        drop(other);
    }

    #[test]
    fn who_stops_waiting_holds_nothing() {
        let turns = Turns::new(1);
        let held = given(pin!(turns.turn(Some(1)))).unwrap();
        {
            let mut gone = pin!(turns.turn(Some(2)));
            assert!(given(gone.as_mut()).is_none());
        }
        drop(held);
        assert!(given(pin!(turns.turn(Some(3)))).is_some());
    }
}
