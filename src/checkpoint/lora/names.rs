//! Modules of a checkpoint by every name that adapters give them.

use super::keys::flat;
use crate::checkpoint::{Checkpoint, Part, single};
use std::collections::{HashMap, HashSet};

/// The parts that adapters change.
pub(super) const PARTS: [Part; 3] = [Part::UNet, Part::TextEncoder, Part::TextEncoder2];

/// What peft puts before every name.
const PEFT: &str = "base_model_model_";

/// Beginnings of flattened names: kohya's, LyCORIS' (SimpleTuner's), diffusers',
/// ComfyUI's and OneTrainer's. UNets are also saved without any.
const PREFIXES: [(&str, Part); 18] = [
    ("lora_unet_", Part::UNet),
    ("lora_te1_", Part::TextEncoder),
    ("lora_te2_", Part::TextEncoder2),
    ("lora_te_", Part::TextEncoder),
    ("lycoris_unet_", Part::UNet),
    ("lycoris_text_encoder_2_", Part::TextEncoder2),
    ("lycoris_text_encoder_", Part::TextEncoder),
    ("lycoris_", Part::UNet),
    ("unet_", Part::UNet),
    ("text_encoder_2_", Part::TextEncoder2),
    ("text_encoder_", Part::TextEncoder),
    ("diffusion_model_", Part::UNet),
    ("model_diffusion_model_", Part::UNet),
    ("text_encoders_clip_l_transformer_", Part::TextEncoder),
    ("text_encoders_clip_g_transformer_", Part::TextEncoder2),
    ("clip_l_", Part::TextEncoder),
    ("clip_g_", Part::TextEncoder2),
    ("", Part::UNet),
];

/// One module of the checkpoint: its weight, and its bias where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub part: Part,
    /// The weight's name in its part, as diffusers calls it.
    pub tensor: String,
    /// The weight's.
    pub shape: Vec<usize>,
    /// The bias's name; it has as many values as the weight has outputs.
    pub bias: Option<String>,
    /// Found under the name that the original release has for it.
    pub original: bool,
}

/// All linear layers, convolutions and norms by their flattened names.
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
    let expected = checkpoint.expected(part);
    let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    for (tensor, shape) in &expected {
        let Some(module) = tensor.strip_suffix(".weight") else {
            continue;
        };
        // Embeddings are looked up, not multiplied.
        if module.contains("_embedding") && part != Part::UNet {
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
        let bias = format!("{module}.bias");
        let bias = known.contains(bias.as_str()).then_some(bias);
        for (name, original) in names {
            let (tensor, shape, bias) = (tensor.clone(), shape.clone(), bias.clone());
            let target = Target {
                part,
                tensor,
                shape,
                bias,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_modules_share_a_name() {
        for model in ["demo", "random:sdxl-base", "random:sdxl-refiner"] {
            let checkpoint = Checkpoint::open(model).unwrap();
            for part in PARTS {
                let all = modules(&checkpoint, part);
                let mut count: HashMap<&str, usize> = HashMap::new();
                for target in all.values() {
                    *count.entry(&target.tensor).or_default() += 1;
                }
                for (tensor, names) in count {
                    let attention = match part {
                        Part::UNet => tensor.contains(".to_out.0."),
                        _ => tensor.contains(".self_attn."),
                    };
                    let expected = 1 + usize::from(part == Part::UNet) + usize::from(attention);
                    assert_eq!(names, expected, "{model} {tensor}");
                }
            }
        }
    }

    #[test]
    fn names_of_the_original_release_are_known() {
        let names = Names::new(&Checkpoint::open("random:sdxl-base").unwrap());
        let cases = [
            ("input_blocks_0_0", "conv_in"),
            ("input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
            (
                "input_blocks_4_0_skip_connection",
                "down_blocks.1.resnets.0.conv_shortcut",
            ),
            (
                "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
                "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
            ),
            ("middle_block_1_proj_in", "mid_block.attentions.0.proj_in"),
            (
                "middle_block_2_emb_layers_1",
                "mid_block.resnets.1.time_emb_proj",
            ),
            (
                "output_blocks_0_0_in_layers_2",
                "up_blocks.0.resnets.0.conv1",
            ),
            ("output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
            (
                "output_blocks_8_0_out_layers_3",
                "up_blocks.2.resnets.2.conv2",
            ),
            ("time_embed_2", "time_embedding.linear_2"),
            ("label_emb_0_0", "add_embedding.linear_1"),
            ("out_2", "conv_out"),
        ];
        for (original, module) in cases {
            let found = names.find(&format!("lora_unet_{original}")).unwrap();
            assert_eq!(found.tensor, format!("{module}.weight"));
            assert_eq!(
                names.find(&flat(&format!("unet.{module}"))).unwrap().shape,
                found.shape
            );
        }
        assert_eq!(names.find("lora_unet_output_blocks_11_1_proj_in"), None);
    }
}
