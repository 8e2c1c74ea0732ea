//! `calotype bench` and what is below it.

mod ab;
mod common;
mod compare;
mod kernels;
mod model;
mod overview;
mod peaks;
mod results;
#[cfg(feature = "server")]
mod serve;

use super::output;
use anyhow::Result;
use calotype::Error;
use calotype::bench::report::schema;
use calotype::pipeline::request;
use std::process::ExitCode;

/// Measure a GPU: its peaks, every kernel, SDXL's stages, the service
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,

    /// Print the JSON Schema of reports and stop
    #[arg(long)]
    schema: bool,

    #[command(flatten)]
    overview: overview::Args,
}

#[derive(clap::Subcommand)]
enum What {
    Peaks(peaks::Args),
    Kernels(Box<kernels::Args>),
    Model(Box<model::Args>),
    #[cfg(feature = "server")]
    Serve(serve::Args),
    Compare(compare::Args),
    Ab(ab::Args),
    Results(results::Args),
}

/// Measures what is asked for and prints it.
pub fn run(args: &Args) -> Result<ExitCode> {
    let done = match &args.what {
        None if args.schema => output::line(&serde_json::to_string_pretty(&schema())?),
        None => overview::run(&args.overview),
        Some(What::Peaks(args)) => peaks::run(args),
        Some(What::Model(args)) => model::run(args),
        #[cfg(feature = "server")]
        Some(What::Serve(args)) => serve::run(args),
        Some(What::Kernels(args)) => return kernels::run(args),
        Some(What::Results(args)) => results::run(args),
        Some(What::Ab(args)) => return ab::run(args),
        Some(What::Compare(args)) => return compare::run(args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// A side in pixels, the model's own where it is not given.
pub fn side(field: &str, value: Option<i64>, native: usize) -> calotype::Result<usize> {
    let Some(value) = value else {
        return Ok(native);
    };
    usize::try_from(value)
        .ok()
        .filter(|v| request::SIZES.contains(v) && v % request::SIZE_STEP == 0)
        .ok_or_else(|| Error::invalid(field, value, "must be a multiple of 8 from 64 to 8192"))
}
