//! Configuration files to the architecture structs: diffusers' and
//! transformers' defaults, and an error for every option that is not SDXL's.

use super::config::{Activation, Autoencoder, ClipConfig, TinyConfig, UNetConfig, VaeConfig};
use super::fields::Fields;
use crate::Result;
use serde_json::{Value, json};

/// Levels a UNet or VAE may have, and blocks or layers in one of them.
const MOST_LEVELS: usize = 8;
const MOST_LAYERS: usize = 64;

/// `unet/config.json`.
pub(super) fn unet(f: &Fields) -> Result<UNetConfig> {
    only_sdxl_unet(f)?;
    let block_out_channels = f.list("block_out_channels", &[320, 640, 1280, 1280], MOST_LEVELS)?;
    let levels = block_out_channels.len();
    let down = f.words(
        "down_block_types",
        &[
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ],
        &["DownBlock2D", "CrossAttnDownBlock2D"],
        levels,
    )?;
    let up = f.words(
        "up_block_types",
        &[
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
        ],
        &["UpBlock2D", "CrossAttnUpBlock2D"],
        levels,
    )?;
    // diffusers' quirk: attention_head_dim is the number of heads, unless the
    // number is given under its own name.
    let heads = match f.get("num_attention_heads") {
        Some(_) => "num_attention_heads",
        None => "attention_head_dim",
    };
    let crosses = |types: &[String]| types.iter().map(|t| t.starts_with("CrossAttn")).collect();
    let config = UNetConfig {
        in_channels: f.count("in_channels", 4)?,
        out_channels: f.count("out_channels", 4)?,
        sample_size: f.count_in("sample_size", 128, 1..=16384)?,
        layers_per_block: f.per_level("layers_per_block", 2, levels, 1..=MOST_LAYERS)?,
        down_cross_attention: crosses(&down),
        up_cross_attention: crosses(&up),
        transformer_layers_per_block: f.per_level(
            "transformer_layers_per_block",
            1,
            levels,
            0..=MOST_LAYERS,
        )?,
        num_attention_heads: f.per_level(heads, 8, levels, 1..=4096)?,
        cross_attention_dim: cross_attention_dim(f)?,
        use_linear_projection: f.flag("use_linear_projection", false)?,
        addition_time_embed_dim: even(f, "addition_time_embed_dim", 256)?,
        projection_class_embeddings_input_dim: f
            .count("projection_class_embeddings_input_dim", 2816)?,
        norm_num_groups: f.count("norm_num_groups", 32)?,
        norm_eps: f.positive("norm_eps", 1e-5)? as f32,
        flip_sin_to_cos: f.flag("flip_sin_to_cos", true)?,
        freq_shift: f.number("freq_shift", 0.0)? as f32,
        time_cond_proj_dim: match f.get("time_cond_proj_dim") {
            Some(_) => Some(even(f, "time_cond_proj_dim", 256)?),
            None => None,
        },
        block_out_channels,
    };
    check_unet(f, &config, heads)?;
    Ok(config)
}

