//! The OpenAI images API.

mod draw;
mod stream;
mod types;

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
    let failure = failure.renamed(|field| own_name(field).to_owned());
    let body = ErrorBody {
        error: ErrorDetail {
            message: failure.to_string(),
            kind,
            param: failure.field().map(str::to_owned),
            code,
        },
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, json!(body))
}

/// What this API calls a field.
fn own_name(field: &str) -> &str {
    match field {
        "samples" => "n",
        "width" | "height" => "size",
        other => other,
    }
}

/// The one model that is loaded.
fn loaded(service: &Service) -> Result<Model, Failure> {
    let model = service.model()?;
    let created = model.loaded.duration_since(UNIX_EPOCH);
    Ok(Model {
        id: model.name,
        object: "model",
        created: created.map_or(0, |since| since.as_secs()),
        owned_by: "calotype",
    })
}

/// Lists the model.
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
        data: vec![loaded(&service)?],
    }))
}

/// The model.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "OpenAI",
    params(("model" = String, Path, description = "As the list names it")),
    responses(
        (status = 200, body = Model),
        (status = "4XX", body = ErrorBody, description = "The request is refused, or the model is another"),
        (status = 503, body = ErrorBody, description = "The model is being loaded"),
    ),
    security((), ("bearer" = [])),
)]
async fn model(
    State(service): State<Service>,
    _: Caller,
    Path(name): Path<String>,
) -> Result<Json<Model>, Failure> {
    let model = loaded(&service)?;
    match model.id == name {
        true => Ok(Json(model)),
        false => {
            let message = format!("this service has no model {name:?}, but {:?}", model.id);
            Err(Failure::NotFound(message))
        }
    }
}
