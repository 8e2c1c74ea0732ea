//! The workers that a front end knows.

use super::wire::Card;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The workers that draw for a front end.
#[derive(Default)]
pub struct Crew(Mutex<Vec<Card>>);

impl Crew {
    fn cards(&self) -> MutexGuard<'_, Vec<Card>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many tasks may be out: each device has some to draw and one to begin with.
    pub fn room(&self) -> usize {
        self.cards().iter().map(|card| card.room).sum()
    }

    pub fn workers(&self) -> usize {
        self.cards().len()
    }

    pub fn devices(&self) -> usize {
        self.cards().iter().map(|card| card.devices.len()).sum()
    }

    /// Among how many devices a job may be divided: all, if their pictures are equal.
    pub fn width(&self) -> usize {
        let cards = self.cards();
        let devices = cards.iter().flat_map(|card| &card.devices);
        match devices.clone().collect::<BTreeSet<_>>().len() {
            1 => devices.count(),
            _ => 1,
        }
    }

    /// The places of those of a front end's `models` that a worker has.
    pub fn models(&self, models: &[[String; 2]]) -> Vec<usize> {
        let cards = self.cards();
        let places = models.iter().enumerate();
        let places = places.filter(|(_, [_, print])| cards.iter().any(|card| card.has(print)));
        places.map(|(place, _)| place).collect()
    }

    /// Takes the cards that were found.
    pub fn set(&self, found: Vec<Card>) {
        let mut cards = self.cards();
        for card in &found {
            if !cards.iter().any(|known| known.worker == card.worker) {
                let devices = card.devices.join(", ");
                tracing::info!("worker {} is there, with {devices}", card.worker);
            }
        }
        for card in cards.iter() {
            if !found.iter().any(|other| other.worker == card.worker) {
                tracing::warn!("worker {} is gone", card.worker);
            }
        }
        *cards = found;
    }
}
