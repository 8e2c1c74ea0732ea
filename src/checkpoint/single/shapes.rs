//! The architecture of a single file, read from its tensors' shapes, written
//! as the configuration objects that diffusers would write, so that one set of
//! checks serves both layouts.

use crate::checkpoint::file::TensorFile;
use crate::checkpoint::weights::missing;
use crate::{Error, Result};
use serde_json::{Map, Value, json};

/// Channels of one attention head, in every SDXL part but the VAE.
const HEAD: usize = 64;

pub(super) const UNET: &str = "model.diffusion_model.";

/// Names of a consistency model's projection of the guidance scale: by the original
/// numbering, and diffusers', which its converter leaves as it is.
pub(super) const COND_PROJ: [&str; 2] = [
    "time_embed.cond_proj.weight",
    "time_embedding.cond_proj.weight",
];

pub(super) type Object = Map<String, Value>;

/// Size of a tensor along one axis.
pub(super) fn dim(file: &TensorFile, key: &str, axis: usize) -> Result<usize> {
    let entry = file.entry(key).ok_or_else(|| missing(file.path(), key))?;
    let size = entry.shape.get(axis).copied().filter(|n| *n > 0);
    size.ok_or_else(|| {
        let problem = format!("its shape {:?} has no axis {axis}", entry.shape);
        Error::tensor(file.path(), key, problem, "use an SDXL checkpoint")
    })
}

pub(super) fn has(file: &TensorFile, key: &str) -> bool {
    file.entry(key).is_some()
}

/// How many of `key(0)`, `key(1)`, ... there are in a row.
pub(super) fn count(file: &TensorFile, key: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|i| has(file, &key(*i))).count()
}

