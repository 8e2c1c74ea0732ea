//! TAESD's tensors.

use super::{List, Tensor};
use crate::checkpoint::config::TinyConfig;

impl List {
    /// TAESD's convolution between two stages, without a bias.
    fn tiny_between(&mut self, side: &str, at: usize, width: usize) {
        self.add(format!("{side}.layers.{at}.weight"), &[width, width, 3, 3]);
    }

    /// TAESD's residual blocks, numbered from `first`.
    fn tiny_blocks(&mut self, side: &str, first: usize, count: usize, width: usize) {
        for at in first..first + count {
            for conv in [0, 2, 4] {
                let name = format!("{side}.layers.{at}.conv.{conv}");
                self.conv(&name, width, width, 3);
            }
        }
    }
}

/// `AutoencoderTiny`'s tensors. ReLU and upsampling take numbers, but have none.
pub(super) fn tiny(c: &TinyConfig) -> Vec<Tensor> {
    let mut list = List::default();
    let width = c.encoder_block_out_channels;
    let mut at = 0;
    for (stage, blocks) in c.num_encoder_blocks.iter().enumerate() {
        match stage {
            0 => list.conv("encoder.layers.0", width, c.in_channels, 3),
            _ => list.tiny_between("encoder", at, width),
        }
        list.tiny_blocks("encoder", at + 1, *blocks, width);
        at += 1 + blocks;
    }
    if at > 0 {
        let last = format!("encoder.layers.{at}");
        list.conv(&last, c.latent_channels, width, 3);
    }
    let width = c.decoder_block_out_channels;
    list.conv("decoder.layers.0", width, c.latent_channels, 3);
    let mut at = 2;
    for (stage, blocks) in c.num_decoder_blocks.iter().enumerate() {
        if stage > 0 {
            list.tiny_between("decoder", at + 1, width);
            at += 2;
        }
        list.tiny_blocks("decoder", at, *blocks, width);
        at += blocks;
    }
    list.conv(&format!("decoder.layers.{at}"), c.out_channels, width, 3);
    list.0
}
