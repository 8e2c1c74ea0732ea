//! The text encoders of a single file, read from their tensors' shapes, written
//! as the configuration objects that diffusers would write, so that one set of
//! checks serves both layouts.

use crate::checkpoint::file::TensorFile;
use crate::checkpoint::weights::missing;
use crate::{Error, Result};
use serde_json::{Map, Value, json};

/// Channels of one attention head, in every SDXL part but the VAE.
pub(super) const HEAD: usize = 64;

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

/// The second text encoder's `config.json`, under Hugging Face's names.
pub(super) fn clip_with_projection(file: &TensorFile, prefix: &str) -> Result<Object> {
    let mut config = clip(file, prefix)?;
    let pooled = dim(file, &format!("{prefix}text_projection.weight"), 0)?;
    config.insert("projection_dim".to_string(), json!(pooled));
    config.insert("hidden_act".to_string(), json!("gelu"));
    Ok(config)
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
