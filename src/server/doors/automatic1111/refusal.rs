//! Failures as this API words them.

use crate::error::Field;
use crate::server::doors::names::Names;
use crate::server::work::Failure;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

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

/// Why a route of this API refuses.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "read by utoipa alone")]
pub enum Refusals {
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
