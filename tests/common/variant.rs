//! Models of other kinds, made of the demonstration base: `tools/make_inpaint_model.py`,
//! `tools/make_sharp_model.py` and `tools/record_embedded_guidance.py` in Rust.

// Not every test binary uses all of it.
#![allow(dead_code)]

use super::folder::copy;
use half::f16;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// Makes `folder` an inpainting model, whose UNet has 9 input channels.
pub fn inpainting(folder: &Path) {
    make(
        folder,
        "inpaint-conv-in.safetensors",
        &[("in_channels", json!(9))],
    );
}

/// Makes `folder` a consistency model that is told its guidance scale.
pub fn embedded_guidance(folder: &Path) {
    let told = [("time_cond_proj_dim", json!(256))];
    make(folder, "cond-proj.safetensors", &told);
    let scheduler = [("_class_name", json!("LCMScheduler"))];
    set(folder, "scheduler/scheduler_config.json", &scheduler);
}

/// Makes `folder` a model whose VAE says that f16 would not do.
pub fn upcast(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    copy(&root.join("models/demo/base"), folder);
    set(folder, "vae/config.json", &[("force_upcast", json!(true))]);
}

/// Makes `folder` a model that was trained over noise levels: another scheduler's file,
/// and keys of the VAE's changed.
pub fn edm(folder: &Path, scheduler: &Value, vae: &Value) {
    copy(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/base"),
        folder,
    );
    let file = folder.join("scheduler/scheduler_config.json");
    fs::write(file, scheduler.to_string()).unwrap();
    let keys = vae.as_object().unwrap().iter();
    let keys: Vec<_> = keys
        .map(|(key, value)| (key.as_str(), value.clone()))
        .collect();
    set(folder, "vae/config.json", &keys);
}

/// Makes `folder` a model whose attention logits reach hundreds: queries and keys
/// enlarged by powers of two, which float16 holds.
pub fn sharp_attention(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    copy(&root.join("models/demo/base"), folder);
    for (file, layers, factor) in [
        ("text_encoder/model.safetensors", ["q_proj", "k_proj"], 16.0),
        (
            "text_encoder_2/model.safetensors",
            ["q_proj", "k_proj"],
            8.0,
        ),
        (WEIGHTS, ["to_q", "to_k"], 8.0),
        (
            "vae/diffusion_pytorch_model.safetensors",
            ["to_q", "to_k"],
            8.0,
        ),
    ] {
        let path = folder.join(file);
        let mut tensors = super::tensors::read(&path);
        for (name, (dtype, _, bytes)) in &mut tensors {
            if !layers.contains(&name.rsplit('.').nth(1).unwrap()) {
                continue;
            }
            assert_eq!(*dtype, safetensors::Dtype::F16, "{name}");
            for value in bytemuck::cast_slice_mut::<u8, [u8; 2]>(bytes) {
                *value = f16::from_f32(f16::from_le_bytes(*value).to_f32() * factor).to_le_bytes();
            }
        }
        super::tensors::write(&path, &tensors, None);
    }
}

/// The base with the tensors of a fixture over its UNet's, and keys of its
/// configuration changed.
fn make(folder: &Path, fixture: &str, keys: &[(&str, Value)]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let base = root.join("models/demo/base");
    copy(&base, folder);
    let weights = fs::read(base.join(WEIGHTS)).unwrap();
    let recorded = fs::read(root.join("tests/fixtures").join(fixture)).unwrap();
    let recorded = SafeTensors::deserialize(&recorded).unwrap().tensors();
    let mut tensors = SafeTensors::deserialize(&weights).unwrap().tensors();
    tensors.retain(|(name, _)| recorded.iter().all(|(other, _)| other != name));
    tensors.extend(recorded);
    let bytes = safetensors::serialize(tensors, None).unwrap();
    fs::write(folder.join(WEIGHTS), bytes).unwrap();
    set(folder, "unet/config.json", keys);
}

fn set(folder: &Path, file: &str, keys: &[(&str, Value)]) {
    let path = folder.join(file);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in keys {
        config[*key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
}
