//! Front ends and workers with a broker between them.

#[cfg(target_os = "linux")]
#[path = "../common/adversity.rs"]
mod adversity;
#[path = "../common/broker.rs"]
mod broker;
#[cfg(target_os = "linux")]
#[path = "../../src/server/ledger/postgres/tests/cluster.rs"]
#[allow(dead_code, reason = "each user has a part")]
mod cluster;
#[cfg(target_os = "linux")]
mod load;
#[path = "../common/server.rs"]
mod server;
mod tasks;
