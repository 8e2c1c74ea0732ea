//! AUTOMATIC1111's API, as its clients use it.
//!
//! Seeds are CUDA's here, which that program draws with wherever it runs on an NVIDIA
//! card: a seed of it is the same noise. What this service cannot do and what would
//! change the result (hires fix, scripts, a checkpoint that is not loaded as refiner)
//! is refused; what clients send always and what changes less is left out, and said
//! in `warnings` of the answer's `info`.

mod answer;
mod draw;
mod extras;
mod lists;
mod names;
mod options;
mod png_info;
mod progress;
mod types;

use super::names::Names;
use crate::error::Field;
use crate::server::failure::Failure;
use crate::server::service::Service;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Why a request was refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct SdapiError {
    pub error: String,
    /// The same: some clients show one, some the other.
    pub detail: String,
    /// The kind of the error, a stable word; see docs/errors.md.
    #[schema(value_type = String)]
    pub code: &'static str,
    /// Empty.
    pub body: String,
    /// Empty.
    pub errors: String,
}

/// A failure as this API words it.
pub fn refusal(failure: Failure, _request_id: &str) -> (StatusCode, Value) {
    let status = failure.status();
    if let Failure::NotFound(_) = failure {
        return (status, json!({ "detail": "Not Found" }));
    }
    let message = failure.message(&NAMES);
    let body = SdapiError {
        error: message.clone(),
        detail: message,
        code: failure.code().as_str(),
        body: String::new(),
        errors: String::new(),
    };
    (status, json!(body))
}

/// What this API calls fields.
pub const NAMES: Names = Names(&[
    (Field::Samples, "batch_size times n_iter"),
    (Field::GuidanceScale, "cfg_scale"),
    (Field::Scheduler, "sampler_name"),
    (Field::SchedulerOptions, "scheduler"),
    (Field::PaddingMaskCrop, "inpaint_full_res_padding"),
    (Field::Strength, "denoising_strength"),
    (Field::HighNoiseFraction, "refiner_switch_at"),
    (Field::Style, "styles"),
    (Field::Image, "init_images"),
    (Field::ClipSkip, "CLIP_stop_at_last_layers less 2"),
    (Field::PromptWeighting, "override_settings.emphasis"),
    (Field::Rng, "override_settings.randn_source"),
    (Field::Size, "width x height"),
    (Field::LoraTag, "a LoRA tag of prompt"),
    (Field::Loras, "the LoRA tags of prompt"),
]);

pub fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(draw::text_to_image))
        .routes(routes!(draw::image_to_image))
        .routes(routes!(progress::progress))
        .routes(routes!(progress::interrupt))
        .routes(routes!(progress::skip))
        .routes(routes!(options::options, options::set_options))
        .routes(routes!(png_info::png_info))
        .merge(extras::routes())
        .merge(lists::routes())
}

/// Why a route of this API refuses.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "read by utoipa alone")]
enum Refusals {
    /// The body is not JSON, or a field is of the wrong type, out of range or not supported.
    #[response(status = 400)]
    Invalid(SdapiError),
    /// No valid key.
    #[response(status = 401)]
    Unauthorized(SdapiError),
    /// Not enough credits; nothing is charged.
    #[response(status = 406)]
    Credits(SdapiError),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(SdapiError),
    /// The queue is full.
    #[response(status = 429)]
    QueueFull(SdapiError),
    /// Processing failed; nothing is charged.
    #[response(status = 500)]
    Internal(SdapiError),
    /// The model is being loaded, or the service shuts down.
    #[response(status = 503)]
    Unavailable(SdapiError),
}
