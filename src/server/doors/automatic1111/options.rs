//! Options: what clients read, and what they may not change for everybody.

use super::names::Loaded;
use super::refusal::Refusals;
use crate::server::http::body::Body;
use crate::server::http::lenient::Integer;
use crate::server::work::{Caller, Failure, Service, same};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Options that mean something here.
#[derive(Debug, Serialize, ToSchema)]
pub struct SdapiOptions {
    /// The loaded model.
    sd_model_checkpoint: String,
    sd_vae: String,
    #[serde(rename = "CLIP_stop_at_last_layers")]
    clip_stop_at_last_layers: u8,
    samples_format: &'static str,
    /// CUDA's noise.
    randn_source: &'static str,
}

/// The options.
#[utoipa::path(
    get, path = "/sdapi/v1/options", tag = "AUTOMATIC1111",
    responses((status = 200, body = SdapiOptions), Refusals),
    security((), ("basic" = [])),
)]
pub async fn options(State(service): State<Service>, _: Caller) -> Json<SdapiOptions> {
    let loaded = Loaded::of(&service);
    Json(SdapiOptions {
        sd_model_checkpoint: loaded.model().to_owned(),
        sd_vae: loaded.vae().unwrap_or("Automatic").to_owned(),
        clip_stop_at_last_layers: 1,
        samples_format: "png",
        randn_source: "GPU",
    })
}

/// Takes options as they are; they are everybody's, so that none can be changed. Those
/// that mean nothing here are ignored.
#[utoipa::path(
    post, path = "/sdapi/v1/options", tag = "AUTOMATIC1111",
    request_body(content = Object),
    responses((status = 200, body = Value, description = "null"), Refusals),
    security((), ("basic" = [])),
)]
pub async fn set_options(
    State(service): State<Service>,
    _: Caller,
    Body(options, _share): Body<Map<String, Value>>,
) -> Result<Json<Value>, Failure> {
    let loaded = Loaded::of(&service);
    for (name, value) in options.iter().filter(|(_, value)| !value.is_null()) {
        if is_so(name, value, &loaded) {
            continue;
        }
        let allowed = match name.as_str() {
            "sd_model_checkpoint" => format!("is not loaded; {:?} is", loaded.model()),
            "sd_vae" => "is not loaded".to_owned(),
            _ => "cannot be changed for everybody; say it in a request's override_settings".into(),
        };
        return Err(Failure::invalid(name, value, allowed));
    }
    Ok(Json(Value::Null))
}

/// Whether an option has this value, or none at all.
fn is_so(name: &str, value: &Value, loaded: &Loaded<'_>) -> bool {
    let text = value.as_str().unwrap_or_default();
    match name {
        "sd_model_checkpoint" => text.is_empty() || same(text, loaded.model()),
        "sd_vae" => loaded.is_vae(text),
        // Both are SDXL's own layer.
        "CLIP_stop_at_last_layers" => {
            let layers = serde_json::from_value::<Integer>(value.clone());
            layers.is_ok_and(|layers| (0..=2).contains(&layers.0))
        }
        "samples_format" => text.eq_ignore_ascii_case("png"),
        "randn_source" => ["gpu", "nv"].contains(&text.to_lowercase().as_str()),
        _ => true,
    }
}
