//! `calotype inspect`.

use super::{error, output};
use anyhow::Result;
use calotype::checkpoint::Checkpoint;
use calotype::graph::Totals;
use calotype::model;
use std::process::ExitCode;

/// Say what a checkpoint is: its parts, parameters, precision, and problems
#[derive(clap::Args)]
pub struct Args {
    /// A diffusers folder, a .safetensors file, demo, or random:sdxl-base
    checkpoint: String,

    /// Print the fused graph of a part (text-encoder, text-encoder-2, unet,
    /// unet-shallow, unet-time, vae-decoder, vae-encoder) at the model's own size:
    /// ops, shapes, bytes, multiply-adds
    #[arg(long, value_name = "PART")]
    graph: Option<String>,

    /// Print one JSON object; with --graph its totals
    #[arg(long)]
    json: bool,
}

/// The totals of a graph, as `--json` prints them.
#[derive(serde::Serialize)]
struct Summary {
    nodes: usize,
    multiply_adds: u64,
    activation_bytes: Bytes,
    concatenation_operands: usize,
    concatenation_operands_in_place: usize,
}

/// Bytes of activations on a GPU, by how they are stored.
#[derive(serde::Serialize)]
struct Bytes {
    f16: u64,
    f32: u64,
    mixed: u64,
}

impl From<Totals> for Summary {
    fn from(totals: Totals) -> Self {
        let [f16, f32, mixed] = totals.activation_bytes;
        let [placed, operands] = totals.concatenated_in_place;
        Self {
            nodes: totals.nodes,
            multiply_adds: totals.multiply_adds,
            activation_bytes: Bytes { f16, f32, mixed },
            concatenation_operands: operands,
            concatenation_operands_in_place: placed,
        }
    }
}

/// Describes a checkpoint without loading it onto a device. A failure where it has
/// problems; they are part of what is printed.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(part) = &args.graph {
        let checkpoint = Checkpoint::open(super::checked_model(&args.checkpoint)?)?;
        let side = checkpoint.native_size();
        let graph = model::describe(&checkpoint, part, [side, side])?;
        match args.json {
            true => output::json(&Summary::from(graph.totals())),
            false => output::line(&graph.to_string()),
        }?;
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
