//! Hugging Face's text-to-image and image-to-image tasks, as its `InferenceClient`
//! sends them to an address of one's own.

use crate::picture::Format;
use crate::pipeline::RawRequest;
use crate::server::auth::Caller;
use crate::server::body::{Body, bytes};
use crate::server::failure::Failure;
use crate::server::lenient::{Flag, Integer, Number};
use crate::server::observe::RequestId;
use crate::server::order::{Order, Size};
use crate::server::service::Service;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Where a picture to start from comes without a strength.
const STRENGTH: f64 = 0.6;

/// Text to image; image to image where `parameters.prompt` says what to draw.
///
/// Numbers may come as text, and booleans as yes and no; unknown fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
struct Task {
    /// What to paint; or a picture in base64, with `parameters.prompt`.
    inputs: String,
    #[serde(default)]
    parameters: Option<Parameters>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
struct Parameters {
    /// What to paint over the picture that `inputs` is.
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    negative_prompt: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    height: Option<Integer>,
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    width: Option<Integer>,
    #[serde(default)]
    target_size: Option<TargetSize>,
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    num_inference_steps: Option<Integer>,
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    guidance_scale: Option<Number>,
    #[serde(default)]
    scheduler: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    seed: Option<Integer>,
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    strength: Option<Number>,
    #[serde(default)]
    style: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    refiner: Option<Flag>,
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    high_noise_fraction: Option<Number>,
}

/// As image-to-image sends the size.
#[derive(Debug, Deserialize, ToSchema)]
struct TargetSize {
    #[schema(value_type = i64)]
    width: Integer,
    #[schema(value_type = i64)]
    height: Integer,
}

/// Why a request was refused.
#[derive(Debug, Serialize, ToSchema)]
struct HuggingFaceError {
    error: String,
    /// Seconds until the model is loaded; with status 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    estimated_time: Option<f64>,
}

/// A failure as this API words it.
pub fn refusal(failure: Failure, _request_id: &str) -> (StatusCode, Value) {
    let status = match failure {
        Failure::Credits { .. } => StatusCode::PAYMENT_REQUIRED,
        _ => failure.status(),
    };
    let loading = status == StatusCode::SERVICE_UNAVAILABLE;
    let estimated_time = failure.retry_after().filter(|_| loading);
    let failure = failure.renamed(|field| {
        match field {
            "prompt" => "inputs",
            "steps" => "parameters.num_inference_steps",
            other if other.starts_with("parameters") || other == "inputs" => other,
            other => return format!("parameters.{other}"),
        }
        .to_owned()
    });
    let error = HuggingFaceError {
        error: failure.to_string(),
        estimated_time: estimated_time.map(|seconds| seconds as f64),
    };
    (status, json!(error))
}

pub fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(at_root))
        .routes(routes!(of_model))
}

impl<S: Send + Sync> FromRequest<S> for Task {
    type Rejection = Failure;

    /// JSON, or the bytes of a picture to draw over.
    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let media = request.headers().get(header::CONTENT_TYPE);
        let media = media.and_then(|value| value.to_str().ok());
        if !media.is_some_and(|media| media.starts_with("image/")) {
            return Body::from_request(request, state)
                .await
                .map(|Body(task)| task);
        }
        let bytes = bytes(request).await?;
        Ok(Task {
            inputs: STANDARD.encode(&bytes),
            parameters: Some(Parameters {
                prompt: Some(String::new()),
                ..Default::default()
            }),
        })
    }
}

