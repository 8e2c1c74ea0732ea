//! The HTTP service: front doors, keys and credits, the job queue, the page.
//!
//! Its rooms, each of which uses only those below it: `site` and `doors`, `http` and `fleet`,
//! `work`, `config`, `ledger` and `media`.

mod config;
mod doors;
mod fleet;
mod http;
pub mod ledger;
mod media;
#[cfg(test)]
mod rooms;
mod router;
mod serve;
mod signals;
mod site;
mod work;

pub use config::{BrokerUrl, Config, Listen, LogFormat, Network, PublicUrl, Role, Setup};
pub use fleet::{Desk, Entry};
pub use serve::serve;
