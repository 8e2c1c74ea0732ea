//! What every ledger does, wherever it is stored.

use super::charges::{Charge, Purpose, Reservation, Settlement, Usage};
use super::keys::{Balance, Key, KeyInfo};
use crate::Result;
use std::path::Path;

/// The books of keys and credits. All functions block, mostly for a lookup; those that write
/// wait for the disk or the server. Every one may fail because the place cannot be used now;
/// [`Upkeep::is_well`] tells then.
pub trait Ledger: Keys + Charges + Upkeep {}

impl<T: Keys + Charges + Upkeep> Ledger for T {}

/// Keys: made, listed, granted credits, revoked, recognized.
pub trait Keys {
    /// Makes a key and gives its secret, which is kept nowhere.
    ///
    /// # Errors
    /// Those of [`super::check_new`]; the name is taken, by a revoked key too.
    fn add(&self, name: &str, credits: i64) -> Result<String>;

    /// All keys, revoked ones too, oldest first.
    ///
    /// # Errors
    /// They cannot be read.
    fn list(&self) -> Result<Vec<KeyInfo>>;

    /// Shuts a key for good; jobs that it has started still end. A key that is
    /// revoked stays as it is.
    ///
    /// # Errors
    /// No key has this name.
    fn revoke(&self, name: &str) -> Result<()>;

    /// Gives a key more credits, from 1.
    ///
    /// # Errors
    /// No key has this name, or it is revoked; the key would have been granted
    /// more than [`super::MOST_CREDITS`].
    fn grant(&self, name: &str, credits: i64) -> Result<Balance>;

    /// The key whose secret was presented; `None` where it is missing, unknown or
    /// revoked. All of these take the same steps.
    ///
    /// # Errors
    /// The books cannot be read.
    fn authenticate(&self, presented: Option<&str>) -> Result<Option<Key>>;

    /// # Errors
    /// No key has this id, or the books cannot be read.
    fn balance(&self, key: i64) -> Result<Balance>;
}

/// Charges: reserved when a job comes, spent or refunded when it ends.
///
/// A job that is drawn again and again until one attempt succeeds has a number for each
/// attempt, its fence, from 1 upwards. The ledger notes the highest that it heard of; what an
/// attempt with a lower one asks for is refused. What is drawn in the process that reserved
/// has the fence 0.
pub trait Charges {
    /// Holds `amount` credits of a key. `None`, and nothing is changed, where the
    /// key has not that much left or was revoked since it was recognized.
    ///
    /// # Errors
    /// A negative amount; a job that has a charge, or whose id or deadline is out of range;
    /// the books cannot be written.
    fn reserve(&self, key: i64, amount: i64, purpose: &Purpose<'_>) -> Result<Option<Reservation>>;

    /// Notes that the attempt `fence` begins. Gives whether it may: the reservation is open,
    /// and no attempt so high was noted.
    ///
    /// # Errors
    /// The books cannot be written.
    fn claim(&self, reservation: &Reservation, fence: i64) -> Result<bool>;

    /// The job has drawn: `spent` of what was reserved is spent, and the charge is that
    /// much; the rest can be spent again.
    ///
    /// # Errors
    /// More than was reserved, or a fence below 0; no such reservation was made; the books
    /// cannot be written.
    fn settle(&self, reservation: &Reservation, fence: i64, spent: i64) -> Result<Settlement>;

    /// The job has failed: what was reserved can be spent again.
    ///
    /// # Errors
    /// Those of [`Charges::settle`].
    fn refund(&self, reservation: &Reservation, fence: i64) -> Result<Settlement>;

    /// The charge of a job, open or ended; `None` also where it was pruned.
    ///
    /// # Errors
    /// The books cannot be read.
    fn charge_of(&self, job: &str) -> Result<Option<Charge>>;

    /// The latest charges, at most `most`, latest first; of one key where a name
    /// is given.
    ///
    /// # Errors
    /// No key has this name; the books cannot be read.
    fn usage(&self, name: Option<&str>, most: usize) -> Result<Vec<Usage>>;
}

/// What keeps the books in order.
pub trait Upkeep: Send + Sync {
    /// Whether the books could be used at the last try.
    fn is_well(&self) -> bool;

    /// Tries whether the books can be written; waits for another program's transaction.
    ///
    /// # Errors
    /// They cannot.
    fn probe(&self) -> Result<()>;

    /// Says that this service lives, where others know it by that only: to be called every
    /// few seconds, whether or not the ledger is well.
    ///
    /// # Errors
    /// It cannot be said.
    fn renew(&self) -> Result<()>;

    /// Refunds what services that died had reserved, and gives how many reservations
    /// there were. Those of living ones stay, and those of jobs with a deadline.
    ///
    /// # Errors
    /// The books cannot be written.
    fn refund_dead(&self) -> Result<usize>;

    /// Refunds what is reserved for jobs whose deadline has passed, and gives how many
    /// reservations there were.
    ///
    /// # Errors
    /// The books cannot be written.
    fn refund_overdue(&self) -> Result<usize>;

    /// Compares each balance with the sums of its journals, and has a file checked. Reads
    /// everything.
    ///
    /// # Errors
    /// The first key whose figures differ, with the figures; what is damaged.
    fn check(&self) -> Result<()>;

    /// Copies all keys, credits and charges, as they are at one moment, to a new file at
    /// `to`, which its owner alone may read. A service may go on meanwhile.
    ///
    /// # Errors
    /// There is a file at `to` already, or it cannot be written; the books are in no file.
    fn backup(&self, to: &Path) -> Result<()>;

    /// Removes the charges that ended more than `days` days ago, and gives how many there
    /// were. The latest of each key stays, and so do all balances. A service may go on
    /// meanwhile.
    ///
    /// # Errors
    /// No days; the books cannot be written.
    fn prune(&self, days: u32) -> Result<usize>;
}
