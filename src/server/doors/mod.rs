//! The front doors: one file an API, which translates its requests into orders, and
//! what they come to into its answers.

pub mod info;
pub mod jobs;
pub mod sdxl_torch;

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
}

impl Door {
    pub fn of(_path: &str, _method: &Method) -> Self {
        Door::SdxlTorch
    }

    /// A failure as this door's clients expect it.
    pub fn refuse(self, failure: Failure, request_id: &str) -> Response {
        let status = failure.status();
        let retry_after = failure.retry_after();
        let (status, body) = match self {
            Door::SdxlTorch => (status, sdxl_torch::refusal(failure, request_id)),
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
        .merge(info::routes())
}
