//! `AutoencoderKL`: decoder and encoder.

use super::blocks::{self, Norms, conv1x1, conv3x3, resnet};
use crate::checkpoint::VaeConfig;
use crate::graph::{Graph, Product, Value};

/// diffusers fixes the VAE's norms at this.
const EPS: f32 = 1e-6;

/// The decoder: input `latents` `[1, h, w, latent]` (already divided by the
/// scaling factor) to the picture `[1, 8 h, 8 w, out]` in -1..1.
pub fn decoder(config: &VaeConfig, [h, w]: [usize; 2]) -> Graph {
    let mut g = Graph::new();
    let norms = norms(config);
    let mut x = g.input("latents", [1, h, w, config.latent_channels]);
    if config.use_post_quant_conv {
        x = conv1x1(&mut g, "post_quant_conv", x, config.latent_channels);
    }
    let levels = config.block_out_channels.len();
    let widest = config.block_out_channels[levels - 1];
    x = conv3x3(&mut g, "decoder.conv_in", x, widest);
    x = mid_block(&mut g, "decoder.mid_block", x, config);
    for (block, n) in config.block_out_channels.iter().rev().enumerate() {
        let name = format!("decoder.up_blocks.{block}");
        for i in 0..config.layers_per_block + 1 {
            x = resnet(&mut g, &format!("{name}.resnets.{i}"), x, *n, None, norms);
        }
        if block + 1 < levels {
            let [_, h, w, _] = g.shape(x);
            let name = format!("{name}.upsamplers.0");
            x = blocks::upsample(&mut g, &name, x, [2 * h, 2 * w]);
        }
    }
    x = norms.silu(&mut g, "decoder.conv_norm_out", x);
    x = conv3x3(&mut g, "decoder.conv_out", x, config.out_channels);
    g.output(x);
    g
}

/// The encoder: input `picture` `[1, h, w, in]` in -1..1 to the posterior's mean
/// and log-variance `[1, h / 8, w / 8, 2 latent]`.
pub fn encoder(config: &VaeConfig, [h, w]: [usize; 2]) -> Graph {
    let mut g = Graph::new();
    let norms = norms(config);
    let x = g.input("picture", [1, h, w, config.in_channels]);
    let mut x = conv3x3(&mut g, "encoder.conv_in", x, config.block_out_channels[0]);
    for (block, n) in config.block_out_channels.iter().enumerate() {
        let name = format!("encoder.down_blocks.{block}");
        for i in 0..config.layers_per_block {
            x = resnet(&mut g, &format!("{name}.resnets.{i}"), x, *n, None, norms);
        }
        if block + 1 < config.block_out_channels.len() {
            x = blocks::downsample(&mut g, &format!("{name}.downsamplers.0"), x, 0);
        }
    }
    x = mid_block(&mut g, "encoder.mid_block", x, config);
    x = norms.silu(&mut g, "encoder.conv_norm_out", x);
    let moments = 2 * config.latent_channels;
    x = conv3x3(&mut g, "encoder.conv_out", x, moments);
    if config.use_quant_conv {
        x = conv1x1(&mut g, "quant_conv", x, moments);
    }
    g.output(x);
    g
}

fn norms(config: &VaeConfig) -> Norms {
    Norms {
        groups: config.norm_num_groups,
        eps: EPS,
    }
}

/// `UNetMidBlock2D`: a residual block, attention with one head, another block.
fn mid_block(g: &mut Graph, name: &str, x: Value, config: &VaeConfig) -> Value {
    let norms = norms(config);
    let n = g.shape(x)[3];
    let mut x = resnet(g, &format!("{name}.resnets.0"), x, n, None, norms);
    if config.mid_block_add_attention {
        x = attention(g, &format!("{name}.attentions.0"), x, norms);
    }
    resnet(g, &format!("{name}.resnets.1"), x, n, None, norms)
}

fn attention(g: &mut Graph, name: &str, x: Value, norms: Norms) -> Value {
    let [n, h, w, c] = g.shape(x);
    let y = norms.plain(g, &format!("{name}.group_norm"), x);
    let y = g.reshape(y, [n, h * w, 1]);
    let parts = ["to_q", "to_k", "to_v"].map(|p| format!("{name}.{p}"));
    let qkv = g.linear(y, Product::side_by_side(&parts, [c, c], true));
    let qkv = [0, c, 2 * c].map(|first| g.columns(qkv, first, c));
    let y = g.attention(qkv, 1, false);
    let y = g.linear(y, Product::linear(format!("{name}.to_out.0"), [c, c]));
    let tokens = g.reshape(x, [n, h * w, 1]);
    let y = g.add(y, tokens);
    g.reshape(y, [n, h, w])
}
