//! Modules of a checkpoint by every name that adapters give them.

use super::keys::flat;
use crate::checkpoint::{Checkpoint, Part, single};
use std::collections::HashMap;

/// The parts that adapters change.
pub(super) const PARTS: [Part; 3] = [Part::UNet, Part::TextEncoder, Part::TextEncoder2];

/// What peft puts before every name.
const PEFT: &str = "base_model_model_";

/// Beginnings of flattened names: kohya's, diffusers' and ComfyUI's. UNets are also
/// saved without any.
const PREFIXES: [(&str, Part); 12] = [
    ("lora_unet_", Part::UNet),
    ("lora_te1_", Part::TextEncoder),
    ("lora_te2_", Part::TextEncoder2),
    ("lora_te_", Part::TextEncoder),
    ("unet_", Part::UNet),
    ("text_encoder_2_", Part::TextEncoder2),
    ("text_encoder_", Part::TextEncoder),
    ("diffusion_model_", Part::UNet),
    ("model_diffusion_model_", Part::UNet),
    ("text_encoders_clip_l_transformer_", Part::TextEncoder),
    ("text_encoders_clip_g_transformer_", Part::TextEncoder2),
    ("", Part::UNet),
];

/// One weight of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub part: Part,
    /// The tensor's name in its part, as diffusers calls it.
    pub tensor: String,
    pub shape: Vec<usize>,
    /// Found under the name that the original release has for it.
    pub original: bool,
}

/// All weights of linear layers and convolutions by their modules' flattened names.
pub(super) struct Names(HashMap<Part, HashMap<String, Target>>);

impl Names {
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let of = |part| (part, modules(checkpoint, part));
        Self(PARTS.into_iter().map(of).collect())
    }

    /// The weight of a module under its flattened name.
    pub fn find(&self, module: &str) -> Option<&Target> {
        let module = strip(module);
        PREFIXES.iter().find_map(|(prefix, part)| {
            let rest = strip(module.strip_prefix(prefix)?);
            self.0.get(part)?.get(rest)
        })
    }
}

fn strip(name: &str) -> &str {
    name.strip_prefix(PEFT).unwrap_or(name)
}

/// A flattened name without what tells its part.
pub(super) fn without_prefix(module: &str) -> &str {
    let module = strip(module);
    let mut rests = PREFIXES
        .iter()
        .map(|(prefix, _)| module.strip_prefix(prefix));
    strip(rests.find_map(|rest| rest).unwrap_or(module))
}

fn modules(checkpoint: &Checkpoint, part: Part) -> HashMap<String, Target> {
    let mut all = HashMap::new();
    let original = single::unet_names(&checkpoint.unet);
    for (tensor, shape) in checkpoint.expected(part) {
        let Some(module) = tensor.strip_suffix(".weight") else {
            continue;
        };
        // Norms are vectors, embeddings are looked up, not multiplied.
        if shape.len() < 2 || module.contains("_embedding") && part != Part::UNet {
            continue;
        }
        let mut names = vec![(module.to_string(), false)];
        match part {
            Part::UNet => {
                names.extend(old_unet(module).map(|name| (name, false)));
                names.extend(original(module).map(|name| (name, true)));
            }
            _ => names.extend(old_clip(module).map(|name| (name, false))),
        }
        for (name, original) in names {
            let (tensor, shape) = (tensor.clone(), shape.clone());
            let target = Target {
                part,
                tensor,
                shape,
                original,
            };
            all.insert(flat(&name), target);
        }
    }
    all
}

/// The output projection in diffusers' old attention processors (`to_out_lora`).
fn old_unet(module: &str) -> Option<String> {
    module
        .strip_suffix(".to_out.0")
        .map(|m| format!("{m}.to_out"))
}

/// The attention of a text encoder in diffusers' old form (`to_q_lora`).
fn old_clip(module: &str) -> Option<String> {
    let (attention, projection) = module.split_once(".self_attn.")?;
    let which = projection.strip_suffix("_proj")?;
    Some(format!("{attention}.self_attn.to_{which}"))
}
