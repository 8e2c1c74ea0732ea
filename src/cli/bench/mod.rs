//! `calotype bench` and what is below it.

mod common;
mod peaks;

use anyhow::Result;
use calotype::Error;
use calotype::pipeline::request;

/// Measure a GPU: its peaks, every kernel, SDXL's stages, the service
#[derive(clap::Args)]
#[command(subcommand_required = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Peaks(peaks::Args),
}

/// Measures what is asked for and prints it.
pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Peaks(args) => peaks::run(args),
    }
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
