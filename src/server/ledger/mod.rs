//! Keys and credits: in one SQLite file, or in a database of a PostgreSQL server.
//!
//! A key has credits. A job reserves its price before it starts; a picture
//! settles the reservation, a failure refunds it. The table of keys holds each
//! balance, journals of grants and charges say how it came about, and the database
//! refuses every change after which a balance would not add up.

mod charges;
mod contract;
mod keys;
mod place;
mod postgres;
mod secret;
mod sqlite;
#[cfg(test)]
mod tests;

pub use charges::{Charge, Job, LONGEST_JOB, Purpose, Reservation, Settlement, State, Usage};
pub use contract::{Charges, Keys, Ledger, Upkeep};
pub use keys::{Balance, Key, KeyInfo, MOST_CREDITS, check_new};
pub use place::Place;
