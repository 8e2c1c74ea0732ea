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

/// Whether a name stands for the default model: those of that API's own models, which its
/// clients have built in, and this model's common ones.
fn is_alias(name: &str) -> bool {
    let own = ["gpt-image", "dall-e", "stable-diffusion", "sdxl"];
    name.is_empty() || own.iter().any(|own| name.to_lowercase().starts_with(own))
}

/// The model that a request names, for an order; `None` for the default one.
pub fn named(service: &Service, name: Option<&str>) -> Option<String> {
    let name = name.map(str::trim)?;
    let alias = service.if_known(name).is_none() && is_alias(name);
    // One that is not known is refused where it is picked.
    (!alias).then(|| name.to_owned())
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
    let (index, _) = service.pick(named(&service, Some(&name)).as_deref())?;
    let model = known.into_iter().nth(index).ok_or(Failure::Internal)?;
    // That API answers with the name that was asked for.
    Ok(Json(Model { id: name, ..model }))
}

#[cfg(test)]
mod tests {
    use super::is_alias;

    #[test]
    fn names_that_clients_have_built_in_stand_for_the_default_model() {
        for name in [
            "",
            "gpt-image-1",
            "dall-e-3",
            "SDXL",
            "stable-diffusion-xl-base-1.0",
        ] {
            assert!(is_alias(name), "{name}");
        }
        for name in ["nope-9000", "gpt-4o", "flux"] {
            assert!(!is_alias(name), "{name}");
        }
    }
}
