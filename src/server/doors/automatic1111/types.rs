//! What txt2img and img2img are asked.

use crate::server::http::lenient::{Flag, Integer, Number, Seed};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// What to draw.
///
/// Numbers may come as text, and booleans as yes and no; null is silence, and unknown
/// fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SdapiRequest {
    /// What to paint; `(a:1.3)` weighs, `<lora:NAME:WEIGHT>` adds an adapter.
    #[schema(required = false, default = "")]
    pub prompt: Option<String>,
    #[schema(default = "")]
    pub negative_prompt: Option<String>,
    /// Prompt templates, laid one around another in this order.
    pub styles: Option<Vec<String>>,
    /// -1 draws one. The noise is CUDA's; picture i uses seed + i.
    #[schema(value_type = Option<i64>, default = -1)]
    pub seed: Option<Seed>,
    /// Left out, with a warning where it is above 0.
    #[schema(value_type = Option<f64>)]
    pub subseed_strength: Option<Number>,
    /// A name of `/sdapi/v1/samplers`, or one of ComfyUI's or diffusers'; a scheduler may
    /// stand behind it, as in `DPM++ 2M Karras`. Euler where silent, unless the
    /// checkpoint asks for another.
    pub sampler_name: Option<String>,
    /// The same, where `sampler_name` is silent.
    #[schema(deprecated)]
    pub sampler_index: Option<String>,
    /// A name of `/sdapi/v1/schedulers`; one that is unknown, or that the sampler has
    /// not, is Automatic, with a warning.
    #[schema(default = "Automatic")]
    pub scheduler: Option<String>,
    #[schema(value_type = Option<i64>, default = 1)]
    pub batch_size: Option<Integer>,
    /// Batches: `batch_size` times `n_iter` pictures are drawn.
    #[schema(value_type = Option<i64>, default = 1)]
    pub n_iter: Option<Integer>,
    /// What the model asks for where silent, or the operator.
    #[schema(value_type = Option<i64>)]
    pub steps: Option<Integer>,
    /// 1 switches guidance off.
    #[schema(value_type = Option<f64>, default = 7)]
    pub cfg_scale: Option<Number>,
    /// Pixels, rounded down to a multiple of 8; the model's native size where silent,
    /// in img2img the picture's. On a model that is not made for 1024 pixels, sizes that
    /// are too large for it are scaled down.
    #[schema(value_type = Option<i64>)]
    pub width: Option<Integer>,
    #[schema(value_type = Option<i64>)]
    pub height: Option<Integer>,
    /// Left out, with a warning where true.
    #[schema(value_type = Option<bool>)]
    pub restore_faces: Option<Flag>,
    /// Left out, with a warning where true.
    #[schema(value_type = Option<bool>)]
    pub tiling: Option<Flag>,
    /// Share of fresh noise of DDIM and TCD; other samplers have their own.
    #[schema(value_type = Option<f64>)]
    pub eta: Option<Number>,
    /// Left out, with a warning where it is above 0.
    #[schema(value_type = Option<f64>)]
    pub s_churn: Option<Number>,
    /// img2img: how much of the picture is drawn anew; at 0 one step, from the least
    /// noise.
    #[schema(value_type = Option<f64>, default = 0.75)]
    pub denoising_strength: Option<Number>,
    /// Must be false: ask for the width and height themselves.
    #[schema(value_type = Option<bool>, default = false)]
    pub enable_hr: Option<Flag>,
    /// The loaded refiner; it does not draw where this is silent.
    pub refiner_checkpoint: Option<String>,
    /// Share of the noise schedule given to the base, the rest to the refiner.
    #[schema(value_type = Option<f64>, default = 0.8)]
    pub refiner_switch_at: Option<Number>,
    /// `CLIP_stop_at_last_layers`, `samples_format` (png, jpg, webp), `randn_source`
    /// (GPU, NV, CPU) and `emphasis` (Original, No norm, None) count; others are left out with a warning.
    #[schema(value_type = Object)]
    pub override_settings: Option<Map<String, Value>>,
    /// CLIP_stop_at_last_layers, as SD.Next names it.
    #[schema(value_type = Option<i64>)]
    pub clip_skip: Option<Integer>,
    /// Must be empty.
    pub script_name: Option<String>,
    /// Left out, with a warning where one is switched on.
    #[schema(value_type = Object)]
    pub alwayson_scripts: Option<Map<String, Value>>,
    #[schema(value_type = Option<bool>, default = true)]
    pub send_images: Option<Flag>,
    /// img2img: the picture to start from, base64 or a data URL.
    pub init_images: Option<Vec<String>>,
    /// img2img: where it is painted anew. In a picture with transparent parts what is
    /// opaque, whatever its colour; else what is white. Of another size it is stretched.
    pub mask: Option<String>,
    /// Standard deviation in pixels of the Gaussian that softens the mask, along rows
    /// and columns alike.
    #[schema(value_type = Option<f64>)]
    pub mask_blur: Option<Number>,
    #[schema(value_type = Option<f64>, default = 4)]
    pub mask_blur_x: Option<Number>,
    #[schema(value_type = Option<f64>, default = 4)]
    pub mask_blur_y: Option<Number>,
    /// What is painted over: 0 the colours around, 1 the original, 2 latent noise, 3
    /// latents of nothing.
    #[schema(value_type = Option<i64>, default = 0)]
    pub inpainting_fill: Option<Integer>,
    /// Only the part that the mask paints is drawn, at width and height, and put back
    /// into the original, whose size the answer then has.
    #[schema(value_type = Option<bool>, default = true)]
    pub inpaint_full_res: Option<Flag>,
    /// Pixels of its surroundings that are drawn with that part.
    #[schema(value_type = Option<i64>, default = 0)]
    pub inpaint_full_res_padding: Option<Integer>,
    /// Black is painted anew.
    #[schema(value_type = Option<bool>, default = 0)]
    pub inpainting_mask_invert: Option<Flag>,
    /// How the picture is brought to the size: 0 and 3 stretch, 1 crop, 2 pad.
    #[schema(value_type = Option<i64>, default = 0)]
    pub resize_mode: Option<Integer>,
    /// Whether the answer's `parameters` repeat the pictures.
    #[schema(value_type = Option<bool>, default = false)]
    pub include_init_images: Option<Flag>,
}
