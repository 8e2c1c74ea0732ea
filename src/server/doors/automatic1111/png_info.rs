//! The settings inside a picture.

use super::refusal::Refusals;
use crate::error::Field;
use crate::picture::Parameters;
use crate::server::http::body::Body;
use crate::server::work::{Caller, Failure, Service, blocking};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
pub struct PngInfoRequest {
    /// PNG, JPEG or WebP: base64 or a data URL.
    image: String,
}

/// What a picture says of itself.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct PngInfo {
    /// Its settings as text; empty where it has none.
    info: String,
    /// This program's own settings, as JSON text, under `calotype`.
    #[schema(value_type = Object)]
    items: Map<String, Value>,
    /// The settings by name; sizes as `Size-1` and `Size-2`.
    #[schema(value_type = Object)]
    parameters: Map<String, Value>,
}

/// Reads the settings inside a picture.
#[utoipa::path(
    post, path = "/sdapi/v1/png-info", tag = "AUTOMATIC1111",
    request_body = PngInfoRequest,
    responses((status = 200, body = PngInfo), Refusals),
    security((), ("basic" = [])),
)]
pub async fn png_info(
    State(service): State<Service>,
    _: Caller,
    Body(request, _share): Body<PngInfoRequest>,
) -> Result<Json<PngInfo>, Failure> {
    let read = move || {
        let bytes = service.sources.bytes("png", &request.image)?;
        Parameters::read("png", &bytes)
    };
    let found = blocking(read).await?.map_err(Failure::from);
    let found = found.map_err(|failure| failure.about(Field::Named("image".into())))?;
    Ok(Json(found.map_or_else(PngInfo::default, PngInfo::of)))
}

impl PngInfo {
    fn of(found: Parameters) -> Self {
        let info = found.to_string();
        let mut parameters = Map::new();
        parameters.insert("Prompt".into(), found.prompt.into());
        let negative = found.negative_prompt.unwrap_or_default();
        parameters.insert("Negative prompt".into(), negative.into());
        for (name, value) in found.pairs {
            match sides(&value) {
                Some((width, height)) => {
                    parameters.insert(format!("{name}-1"), width.into());
                    parameters.insert(format!("{name}-2"), height.into());
                }
                None => {
                    parameters.insert(name, value.into());
                }
            }
        }
        let settings = found.settings.map(|settings| settings.to_string());
        let items = settings.map(|text| ("calotype".to_owned(), Value::from(text)));
        Self {
            info,
            items: items.into_iter().collect(),
            parameters,
        }
    }
}

/// Of `1024x768`.
fn sides(value: &str) -> Option<(&str, &str)> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (width, height) = value.split_once('x')?;
    (digits(width) && digits(height)).then_some((width, height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_named_as_webui_names_them() {
        let text = "a\nNegative prompt: b\nSteps: 5, Seed: 3, Size: 8x16, Model: x";
        let found = PngInfo::of(Parameters::parse(text));
        assert_eq!(found.info, text);
        let wanted = serde_json::json!({
            "Prompt": "a", "Negative prompt": "b", "Steps": "5", "Seed": "3",
            "Size-1": "8", "Size-2": "16", "Model": "x",
        });
        assert_eq!(Value::from(found.parameters), wanted);
        assert!(found.items.is_empty());
    }
}
