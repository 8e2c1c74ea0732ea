//! SDXL 1.0's own configurations, which single files leave out and `random:`
//! checkpoints are made of.

use super::config::{Activation, Autoencoder, ClipConfig, Middle, UNetConfig, VaeConfig};
use super::random::Random;
use super::{Checkpoint, Layout, Sources};
use crate::Result;
use crate::schedule;
use crate::text::Tokenizer;
use std::sync::Arc;

/// SDXL 1.0 base with weights made on the spot.
pub(super) fn random_base() -> Result<Checkpoint> {
    random("random:sdxl-base", base_unet(), Some(clip_l()))
}

/// SDXL 1.0 refiner with weights made on the spot.
pub(super) fn random_refiner() -> Result<Checkpoint> {
    random("random:sdxl-refiner", refiner_unet(), None)
}

fn random(name: &str, unet: UNetConfig, text_encoder: Option<ClipConfig>) -> Result<Checkpoint> {
    let text_encoder_2 = clip_g();
    let base = text_encoder.is_some();
    let tokenizer = match &text_encoder {
        Some(config) => Some(Tokenizer::clip(config.vocab_size, "<|endoftext|>")?),
        None => None,
    };
    let source = Arc::new(Random);
    Ok(Checkpoint {
        name: name.to_string(),
        layout: Layout::Random,
        tokenizer,
        tokenizer_2: Tokenizer::clip(text_encoder_2.vocab_size, "!")?,
        files: Vec::new(),
        described: Default::default(),
        sources: Sources::new(
            base.then(|| source.clone() as _),
            source.clone(),
            source.clone(),
            Some(source),
        ),
        unet,
        vae: Autoencoder::Kl(vae()),
        text_encoder,
        text_encoder_2,
        scheduler: schedule::Config::sdxl(),
        force_zeros_for_empty_prompt: base,
        requires_aesthetics_score: !base,
    })
}

/// The base UNet: 2,567,463,684 parameters.
fn base_unet() -> UNetConfig {
    UNetConfig {
        in_channels: 4,
        out_channels: 4,
        sample_size: 128,
        block_out_channels: vec![320, 640, 1280],
        layers_per_block: vec![2; 3],
        down_depths: vec![vec![0; 2], vec![2; 2], vec![10; 2]],
        up_depths: vec![vec![10; 3], vec![2; 3], vec![0; 3]],
        middle: Middle::Attention(10),
        num_attention_heads: vec![5, 10, 20],
        cross_attention_dim: 2048,
        use_linear_projection: true,
        addition_time_embed_dim: 256,
        projection_class_embeddings_input_dim: 2816,
        norm_num_groups: 32,
        norm_eps: 1e-5,
        flip_sin_to_cos: true,
        freq_shift: 0.0,
        time_cond_proj_dim: None,
    }
}

/// The refiner UNet.
fn refiner_unet() -> UNetConfig {
    UNetConfig {
        block_out_channels: vec![384, 768, 1536, 1536],
        layers_per_block: vec![2; 4],
        down_depths: vec![vec![0; 2], vec![4; 2], vec![4; 2], vec![0; 2]],
        up_depths: vec![vec![0; 3], vec![4; 3], vec![4; 3], vec![0; 3]],
        middle: Middle::Attention(4),
        num_attention_heads: vec![6, 12, 24, 24],
        cross_attention_dim: 1280,
        projection_class_embeddings_input_dim: 2560,
        ..base_unet()
    }
}

/// The VAE of base and refiner.
pub(super) fn vae() -> VaeConfig {
    VaeConfig {
        in_channels: 3,
        out_channels: 3,
        latent_channels: 4,
        block_out_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        norm_num_groups: 32,
        sample_size: 1024,
        scaling_factor: 0.13025,
        shift_factor: None,
        latents_mean: None,
        latents_std: None,
        force_upcast: true,
        use_quant_conv: true,
        use_post_quant_conv: true,
        mid_block_add_attention: true,
        has_encoder: true,
    }
}

/// The first text encoder, CLIP ViT-L/14.
fn clip_l() -> ClipConfig {
    ClipConfig {
        vocab_size: 49408,
        hidden_size: 768,
        intermediate_size: 3072,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        max_position_embeddings: 77,
        hidden_act: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
        projection_dim: None,
        eos_token_id: 2,
    }
}

/// The second text encoder, OpenCLIP ViT-bigG/14.
fn clip_g() -> ClipConfig {
    ClipConfig {
        hidden_size: 1280,
        intermediate_size: 5120,
        num_hidden_layers: 32,
        num_attention_heads: 20,
        hidden_act: Activation::Gelu,
        projection_dim: Some(1280),
        ..clip_l()
    }
}
