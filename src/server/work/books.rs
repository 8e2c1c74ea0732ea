//! Keys and credits, off the threads that answer requests: the ledger waits for the disk.

use super::admission::Arrival;
use super::caller::{Caller, Owner};
use super::failure::Failure;
use super::service::{Service, blocking};
use crate::Result;
use crate::pipeline::{Refinement, Request};
use crate::server::ledger::{Key, Ledger, Purpose, Reservation, Settlement};
use std::sync::{MutexGuard, PoisonError};

/// The fence of what is drawn in this process, of which there is one attempt.
const HERE: i64 = 0;

impl Service {
    /// The key that a request shows, if the service has keys and it is one.
    pub async fn authenticate(&self, presented: Option<String>) -> Result<Option<Key>, Failure> {
        if self.ledger.is_none() {
            return Ok(None);
        }
        let found = self
            .with_ledger(move |ledger| ledger.authenticate(presented.as_deref()))
            .await?;
        match found {
            Some(key) => Ok(Some(key)),
            None => Err(Failure::Unauthorized),
        }
    }

    /// Credits left to a caller; `None` where the service has no keys.
    pub async fn credits(&self, caller: &Caller) -> Result<Option<i64>, Failure> {
        self.remaining(caller.owner()).await
    }

    /// Refuses a key that has fewer credits than `cost`.
    pub async fn require_credits(&self, owner: Owner, cost: i64) -> Result<(), Failure> {
        match self.remaining(owner).await? {
            Some(remaining) if remaining < cost => Err(Failure::Credits { cost, remaining }),
            _ => Ok(()),
        }
    }

    async fn remaining(&self, owner: Owner) -> Result<Option<i64>, Failure> {
        let Some(key) = owner else { return Ok(None) };
        let balance = self.with_ledger(move |ledger| ledger.balance(key)).await?;
        Ok(Some(balance.remaining))
    }

    pub(super) async fn with_ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Ledger) -> Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let service = self.clone();
        blocking(move || match &service.ledger {
            Some(ledger) => work(&**ledger).map_err(|error| match ledger.is_well() {
                true => Failure::internal(error),
                false => {
                    tracing::error!("{error}");
                    Failure::Unavailable("the books of keys and credits cannot be used now")
                }
            }),
            None => Err(Failure::internal("there is no database of keys")),
        })
        .await?
    }

    pub(super) async fn reserve(
        &self,
        cost: i64,
        request: &Request,
        arrival: &Arrival,
    ) -> Result<Option<Reservation>, Failure> {
        let Some(key) = arrival.owner else {
            return Ok(None);
        };
        let (samples, steps) = (request.samples, request.steps);
        let (width, height) = (request.width, request.height);
        let refiner = request.refinement != Refinement::None;
        let (route, request_id) = (arrival.route, arrival.request_id.clone());
        let reserved = self
            .with_ledger(move |ledger| {
                let purpose = Purpose {
                    route,
                    request_id: &request_id,
                    samples,
                    steps,
                    width,
                    height,
                    refiner,
                    job: None,
                };
                Ok(match ledger.reserve(key, cost, &purpose)? {
                    Some(reservation) => Ok(reservation),
                    None => Err(ledger.balance(key)?.remaining),
                })
            })
            .await?;
        reserved
            .map(Some)
            .map_err(|remaining| Failure::Credits { cost, remaining })
    }

    /// Refunds what no job was made of.
    pub(super) async fn give_back(&self, reservation: Reservation) {
        let service = self.clone();
        // What it cannot do now is done later.
        let _ = blocking(move || service.settle(Some(reservation), None)).await;
    }

    /// Pays `spent` of what was reserved, or refunds it; the credits that remain. Where the
    /// ledger cannot be written it is done later.
    pub(super) fn settle(
        &self,
        reservation: Option<Reservation>,
        spent: Option<i64>,
    ) -> Option<i64> {
        let (ledger, reservation) = (self.ledger.as_ref()?, reservation?);
        let settled = match spent {
            Some(spent) => ledger.settle(&reservation, HERE, spent),
            None => ledger.refund(&reservation, HERE),
        };
        match settled {
            Ok(Settlement::Paid(balance)) => {
                self.metrics.paid(spent.unwrap_or_default());
                Some(balance.remaining)
            }
            Ok(Settlement::Before { balance, .. }) => Some(balance.remaining),
            Ok(Settlement::Refused { state, .. }) => {
                let id = reservation.id;
                tracing::error!("charge {id} cannot end: it is {state}; a charge ends once");
                None
            }
            Err(error) => {
                tracing::error!("{error}");
                if !ledger.is_well() {
                    self.unsettled().push((reservation, spent));
                }
                None
            }
        }
    }

    /// Says that this service lives, and refunds what others on the same ledger reserved and
    /// died with, and what is reserved for jobs that did not end in time.
    pub fn keep_books(&self) {
        let Some(ledger) = &self.ledger else { return };
        let was_well = ledger.is_well();
        let renewed = ledger.renew();
        // Where it cannot be written, what is due tells when it can again.
        let kept = match ledger.is_well() {
            true => renewed.and_then(|()| {
                ledger.refund_dead()?;
                ledger.refund_overdue()
            }),
            false => renewed.map(|()| 0),
        };
        // Trouble that lasts was told when it came.
        if let Err(error) = kept
            && was_well
        {
            tracing::error!("{error}");
        }
    }

    pub(super) fn unsettled(&self) -> MutexGuard<'_, Vec<(Reservation, Option<i64>)>> {
        self.unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