impl Task {
    fn order(self, format: Format) -> Result<Order, Failure> {
        let p = self.parameters.unwrap_or_default();
        let (prompt, image) = match p.prompt {
            Some(prompt) => (prompt, Some(self.inputs)),
            None => (self.inputs, None),
        };
        let (width, height) = match p.target_size {
            Some(size) => (Some(size.width), Some(size.height)),
            None => (p.width, p.height),
        };
        let size = match (width, height) {
            (None, None) if image.is_some() => Size::Picture,
            (None, None) => Size::Native,
            // One side alone is that of a square.
            (w, h) => {
                let side = |a: Option<Integer>, b: Option<Integer>| a.or(b).map_or(0, |n| n.0);
                Size::Scaled(side(w, h), side(h, w))
            }
        };
        let strength = p.strength.map_or(STRENGTH, |n| n.0);
        Ok(Order {
            raw: RawRequest {
                prompt: Some(prompt),
                negative_prompt: p.negative_prompt,
                steps: p.num_inference_steps.map(|n| n.0),
                guidance_scale: p.guidance_scale.map(|n| n.0),
                scheduler: p.scheduler,
                seed: p.seed.map(|n| n.0),
                strength: image.is_some().then_some(strength),
                style: p.style,
                refiner: p.refiner.map(|flag| flag.0),
                high_noise_fraction: p.high_noise_fraction.map(|n| n.0),
                ..Default::default()
            },
            size,
            image,
            format: Some(format),
            ..Default::default()
        })
    }
}

/// The first format that `Accept` names; PNG where it names none of them.
fn accepted(headers: &HeaderMap) -> Format {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let formats = [Format::Png, Format::Jpeg, Format::Webp];
    let named = accept.unwrap_or_default().split(',').find_map(|part| {
        let media = part.split(';').next().unwrap_or_default().trim();
        formats
            .into_iter()
            .find(|f| f.media_type().eq_ignore_ascii_case(media))
    });
    named.unwrap_or(Format::Png)
}

/// Text to image, or image to image: the picture's bytes.
#[utoipa::path(
    post, path = "/", tag = "Hugging Face",
    request_body(content((Task = "application/json"), (String = "image/png"))),
    responses(
        (status = 200, description = "A picture of the type that Accept names",
         content((String = "image/png"), (String = "image/jpeg"), (String = "image/webp"))),
        (status = "4XX", body = HuggingFaceError, description = "The request is refused"),
        (status = "5XX", body = HuggingFaceError, description = "Not now, or not at all"),
    ),
    security((), ("bearer" = [])),
)]
async fn at_root(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    task: Task,
) -> Result<Response, Failure> {
    let format = accepted(&headers);
    let order = task.order(format)?;
    let ticket = service
        .submit(&caller, order, "/models", &id.0, false)
        .await?;
    let finished = ticket.drawn().await?;
    let made = finished.drawn.pictures.first().ok_or(Failure::Internal)?;
    let media = HeaderValue::from_static(format.media_type());
    let seed = HeaderValue::from(made.seed);
    let headers = [
        (header::CONTENT_TYPE, media),
        (header::HeaderName::from_static("x-seed-value"), seed),
    ];
    Ok((headers, made.bytes.clone()).into_response())
}

/// The same, under a model's name, of which there is one.
#[utoipa::path(
    post, path = "/models/{*id}", tag = "Hugging Face",
    params(("id" = String, Path, description = "Any name, such as stabilityai/sdxl")),
    request_body(content((Task = "application/json"), (String = "image/png"))),
    responses(
        (status = 200, description = "A picture of the type that Accept names",
         content((String = "image/png"), (String = "image/jpeg"), (String = "image/webp"))),
        (status = "4XX", body = HuggingFaceError, description = "The request is refused"),
        (status = "5XX", body = HuggingFaceError, description = "Not now, or not at all"),
    ),
    security((), ("bearer" = [])),
)]
async fn of_model(
    state: State<Service>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    task: Task,
) -> Result<Response, Failure> {
    at_root(state, caller, id, headers, task).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_chooses_the_format() {
        for (accept, format) in [
            ("image/png", Format::Png),
            ("image/jpeg", Format::Jpeg),
            ("text/html, image/webp;q=0.9, image/png;q=0.8", Format::Webp),
            ("*/*", Format::Png),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(accepted(&headers), format, "{accept}");
        }
    }
}
