//! The graph of a part, for people.

use super::{autoencoder, clip, time, unet};
use crate::checkpoint::Checkpoint;
use crate::graph::Graph;
use crate::{Error, Field, Result};

/// Names that [`describe`] knows.
pub const GRAPHS: [&str; 7] = [
    "text-encoder",
    "text-encoder-2",
    "unet",
    "unet-shallow",
    "unet-time",
    "vae-decoder",
    "vae-encoder",
];

/// The fused graph of a part for a picture of `[height, width]` pixels: the UNet's
/// for a batch of 2, `unet-shallow` as steps between two of a cache interval run it; its
/// time embedding's for one step of it.
///
/// # Errors
/// Where `part` is no name of [`GRAPHS`], or the checkpoint lacks it.
pub fn describe(checkpoint: &Checkpoint, part: &str, size: [usize; 2]) -> Result<Graph> {
    let scale = checkpoint.vae_scale();
    let [h, w] = size.map(|x| x / scale);
    let tokens = checkpoint.tokenizer_2.max_length();
    let wrong = |allowed: String| Error::invalid(Field::Graph, part, allowed);
    let graph = match part {
        "text-encoder" => match &checkpoint.text_encoder {
            Some(config) => clip::graph(config, tokens, 0),
            None => return Err(wrong("a refiner has text-encoder-2 only".into())),
        },
        "text-encoder-2" => clip::graph(&checkpoint.text_encoder_2, tokens, 0),
        "unet" | "unet-shallow" => {
            let size = unet::Size {
                batch: 2,
                height: h,
                width: w,
                tokens,
            };
            let pass = match part {
                "unet" => unet::Pass::Whole,
                _ => unet::Pass::Shallow,
            };
            unet::graph_of(&checkpoint.unet, size, pass)
        }
        "unet-time" => time::graph(&checkpoint.unet, checkpoint.time_id_count(), 2),
        "vae-decoder" => autoencoder::decoder(&checkpoint.vae, [h, w]),
        "vae-encoder" if !checkpoint.vae.has_encoder() => {
            return Err(wrong("the VAE has a decoder only".into()));
        }
        "vae-encoder" => autoencoder::encoder(&checkpoint.vae, size),
        _ => return Err(wrong(format!("choose one of {}", GRAPHS.join(", ")))),
    };
    Ok(graph.optimise())
}
