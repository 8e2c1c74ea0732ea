//! What goes in and out.

use crate::server::http::lenient::{Flag, Integer, Number, Seed};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A request of this API: the fields that its routes share, and `$extra`.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($(#[$more:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        ///
        /// Numbers may come as text, and booleans as yes and no; unknown fields are ignored,
        /// and so are those of the API that mean nothing here: quality, moderation, user.
        #[derive(Debug, Deserialize, ToSchema)]
        pub struct $name {
            $($(#[$more])* pub $field: $type,)*
            /// One of `/v1/models`; names that begin with gpt-image, dall-e, sdxl or
            /// stable-diffusion mean the first.
            #[serde(default)]
            pub model: Option<String>,
            /// Pictures; picture i uses seed + i.
            #[serde(default)]
            #[schema(value_type = Option<i64>, default = 1)]
            pub n: Option<Integer>,
            /// WIDTHxHEIGHT or auto; sizes for models of 1024 pixels are brought to the model's.
            #[serde(default)]
            #[schema(default = "auto")]
            pub size: Option<String>,
            /// url or b64_json; url where this is silent and the model's name begins with dall-e.
            #[serde(default)]
            pub response_format: Option<String>,
            /// png, jpeg or webp.
            #[serde(default)]
            #[schema(default = "png")]
            pub output_format: Option<String>,
            /// auto or opaque.
            #[serde(default)]
            pub background: Option<String>,
            /// The quality of a jpeg, 0 to 100; the other formats are lossless here.
            #[serde(default)]
            #[schema(value_type = Option<i64>, minimum = 0, maximum = 100, default = 95)]
            pub output_compression: Option<Integer>,
            /// Answers with server-sent events.
            #[serde(default)]
            #[schema(value_type = Option<bool>, default = false)]
            pub stream: Option<Flag>,
            /// Previews in a stream, 0 to 3.
            #[serde(default)]
            #[schema(value_type = Option<i64>, minimum = 0, maximum = 3, default = 0)]
            pub partial_images: Option<Integer>,
            /// vivid and natural mean nothing here; other names are prompt templates.
            #[serde(default)]
            pub style: Option<String>,
            /// Beyond OpenAI's API, as are the next ones.
            #[serde(default)]
            pub negative_prompt: Option<String>,
            /// -1 draws one.
            #[serde(default)]
            #[schema(value_type = Option<i64>)]
            pub seed: Option<Seed>,
            #[serde(default)]
            #[schema(value_type = Option<i64>)]
            pub steps: Option<Integer>,
            #[serde(default)]
            #[schema(value_type = Option<i64>)]
            pub num_inference_steps: Option<Integer>,
            #[serde(default)]
            #[schema(value_type = Option<f64>)]
            pub guidance_scale: Option<Number>,
            #[serde(default)]
            #[schema(value_type = Option<f64>)]
            pub cfg_scale: Option<Number>,
            #[serde(default)]
            pub scheduler: Option<String>,
            #[serde(default)]
            #[schema(value_type = Option<f64>)]
            pub strength: Option<Number>,
            #[serde(default)]
            #[schema(value_type = Option<bool>)]
            pub refiner: Option<Flag>,
            #[serde(default)]
            #[schema(value_type = Option<f64>)]
            pub high_noise_fraction: Option<Number>,
        }

        impl $name {
            /// The fields that all routes share, and the prompt, which not all have.
            pub fn shared<'a>(&'a self, prompt: &'a str) -> Shared<'a> {
                Shared {
                    prompt,
                    model: self.model.as_deref(),
                    n: self.n.map(|n| n.0),
                    size: self.size.as_deref(),
                    response_format: self.response_format.as_deref(),
                    output_format: self.output_format.as_deref(),
                    background: self.background.as_deref(),
                    output_compression: self.output_compression.map(|n| n.0),
                    stream: self.stream.is_some_and(|flag| flag.0),
                    partial_images: self.partial_images.map(|n| n.0),
                    style: self.style.as_deref(),
                    negative_prompt: self.negative_prompt.as_deref(),
                    seed: self.seed.map(|n| n.0),
                    steps: self.steps.or(self.num_inference_steps).map(|n| n.0),
                    guidance_scale: self.guidance_scale.or(self.cfg_scale).map(|n| n.0),
                    scheduler: self.scheduler.as_deref(),
                    strength: self.strength.map(|n| n.0),
                    refiner: self.refiner.map(|flag| flag.0),
                    high_noise_fraction: self.high_noise_fraction.map(|n| n.0),
                }
            }
        }
    };
}

/// The fields that all routes share.
pub struct Shared<'a> {
    pub prompt: &'a str,
    pub model: Option<&'a str>,
    pub n: Option<i64>,
    pub size: Option<&'a str>,
    pub response_format: Option<&'a str>,
    pub output_format: Option<&'a str>,
    pub background: Option<&'a str>,
    pub output_compression: Option<i64>,
    pub stream: bool,
    pub partial_images: Option<i64>,
    pub style: Option<&'a str>,
    pub negative_prompt: Option<&'a str>,
    pub seed: Option<i128>,
    pub steps: Option<i64>,
    pub guidance_scale: Option<f64>,
    pub scheduler: Option<&'a str>,
    pub strength: Option<f64>,
    pub refiner: Option<bool>,
    pub high_noise_fraction: Option<f64>,
}

request! {
    /// Text to image.
    Generation {
        /// What to paint; `(a:1.3)` weighs.
        prompt: String,
    }
}
request! {
    /// A picture drawn over, or in part anew.
    Edit {
        /// What to paint; `(a:1.3)` weighs.
        prompt: String,
        /// A file, base64 or a data URL; one.
        #[serde(default)]
        image: Option<OneOrMany>,
        /// The same as that API's JSON has it.
        #[serde(default)]
        images: Option<Vec<ImageUrl>>,
        /// Of the picture's size; painted anew where it is transparent.
        #[serde(default)]
        mask: Option<String>,
    }
}
request! {
    /// A picture drawn over without a prompt.
    Variation {
        /// A file, base64 or a data URL; one.
        image: OneOrMany,
    }
}

/// A picture by its address or as a data URL.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ImageUrl {
    pub image_url: String,
}

/// One text or a list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be text or a list of texts")]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn texts(&self) -> &[String] {
        match self {
            OneOrMany::One(text) => std::slice::from_ref(text),
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// Pictures.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImagesResponse {
    /// Unix time.
    pub created: u64,
    pub data: Vec<OpenAiImage>,
    pub output_format: &'static str,
    /// WIDTHxHEIGHT.
    pub size: String,
    pub quality: &'static str,
    pub background: &'static str,
    pub usage: TokenUsage,
}

/// No tokens are counted here, but the clients' types want the numbers: all are 0.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct TokenUsage {
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub total_tokens: u64,
    pub input_tokens_details: TokenDetails,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct TokenDetails {
    pub image_tokens: u64,
    pub text_tokens: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiImage {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub b64_json: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub url: Option<String>,
    /// The prompt as given: nothing revises it.
    pub revised_prompt: String,
    /// Beyond OpenAI's API.
    pub seed: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    pub object: &'static str,
    pub data: Vec<Model>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    pub id: String,
    pub object: &'static str,
    /// Unix time.
    pub created: u64,
    pub owned_by: &'static str,
}

/// Why a request was refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    pub message: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field at fault.
    pub param: Option<String>,
    /// The kind of the error, a stable word: that API's own invalid_api_key,
    /// insufficient_quota, rate_limit_exceeded and model_not_found, else one of docs/errors.md.
    pub code: &'static str,
}
