//! From sockets to requests: where the service listens, who may hold a connection, TLS,
//! what is read of a request, and what stands around every answer.

pub mod accept;
mod app;
mod auth;
mod bodies;
pub mod body;
mod client;
mod connection;
mod connections;
mod failure;
pub mod lenient;
mod listen;
mod observe;
mod tls;

pub use app::App;
pub use client::Client;
pub use connection::{Serving, serve};
pub use listen::Listener;
pub use observe::{RequestId, guard, meet_body, observe};
pub use tls::Tls;
