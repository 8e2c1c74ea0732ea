//! From sockets to requests: where the service listens, who may hold a connection, TLS.

mod client;
mod connection;
mod connections;
mod listen;
mod public_url;
mod tls;

pub use client::{Client, Network, can_be_rebound, name_of, names_its_host};
pub use connection::{Peer, Serving, serve};
pub use listen::{Listen, Listener};
pub use public_url::PublicUrl;
pub use tls::Tls;
