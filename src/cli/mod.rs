//! The command line: one file a subcommand. Results go to stdout, everything
//! else to stderr. Exit codes: 0, 2 for a wrong request, 130 when interrupted,
//! 1 for anything else.

mod bench;
mod convert;
mod device;
mod devices;
mod error;
mod generate;
mod inspect;
mod interrupt;
mod manual;
mod output;
mod progress;
#[cfg(feature = "pull")]
mod pull;
mod schedulers;
#[cfg(feature = "server")]
mod service;
mod styles;
mod tune;
mod usage;
mod version;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Draws pictures from words with SDXL, on any GPU.
#[derive(Parser)]
#[command(name = "calotype", version, long_version = version::long(), arg_required_else_help = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::Args>),
    Bench(Box<bench::Args>),
    Tune(tune::Args),
    Devices(devices::Args),
    Inspect(inspect::Args),
    Convert(convert::Args),
    Styles(styles::Args),
    Schedulers(schedulers::Args),
    #[cfg(feature = "server")]
    #[command(flatten)]
    Service(service::Command),
    #[cfg(feature = "pull")]
    Pull(pull::Args),
    Completions(manual::Completions),
    Man(manual::Manual),
}

impl Command {
    fn writes_log(&self) -> bool {
        match self {
            #[cfg(feature = "server")]
            Self::Service(command) => command.writes_log(),
            _ => false,
        }
    }
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let parsed = Cli::command()
        .try_get_matches()
        .and_then(|found| Ok((Cli::from_arg_matches(&found)?, found)));
    let (cli, found) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage::report(&error),
    };
    if let Some((name, below)) = found.subcommand() {
        error::about(name, prints_json(below));
    }
    if !cli.command.writes_log() {
        start_log("warn", false);
    }
    let result = match cli.command {
        Command::Generate(args) => generate::run(&args),
        Command::Bench(args) => {
            return bench::run(&args).unwrap_or_else(|error| error::report(&error));
        }
        Command::Tune(args) => tune::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Inspect(args) => {
            return inspect::run(&args).unwrap_or_else(|error| error::report(&error));
        }
        Command::Convert(args) => convert::run(&args),
        Command::Styles(args) => styles::run(&args),
        Command::Schedulers(args) => schedulers::run(&args),
        #[cfg(feature = "pull")]
        Command::Pull(args) => pull::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::manual(&args),
        #[cfg(feature = "server")]
        Command::Service(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error::report(&error),
    }
}

/// Whether `--json` is given to the subcommand or to one below it.
fn prints_json(found: &ArgMatches) -> bool {
    let here = found.try_get_one::<bool>("json").ok().flatten();
    here.copied().unwrap_or(false)
        || found
            .subcommand()
            .is_some_and(|(_, below)| prints_json(below))
}

/// The log on stderr. `CALOTYPE_LOG` or `RUST_LOG` say what it holds; by default
/// this program's own lines from `level` up, because a driver's would stand between
/// the user and the one line that matters. `json` writes one object a line.
fn start_log(level: &str, json: bool) {
    let filter = ["CALOTYPE_LOG", "RUST_LOG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_else(|| format!("off,calotype={level}"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().parse_lossy(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // Fails only where a log was started before.
    let _ = match json {
        true => subscriber.json().flatten_event(true).try_init(),
        false => subscriber.try_init(),
    };
}

/// Refuses an empty name, which a forgotten shell variable leaves behind.
fn checked_model(model: &str) -> calotype::Result<&str> {
    match model.is_empty() {
        true => Err(calotype::Error::invalid(
            "model",
            "empty",
            "must be a folder, a .safetensors file, demo or random:sdxl-base",
        )),
        false => Ok(model),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// Finds flags that take one another's place, among other mistakes.
    #[test]
    fn the_flags_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
