//! Adapters for other models, told by what only those have.

use super::LoraFile;
use super::names::{Names, without_prefix};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// Width of the text that the UNet attends to, and the model it belongs to.
const TEXT_WIDTHS: [(usize, &str); 4] = [
    (768, "Stable Diffusion 1.5"),
    (1024, "Stable Diffusion 2.x"),
    (2048, "SDXL base"),
    (1280, "SDXL refiner"),
];

/// Parts of names in models that are transformers throughout.
const TRANSFORMERS: [&str; 5] = [
    "double_blocks_",
    "single_blocks_",
    "joint_blocks_",
    "single_transformer_blocks_",
    "double_stream_blocks_",
];

/// Attention at the highest resolution, which SDXL does not have: diffusers' names and
/// those of the original release.
const SD_ATTENTION: [&str; 5] = [
    "down_blocks_0_attentions_",
    "up_blocks_3_attentions_",
    "input_blocks_1_1_",
    "input_blocks_2_1_",
    "output_blocks_11_1_",
];

/// One clear error for a file that was made for another model.
pub(super) fn check(file: &LoraFile, checkpoint: &Checkpoint, names: &Names) -> Result<()> {
    let foreign = |model: &str, why: String| {
        let kind = match checkpoint.is_refiner() {
            true => "an SDXL refiner",
            false => "SDXL",
        };
        let problem = format!("made for {model}, not for {kind}: {why}");
        let remedy = format!("use an adapter made for {kind}");
        Err(Error::file(file.path(), problem, remedy))
    };
    let modules = file.modules();
    let has = |part: &str| modules.iter().find(|m| m.name.contains(part));
    if let Some(module) = TRANSFORMERS.iter().find_map(|part| has(part)) {
        let why = format!("it has a module {}", module.written);
        return foreign("a transformer model such as Flux or SD 3", why);
    }
    let own = checkpoint.unet.cross_attention_dim;
    let width = has("attn2_to_k").and_then(|m| m.weight.as_ref()?.kind.columns(file));
    if let Some(width) = width
        && width != own
        && let Some((_, model)) = TEXT_WIDTHS.iter().find(|(known, _)| *known == width)
    {
        let why = format!("its text is {width} numbers wide, this checkpoint's {own}");
        return foreign(model, why);
    }
    let sd = |name: &str| SD_ATTENTION.iter().any(|part| name.starts_with(part));
    let found = modules
        .iter()
        .find(|m| sd(without_prefix(&m.name)) && names.find(&m.name).is_none());
    match found {
        Some(module) => {
            let why = format!("it has a module {}", module.written);
            foreign("Stable Diffusion 1 or 2", why)
        }
        None => Ok(()),
    }
}
