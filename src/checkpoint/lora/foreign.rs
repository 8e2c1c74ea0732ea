//! Files that are no adapters, told by names that only they have.

use crate::{Field, Remedy};
use std::path::Path;

/// Where a name has to be for a kind of file.
enum Sign {
    /// At a name's beginning.
    Start(&'static str),
    /// Anywhere in a name.
    Part(&'static str),
    /// A whole name.
    Name(&'static str),
}

use Sign::{Name, Part, Start};

/// Kinds of files, and the option that takes them; none where nothing here does. The
/// first that fits is meant.
const KINDS: [(Sign, &str, Option<Field>); 23] = [
    (
        Name("clip_g"),
        "a textual inversion",
        Some(Field::Embeddings),
    ),
    (
        Name("clip_l"),
        "a textual inversion",
        Some(Field::Embeddings),
    ),
    (
        Name("emb_params"),
        "a textual inversion",
        Some(Field::Embeddings),
    ),
    (
        Start("string_to_param"),
        "a textual inversion",
        Some(Field::Embeddings),
    ),
    (Start("<"), "a textual inversion", Some(Field::Embeddings)),
    (
        Start("image_proj."),
        "an IP-Adapter, which is not supported",
        None,
    ),
    (
        Start("ip_adapter."),
        "an IP-Adapter, which is not supported",
        None,
    ),
    (
        Start("control_model."),
        "a ControlNet, which is not supported",
        None,
    ),
    (
        Part("controlnet_"),
        "a ControlNet, which is not supported",
        None,
    ),
    (
        Start("input_hint_block."),
        "a ControlNet, which is not supported",
        None,
    ),
    (
        Start("adapter.body."),
        "a T2I-Adapter, which is not supported",
        None,
    ),
    (
        Start("body.0."),
        "a T2I-Adapter, which is not supported",
        None,
    ),
    (Part("double_blocks."), "made for Flux, not for SDXL", None),
    (
        Part("single_transformer_blocks."),
        "made for Flux, not for SDXL",
        None,
    ),
    (
        Part("joint_blocks."),
        "made for Stable Diffusion 3, not for SDXL",
        None,
    ),
    (
        Start("cond_stage_model."),
        "a checkpoint of Stable Diffusion 1 or 2",
        None,
    ),
    (
        Start("conditioner.embedders."),
        "a checkpoint",
        Some(Field::Model),
    ),
    (
        Start("model.diffusion_model."),
        "the weights of a UNet",
        Some(Field::Model),
    ),
    (
        Start("input_blocks."),
        "the weights of a UNet",
        Some(Field::Model),
    ),
    (
        Start("down_blocks."),
        "the weights of a UNet",
        Some(Field::Model),
    ),
    (Start("text_model."), "the weights of a text encoder", None),
    (Start("first_stage_model."), "a VAE", Some(Field::Vae)),
    (Start("decoder."), "a VAE", Some(Field::Vae)),
];

/// What a file of these tensors is, and what to do with it.
pub(super) fn kind(path: &Path, keys: &[String]) -> Option<(&'static str, Remedy)> {
    let has = |sign: &Sign| {
        keys.iter().any(|key| match sign {
            Start(text) => key.starts_with(text),
            Part(text) => key.contains(text),
            Name(text) => key == text,
        })
    };
    let (_, what, field) = KINDS.iter().find(|(sign, ..)| has(sign))?;
    let remedy = match field {
        Some(field) => Remedy::Set {
            field: field.clone(),
            value: path.display().to_string().into(),
        },
        None => Remedy::give(Field::Loras, "a LoRA adapter for SDXL"),
    };
    Some((what, remedy))
}
