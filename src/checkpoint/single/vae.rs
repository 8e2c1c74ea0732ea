//! A VAE in a file: inside a whole checkpoint, or by itself in any of the layouts
//! in which SDXL's VAEs and TAESD are published.

use super::names::Names;
use super::shapes::{Object, count, dim, has, object};
use super::source::Single;
use super::{Known, architecture, taesd};
use crate::Result;
use crate::checkpoint::config::Autoencoder;
use crate::checkpoint::file::TensorFile;
use crate::checkpoint::tensor::TensorSource;
use crate::checkpoint::weights::{Weights, missing};
use serde_json::json;
use std::sync::Arc;

/// Where whole checkpoints keep the VAE.
pub(super) const PREFIX: &str = "first_stage_model.";

/// SDXL's latents times this have a deviation of about 1.
const SCALING_FACTOR: f64 = 0.13025;

/// A VAE's configuration and tensors.
pub(super) type Opened = (Autoencoder, Arc<dyn TensorSource>);

/// Where in a file a VAE is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    prefix: &'static str,
    /// Whether its names are diffusers'.
    diffusers: bool,
}

impl Place {
    const fn new(prefix: &'static str, diffusers: bool) -> Self {
        Self { prefix, diffusers }
    }

    /// Every place that is looked at.
    const ALL: [Place; 5] = [
        Place::new(PREFIX, false),
        Place::new("vae.", false),
        Place::new("vae.", true),
        Place::new("", false),
        Place::new("", true),
    ];

    /// Where the VAE of `file` is, if it has one; its decoder suffices.
    pub fn find(file: &TensorFile) -> Option<Self> {
        let found = |place: &Place| has(file, &place.block(0, 0));
        Self::ALL.into_iter().find(found)
    }

    fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// A convolution of the decoder, by the number of its level in the file.
    fn block(&self, level: usize, i: usize) -> String {
        match self.diffusers {
            true => self.key(&format!(
                "decoder.up_blocks.{level}.resnets.{i}.conv1.weight"
            )),
            false => self.key(&format!("decoder.up.{level}.block.{i}.conv1.weight")),
        }
    }

    /// Whether it can also encode.
    ///
    /// # Errors
    /// Where a part of the encoder is there, but not its first block.
    pub fn has_encoder(&self, file: &TensorFile) -> Result<bool> {
        let first = match self.diffusers {
            true => self.key("encoder.down_blocks.0.resnets.0.conv1.weight"),
            false => self.key("encoder.down.0.block.0.conv1.weight"),
        };
        let start = self.key("encoder.");
        match has(file, &first) {
            true => Ok(true),
            false if file.names().iter().any(|name| name.starts_with(&start)) => {
                Err(missing(file.path(), &first))
            }
            false => Ok(false),
        }
    }

    pub fn names(&self, levels: usize) -> Names {
        let prefix = self.prefix.to_string();
        match self.diffusers {
            true => Names::Plain { prefix },
            false => Names::Vae { prefix, levels },
        }
    }

    /// `vae/config.json` of an `AutoencoderKL`, by its decoder.
    pub fn config(&self, file: &TensorFile) -> Result<Object> {
        let key = |rest: &str| self.key(rest);
        let levels = count(file, |level| self.block(level, 0));
        let widths = (0..levels).map(|level| dim(file, &self.block(level, 0), 0));
        let mut widths = widths.collect::<Result<Vec<usize>>>()?;
        // diffusers counts the decoder's levels from the lowest resolution on.
        if self.diffusers {
            widths.reverse();
        }
        // The newest name, and older ones that diffusers still reads.
        let queries = match self.diffusers {
            true => ["to_q", "query", "q"].map(|q| format!("decoder.mid_block.attentions.0.{q}")),
            false => ["q", "to_q", "query"].map(|q| format!("decoder.mid.attn_1.{q}")),
        };
        let attends = queries
            .iter()
            .any(|q| has(file, &key(&format!("{q}.weight"))));
        Ok(object(json!({
            "in_channels": 3,
            "out_channels": dim(file, &key("decoder.conv_out.weight"), 0)?,
            "latent_channels": dim(file, &key("decoder.conv_in.weight"), 1)?,
            "block_out_channels": widths,
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
            // One block more than on the way down.
            "layers_per_block": count(file, |i| self.block(0, i)).saturating_sub(1),
            "sample_size": 1024,
            "scaling_factor": SCALING_FACTOR,
            "force_upcast": true,
            "use_quant_conv": has(file, &key("quant_conv.weight")),
            "use_post_quant_conv": has(file, &key("post_quant_conv.weight")),
            "mid_block_add_attention": attends,
        })))
    }
}

/// What is known of the latents of a checkpoint without a VAE: they are SDXL's.
pub(in crate::checkpoint) fn absent() -> Object {
    object(json!({
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": vec!["DownEncoderBlock2D"; 4],
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
        "layers_per_block": 2,
        "sample_size": 1024,
        "scaling_factor": SCALING_FACTOR,
    }))
}

/// Finds the layout and the architecture of the VAE in `file`. Reads no values.
pub(in crate::checkpoint) fn open(file: TensorFile) -> Result<Opened> {
    let known = Known::read(&file)?;
    let Some(place) = Place::find(&file) else {
        return taesd::open(Arc::new(file), &known);
    };
    let mut config = architecture::vae(&known.fields("vae", place.config(&file)?))?;
    config.has_encoder = place.has_encoder(&file)?;
    if place.diffusers && place.prefix.is_empty() {
        // With the older names of the attention too.
        return Ok((
            Autoencoder::Kl(config),
            Arc::new(Weights::single(file)) as _,
        ));
    }
    let names = place.names(config.block_out_channels.len());
    let file = Arc::new(file);
    Ok((Autoencoder::Kl(config), Arc::new(Single { file, names })))
}
