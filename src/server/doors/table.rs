//! All doors in one table, and what they write of failures.

use super::shared::Dressed;
use super::{automatic1111, hugging_face, info, jobs, openai, sdxl_torch, stability};
use crate::server::http::{App, RequestId};
use crate::server::work::Failure;
use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;

/// An API that the service speaks.
pub struct Door {
    /// What its operations are under in the document of the API.
    pub tag: &'static str,
    /// How its paths begin.
    pub prefixes: &'static [&'static str],
    /// Status and body of a failure, by the request's id.
    pub refusal: fn(Failure, &str) -> (StatusCode, Value),
    pub routes: fn() -> OpenApiRouter<App>,
}

/// The doors; the first is that of all paths that are no other's.
pub const DOORS: [Door; 7] = [
    Door {
        tag: "sdxl-torch",
        prefixes: &[],
        refusal: sdxl_torch::refusal,
        routes: sdxl_torch::routes,
    },
    Door {
        tag: "jobs",
        prefixes: &["/v1/jobs", "/v1/results"],
        refusal: sdxl_torch::refusal,
        routes: jobs::routes,
    },
    Door {
        tag: "OpenAI",
        prefixes: &["/v1/images/", "/v1/models"],
        refusal: openai::refusal,
        routes: openai::routes,
    },
    Door {
        tag: "AUTOMATIC1111",
        prefixes: &["/sdapi/"],
        refusal: automatic1111::refusal,
        routes: automatic1111::routes,
    },
    Door {
        tag: "Hugging Face",
        prefixes: &["/models/"],
        refusal: hugging_face::refusal,
        routes: hugging_face::routes,
    },
    Door {
        tag: "Stability",
        prefixes: &["/v1/generation/", "/v1/engines/", "/v1/user/"],
        refusal: stability::refusal,
        routes: stability::routes,
    },
    Door {
        tag: "service",
        prefixes: &["/v1/info"],
        refusal: sdxl_torch::refusal,
        routes: info::routes,
    },
];

impl Door {
    /// Whose clients a request is from.
    pub fn of(path: &str, method: &Method) -> &'static Self {
        // Clients of an endpoint of its own post to its root.
        let path = match (path, method) {
            ("/", &Method::POST) => "/models/",
            _ => path,
        };
        let serves = |door: &&Door| door.prefixes.iter().any(|p| path.starts_with(p));
        DOORS.iter().find(serves).unwrap_or(&DOORS[0])
    }

    /// A failure as this door's clients expect it.
    fn refuse(&self, failure: Failure, request_id: &str) -> Response {
        let retry_after = failure.retry_after();
        let (status, body) = (self.refusal)(failure, request_id);
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Basic realm=\"calotype\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// All doors' routes.
pub fn routes() -> OpenApiRouter<App> {
    let merge = |all: OpenApiRouter<App>, door: &Door| all.merge((door.routes)());
    DOORS.iter().fold(OpenApiRouter::new(), merge)
}

/// Writes the bodies of failures as the request's door does, whoever found them.
pub async fn dress(request: Request, next: Next) -> Response {
    let door = Door::of(request.uri().path(), request.method());
    let id = request.extensions().get::<RequestId>().cloned();
    let mut response = next.run(request).await;
    let status = response.status();
    let failure = match response.extensions_mut().remove::<Failure>() {
        Some(failure) => failure,
        None if !status.is_client_error() && !status.is_server_error() => return response,
        // A body that was written for this answer.
        None if response.extensions().get::<Dressed>().is_some() => return response,
        None => Failure::of_status(status),
    };
    let mut dressed = door.refuse(failure, &id.unwrap_or_else(RequestId::new).0);
    for name in [header::ALLOW, header::VARY] {
        if let Some(value) = response.headers().get(&name) {
            dressed.headers_mut().insert(name, value.clone());
        }
    }
    dressed
}
