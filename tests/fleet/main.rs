//! Front ends and workers with a broker between them.

#[cfg(target_os = "linux")]
#[path = "../common/adversity.rs"]
mod adversity;
#[path = "../common/broker.rs"]
mod broker;
#[cfg(unix)]
#[path = "../common/certificate.rs"]
mod certificate;
#[cfg(target_os = "linux")]
#[path = "../../src/server/ledger/postgres/tests/cluster.rs"]
#[allow(dead_code, reason = "each user has a part")]
mod cluster;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod proxy;
#[cfg(unix)]
mod secrets;
#[path = "../common/server.rs"]
mod server;
mod tasks;

use server::{SMALL_VAE, Server};
use std::process::Command;

/// A model that both sides have, and that decodes in no time.
const MODEL: [&str; 4] = ["--vae", SMALL_VAE, "--warm-up", "false"];

fn calotype() -> Command {
    Command::new(env!("CARGO_BIN_EXE_calotype"))
}

/// What starts a worker, by a `command` that runs the program.
fn as_worker(mut command: Command, url: &str, more: &[&str]) -> Command {
    command.args(["worker", "--listen", "127.0.0.1:0", "--lease", "2"]);
    command.args(["--broker", url]).args(MODEL).args(more);
    command
}

fn worker_by(command: Command, url: &str) -> Server {
    Server::launch(&mut as_worker(command, url, &[]))
}

fn worker(url: &str) -> Server {
    worker_by(calotype(), url)
}
