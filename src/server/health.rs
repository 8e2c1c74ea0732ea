//! For those who watch the service.

use super::failure::Failure;
use super::service::Service;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
}

/// Whether the service runs.
#[utoipa::path(get, path = "/healthz", tag = "service",
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether it can draw: the model is loaded, the device well.
#[utoipa::path(get, path = "/readyz", tag = "service",
    responses((status = 200, body = String, content_type = "text/plain"),
              (status = 503, body = super::doors::sdxl_torch::Refused)))]
async fn readyz(State(service): State<Service>) -> Result<&'static str, Failure> {
    service.model()?;
    if service.queue.is_stopped() {
        return Err(Failure::Unavailable("the service is shutting down"));
    }
    Ok("ready\n")
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
async fn metrics(State(service): State<Service>) -> Result<impl IntoResponse, Failure> {
    let text = service
        .metrics
        .text(service.queue.len())
        .map_err(Failure::internal)?;
    let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, media)], text))
}
