//! Folders as diffusers and the hub's cache have them.

use crate::folder::copy;
use crate::made::*;
use calotype::checkpoint::Checkpoint;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
}

/// The demo's folder, copied.
pub fn demo_in(folder: &TempDir, name: &str) -> PathBuf {
    let to = folder.path().join(name);
    copy(&models().join("base"), &to);
    to
}

#[test]
fn an_index_without_its_shards_is_passed_over() {
    let folder = TempDir::new().unwrap();
    let demo = demo_in(&folder, "demo");
    let unet = demo.join("unet");
    let weights = unet.join("diffusion_pytorch_model.safetensors");
    fs::rename(
        &weights,
        unet.join("diffusion_pytorch_model.fp16.safetensors"),
    )
    .unwrap();
    let index = unet.join("diffusion_pytorch_model.safetensors.index.json");
    let map = json!({"weight_map": {"conv_in.weight": "gone-00001-of-00002.safetensors"}});
    fs::write(&index, map.to_string()).unwrap();
    open(&demo);
    // Without another variant the missing shard is what is told of.
    fs::remove_file(unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    assert!(refused(&demo).contains("gone-00001-of-00002.safetensors"));
}

/// Weights under the names of pickles, which transformers gives its own; what is in
/// them is found by their first bytes.
#[test]
fn a_folder_of_bin_files_is_opened() {
    let folder = TempDir::new().unwrap();
    let demo = demo_in(&folder, "demo");
    for (part, from, to) in [
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("text_encoder", "model", "pytorch_model"),
        ("text_encoder_2", "model", "pytorch_model"),
    ] {
        let part = demo.join(part);
        let from = part.join(format!("{from}.safetensors"));
        fs::rename(from, part.join(format!("{to}.bin"))).unwrap();
    }
    open(&demo);
}

#[test]
fn the_hub_s_cache_is_looked_in() {
    let folder = TempDir::new().unwrap();
    let repository = folder.path().join("models--someone--tiny-xl");
    let snapshot = repository.join("snapshots/abc");
    fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    fs::rename(demo_in(&folder, "demo"), &snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "abc\n").unwrap();
    let (ok, text) = inspect(&["someone/tiny-xl"], folder.path());
    assert!(ok && text.contains("SDXL base"), "{text}");
    open(&repository);
    // One snapshot needs no name.
    fs::remove_file(repository.join("refs/main")).unwrap();
    open(&repository);
    let (ok, text) = inspect(&["someone/other-xl"], folder.path());
    assert!(
        !ok && text.contains("download it with `calotype pull someone/other-xl`"),
        "{text}"
    );
    // A path that is not there is no repository's name.
    let (_, text) = inspect(&["folder/model.safetensors"], folder.path());
    assert!(!text.contains("calotype pull"), "{text}");
}

/// What SDXL's own files say where a folder's are missing: the second tokenizer pads with
/// `!`, and the scheduler is Euler over SDXL's betas.
#[test]
fn files_that_are_missing_are_sdxl_s_own() {
    let folder = TempDir::new().unwrap();
    let whole = demo_in(&folder, "whole");
    let bare = demo_in(&folder, "bare");
    for part in ["tokenizer", "tokenizer_2"] {
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            fs::remove_file(bare.join(part).join(file)).unwrap();
        }
    }
    fs::remove_dir_all(bare.join("scheduler")).unwrap();
    let (whole, bare) = (open(&whole), open(&bare));
    let pads = |c: &Checkpoint| [c.tokenizer.as_ref().unwrap().pad(), c.tokenizer_2.pad()];
    assert_eq!(pads(&bare), pads(&whole));
    assert_eq!(bare.scheduler.beta_end, 0.012);
}
