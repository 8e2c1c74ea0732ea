//! Many machines: front ends that take requests and settle them, workers that draw, and a
//! NATS server with JetStream between them.
//!
//! A front end publishes a task for each share of a job to a work queue, which a worker
//! takes by a lease. The broker gives a task whose lease ran out to another worker; each
//! delivery has a number, the fence. A worker asks the front end before it draws, and the
//! front end takes the result of the highest fence that it knows, once. Credits are moved
//! by the front end's ledger alone, whatever the broker acknowledges: JetStream takes an
//! acknowledgement that comes late (nats-io/nats-server#4786).

mod broker;
mod crew;
mod desk;
mod dispatch;
mod errand;
mod front;
mod intake;
mod models;
mod muster;
mod parcel;
mod results;
mod wire;
mod worker;

pub use desk::{Desk, Entry};
pub use front::Front;
pub use worker::Worker;
