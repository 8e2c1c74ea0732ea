//! `calotype inspect`.

use super::output;
use anyhow::Result;
use calotype::checkpoint::Checkpoint;

/// Say what a checkpoint is: its parts, parameters and precision
#[derive(clap::Args)]
pub struct Args {
    /// A diffusers folder, a .safetensors file, demo, or random:sdxl-base
    checkpoint: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Describes a checkpoint without loading it onto a device.
pub fn run(args: &Args) -> Result<()> {
    let report = Checkpoint::inspect(super::checked_model(&args.checkpoint)?)?;
    match args.json {
        true => output::json(&report),
        false => output::line(report.to_string().trim_end()),
    }
}
