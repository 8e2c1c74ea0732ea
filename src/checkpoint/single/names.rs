//! diffusers' tensor names to those of the original SDXL release. The original
//! numbers the UNet's blocks through, so that a number follows from the blocks
//! before it.

use super::unet::COND_PROJ;
use crate::checkpoint::config::UNetConfig;

/// How one part's tensors are called in a single file.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) enum Names {
    /// The original numbering below a prefix.
    UNet {
        prefix: String,
        numbers: UNetNumbers,
    },
    Vae {
        prefix: String,
        levels: usize,
    },
    /// One side of TAESD: `SIDE.layers.N` is `N + shift` below a prefix.
    Tiny {
        prefix: String,
        side: &'static str,
        shift: usize,
    },
    /// diffusers' and Hugging Face's own names below a prefix.
    Plain {
        prefix: String,
    },
    /// OpenCLIP's names below a prefix.
    OpenClip {
        prefix: String,
    },
}

/// What the numbering of the UNet's blocks depends on.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct UNetNumbers {
    layers: Vec<usize>,
    /// Whether an attention follows the last resnet of each block on the way up.
    up_attends: Vec<bool>,
}

/// What is to be done with the original tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) enum Change {
    None,
    /// One third of the rows: query 0, key 1, value 2.
    Third(usize),
    /// Rows and columns change places.
    Transpose,
}

/// An original name and what makes diffusers' tensor of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::checkpoint) struct Original {
    pub key: String,
    pub change: Change,
}

impl Names {
    /// The original release's UNet below a prefix.
    pub fn unet(config: &UNetConfig, prefix: &str) -> Self {
        let attends = |depths: &Vec<usize>| depths.last().is_some_and(|depth| *depth > 0);
        Names::UNet {
            prefix: prefix.to_string(),
            numbers: UNetNumbers {
                layers: config.layers_per_block.clone(),
                up_attends: config.up_depths.iter().map(attends).collect(),
            },
        }
    }

    /// The original of a tensor; `None` for a name that the part cannot have.
    pub fn original(&self, name: &str) -> Option<Original> {
        let plain = |key: String| Original {
            key,
            change: Change::None,
        };
        match self {
            Names::UNet { prefix, numbers } => {
                let key = numbers.name(name)?;
                Some(plain(format!("{prefix}{key}")))
            }
            Names::Vae { prefix, levels } => {
                let key = vae(name, *levels)?;
                Some(plain(format!("{prefix}{key}")))
            }
            Names::Tiny {
                prefix,
                side,
                shift,
            } => {
                let layer = name.strip_prefix(side)?.strip_prefix(".layers.")?;
                let (layer, rest) = layer.split_once('.')?;
                let layer = number(layer)? + shift;
                Some(plain(format!("{prefix}{layer}.{rest}")))
            }
            Names::Plain { prefix } => Some(plain(format!("{prefix}{name}"))),
            Names::OpenClip { prefix } => {
                let (key, change) = open_clip(name)?;
                let key = format!("{prefix}{key}");
                Some(Original { key, change })
            }
        }
    }
}

impl UNetNumbers {
    fn name(&self, name: &str) -> Option<String> {
        let (head, rest) = name.split_once('.')?;
        match head {
            "conv_in" => Some(format!("input_blocks.0.0.{rest}")),
            "time_embedding" if rest == "cond_proj.weight" => Some(COND_PROJ[0].to_string()),
            "time_embedding" => Some(format!("time_embed.{}", two_layers(rest)?)),
            "add_embedding" => Some(format!("label_emb.0.{}", two_layers(rest)?)),
            "conv_norm_out" => Some(format!("out.0.{rest}")),
            "conv_out" => Some(format!("out.2.{rest}")),
            "down_blocks" => self.down(rest),
            "mid_block" => middle(rest),
            "up_blocks" => self.up(rest),
            _ => None,
        }
    }

    /// Input block 0 is `conv_in`; then each level's residual blocks and its downsampler.
    fn down(&self, name: &str) -> Option<String> {
        let (level, kind, index, rest) = block(name)?;
        let before: usize = self.layers.get(..level)?.iter().map(|n| n + 1).sum();
        let first = before + 1;
        match kind {
            "resnets" => Some(format!(
                "input_blocks.{}.0.{}",
                first + index,
                resnet(rest)?
            )),
            "attentions" => Some(format!("input_blocks.{}.1.{rest}", first + index)),
            "downsamplers" => {
                let number = first + self.layers.get(level)?;
                Some(format!(
                    "input_blocks.{number}.0.op.{}",
                    rest.strip_prefix("conv.")?
                ))
            }
            _ => None,
        }
    }

    /// Each level has one residual block more than on the way down; its
    /// upsampler belongs to the last of them.
    fn up(&self, name: &str) -> Option<String> {
        let (level, kind, index, rest) = block(name)?;
        let mut layers = self.layers.iter().rev().map(|n| n + 1);
        let before: usize = layers.by_ref().take(level).sum();
        match kind {
            "resnets" => Some(format!(
                "output_blocks.{}.0.{}",
                before + index,
                resnet(rest)?
            )),
            "attentions" => Some(format!("output_blocks.{}.1.{rest}", before + index)),
            "upsamplers" => {
                let last = before + layers.next()? - 1;
                let place = if *self.up_attends.get(level)? { 2 } else { 1 };
                Some(format!("output_blocks.{last}.{place}.{rest}"))
            }
            _ => None,
        }
    }
}

