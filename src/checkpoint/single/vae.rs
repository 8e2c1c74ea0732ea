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

/// A VAE's configuration and tensors.
pub(super) type Opened = (Autoencoder, Arc<dyn TensorSource>);

/// Finds the layout and the architecture of the VAE in `file`. Reads no values.
pub(in crate::checkpoint) fn open(file: TensorFile) -> Result<Opened> {
    let known = Known::read(&file)?;
    if has(&file, "decoder.up_blocks.0.resnets.0.conv1.weight") {
        let fields = known.fields("vae", config(&file, "", true)?);
        let config = architecture::vae(&fields)?;
        return Ok((
            Autoencoder::Kl(config),
            Arc::new(Weights::single(file)) as _,
        ));
    }
    for prefix in ["", PREFIX, "vae."] {
        if has(&file, &format!("{prefix}decoder.up.0.block.0.conv1.weight")) {
            let fields = known.fields("vae", config(&file, prefix, false)?);
            let config = architecture::vae(&fields)?;
            let names = Names::Vae {
                prefix: prefix.to_string(),
                levels: config.block_out_channels.len(),
            };
            let file = Arc::new(file);
            let source = Single { file, names };
            return Ok((Autoencoder::Kl(config), Arc::new(source)));
        }
    }
    taesd::open(Arc::new(file), &known)
}

/// `vae/config.json` of an `AutoencoderKL` below `prefix`, under diffusers' names
/// or the original release's.
pub(super) fn config(file: &TensorFile, prefix: &str, diffusers: bool) -> Result<Object> {
    let key = |rest: &str| format!("{prefix}{rest}");
    let block = |level: usize, i: usize| match diffusers {
        true => key(&format!(
            "encoder.down_blocks.{level}.resnets.{i}.conv1.weight"
        )),
        false => key(&format!("encoder.down.{level}.block.{i}.conv1.weight")),
    };
    let levels = count(file, |level| block(level, 0));
    if levels == 0 {
        return Err(missing(file.path(), &block(0, 0)));
    }
    // The newest name, and older ones that diffusers still reads.
    let queries = match diffusers {
        true => ["to_q", "query", "q"].map(|q| format!("encoder.mid_block.attentions.0.{q}")),
        false => ["q", "to_q", "query"].map(|q| format!("encoder.mid.attn_1.{q}")),
    };
    let attends = queries
        .iter()
        .any(|q| has(file, &key(&format!("{q}.weight"))));
    let channels: Result<Vec<usize>> = (0..levels).map(|l| dim(file, &block(l, 0), 0)).collect();
    Ok(object(json!({
        "in_channels": dim(file, &key("encoder.conv_in.weight"), 1)?,
        "out_channels": dim(file, &key("decoder.conv_out.weight"), 0)?,
        "latent_channels": dim(file, &key("decoder.conv_in.weight"), 1)?,
        "block_out_channels": channels?,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "layers_per_block": count(file, |i| block(0, i)),
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": true,
        "use_quant_conv": has(file, &key("quant_conv.weight")),
        "use_post_quant_conv": has(file, &key("post_quant_conv.weight")),
        "mid_block_add_attention": attends,
    })))
}
