//! `calotype schedulers`.

use super::output;
use anyhow::Result;
use calotype::schedule::{self, OptionInfo, SchedulerInfo};
use serde::Serialize;

/// List the schedulers, their other names and their options
#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct List {
    schedulers: Vec<SchedulerInfo>,
    options: &'static [OptionInfo],
}

/// Lists the schedulers.
pub fn run(args: &Args) -> Result<()> {
    let list = List {
        schedulers: schedule::list(),
        options: schedule::options(),
    };
    if args.json {
        return output::json(&list);
    }
    let schedulers = list.schedulers.iter().map(describe);
    let options = list.options.iter().map(explain);
    let lines: Vec<String> = schedulers
        .chain(["options (--scheduler-option NAME=VALUE):".to_string()])
        .chain(options)
        .collect();
    output::line(&lines.join("\n"))
}

fn describe(scheduler: &SchedulerInfo) -> String {
    let mut lines = vec![format!("{} ({})", scheduler.name, scheduler.class)];
    if !scheduler.aliases.is_empty() {
        lines.push(format!("also: {}", scheduler.aliases.join(", ")));
    }
    if !scheduler.implies.is_empty() {
        let pairs = scheduler.implies.iter();
        let pairs: Vec<_> = pairs
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        lines.push(format!("unless said otherwise: {}", pairs.join(", ")));
    }
    if scheduler.edm {
        lines.push("also with models over noise levels (EDM)".to_string());
    }
    lines.push(format!("options: {}", scheduler.options.join(", ")));
    lines.join("\n    ")
}

fn explain(option: &OptionInfo) -> String {
    let short = option.short.map(|short| format!(" (or {short})"));
    format!(
        "    {}{}: {}",
        option.name,
        short.unwrap_or_default(),
        option.values
    )
}
