//! The front doors: one file an API, which translates its requests into orders, and
//! what they come to into its answers.

mod accept;
pub mod automatic1111;
pub mod hugging_face;
pub mod info;
pub mod jobs;
mod names;
pub mod openai;
pub mod sdxl_torch;
pub mod stability;

pub use accept::accepted;

use super::failure::Failure;
use super::observe::Dressed;
use super::service::Service;
use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;

/// Whose clients a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    SdxlTorch,
    OpenAi,
    Automatic1111,
    HuggingFace,
    Stability,
}

impl Door {
    pub fn of(path: &str, method: &Method) -> Self {
        let below = |prefixes: &[&str]| prefixes.iter().any(|p| path.starts_with(p));
        if below(&["/v1/images/", "/v1/models"]) {
            Door::OpenAi
        } else if below(&["/sdapi/"]) {
            Door::Automatic1111
        } else if below(&["/models/"]) || (path == "/" && *method == Method::POST) {
            Door::HuggingFace
        } else if below(&["/v1/generation/", "/v1/engines/", "/v1/user/"]) {
            Door::Stability
        } else {
            Door::SdxlTorch
        }
    }

    /// A failure as this door's clients expect it.
    pub fn refuse(self, failure: Failure, request_id: &str) -> Response {
        let retry_after = failure.retry_after();
        let (status, body) = match self {
            Door::SdxlTorch => sdxl_torch::refusal(failure, request_id),
            Door::OpenAi => openai::refusal(failure, request_id),
            Door::Automatic1111 => automatic1111::refusal(failure, request_id),
            Door::HuggingFace => hugging_face::refusal(failure, request_id),
            Door::Stability => stability::refusal(failure, request_id),
        };
        answer(status, retry_after, body)
    }
}

fn answer(status: StatusCode, retry_after: Option<u64>, body: Value) -> Response {
    let mut response = (status, Json(body)).into_response();
    if let Some(seconds) = retry_after {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Basic realm=\"calotype\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    response.extensions_mut().insert(Dressed);
    response
}

/// All doors' routes.
pub fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .merge(sdxl_torch::routes())
        .merge(jobs::routes())
        .merge(openai::routes())
        .merge(automatic1111::routes())
        .merge(hugging_face::routes())
        .merge(stability::routes())
        .merge(info::routes())
}
