//! The OpenAI images API.

mod draw;
mod stream;
mod types;

use super::names::Names;
use crate::error::Field;
use crate::server::auth::Caller;
use crate::server::failure::Failure;
use crate::server::service::Service;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::time::UNIX_EPOCH;
use types::{ErrorBody, ErrorDetail, Model, ModelList};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(draw::generations))
        .routes(routes!(draw::edits))
        .routes(routes!(draw::variations))
        .routes(routes!(models))
        .routes(routes!(model))
}

/// A failure as this API words it.
pub fn refusal(failure: Failure, _request_id: &str) -> (StatusCode, Value) {
    let (status, kind, code) = match &failure {
        Failure::Unauthorized => (401, "invalid_request_error", Some("invalid_api_key")),
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

/// The models that may be named, the default one first.
fn known(service: &Service) -> Result<Vec<Model>, Failure> {
    let models = service.models()?.iter().map(|model| {
        let created = model.loaded.duration_since(UNIX_EPOCH);
        Model {
            id: model.name.clone(),
            object: "model",
            created: created.map_or(0, |since| since.as_secs()),
            owned_by: "calotype",
        }
    });
    Ok(models.collect())
}

/// Lists the models.
#[utoipa::path(
    get, path = "/v1/models", tag = "OpenAI",
    responses(
        (status = 200, body = ModelList),
        (status = "4XX", body = ErrorBody, description = "The request is refused"),
        (status = 503, body = ErrorBody, description = "The model is being loaded"),
    ),
    security((), ("bearer" = [])),
)]
async fn models(State(service): State<Service>, _: Caller) -> Result<Json<ModelList>, Failure> {
    Ok(Json(ModelList {
        object: "list",
        data: known(&service)?,
    }))
}

/// One of the models.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "OpenAI",
    params(("model" = String, Path, description = "As the list names it")),
    responses(
        (status = 200, body = Model),
        (status = "4XX", body = ErrorBody, description = "The request is refused, or there is no such model"),
        (status = 503, body = ErrorBody, description = "The model is being loaded"),
    ),
    security((), ("bearer" = [])),
)]
async fn model(
    State(service): State<Service>,
    _: Caller,
    Path(name): Path<String>,
) -> Result<Json<Model>, Failure> {
    let known = known(&service)?;
    let names: Vec<String> = known.iter().map(|m| format!("{:?}", m.id)).collect();
    match known.into_iter().find(|model| model.id == name) {
        Some(model) => Ok(Json(model)),
        None => {
            let names = names.join(", ");
            let message = format!("this service has no model {name:?}, but {names}");
            Err(Failure::NotFound(message))
        }
    }
}

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