/// `LEVEL.KIND.INDEX.REST` of a block's tensor.
fn block(name: &str) -> Option<(usize, &str, usize, &str)> {
    let mut parts = name.splitn(4, '.');
    let level = number(parts.next()?)?;
    let kind = parts.next()?;
    let index = number(parts.next()?)?;
    Some((level, kind, index, parts.next()?))
}

/// A block's number, too small for any sum of numbers to overflow.
fn number(text: &str) -> Option<usize> {
    text.parse::<u16>().ok().map(usize::from)
}

/// Residual blocks and attentions of the middle take turns.
fn middle(name: &str) -> Option<String> {
    let (kind, rest) = name.split_once('.')?;
    let (index, rest) = rest.split_once('.')?;
    let index = number(index)?;
    match kind {
        "resnets" => Some(format!("middle_block.{}.{}", 2 * index, resnet(rest)?)),
        "attentions" => Some(format!("middle_block.{}.{rest}", 2 * index + 1)),
        _ => None,
    }
}

/// `linear_1`, `linear_2` with an activation between.
fn two_layers(name: &str) -> Option<String> {
    swap(name, &[("linear_1", "0"), ("linear_2", "2")])
}

fn resnet(name: &str) -> Option<String> {
    swap(
        name,
        &[
            ("norm1", "in_layers.0"),
            ("conv1", "in_layers.2"),
            ("time_emb_proj", "emb_layers.1"),
            ("norm2", "out_layers.0"),
            ("conv2", "out_layers.3"),
            ("conv_shortcut", "skip_connection"),
        ],
    )
}

/// Replaces what comes before the last dot by its partner in the list.
fn swap(name: &str, pairs: &[(&str, &str)]) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    let (_, original) = pairs.iter().find(|(new, _)| *new == module)?;
    Some(format!("{original}.{kind}"))
}

fn vae(name: &str, levels: usize) -> Option<String> {
    let (side, rest) = name.split_once('.')?;
    if matches!(side, "quant_conv" | "post_quant_conv") {
        return Some(name.to_string());
    }
    let (head, tail) = rest.split_once('.')?;
    let inside = match head {
        "conv_in" | "conv_out" => rest.to_string(),
        "conv_norm_out" => format!("norm_out.{tail}"),
        "mid_block" => vae_middle(tail)?,
        "down_blocks" | "up_blocks" => vae_block(head == "up_blocks", tail, levels)?,
        _ => return None,
    };
    Some(format!("{side}.{inside}"))
}

fn vae_middle(name: &str) -> Option<String> {
    let (kind, rest) = name.split_once('.')?;
    let (index, rest) = rest.split_once('.')?;
    let number = number(index)? + 1;
    match kind {
        "resnets" => Some(format!("mid.block_{number}.{}", vae_resnet(rest))),
        "attentions" => {
            let names = [
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ];
            Some(format!("mid.attn_{number}.{}", swap(rest, &names)?))
        }
        _ => None,
    }
}

/// The original numbers the decoder's levels by resolution, the lowest last.
fn vae_block(up: bool, name: &str, levels: usize) -> Option<String> {
    let (level, kind, index, rest) = block(name)?;
    let (way, level) = match up {
        true => ("up", levels.checked_sub(level + 1)?),
        false => ("down", level),
    };
    match kind {
        "resnets" => Some(format!("{way}.{level}.block.{index}.{}", vae_resnet(rest))),
        "downsamplers" => Some(format!("{way}.{level}.downsample.{rest}")),
        "upsamplers" => Some(format!("{way}.{level}.upsample.{rest}")),
        _ => None,
    }
}

fn vae_resnet(name: &str) -> String {
    name.replace("conv_shortcut", "nin_shortcut")
}

fn open_clip(name: &str) -> Option<(String, Change)> {
    let plain = |key: String| Some((key, Change::None));
    if name == "text_projection.weight" {
        return Some(("text_projection".to_string(), Change::Transpose));
    }
    let rest = name.strip_prefix("text_model.")?;
    if let Some(kind) = rest.strip_prefix("final_layer_norm.") {
        return plain(format!("ln_final.{kind}"));
    }
    match rest {
        "embeddings.token_embedding.weight" => return plain("token_embedding.weight".to_string()),
        "embeddings.position_embedding.weight" => return plain("positional_embedding".to_string()),
        _ => {}
    }
    let (layer, rest) = rest.strip_prefix("encoder.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let third = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
    let block = format!("transformer.resblocks.{layer}");
    if let Some(which) = third.iter().position(|m| *m == module) {
        return Some((format!("{block}.attn.in_proj_{kind}"), Change::Third(which)));
    }
    let names = [
        ("self_attn.out_proj", "attn.out_proj"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    ];
    plain(format!("{block}.{}", swap(rest, &names)?))
}
