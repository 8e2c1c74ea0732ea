//! What only a server does: it is away, comes back, refuses, and is shared by hosts.

#[cfg(unix)]
#[path = "../../../../../tests/common/certificate.rs"]
mod certificate;
#[cfg(unix)]
mod cluster;
#[cfg(unix)]
mod database;
#[cfg(unix)]
mod trouble;

#[cfg(unix)]
pub use database::Database;
