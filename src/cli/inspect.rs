//! `calotype inspect`.

use super::output;
use anyhow::{Result, bail};
use calotype::checkpoint::Checkpoint;
use calotype::model;

/// Say what a checkpoint is: its parts, parameters, precision, and problems
#[derive(clap::Args)]
pub struct Args {
    /// A diffusers folder, a .safetensors file, demo, or random:sdxl-base
    checkpoint: String,

    /// Print the fused graph of a part (text-encoder, text-encoder-2, unet,
    /// vae-decoder, vae-encoder) at the model's own size: ops, shapes, bytes,
    /// multiply-adds
    #[arg(long, value_name = "PART", conflicts_with = "json")]
    graph: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Describes a checkpoint without loading it onto a device.
///
/// # Errors
/// Where it cannot be opened, or has problems, which are printed first.
pub fn run(args: &Args) -> Result<()> {
    if let Some(part) = &args.graph {
        let checkpoint = Checkpoint::open(super::checked_model(&args.checkpoint)?)?;
        let side = checkpoint.native_size();
        let graph = model::describe(&checkpoint, part, [side, side])?;
        return output::line(&graph.to_string());
    }
    let report = Checkpoint::inspect(super::checked_model(&args.checkpoint)?)?;
    match args.json {
        true => output::json(&report),
        false => output::line(report.to_string().trim_end()),
    }?;
    match report.problems.is_empty() {
        true => Ok(()),
        false => bail!("the checkpoint has problems; they are listed on stdout"),
    }
}
