//! `calotype inspect`.

use super::output;
use anyhow::Result;
use calotype::pipeline::{Inspection, inspect};
use std::fmt::Write;

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
    let inspection = inspect(super::checked_model(&args.checkpoint)?)?;
    match args.json {
        true => output::json(&inspection),
        false => output::line(&describe(&args.checkpoint, &inspection)),
    }
}

fn describe(checkpoint: &str, inspection: &Inspection) -> String {
    let Inspection {
        kind,
        layout,
        parts,
    } = inspection;
    let mut text = format!("{checkpoint}: {kind}, {layout}");
    for part in parts {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n{:<16} {:>14} parameters  {:>5}  {:>9.1} MB  {:>5} tensors  {}",
            part.name,
            part.parameters,
            part.dtype,
            part.bytes as f64 / 1e6,
            part.tensors,
            part.architecture
        );
    }
    text
}
