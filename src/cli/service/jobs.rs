//! `calotype jobs`.

use super::broker::BrokerArgs;
use anyhow::Result;
use calotype::server::{Config, Desk, Entry};
use std::path::PathBuf;

/// Look at what front ends gave out to workers
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    broker: BrokerArgs,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the tasks that no worker has ended
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the tasks that were given out too often, of the last week
    Dead {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Draw a dead task again, for nobody's credits
    Retry {
        task: String,
        /// Where its pictures go
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        out: PathBuf,
    },
    /// Remove a task; where it is open, its request fails and is refunded
    Drop { task: String },
}

/// Carries out one of them.
pub fn run(args: &Args) -> Result<()> {
    let desk = Desk::open(&args.broker.over(Config::default()))?;
    match &args.action {
        Action::List { json } => print(&desk.open_tasks()?, *json),
        Action::Dead { json } => print(&desk.dead_tasks()?, *json),
        Action::Drop { task } => Ok(desk.drop_task(task)?),
        Action::Retry { task, out } => {
            for path in desk.retry(task, out)? {
                crate::cli::output::line(&path.display().to_string())?;
            }
            Ok(())
        }
    }
}

fn print(entries: &[Entry], json: bool) -> Result<()> {
    if json {
        let text = serde_json::to_string_pretty(&serde_json::json!({ "tasks": entries }))?;
        return crate::cli::output::line(&text);
    }
    let titles = ["task", "request", "model", "since", "why"];
    let rows = entries.iter().map(|entry| {
        let why = entry.why.clone().unwrap_or_default();
        let (task, request) = (entry.task.clone(), entry.request_id.clone());
        [
            task,
            request,
            entry.model.clone(),
            entry.created.clone(),
            why,
        ]
    });
    crate::cli::output::line(&super::keys::table(&titles, rows))
}
