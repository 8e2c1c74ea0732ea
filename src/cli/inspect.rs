//! `calotype inspect`.

use super::{error, output};
use anyhow::Result;
use calotype::checkpoint::Checkpoint;
use calotype::model;
use std::process::ExitCode;

/// Say what a checkpoint is: its parts, parameters, precision, and problems
#[derive(clap::Args)]
pub struct Args {
    /// A diffusers folder, a .safetensors file, demo, or random:sdxl-base
    checkpoint: String,

    /// Print the fused graph of a part (text-encoder, text-encoder-2, unet,
    /// unet-time, vae-decoder, vae-encoder) at the model's own size: ops, shapes,
    /// bytes, multiply-adds
    #[arg(long, value_name = "PART", conflicts_with = "json")]
    graph: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Describes a checkpoint without loading it onto a device. A failure where it has
/// problems; they are part of what is printed.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(part) = &args.graph {
        let checkpoint = Checkpoint::open(super::checked_model(&args.checkpoint)?)?;
        let side = checkpoint.native_size();
        let graph = model::describe(&checkpoint, part, [side, side])?;
        output::line(&graph.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = Checkpoint::inspect(super::checked_model(&args.checkpoint)?)?;
    match args.json {
        true => output::json(&report),
        false => output::line(report.to_string().trim_end()),
    }?;
    match report.problems.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => {
            error::say("the checkpoint has problems; they are listed on stdout");
            Ok(ExitCode::from(error::FAILURE))
        }
    }
}
