//! Charges: reserved when a job comes, spent or refunded when it ends.

use super::keys::Balance;
use crate::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// The latest that a job may end, from its reservation on.
pub const LONGEST_JOB: Duration = Duration::from_secs(30 * 24 * 3600);
/// In bytes, of a job's id.
const LONGEST_ID: usize = 128;

/// What a charge is for, as the journal keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    pub route: &'a str,
    pub request_id: &'a str,
    pub samples: usize,
    pub steps: usize,
    /// In pixels, of one picture.
    pub width: usize,
    pub height: usize,
    pub refiner: bool,
    /// Of a job that may outlive the service which reserves for it.
    pub job: Option<Job<'a>>,
}

/// A job that is drawn elsewhere. What is reserved for it belongs to no service: whoever
/// knows the reservation settles it, and where nobody has by the deadline it is refunded.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// No two charges have the same.
    pub id: &'a str,
    /// From now, by the ledger's clock; at most [`LONGEST_JOB`].
    pub deadline: Duration,
}

/// Credits that are held for a job until it is settled or refunded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub id: i64,
    pub key: i64,
    /// In credits.
    pub amount: i64,
}

/// Where a charge is between its beginning and its one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Reserved,
    Spent,
    Refunded,
}

impl State {
    pub(super) const ALL: [State; 3] = [State::Reserved, State::Spent, State::Refunded];

    /// As the journal has it.
    pub fn name(self) -> &'static str {
        match self {
            State::Reserved => "reserved",
            State::Spent => "spent",
            State::Refunded => "refunded",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A charge as it is in the journal now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Its amount is what was spent, once it is.
    pub reservation: Reservation,
    pub state: State,
    /// The latest attempt that was noted; 0 where there was none.
    pub fence: i64,
}

/// What came of settling or refunding a charge.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It ended by this call.
    Paid(Balance),
    /// This attempt has ended it so before, and may go on where it was interrupted. Never of
    /// fence 0, which is no attempt's own.
    Before {
        fence: i64,
        spent: i64,
        balance: Balance,
    },
    /// Nothing was changed: it ended otherwise, or a newer attempt has begun.
    Refused { state: State, fence: i64 },
}

/// How a charge is to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub fence: i64,
    pub state: State,
    /// What leaves the key's balance.
    pub spent: i64,
    /// What the journal says from now on.
    pub charge: i64,
}

impl End {
    /// # Errors
    /// More than was reserved; a fence below 0.
    pub fn spent(reservation: &Reservation, fence: i64, spent: i64) -> Result<Self> {
        check_fence(fence)?;
        if !(0..=reservation.amount).contains(&spent) {
            let allowed = format!("must be from 0 to {}", reservation.amount);
            return Err(Error::invalid("spent", spent, allowed));
        }
        let (state, charge) = (State::Spent, spent);
        Ok(Self {
            fence,
            state,
            spent,
            charge,
        })
    }

    /// # Errors
    /// A fence below 0.
    pub fn refunded(reservation: &Reservation, fence: i64) -> Result<Self> {
        check_fence(fence)?;
        Ok(Self {
            fence,
            state: State::Refunded,
            spent: 0,
            // It still says what it was for.
            charge: reservation.amount,
        })
    }

    /// What to say where the charge could not end so: it is in `found`.
    pub fn instead(&self, found: &Charge, balance: Balance) -> Settlement {
        let Charge {
            reservation,
            state,
            fence,
        } = *found;
        if fence > 0 && (fence, state) == (self.fence, self.state) {
            let spent = match state {
                State::Spent => reservation.amount,
                State::Reserved | State::Refunded => 0,
            };
            return Settlement::Before {
                fence,
                spent,
                balance,
            };
        }
        Settlement::Refused { state, fence }
    }

    /// The charge is not what its reservation says, or there is none: of another ledger, or
    /// made up.
    pub fn mistaken(id: i64, found: Option<State>) -> Error {
        let state = found.map_or("unknown", State::name);
        let allowed = format!("cannot end: it is {state}; a charge ends once, as it was reserved");
        Error::invalid("charge", id, allowed)
    }
}

/// # Errors
/// A fence below 0.
fn check_fence(fence: i64) -> Result<()> {
    match fence {
        0.. => Ok(()),
        _ => Err(Error::invalid("fence", fence, "must be 0 or more")),
    }
}

/// # Errors
/// A negative amount; a job whose id or deadline is out of range.
pub(super) fn check_reservation(amount: i64, purpose: &Purpose<'_>) -> Result<()> {
    if amount < 0 {
        return Err(Error::invalid("amount", amount, "must be 0 or more"));
    }
    let Some(job) = &purpose.job else {
        return Ok(());
    };
    let printable = job.id.bytes().all(|byte| byte.is_ascii_graphic());
    if job.id.is_empty() || job.id.len() > LONGEST_ID || !printable {
        let allowed = format!("must be 1 to {LONGEST_ID} characters of ASCII, without spaces");
        return Err(Error::invalid("job", format!("{:?}", job.id), allowed));
    }
    if job.deadline > LONGEST_JOB {
        let allowed = format!("must be at most {} s", LONGEST_JOB.as_secs());
        let given = format!("{} s", job.deadline.as_secs_f64());
        return Err(Error::invalid("deadline", given, allowed));
    }
    Ok(())
}

/// Another charge is of this job.
pub(super) fn charged(job: &str) -> Error {
    let allowed = "has a charge already; look it up, or choose another id";
    Error::invalid("job", format!("{job:?}"), allowed)
}

/// One charge of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// When the job came: UTC, as ISO 8601.
    pub created: String,
    /// The key's name.
    pub key: String,
    pub route: String,
    pub request_id: String,
    pub samples: i64,
    pub steps: i64,
    /// In pixels, of one picture.
    pub width: i64,
    pub height: i64,
    pub refiner: bool,
    /// In credits.
    pub amount: i64,
    /// `reserved`, `spent` or `refunded`.
    pub state: String,
}

/// Databases count in `i64`.
pub(super) fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// # Errors
/// No days.
pub(super) fn check_days(days: u32) -> Result<()> {
    match days {
        0 => Err(Error::invalid("days", days, "must be 1 or more")),
        _ => Ok(()),
    }
}
