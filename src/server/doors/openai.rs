//! The OpenAI images API.

use crate::server::failure::Failure;
use crate::server::service::Service;
use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;

/// A failure as this API words it.
pub fn refusal(failure: Failure, _request_id: &str) -> (StatusCode, Value) {
    (failure.status(), json!({ "error": failure.to_string() }))
}

pub fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
}
