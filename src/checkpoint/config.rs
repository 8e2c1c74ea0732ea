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
    /// Whether the down block of each level has cross attention (`CrossAttnDownBlock2D`).
    pub down_cross_attention: Vec<bool>,
    /// The same of the up blocks, in the order of `up_block_types` (lowest resolution first).
    pub up_cross_attention: Vec<bool>,
    /// Transformer blocks in each attention of a level. The middle block takes the last.
    pub transformer_layers_per_block: Vec<usize>,
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
}
