//! Configuration files to the architecture structs: diffusers' and
//! transformers' defaults, and an error for every option that is not SDXL's.

use super::config::{
    Activation, Autoencoder, ClipConfig, Middle, TinyConfig, UNetConfig, VaeConfig,
};
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
    let layers = f.per_level("layers_per_block", 2, levels, 1..=MOST_LAYERS)?;
    let (down_depths, up_depths, last) = depths(f, &layers, &down, &up)?;
    let config = UNetConfig {
        in_channels: f.count("in_channels", 4)?,
        out_channels: f.count("out_channels", 4)?,
        sample_size: f.count_in("sample_size", 128, 1..=16384)?,
        layers_per_block: layers,
        down_depths,
        up_depths,
        middle: middle(f, last)?,
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

/// Depths of down blocks, of up blocks, and what the middle takes of the last level's.
type Depths = (Vec<Vec<usize>>, Vec<Vec<usize>>, usize);

/// Transformer blocks after each resnet. `transformer_layers_per_block` has one number
/// for all, one for each level, or one for each attention of a level; in that case
/// `reverse_transformer_layers_per_block` says the same of the up blocks.
fn depths(f: &Fields, layers: &[usize], down: &[String], up: &[String]) -> Result<Depths> {
    const DOWN: &str = "transformer_layers_per_block";
    const UP: &str = "reverse_transformer_layers_per_block";
    let levels = layers.len();
    let wrong = |key: &str| {
        let allowed = format!(
            "a whole number from 1 to {MOST_LAYERS}, or for each of {levels} levels one, or a list of one for each attention"
        );
        f.error(key, &allowed)
    };
    let number = |key: &str, value: &Value| {
        let most = MOST_LAYERS as u64;
        let number = value.as_u64().filter(|n| *n <= most);
        number.map(|n| n as usize).ok_or_else(|| wrong(key))
    };
    // One level's value with so many attentions.
    let level = |key: &str, value: &Value, count: usize| match value {
        Value::Array(list) if list.len() == count => {
            list.iter().map(|value| number(key, value)).collect()
        }
        Value::Array(_) => Err(wrong(key)),
        value => Ok(vec![number(key, value)?; count]),
    };
    let given = match f.get(DOWN) {
        None => vec![json!(1); levels],
        Some(Value::Array(list)) if list.len() == levels => list.clone(),
        Some(Value::Array(_)) => return Err(wrong(DOWN)),
        Some(value) => vec![value.clone(); levels],
    };
    let is_uneven = given.iter().any(Value::is_array);
    let above = match f.get(UP) {
        Some(Value::Array(list)) if list.len() == levels => list.clone(),
        None if !is_uneven => given.iter().rev().cloned().collect(),
        None => return Err(f.error(UP, "a list, where the way down has lists in its own")),
        Some(_) => return Err(wrong(UP)),
    };
    let crosses = |kind: &String| kind.starts_with("CrossAttn");
    let all = |key: &str, values: &[Value], counts: Vec<usize>, kinds: &[String]| {
        let each = values.iter().zip(counts).zip(kinds);
        let each = each.map(|((value, count), kind)| match crosses(kind) {
            false => {
                // It must be a depth all the same.
                if !value.is_array() {
                    number(key, value)?;
                }
                Ok(vec![0; count])
            }
            true => match level(key, value, count)? {
                depths if depths.contains(&0) => {
                    Err(f.error(key, "at least 1 at levels with cross attention"))
                }
                depths => Ok(depths),
            },
        });
        each.collect::<Result<Vec<Vec<usize>>>>()
    };
    let down = all(DOWN, &given, layers.to_vec(), down)?;
    let counts = layers.iter().rev().map(|n| n + 1).collect();
    let up = all(UP, &above, counts, up)?;
    let last = match given.last() {
        Some(Value::Array(list)) => list.first().map_or(Ok(0), |value| number(DOWN, value))?,
        Some(value) => number(DOWN, value)?,
        None => 0,
    };
    Ok((down, up, last))
}

/// The block in the middle, with the last level's `depth` where it attends.
fn middle(f: &Fields, depth: usize) -> Result<Middle> {
    const KEY: &str = "mid_block_type";
    // Absent it is diffusers' default; null is no block at all.
    let kind = match f.map().get(KEY) {
        None => Some("UNetMidBlock2DCrossAttn"),
        Some(Value::Null) => return Ok(Middle::None),
        Some(value) => value.as_str(),
    };
    match kind {
        Some("UNetMidBlock2DCrossAttn") if depth > 0 => Ok(Middle::Attention(depth)),
        Some("UNetMidBlock2DCrossAttn") => Err(f.error(
            "transformer_layers_per_block",
            "at least 1 at the last level, whose depth is the middle's too",
        )),
        Some("UNetMidBlock2D") => Ok(Middle::Resnet),
        _ => Err(f.error(KEY, "UNetMidBlock2DCrossAttn, UNetMidBlock2D or null")),
    }
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
        ("num_class_embeds", Value::Null),
        ("only_cross_attention", json!(false)),
        ("resnet_out_scale_factor", json!(1.0)),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_time_scale_shift", json!("default")),
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
        let attends = |list: &[Vec<usize>], i: usize| {
            list.get(i)
                .is_some_and(|depths| depths.iter().any(|depth| *depth > 0))
        };
        let in_middle = matches!(c.middle, Middle::Attention(_)) && level + 1 == levels;
        if !attends(&c.down_depths, level)
            && !attends(&c.up_depths, levels - 1 - level)
            && !in_middle
        {
            continue;
        }
        let of = |list: &[usize]| list.get(level).copied().unwrap_or(0);
        if of(channels) % of(&c.num_attention_heads).max(1) != 0 {
            return Err(f.error(
                heads,
                &format!("for each level a divisor of its width, of {channels:?}"),
            ));
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
        has_encoder: true,
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
