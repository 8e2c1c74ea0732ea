//! The models that may be named.

use super::types::{ErrorBody, Model, ModelList};
use crate::server::work::{Caller, Failure, Service};
use axum::Json;
use axum::extract::{Path, State};
use std::time::UNIX_EPOCH;

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
pub async fn models(State(service): State<Service>, _: Caller) -> Result<Json<ModelList>, Failure> {
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
pub async fn model(
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
