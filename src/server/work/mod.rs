//! From an order to its pictures: prices, keys and credits, the queue, the device, results.
//! Nothing here knows of HTTP.

mod admission;
mod books;
mod caller;
mod devices;
mod drawn;
mod failure;
mod job;
mod jobs;
mod metrics;
mod model;
mod models;
mod order;
mod queue;
mod service;
mod share;
mod shares;
mod store;
mod ticket;
mod turns;
mod worker;

pub use caller::{Caller, Owner};
pub use drawn::{Drawn, Made};
pub use failure::Failure;
pub use job::{Job, Preview, Snapshot, State};
pub use metrics::Now;
pub use model::{Model, same};
pub use order::{MaskOrder, Order, Prepared, Size, within};
pub use service::{Service, blocking};
pub use share::Share;
pub use shares::{Outcome, Part};
pub use ticket::{Finished, Ticket};
pub use worker::work;
