//! Failures as this API words them.

use super::types::StabilityError;
use crate::error::Field;
use crate::server::doors::names::Names;
use crate::server::work::Failure;
use axum::http::StatusCode;
use serde_json::{Value, json};

/// Why a route that draws refuses.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "read by utoipa alone")]
pub enum Refusals {
    /// The body cannot be read, or a field is missing, of the wrong type or out of range.
    #[response(status = 400)]
    Invalid(StabilityError),
    /// No valid key.
    #[response(status = 401)]
    Unauthorized(StabilityError),
    /// Not enough credits; nothing is charged.
    #[response(status = 402)]
    Credits(StabilityError),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(StabilityError),
    /// The queue is full.
    #[response(status = 429)]
    QueueFull(StabilityError),
    /// Processing failed; nothing is charged.
    #[response(status = 500)]
    Internal(StabilityError),
    /// The model is being loaded, or the service shuts down.
    #[response(status = 503)]
    Unavailable(StabilityError),
}

/// What this API calls fields.
pub const NAMES: Names = Names(&[
    (Field::GuidanceScale, "cfg_scale"),
    (Field::Scheduler, "sampler"),
    (Field::Style, "style_preset"),
    (Field::Image, "init_image"),
    (Field::Mask, "mask_image"),
    (Field::Strength, "image_strength"),
    (Field::Prompt, "text_prompts"),
    (Field::NegativePrompt, "text_prompts"),
    (Field::Size, "width x height"),
    (Field::LoraTag, "a LoRA tag of text_prompts"),
    (Field::Loras, "the LoRA tags of text_prompts"),
]);

/// A failure as this API words it.
pub fn refusal(failure: Failure, request_id: &str) -> (StatusCode, Value) {
    let status = match failure {
        Failure::Credits { .. } => StatusCode::PAYMENT_REQUIRED,
        ref other => other.status(),
    };
    let name = match failure {
        Failure::Invalid { .. } | Failure::Body(_) | Failure::Encoding(_) => "bad_request",
        Failure::Unauthorized => "unauthorized",
        Failure::Origin(_) | Failure::Host(_) => "permission_denied",
        Failure::NotFound(_) => "not_found",
        Failure::Method => "method_not_allowed",
        Failure::Credits { .. } => "insufficient_balance",
        Failure::TooLarge(_) => "payload_too_large",
        Failure::Slow => "request_timeout",
        Failure::QueueFull { .. } => "rate_limit_exceeded",
        Failure::Unavailable(_) | Failure::Cancelled => "service_unavailable",
        Failure::TimedOut(_) | Failure::Failed { .. } | Failure::Internal => "server_error",
    };
    let error = StabilityError {
        id: request_id.to_owned(),
        name,
        message: failure.message(&NAMES),
        code: failure.code().as_str(),
    };
    (status, json!(error))
}
