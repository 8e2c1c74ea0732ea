//! Failures as this API words them.

use super::types::{ErrorBody, ErrorDetail};
use crate::error::Field;
use crate::server::doors::names::Names;
use crate::server::work::Failure;
use axum::http::StatusCode;
use serde_json::{Value, json};

/// A failure as this API words it.
pub fn refusal(failure: Failure, _request_id: &str) -> (StatusCode, Value) {
    let (status, kind, code) = match &failure {
        Failure::Unauthorized => (401, "invalid_request_error", Some("invalid_api_key")),
        Failure::Invalid {
            field: Field::Model,
            ..
        } => (404, "invalid_request_error", Some("model_not_found")),
        // Out of credits is this in that API, and its clients tell it from a full queue.
        Failure::Credits { .. } => (429, "insufficient_quota", Some("insufficient_quota")),
        Failure::QueueFull { .. } => (429, "rate_limit_error", Some("rate_limit_exceeded")),
        other => match other.status().as_u16() {
            status @ 500.. => (status, "server_error", None),
            status => (status, "invalid_request_error", None),
        },
    };
    let body = ErrorBody {
        error: ErrorDetail {
            message: failure.message(&NAMES),
            kind,
            param: failure.field(&NAMES),
            code: code.unwrap_or(failure.code().as_str()),
        },
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, json!(body))
}

/// What this API calls fields.
pub const NAMES: Names = Names(&[
    (Field::Samples, "n"),
    (Field::Width, "size"),
    (Field::Height, "size"),
    (Field::LoraTag, "a LoRA tag of prompt"),
    (Field::Loras, "the LoRA tags of prompt"),
]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_worded_as_the_clients_parse_them() {
        let invalid = |field| Failure::invalid(field, 0, "must be more");
        let full = Failure::QueueFull {
            why: "the queue is full",
            seconds: 3,
        };
        let credits = Failure::Credits {
            cost: 2,
            remaining: 1,
        };
        let request = "invalid_request_error";
        for (failure, status, kind, param, code) in [
            (invalid("samples"), 400, request, Some("n"), "invalid_value"),
            (
                invalid("width"),
                400,
                request,
                Some("size"),
                "invalid_value",
            ),
            (
                invalid("steps"),
                400,
                request,
                Some("steps"),
                "invalid_value",
            ),
            (
                Failure::Body("no".into()),
                400,
                request,
                None,
                "unreadable_body",
            ),
            (
                invalid("model"),
                404,
                request,
                Some("model"),
                "model_not_found",
            ),
            (Failure::Unauthorized, 401, request, None, "invalid_api_key"),
            (
                Failure::NotFound("no".into()),
                404,
                request,
                None,
                "not_found",
            ),
            (
                credits,
                429,
                "insufficient_quota",
                None,
                "insufficient_quota",
            ),
            (full, 429, "rate_limit_error", None, "rate_limit_exceeded"),
            (
                Failure::Unavailable("not now"),
                503,
                "server_error",
                None,
                "unavailable",
            ),
            (Failure::Internal, 500, "server_error", None, "internal"),
        ] {
            let said = format!("{failure:?}");
            let (answered, body) = refusal(failure, "id");
            let error = &body["error"];
            assert_eq!(answered.as_u16(), status, "{said}");
            assert_eq!(error["type"], json!(kind), "{said}");
            assert_eq!(error["param"], json!(param), "{said}");
            assert_eq!(error["code"], json!(code), "{said}");
            assert!(!error["message"].as_str().unwrap().is_empty(), "{said}");
        }
        let (_, body) = refusal(invalid("samples"), "id");
        assert_eq!(body["error"]["message"], json!("n is 0: must be more"));
    }
}
