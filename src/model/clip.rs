//! CLIP's text encoders (`CLIPTextModel`, `CLIPTextModelWithProjection`).

use crate::checkpoint::{self, ClipConfig, TensorSource};
use crate::graph::{Graph, Norm, Product};
use crate::kernel::{Activation, finite};
use crate::{Error, Result};

/// The graph over `tokens` embedded tokens: input `embeddings` `[1, tokens, 1,
/// hidden]`. Output 0 is the hidden state before the last `1 + skip` layers
/// (diffusers takes `hidden_states[-(skip + 2)]`), without the final norm;
/// output 1, where the model has a projection, is the final norm of every token
/// times it.
pub fn graph(config: &ClipConfig, tokens: usize, skip: usize) -> Graph {
    let mut g = Graph::new();
    let c = config.hidden_size;
    let norm = |name: String| Norm::new(name, c, config.layer_norm_eps);
    let activation = match config.hidden_act {
        checkpoint::Activation::Gelu => Activation::Gelu,
        checkpoint::Activation::QuickGelu => Activation::QuickGelu,
    };
    let mut x = g.input("embeddings", [1, tokens, 1, c]);
    let wanted = config.num_hidden_layers.saturating_sub(1 + skip);
    for layer in 0..config.num_hidden_layers {
        if layer == wanted {
            g.output(x);
        }
        let name = format!("text_model.encoder.layers.{layer}");
        let attention = format!("{name}.self_attn");
        let h = g.layer_norm(x, norm(format!("{name}.layer_norm1")));
        let parts = ["q", "k", "v"].map(|p| format!("{attention}.{p}_proj"));
        let qkv = g.linear(h, Product::side_by_side(&parts, [c, c], true));
        let parts = [0, c, 2 * c].map(|first| g.columns(qkv, first, c));
        let h = g.attention(parts, config.num_attention_heads, true);
        let h = g.linear(h, Product::linear(format!("{attention}.out_proj"), [c, c]));
        x = g.add(h, x);
        let h = g.layer_norm(x, norm(format!("{name}.layer_norm2")));
        let inner = config.intermediate_size;
        let h = g.linear(h, Product::linear(format!("{name}.mlp.fc1"), [c, inner]));
        let h = g.activate(h, activation);
        let h = g.linear(h, Product::linear(format!("{name}.mlp.fc2"), [inner, c]));
        x = g.add(h, x);
    }
    if let Some(n) = config.projection_dim {
        let h = g.layer_norm(x, norm("text_model.final_layer_norm".into()));
        let kernel = crate::graph::Kernel::Linear;
        let pooled = g.linear(h, Product::new("text_projection", kernel, [c, n], false));
        g.output(pooled);
    }
    g
}

const TOKEN_EMBEDDING: &str = "text_model.embeddings.token_embedding.weight";
const POSITION_EMBEDDING: &str = "text_model.embeddings.position_embedding.weight";

/// The tensors that [`embed`] reads.
pub fn embedding_tensors(config: &ClipConfig) -> Vec<(String, Vec<usize>)> {
    let c = config.hidden_size;
    vec![
        (TOKEN_EMBEDDING.into(), vec![config.vocab_size, c]),
        (
            POSITION_EMBEDDING.into(),
            vec![config.max_position_embeddings, c],
        ),
    ]
}

/// Token plus position embeddings of `ids`, `[ids.len(), hidden]`. Looked up in
/// the mapped file: the whole table would exceed small adapters' binding limits,
/// and only a few rows of it are wanted. Ids from `vocab_size` on are rows of `extra`,
/// `[.., hidden]`, finite (textual inversion).
pub fn embed(
    config: &ClipConfig,
    source: &dyn TensorSource,
    ids: &[u32],
    extra: &[f32],
) -> Result<Vec<f32>> {
    let c = config.hidden_size;
    let [(tokens, tokens_shape), (positions, positions_shape)] = &embedding_tensors(config)[..]
    else {
        return Ok(Vec::new());
    };
    let tokens = source.read(tokens, tokens_shape)?;
    let positions = source.read(positions, positions_shape)?;
    let mut all = Vec::with_capacity(ids.len() * c);
    for (place, id) in ids.iter().enumerate() {
        let row = *id as usize;
        let own = row.checked_sub(config.vocab_size);
        let own = own.and_then(|row| extra.get(row * c..(row + 1) * c));
        let token = match own {
            Some(values) => values.to_vec(),
            None => {
                // Ids come from a tokenizer that was checked against the table's size.
                let row = row.min(config.vocab_size - 1);
                tokens.values(row * c..(row + 1) * c)
            }
        };
        let position = positions.values(place * c..(place + 1) * c);
        for (name, values) in [(TOKEN_EMBEDDING, &token), (POSITION_EMBEDDING, &position)] {
            if !finite::twin(values) {
                return Err(Error::not_finite_tensor(name));
            }
        }
        all.extend(token.iter().zip(&position).map(|(a, b)| a + b));
    }
    Ok(all)
}

/// Where the pooled vector is taken: the end of the text. The legacy rule
/// (`eos_token_id` 2) is the first place of the largest id. Ids beyond the vocabulary
/// are no end: ComfyUI and AUTOMATIC1111 agree, while diffusers takes the pooled vector
/// at a textual inversion then.
pub fn end_of_text(config: &ClipConfig, ids: &[u32]) -> usize {
    let wanted = if config.eos_token_id == 2 {
        let known = ids.iter().filter(|id| (**id as usize) < config.vocab_size);
        known.max().copied()
    } else {
        Some(config.eos_token_id)
    };
    ids.iter().position(|id| Some(*id) == wanted).unwrap_or(0)
}
