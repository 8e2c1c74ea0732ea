//! The HTTP service: front doors, keys and credits, the job queue, the page.

mod auth;
mod bodies;
mod body;
pub mod config;
mod docs;
pub mod doors;
mod failure;
mod health;
mod http;
mod job;
pub mod ledger;
mod lenient;
pub mod media;
mod metrics;
mod observe;
mod order;
mod page;
pub mod price;
mod queue;
mod serve;
mod service;
mod store;
mod turns;
mod worker;

pub use config::{Config, LogFormat, Setup};
pub use http::{Listen, Network, PublicUrl};
pub use serve::serve;
