//! `calotype convert`.

use super::{interrupt, output};
use anyhow::Result;
use calotype::Error;
use calotype::checkpoint::convert::{Precision, convert};
use calotype::checkpoint::{Checkpoint, open_vae};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Write a checkpoint as one file, which every program for SDXL reads
#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint: a diffusers folder, a file, or a built-in name
    #[arg(value_name = "IN")]
    model: String,

    /// The file: .safetensors, or .gguf, which stable-diffusion.cpp reads too
    #[arg(value_name = "OUT")]
    out: PathBuf,

    /// A UNet in place of the checkpoint's own: a file or a folder
    #[arg(long, value_name = "FILE")]
    unet: Option<String>,

    /// A VAE in place of the checkpoint's own
    #[arg(long, value_name = "FILE")]
    vae: Option<String>,

    /// How weights are stored; q8 and q4 are ggml's Q8_0 and Q4_0, in a .gguf, for
    /// matrices; those of text encoders are Q8_0 in both
    #[arg(long, default_value = "f16", value_parser = ["f32", "f16", "q8", "q4"], ignore_case = true)]
    weights: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Opens, converts, and says what was written.
pub fn run(args: &Args) -> Result<()> {
    let cancel = interrupt::install();
    let precision = args.weights.to_lowercase().parse::<Precision>()?;
    let mut checkpoint = Checkpoint::open(super::checked_model(&args.model)?)?;
    if let Some(unet) = &args.unet {
        checkpoint.replace_unet(unet)?;
    }
    if let Some(vae) = &args.vae {
        checkpoint.replace_vae(open_vae(vae)?)?;
    }
    let bar = match args.quiet {
        true => ProgressBar::hidden(),
        false => ProgressBar::new(0),
    };
    let style = ProgressStyle::with_template("{pos}/{len} tensors {wide_bar} {eta}")?;
    let bar = bar.with_style(style);
    let mut next = |done: usize, count: usize| {
        bar.set_length(count as u64);
        bar.set_position(done as u64);
        match cancel.is_cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    };
    let made = convert(&checkpoint, &args.out, precision, &mut next)?;
    bar.finish_and_clear();
    match args.json {
        true => output::json(&made),
        false => output::line(&args.out.display().to_string()),
    }
}