/// Options of `UNet2DConditionModel` that have one value in every SDXL.
fn only_sdxl_unet(f: &Fields) -> Result<()> {
    if f.get("addition_embed_type") != Some(&json!("text_time")) {
        return Err(f.error("addition_embed_type", "text_time (SDXL's)"));
    }
    f.only(&[
        ("act_fn", json!("silu")),
        ("attention_type", json!("default")),
        ("center_input_sample", json!(false)),
        ("class_embed_type", Value::Null),
        ("class_embeddings_concat", json!(false)),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("cross_attention_norm", Value::Null),
        ("downsample_padding", json!(1)),
        ("dual_cross_attention", json!(false)),
        ("encoder_hid_dim", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("mid_block_only_cross_attention", json!(false)),
        ("mid_block_scale_factor", json!(1)),
        ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
        ("num_class_embeds", Value::Null),
        ("only_cross_attention", json!(false)),
        ("resnet_out_scale_factor", json!(1.0)),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_time_scale_shift", json!("default")),
        ("reverse_transformer_layers_per_block", Value::Null),
        ("time_embedding_act_fn", Value::Null),
        ("time_embedding_dim", Value::Null),
        ("time_embedding_type", json!("positional")),
        ("timestep_post_act", Value::Null),
    ])
}

/// The width of the text embedding: one number, or the same for every level.
fn cross_attention_dim(f: &Fields) -> Result<usize> {
    let key = "cross_attention_dim";
    let Some(Value::Array(_)) = f.get(key) else {
        return f.count(key, 1280);
    };
    let list = f.list(key, &[], MOST_LEVELS)?;
    match list.first() {
        Some(first) if list.iter().all(|n| n == first) => Ok(*first),
        _ => Err(f.error(key, "one width for all levels")),
    }
}

fn even(f: &Fields, key: &str, default: usize) -> Result<usize> {
    let n = f.count(key, default)?;
    (n % 2 == 0)
        .then_some(n)
        .ok_or_else(|| f.error(key, "an even number"))
}

fn check_unet(f: &Fields, c: &UNetConfig, heads: &str) -> Result<()> {
    let channels = &c.block_out_channels;
    if channels.iter().any(|n| n % c.norm_num_groups != 0) {
        return Err(f.error(
            "norm_num_groups",
            &format!("a divisor of each of {channels:?}"),
        ));
    }
    // The time embedding is as many sines as cosines, as wide as the first level.
    if channels.first().is_none_or(|n| n % 2 != 0) {
        return Err(f.error("block_out_channels", "an even first width"));
    }
    let levels = channels.len();
    for level in 0..levels {
        let at = |list: &[bool], i: usize| list.get(i).copied().unwrap_or(false);
        let attends = at(&c.down_cross_attention, level)
            || at(&c.up_cross_attention, levels - 1 - level)
            || level + 1 == levels;
        if !attends {
            continue;
        }
        let of = |list: &[usize]| list.get(level).copied().unwrap_or(0);
        if of(channels) % of(&c.num_attention_heads).max(1) != 0 {
            return Err(f.error(
                heads,
                &format!("for each level a divisor of its width, of {channels:?}"),
            ));
        }
        if of(&c.transformer_layers_per_block) == 0 {
            let allowed = "at least 1 at levels with cross attention and at the last";
            return Err(f.error("transformer_layers_per_block", allowed));
        }
    }
    Ok(())
}

/// `vae/config.json`, of either class.
pub(super) fn autoencoder(f: &Fields) -> Result<Autoencoder> {
    let classes = ["AutoencoderKL", "AutoencoderTiny"];
    match f.word("_class_name", "AutoencoderKL", &classes)? {
        "AutoencoderTiny" => Ok(Autoencoder::Tiny(tiny(f)?)),
        _ => Ok(Autoencoder::Kl(vae(f)?)),
    }
}

/// `AutoencoderTiny`'s options. `latent_magnitude` and `latent_shift` are for
/// storing latents as pictures, which no pipeline does.
pub(super) fn tiny(f: &Fields) -> Result<TinyConfig> {
    f.only(&[
        ("act_fn", json!("relu")),
        ("upsample_fn", json!("nearest")),
        ("upsampling_scaling_factor", json!(2)),
        ("shift_factor", json!(0.0)),
    ])?;
    let (encoder, levels) = tiny_width(f, "encoder_block_out_channels")?;
    let (decoder, decoder_levels) = tiny_width(f, "decoder_block_out_channels")?;
    if levels != decoder_levels {
        let allowed = format!("{levels} widths, as many as encoder_block_out_channels");
        return Err(f.error("decoder_block_out_channels", &allowed));
    }
    let blocks = |key: &str, default: [usize; 4]| match f.get(key) {
        None if levels == default.len() => Ok(default.to_vec()),
        None => Err(f.error(key, &format!("a list of {levels} whole numbers"))),
        Some(_) => f.per_level(key, 1, levels, 0..=MOST_LAYERS),
    };
    let config = TinyConfig {
        in_channels: f.count("in_channels", 3)?,
        out_channels: f.count("out_channels", 3)?,
        latent_channels: f.count("latent_channels", 4)?,
        encoder_block_out_channels: encoder,
        decoder_block_out_channels: decoder,
        num_encoder_blocks: blocks("num_encoder_blocks", [1, 3, 3, 3])?,
        num_decoder_blocks: blocks("num_decoder_blocks", [3, 3, 3, 1])?,
        scaling_factor: f.positive("scaling_factor", 1.0)? as f32,
    };
    three_colours(f, config.in_channels, config.out_channels)?;
    Ok(config)
}

/// The one width of a list, and how many entries it has.
fn tiny_width(f: &Fields, key: &str) -> Result<(usize, usize)> {
    let list = f.list(key, &[64; 4], MOST_LEVELS)?;
    match list.first() {
        Some(first) if list.iter().all(|n| n == first) => Ok((*first, list.len())),
        _ => Err(f.error(key, "one width for all stages")),
    }
}

fn three_colours(f: &Fields, inputs: usize, outputs: usize) -> Result<()> {
    let key = match (inputs, outputs) {
        (3, 3) => return Ok(()),
        (3, _) => "out_channels",
        _ => "in_channels",
    };
    Err(f.error(key, "3 (red, green, blue)"))
}

/// `AutoencoderKL`'s options.
pub(super) fn vae(f: &Fields) -> Result<VaeConfig> {
    f.only(&[("act_fn", json!("silu"))])?;
    let block_out_channels = f.list("block_out_channels", &[64], MOST_LEVELS)?;
    let levels = block_out_channels.len();
    let (down, up) = (["DownEncoderBlock2D"], ["UpDecoderBlock2D"]);
    f.words("down_block_types", &down, &down, levels)?;
    f.words("up_block_types", &up, &up, levels)?;
    let config = VaeConfig {
        in_channels: f.count("in_channels", 3)?,
        out_channels: f.count("out_channels", 3)?,
        latent_channels: f.count("latent_channels", 4)?,
        layers_per_block: f.count_in("layers_per_block", 1, 1..=MOST_LAYERS)?,
        norm_num_groups: f.count("norm_num_groups", 32)?,
        sample_size: f.count("sample_size", 32)?,
        scaling_factor: f.positive("scaling_factor", 0.18215)? as f32,
        shift_factor: f.optional_number("shift_factor")?.map(|n| n as f32),
        latents_mean: f.numbers("latents_mean")?,
        latents_std: f.numbers("latents_std")?,
        force_upcast: f.flag("force_upcast", true)?,
        use_quant_conv: f.flag("use_quant_conv", true)?,
        use_post_quant_conv: f.flag("use_post_quant_conv", true)?,
        mid_block_add_attention: f.flag("mid_block_add_attention", true)?,
        block_out_channels,
    };
    check_vae(f, &config)?;
    Ok(config)
}

fn check_vae(f: &Fields, c: &VaeConfig) -> Result<()> {
    let channels = &c.block_out_channels;
    if channels.iter().any(|n| n % c.norm_num_groups != 0) {
        return Err(f.error(
            "norm_num_groups",
            &format!("a divisor of each of {channels:?}"),
        ));
    }
    three_colours(f, c.in_channels, c.out_channels)?;
    for (key, list) in [
        ("latents_mean", &c.latents_mean),
        ("latents_std", &c.latents_std),
    ] {
        if list
            .as_ref()
            .is_some_and(|list| list.len() != c.latent_channels)
        {
            return Err(f.error(
                key,
                &format!("{} numbers, one a latent channel", c.latent_channels),
            ));
        }
    }
    if c.latents_std.iter().flatten().any(|n| *n <= 0.0) {
        return Err(f.error("latents_std", "numbers above 0"));
    }
    if c.latents_mean.is_some() != c.latents_std.is_some() {
        return Err(f.error(
            "latents_std",
            "both latents_mean and latents_std, or neither",
        ));
    }
    Ok(())
}

/// A text encoder's `config.json`; `projected` where the checkpoint has its
/// `text_projection` (`CLIPTextModelWithProjection`).
pub(super) fn clip(f: &Fields, projected: bool) -> Result<ClipConfig> {
    let act = f.word("hidden_act", "quick_gelu", &["quick_gelu", "gelu"])?;
    let config = ClipConfig {
        vocab_size: f.count("vocab_size", 49408)?,
        hidden_size: f.count("hidden_size", 512)?,
        intermediate_size: f.count("intermediate_size", 2048)?,
        // SDXL reads the second to last hidden state.
        num_hidden_layers: f.count_in("num_hidden_layers", 12, 1..=1024)?,
        num_attention_heads: f.count("num_attention_heads", 8)?,
        max_position_embeddings: f.count("max_position_embeddings", 77)?,
        hidden_act: match act {
            "gelu" => Activation::Gelu,
            _ => Activation::QuickGelu,
        },
        layer_norm_eps: f.positive("layer_norm_eps", 1e-5)? as f32,
        projection_dim: match projected {
            true => Some(f.count("projection_dim", 512)?),
            false => None,
        },
        eos_token_id: f.count_in("eos_token_id", 49407, 0..=(1 << 20))? as u32,
    };
    if !config
        .hidden_size
        .is_multiple_of(config.num_attention_heads)
    {
        let allowed = format!("a divisor of hidden_size {}", config.hidden_size);
        return Err(f.error("num_attention_heads", &allowed));
    }
    Ok(config)
}
