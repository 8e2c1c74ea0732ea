//! A diffusers folder: `model_index.json` and one folder a component.

use super::config::Autoencoder;
use super::fields::Fields;
use super::tensor::Part;
use super::tree::Tree;
use super::weights::Weights;
use super::{Checkpoint, Layout, Sources, architecture, builtin, hub};
use crate::schedule;
use crate::{Error, Field, Remedy, Result};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

/// Reads configurations and tokenizers, and opens the weights without reading values.
pub(super) fn open(tree: &Tree, name: String, layout: Layout) -> Result<Checkpoint> {
    let index = tree.fields("model_index.json")?;
    let base = has_component(tree, &index, "text_encoder");
    let config = |part: Part| tree.fields(&format!("{}/config.json", part.folder()));
    let weights = |part: Part| open_weights(tree, part);
    let first = |part| {
        Ok((
            architecture::clip(&config(part)?, false)?,
            weights(part)?,
            tree.tokenizer("tokenizer")?,
        ))
    };
    let first = match base {
        true => Some(first(Part::TextEncoder)?),
        false => None,
    };
    let unet = architecture::unet(&config(Part::UNet)?)?;
    let has_vae = tree.has(Part::Vae.folder());
    let vae = match has_vae {
        true => architecture::autoencoder(&config(Part::Vae)?)?,
        // Another file's will take its place; the latents are SDXL's.
        false => Autoencoder::Kl(builtin::vae()),
    };
    let text_encoder_2 = architecture::clip(&config(Part::TextEncoder2)?, true)?;
    const SCHEDULER: &str = "scheduler/scheduler_config.json";
    let scheduler = match tree.has(SCHEDULER) {
        true => scheduler_config(tree, &index, &tree.fields(SCHEDULER)?)?,
        false => schedule::Config::sdxl(),
    };
    let aesthetics = index.optional_flag("requires_aesthetics_score")?;
    let second = weights(Part::TextEncoder2)?;
    let unet_weights = weights(Part::UNet)?;
    let vae_weights = has_vae.then(|| weights(Part::Vae)).transpose()?;
    let (text_encoder, first, tokenizer) = match first {
        Some((config, weights, tokenizer)) => (Some(config), Some(weights), Some(tokenizer)),
        None => (None, None, None),
    };
    let all = first.iter().chain([&second, &unet_weights]);
    let all = all.chain(&vae_weights);
    let checkpoint = Checkpoint {
        name,
        layout,
        unet,
        vae,
        text_encoder,
        text_encoder_2,
        scheduler,
        force_zeros_for_empty_prompt: index.flag("force_zeros_for_empty_prompt", true)?,
        requires_aesthetics_score: aesthetics.unwrap_or(!base),
        tokenizer,
        tokenizer_2: tree.tokenizer("tokenizer_2")?,
        files: all.flat_map(|weights| weights.sizes()).collect(),
        described: described(tree, &index, base)?,
        sources: Sources::new(
            first.map(|w| w as _),
            second,
            unet_weights,
            vae_weights.map(|w| w as _),
        ),
    };
    checkpoint.check(&tree.path(""))?;
    Ok(checkpoint)
}

/// The configuration files by component, as they are; of the index its flags.
fn described(tree: &Tree, index: &Fields, base: bool) -> Result<Map<String, Value>> {
    let flags = index.map().iter().filter(|(_, value)| value.is_boolean());
    let flags: Map<String, Value> = flags.map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut all = Map::from_iter([("model_index".to_string(), Value::Object(flags))]);
    let mut files = vec![
        ("unet", "unet/config.json"),
        ("vae", "vae/config.json"),
        ("text_encoder_2", "text_encoder_2/config.json"),
        ("scheduler", "scheduler/scheduler_config.json"),
    ];
    if base {
        files.push(("text_encoder", "text_encoder/config.json"));
    }
    for (component, file) in files {
        if tree.has(file) {
            let fields = tree.fields(file)?;
            all.insert(component.into(), Value::Object(fields.map().clone()));
        }
    }
    for component in ["tokenizer", "tokenizer_2"] {
        if component == "tokenizer" && !base {
            continue;
        }
        let mut known = Map::new();
        // Where the tokens are not listed one by one, the second file decides.
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            let below = format!("{component}/{file}");
            let listed = known.contains_key("added_tokens_decoder");
            if tree.has(&below) && !listed {
                known.extend(tree.fields(&below)?.map().clone());
            }
        }
        all.insert(component.into(), Value::Object(known));
    }
    Ok(all)
}

/// The scheduler's file. Its class may stand in `model_index.json` alone; one there that
/// is not known is refused too, as it is the one that diffusers takes.
fn scheduler_config(tree: &Tree, index: &Fields, file: &Fields) -> Result<schedule::Config> {
    let config = schedule::Config::from_json(file.path(), &file.value())?;
    let named = index.map().get("scheduler").and_then(|pair| pair.get(1));
    let Some(class) = named.filter(|class| class.is_string()) else {
        return Ok(config);
    };
    let named = Value::from_iter([("_class_name", class.clone())]);
    schedule::Config::from_json(tree.path("model_index.json"), &named)?;
    match config.class_name {
        Some(_) => Ok(config),
        None => {
            let mut whole = file.map().clone();
            whole.insert("_class_name".into(), class.clone());
            schedule::Config::from_json(file.path(), &Value::Object(whole))
        }
    }
}

/// Whether `model_index.json` names a component; where it is silent, whether its folder is there.
fn has_component(tree: &Tree, index: &Fields, name: &str) -> bool {
    match index.map().get(name) {
        Some(Value::Array(pair)) => pair.iter().any(|v| !v.is_null()),
        Some(_) => false,
        None => tree.has(name),
    }
}

fn open_weights(tree: &Tree, part: Part) -> Result<Arc<Weights>> {
    let stems: &[&str] = match part {
        // transformers calls its pickles otherwise.
        Part::TextEncoder | Part::TextEncoder2 => &["model", "pytorch_model"],
        Part::UNet | Part::Vae => &["diffusion_pytorch_model"],
    };
    tree.weights(part.folder(), stems).map(Arc::new)
}

/// The folder at `path`, which must have a `model_index.json`.
pub(super) fn on_disk(path: &Path) -> Result<Tree> {
    if path.join("model_index.json").is_file() {
        return Ok(Tree::Disk(path.to_path_buf()));
    }
    if let Some(snapshot) = hub::snapshot(path) {
        return on_disk(&snapshot);
    }
    let remedy = Remedy::give(
        Field::Model,
        "a diffusers folder, which has one, or at a .safetensors file",
    );
    Err(Error::file(
        path,
        "the folder holds no model_index.json",
        remedy,
    ))
}