pub(super) fn object(value: Value) -> Object {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// One level of the UNet on the way down.
#[derive(Debug, Default)]
struct Level {
    channels: usize,
    layers: usize,
    /// Transformer blocks in each of its attentions; 0 without attention.
    depth: usize,
}

/// `unet/config.json`; `numbers` of micro-conditioning follow the `pooled` vector.
pub(super) fn unet(file: &TensorFile, pooled: usize, numbers: usize) -> Result<Object> {
    let key = |rest: &str| format!("{UNET}{rest}");
    let levels = unet_levels(file)?;
    let up = up_depths(file, &levels)?;
    let middle = depth(file, "middle_block.1");
    let depths = common_depths(file, &levels, &up, middle)?;
    let attention = first_attention(file)?;
    let projections = dim(file, &key("label_emb.0.0.weight"), 1)?;
    let guidance = COND_PROJ.map(key).into_iter().find(|key| has(file, key));
    let guidance = guidance.map(|key| dim(file, &key, 1)).transpose()?;
    let heads: Vec<usize> = levels.iter().map(|l| (l.channels / HEAD).max(1)).collect();
    let name = |attends: bool, way: &str| match attends {
        true => format!("CrossAttn{way}Block2D"),
        false => format!("{way}Block2D"),
    };
    let down_types: Vec<_> = levels.iter().map(|l| name(l.depth > 0, "Down")).collect();
    let up_types: Vec<_> = up.iter().map(|depth| name(*depth > 0, "Up")).collect();
    Ok(object(json!({
        "in_channels": dim(file, &key("input_blocks.0.0.weight"), 1)?,
        "out_channels": dim(file, &key("out.2.weight"), 0)?,
        "sample_size": 128,
        "block_out_channels": levels.iter().map(|l| l.channels).collect::<Vec<_>>(),
        "layers_per_block": levels.iter().map(|l| l.layers).collect::<Vec<_>>(),
        "down_block_types": down_types,
        "up_block_types": up_types,
        "transformer_layers_per_block": depths,
        "num_attention_heads": heads,
        "cross_attention_dim": dim(file, &format!("{attention}.transformer_blocks.0.attn2.to_k.weight"), 1)?,
        "use_linear_projection": file.entry(&format!("{attention}.proj_in.weight")).is_some_and(|e| e.shape.len() == 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": projections.saturating_sub(pooled) / numbers,
        "projection_class_embeddings_input_dim": projections,
        "time_cond_proj_dim": guidance,
    })))
}

/// Walks the input blocks: residual blocks, closed at each level by a downsampler.
fn unet_levels(file: &TensorFile) -> Result<Vec<Level>> {
    let mut levels = Vec::new();
    let mut level = Level::default();
    for number in 1.. {
        let block = format!("input_blocks.{number}");
        let conv = format!("{UNET}{block}.0.in_layers.2.weight");
        if has(file, &conv) {
            let (channels, blocks) = (dim(file, &conv, 0)?, depth(file, &format!("{block}.1")));
            if level.layers > 0 && (level.channels, level.depth) != (channels, blocks) {
                return Err(uneven(file, &conv));
            }
            level = Level {
                channels,
                depth: blocks,
                layers: level.layers + 1,
            };
        } else if has(file, &format!("{UNET}{block}.0.op.weight")) {
            levels.push(std::mem::take(&mut level));
        } else {
            break;
        }
    }
    levels.push(level);
    match levels.iter().any(|l| l.layers == 0) {
        true => Err(missing(
            file.path(),
            &format!("{UNET}input_blocks.1.0.in_layers.2.weight"),
        )),
        false => Ok(levels),
    }
}

/// Transformer depth of each level on the way up, lowest resolution first.
fn up_depths(file: &TensorFile, levels: &[Level]) -> Result<Vec<usize>> {
    let mut number = 0;
    let mut depths = Vec::with_capacity(levels.len());
    for level in levels.iter().rev() {
        let block = |number: usize| format!("output_blocks.{number}.1");
        let first = depth(file, &block(number));
        for at in number..=number + level.layers {
            if depth(file, &block(at)) != first {
                return Err(uneven(file, &format!("{UNET}{}", block(at))));
            }
        }
        depths.push(first);
        number += level.layers + 1;
    }
    Ok(depths)
}

/// One depth a level for both ways; the last level's is the middle's too.
fn common_depths(
    file: &TensorFile,
    levels: &[Level],
    up: &[usize],
    middle: usize,
) -> Result<Vec<usize>> {
    let last = levels.len().saturating_sub(1);
    let mut depths = Vec::with_capacity(levels.len());
    for (i, (level, up)) in levels.iter().zip(up.iter().rev()).enumerate() {
        let mut all = vec![level.depth, *up];
        if i == last {
            all.push(middle);
        }
        all.retain(|depth| *depth > 0);
        let depth = all.first().copied().unwrap_or(1);
        if all.iter().any(|other| *other != depth) {
            return Err(uneven(file, &format!("{UNET}input_blocks, level {i}")));
        }
        depths.push(depth);
    }
    Ok(depths)
}

/// Transformer blocks below a block's name.
fn depth(file: &TensorFile, block: &str) -> usize {
    count(file, |i| {
        format!("{UNET}{block}.transformer_blocks.{i}.attn1.to_q.weight")
    })
}

/// The attention of the middle, which every SDXL has.
fn first_attention(file: &TensorFile) -> Result<String> {
    let attention = format!("{UNET}middle_block.1");
    let key = format!("{attention}.proj_in.weight");
    has(file, &key)
        .then_some(attention)
        .ok_or_else(|| missing(file.path(), &key))
}

fn uneven(file: &TensorFile, key: &str) -> Error {
    let problem = "its width or transformer depth differs from its neighbours'";
    Error::tensor(
        file.path(),
        key,
        problem,
        "use a checkpoint of SDXL's own architecture, uniform within a level",
    )
}

/// The first text encoder's `config.json`, under Hugging Face's names.
pub(super) fn clip(file: &TensorFile, prefix: &str) -> Result<Object> {
    let key = |rest: &str| format!("{prefix}text_model.{rest}");
    let layer = |i: usize, rest: &str| key(&format!("encoder.layers.{i}.{rest}"));
    text(
        file,
        "quick_gelu",
        &Tables {
            tokens: key("embeddings.token_embedding.weight"),
            positions: key("embeddings.position_embedding.weight"),
            widest: layer(0, "mlp.fc1.weight"),
            layers: count(file, |i| layer(i, "layer_norm1.weight")),
        },
    )
}

/// The second text encoder's `config.json`, under OpenCLIP's names.
pub(super) fn open_clip(file: &TensorFile, prefix: &str) -> Result<Object> {
    let key = |rest: &str| format!("{prefix}{rest}");
    let layer = |i: usize, rest: &str| key(&format!("transformer.resblocks.{i}.{rest}"));
    let mut config = text(
        file,
        "gelu",
        &Tables {
            tokens: key("token_embedding.weight"),
            positions: key("positional_embedding"),
            widest: layer(0, "mlp.c_fc.weight"),
            layers: count(file, |i| layer(i, "ln_1.weight")),
        },
    )?;
    let linear = key("text_projection.weight");
    let pooled = match has(file, &linear) {
        true => dim(file, &linear, 0)?,
        false => dim(file, &key("text_projection"), 1)?,
    };
    config.insert("projection_dim".to_string(), json!(pooled));
    Ok(config)
}

/// Names of the tensors that tell a text encoder's sizes.
struct Tables {
    tokens: String,
    positions: String,
    widest: String,
    layers: usize,
}

fn text(file: &TensorFile, act: &str, tables: &Tables) -> Result<Object> {
    let width = dim(file, &tables.tokens, 1)?;
    Ok(object(json!({
        "vocab_size": dim(file, &tables.tokens, 0)?,
        "hidden_size": width,
        "intermediate_size": dim(file, &tables.widest, 0)?,
        "num_hidden_layers": tables.layers,
        "num_attention_heads": (width / HEAD).max(1),
        "max_position_embeddings": dim(file, &tables.positions, 0)?,
        "hidden_act": act,
        "eos_token_id": 2,
    })))
}
