//! What a file is, said by its name.

use crate::common::{Described, write_sparse};
use crate::folders::demo_in;
use crate::made::*;
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

/// Files that are no whole checkpoint are named for what they are, with what to do.
#[test]
fn every_kind_of_file_is_named() {
    let folder = TempDir::new().unwrap();
    let lora = "lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight";
    let kinds: &[(&[&str], &str)] = &[
        (
            &[lora],
            "an adapter (LoRA), not a whole checkpoint; point loras at this file",
        ),
        (&["unet.conv_in.lora_A.weight"], "an adapter (LoRA)"),
        (&["a.b.hada_w1_a"], "an adapter (LoRA)"),
        (
            &["clip_l", "clip_g"],
            "a textual inversion (embedding), not a whole checkpoint; point embeddings at",
        ),
        (&["emb_params"], "a textual inversion"),
        (
            &["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"],
            "an IP-Adapter",
        ),
        (&["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (
            &["controlnet_cond_embedding.conv_in.weight", "conv_in.weight"],
            "a ControlNet",
        ),
        (&["adapter.body.0.resnets.0.block1.weight"], "a T2I-Adapter"),
        (
            &["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"],
            "an upscaler (ESRGAN)",
        ),
        (
            &["conv_first.weight", "body.0.rdb1.conv1.weight"],
            "an upscaler (ESRGAN)",
        ),
        (
            &["model.diffusion_model.joint_blocks.0.x.weight"],
            "a Stable Diffusion 3 model",
        ),
        (&["double_blocks.0.img_attn.qkv.weight"], "a Flux model"),
        (
            &["single_transformer_blocks.0.attn.to_q.weight"],
            "a Flux model",
        ),
        (
            &[
                "cond_stage_model.transformer.text_model.x",
                "model.diffusion_model.out.2.weight",
            ],
            "a Stable Diffusion 1 checkpoint",
        ),
        (
            &["cond_stage_model.model.ln_final.weight"],
            "a Stable Diffusion 2 checkpoint",
        ),
        (
            &[
                "input_blocks.1.0.in_layers.2.weight",
                "input_blocks.0.0.weight",
                "out.2.weight",
            ],
            "the UNet of Stable Diffusion 1 or 2",
        ),
        (
            &["decoder.up.0.block.0.conv1.weight"],
            "a VAE, not a whole checkpoint; point vae at this file",
        ),
        (&["decoder.layers.0.weight"], "a VAE"),
        (
            &["encoder.down.0.block.0.conv1.weight"],
            "a VAE's encoder alone",
        ),
        (
            &["text_model.encoder.layers.0.mlp.fc1.weight"],
            "a text encoder alone",
        ),
        (&["visual.proj"], "an image encoder"),
        (&["something.else"], "not an SDXL checkpoint"),
    ];
    for (keys, want) in kinds {
        let tensors: Vec<Described> = keys
            .iter()
            .map(|key| (key.to_string(), "F16", vec![1]))
            .collect();
        let path = folder.path().join("file.safetensors");
        write_sparse(&path, &tensors);
        let message = refused(&path);
        assert!(message.contains(want), "{keys:?}: {message}");
    }
    for (bytes, want) in [
        (
            &b"<!DOCTYPE html><html><body>Not found</body></html>"[..],
            "a text",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a git-lfs pointer",
        ),
        (
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
            "an old PyTorch pickle",
        ),
        (b"GGUF\x03\0\0\0", "GGUF: truncated"),
        (
            b"PK\x03\x04 and no more of it",
            "a zip archive without its directory",
        ),
    ] {
        let path = folder.path().join("file.ckpt");
        fs::write(&path, bytes).unwrap();
        let message = refused(&path);
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn an_instruct_pix2pix_model_is_named() {
    let folder = TempDir::new().unwrap();
    let demo = demo_in(&folder, "demo");
    let path = demo.join("unet/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["in_channels"] = json!(8);
    fs::write(&path, config.to_string()).unwrap();
    assert!(refused(&demo).contains("an instruct-pix2pix model"));
}
