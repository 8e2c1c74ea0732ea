//! The subcommands of the HTTP service.

mod broker;
mod jobs;
mod keys;
mod models;
mod serve;
mod worker;

use anyhow::Result;

#[derive(clap::Subcommand)]
pub enum Command {
    Serve(Box<serve::Args>),
    Worker(Box<worker::Args>),
    Jobs(jobs::Args),
    Keys(keys::Args),
}

impl Command {
    /// Whether it writes a log by its configuration, once it has read that.
    pub fn writes_log(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::Worker(_))
    }

    pub fn run(&self) -> Result<()> {
        match self {
            Self::Serve(args) => serve::run(args),
            Self::Worker(args) => worker::run(args),
            Self::Jobs(args) => jobs::run(args),
            Self::Keys(args) => keys::run(args),
        }
    }
}
