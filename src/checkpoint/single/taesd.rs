//! TAESD in a file, under any of the names in which it is published.

use super::names::Names;
use super::shapes::{dim, has, object};
use super::source::Single;
use super::vae::Opened;
use super::{Known, architecture, kind};
use crate::checkpoint::config::{Autoencoder, TinyConfig};
use crate::checkpoint::file::TensorFile;
use crate::checkpoint::tensor::{DType, TensorSource, TensorView};
use crate::checkpoint::weights::missing;
use crate::{Error, Field, Remedy, Result};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One side of TAESD in a file: layer `N` of diffusers is `N + shift` below `prefix`.
#[derive(Clone)]
struct Side {
    file: Arc<TensorFile>,
    prefix: &'static str,
    shift: usize,
}

impl Side {
    fn key(&self, layer: usize, rest: &str) -> String {
        format!("{}{}.{rest}", self.prefix, layer + self.shift)
    }

    fn has(&self, layer: usize, rest: &str) -> bool {
        has(&self.file, &self.key(layer, rest))
    }

    fn is_block(&self, layer: usize) -> bool {
        self.has(layer, "conv.0.weight")
    }

    fn is_decoder(&self) -> bool {
        self.has(0, "weight") && self.is_block(2)
    }

    fn is_encoder(&self) -> bool {
        self.has(0, "weight") && self.is_block(1)
    }

    /// Blocks of each stage, and the number of the last convolution.
    fn stages(&self, decodes: bool) -> Result<(Vec<usize>, usize)> {
        let mut stages = Vec::new();
        let mut blocks = 0;
        let mut layer = if decodes { 2 } else { 1 };
        loop {
            if self.is_block(layer) {
                blocks += 1;
                layer += 1;
                continue;
            }
            let here = self.has(layer, "weight");
            stages.push(std::mem::take(&mut blocks));
            // Between stages: upsampling, which has no tensors, and a convolution;
            // on the way down a convolution that has no bias, unlike the last.
            layer += match decodes {
                true if here => return Ok((stages, layer)),
                true if self.has(layer + 1, "weight") => 2,
                false if here && self.has(layer, "bias") => return Ok((stages, layer)),
                false if here => 1,
                _ => return Err(missing(self.file.path(), &self.key(layer, "weight"))),
            };
        }
    }

    fn source(self, side: &'static str) -> Single {
        Single {
            file: self.file,
            names: Names::Tiny {
                prefix: self.prefix.to_string(),
                side,
                shift: self.shift,
            },
        }
    }
}

/// TAESD under diffusers' names, or as its author publishes it: a file for each
/// side, or both in one under two prefixes. The original decoder counts its clamp
/// as a layer.
pub(super) fn open(file: Arc<TensorFile>, known: &Known) -> Result<Opened> {
    let side = |file: &Arc<TensorFile>, prefix, shift| Side {
        file: file.clone(),
        prefix,
        shift,
    };
    let layouts = [
        ("decoder.layers.", "encoder.layers.", 0),
        ("taesd_decoder.", "taesd_encoder.", 1),
        ("decoder.", "encoder.", 1),
        ("", "", 1),
    ];
    for (decoder, encoder, shift) in layouts {
        let decoder = side(&file, decoder, shift);
        if !decoder.is_decoder() {
            continue;
        }
        let encoder = match encoder {
            "" => partner(file.path())?.map(|file| side(&Arc::new(file), "", 0)),
            prefix => Some(side(&file, prefix, 0)),
        };
        let encoder = encoder.filter(Side::is_encoder);
        let config = tiny(&decoder, encoder.as_ref(), known)?;
        let source = Sides {
            encoder: encoder.map(|side| side.source("encoder")),
            decoder: decoder.source("decoder"),
        };
        return Ok((Autoencoder::Tiny(config), Arc::new(source)));
    }
    match side(&file, "", 0).is_encoder() {
        true => {
            let wanted = "its decoder's file; the encoder is found beside it";
            let remedy = Remedy::give(Field::Vae, wanted);
            Err(Error::file(file.path(), "TAESD's encoder alone", remedy))
        }
        false => Err(kind::no_vae(&file)),
    }
}

/// The file of the encoder beside that of the decoder: `taesdxl_encoder` beside
/// `taesdxl_decoder`.
fn partner(decoder: &Path) -> Result<Option<TensorFile>> {
    let name = decoder.file_name().and_then(|name| name.to_str());
    let path: Option<PathBuf> = name
        .filter(|name| name.contains("decoder"))
        .map(|name| decoder.with_file_name(name.replace("decoder", "encoder")))
        .filter(|path| path.is_file());
    path.map(|path| TensorFile::open(&path)).transpose()
}

/// The configuration by the shapes.
fn tiny(decoder: &Side, encoder: Option<&Side>, known: &Known) -> Result<TinyConfig> {
    let (stages, last) = decoder.stages(true)?;
    let levels = stages.len();
    let first = decoder.key(0, "weight");
    let latent = dim(&decoder.file, &first, 1)?;
    let mut found = object(json!({
        "out_channels": dim(&decoder.file, &decoder.key(last, "weight"), 0)?,
        "latent_channels": latent,
        "decoder_block_out_channels": vec![dim(&decoder.file, &first, 0)?; levels],
        "encoder_block_out_channels": vec![1; levels],
        "num_encoder_blocks": vec![1; levels],
        "num_decoder_blocks": stages,
    }));
    if let Some(encoder) = encoder {
        let (stages, last) = encoder.stages(false)?;
        let first = encoder.key(0, "weight");
        let widths = vec![dim(&encoder.file, &first, 0)?; stages.len()];
        let made = dim(&encoder.file, &encoder.key(last, "weight"), 0)?;
        if made != latent {
            let problem = format!("it makes {made} latent channels, the decoder takes {latent}");
            let remedy = "use encoder and decoder of one TAESD";
            return Err(Error::file(encoder.file.path(), problem, remedy));
        }
        found.insert("in_channels".into(), json!(dim(&encoder.file, &first, 1)?));
        found.insert("encoder_block_out_channels".into(), json!(widths));
        found.insert("num_encoder_blocks".into(), json!(stages));
    }
    let fields = known.fields("vae", found);
    let mut config = architecture::tiny(&fields)?;
    if encoder.is_none() {
        config.num_encoder_blocks.clear();
    }
    Ok(config)
}

/// TAESD's two sides, which may lie in two files.
struct Sides {
    encoder: Option<Single>,
    decoder: Single,
}

impl Sides {
    fn side(&self, name: &str) -> &Single {
        match &self.encoder {
            Some(encoder) if name.starts_with("encoder.") => encoder,
            _ => &self.decoder,
        }
    }
}

impl TensorSource for Sides {
    fn contains(&self, name: &str) -> bool {
        self.side(name).contains(name)
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.side(name).check(name, shape)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        self.side(name).read(name, shape)
    }

    fn dtype(&self, name: &str) -> Option<DType> {
        self.side(name).dtype(name)
    }

    fn fits_f16(&self, name: &str) -> bool {
        self.side(name).fits_f16(name)
    }
}
