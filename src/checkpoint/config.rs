//! What a checkpoint's configuration files say, field for field as diffusers
//! and transformers name them, resolved to one value per level.

/// Activation of a text encoder's feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `x * Phi(x)`, exact erf.
    Gelu,
}

/// CLIP text encoder (`CLIPTextModel`, `CLIPTextModelWithProjection`).
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f32,
    /// Width of the pooled vector; `None` where the model has no `text_projection`.
    pub projection_dim: Option<usize>,
    /// transformers' `eos_token_id`; 2 means the legacy rule, the position of the largest id.
    pub eos_token_id: u32,
}

/// SDXL's UNet (`UNet2DConditionModel` with `addition_embed_type: text_time`).
/// Per-level lists run from the highest resolution to the lowest.
#[derive(Debug, Clone, PartialEq)]
pub struct UNetConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub sample_size: usize,
    pub block_out_channels: Vec<usize>,
    /// Resnets of each down block; up blocks have one more.
    pub layers_per_block: Vec<usize>,
    /// Transformer blocks after each resnet of each down block; 0 is no attention at all.
    pub down_depths: Vec<Vec<usize>>,
    /// The same of the up blocks, in the order of `up_block_types` (lowest resolution first).
    pub up_depths: Vec<Vec<usize>>,
    pub middle: Middle,
    /// Heads of each level (diffusers' `attention_head_dim`, or `num_attention_heads` where set).
    pub num_attention_heads: Vec<usize>,
    pub cross_attention_dim: usize,
    /// Whether `proj_in`/`proj_out` are linear layers rather than 1x1 convolutions.
    pub use_linear_projection: bool,
    pub addition_time_embed_dim: usize,
    pub projection_class_embeddings_input_dim: usize,
    pub norm_num_groups: usize,
    pub norm_eps: f32,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f32,
    /// Width of the embedded guidance scale, which consistency models have in the
    /// place of guidance by two predictions.
    pub time_cond_proj_dim: Option<usize>,
}

/// The block between the way down and the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middle {
    /// Two resnets, and so many transformer blocks between them (SDXL).
    Attention(usize),
    /// One resnet (SSD-1B, Segmind-Vega).
    Resnet,
    /// Nothing (KOALA-700M).
    None,
}

impl Middle {
    /// Its resnets.
    pub fn resnets(self) -> usize {
        match self {
            Middle::Attention(_) => 2,
            Middle::Resnet => 1,
            Middle::None => 0,
        }
    }
}

impl UNetConfig {
    /// The most transformer blocks that an attention of each level has, highest
    /// resolution first.
    pub fn deepest(&self) -> Vec<usize> {
        let most = |depths: &Vec<usize>| depths.iter().copied().max().unwrap_or(0);
        let both = self.down_depths.iter().zip(self.up_depths.iter().rev());
        both.map(|(down, up)| most(down).max(most(up))).collect()
    }
}

/// The VAE, of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Autoencoder {
    Kl(VaeConfig),
    Tiny(TinyConfig),
}

impl Autoencoder {
    /// diffusers' name of the class.
    pub fn class(&self) -> &'static str {
        match self {
            Autoencoder::Kl(_) => "AutoencoderKL",
            Autoencoder::Tiny(_) => "AutoencoderTiny",
        }
    }

    /// Colours of a picture: 3.
    pub fn picture_channels(&self) -> usize {
        match self {
            Autoencoder::Kl(c) => c.out_channels,
            Autoencoder::Tiny(c) => c.out_channels,
        }
    }

    pub fn latent_channels(&self) -> usize {
        match self {
            Autoencoder::Kl(c) => c.latent_channels,
            Autoencoder::Tiny(c) => c.latent_channels,
        }
    }

    pub fn scaling_factor(&self) -> f32 {
        match self {
            Autoencoder::Kl(c) => c.scaling_factor,
            Autoencoder::Tiny(c) => c.scaling_factor,
        }
    }

    /// What is taken off latents before they are scaled.
    pub fn shift_factor(&self) -> f32 {
        match self {
            Autoencoder::Kl(c) => c.shift_factor.unwrap_or(0.0),
            Autoencoder::Tiny(_) => 0.0,
        }
    }

    /// Mean and deviation of each latent channel, where the checkpoint has them;
    /// they stand in for the shift.
    pub fn latents_mean_std(&self) -> Option<(&[f32], &[f32])> {
        match self {
            Autoencoder::Kl(c) => c.latents_mean.as_deref().zip(c.latents_std.as_deref()),
            Autoencoder::Tiny(_) => None,
        }
    }

    /// Picture pixels along one latent pixel: 8.
    pub fn scale(&self) -> usize {
        let levels = match self {
            Autoencoder::Kl(c) => c.block_out_channels.len(),
            Autoencoder::Tiny(c) => c.num_decoder_blocks.len(),
        };
        1 << levels.saturating_sub(1)
    }

    /// Whether it can encode pictures; a file may hold the decoder alone.
    pub fn has_encoder(&self) -> bool {
        match self {
            Autoencoder::Kl(c) => c.has_encoder,
            Autoencoder::Tiny(c) => !c.num_encoder_blocks.is_empty(),
        }
    }

    /// Whether the activations overflow f16 and stay f32.
    pub fn force_upcast(&self) -> bool {
        match self {
            Autoencoder::Kl(c) => c.force_upcast,
            Autoencoder::Tiny(_) => false,
        }
    }
}

/// `AutoencoderTiny` (TAESD).
#[derive(Debug, Clone, PartialEq)]
pub struct TinyConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    /// The one width of all stages: diffusers has a list, but its convolutions
    /// between stages keep the width.
    pub encoder_block_out_channels: usize,
    pub decoder_block_out_channels: usize,
    /// Residual blocks of each stage, highest resolution first; empty where there
    /// is no encoder.
    pub num_encoder_blocks: Vec<usize>,
    /// Lowest resolution first.
    pub num_decoder_blocks: Vec<usize>,
    /// 1: TAESD's latents are not normalised.
    pub scaling_factor: f32,
}

/// `AutoencoderKL`.
#[derive(Debug, Clone, PartialEq)]
pub struct VaeConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub norm_num_groups: usize,
    pub sample_size: usize,
    pub scaling_factor: f32,
    pub shift_factor: Option<f32>,
    pub latents_mean: Option<Vec<f32>>,
    pub latents_std: Option<Vec<f32>>,
    /// The activations overflow f16: they stay f32.
    pub force_upcast: bool,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
    /// A file may hold the decoder alone.
    pub has_encoder: bool,
}
