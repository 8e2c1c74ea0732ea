//! For those who watch the service.

use crate::server::doors::sdxl_torch::Refused;
use crate::server::http::App;
use crate::server::http::accept::accepted;
use crate::server::work::{Failure, Now, Service};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<App> {
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

/// Whether it can draw: the model is loaded, the device well, the ledger open.
#[utoipa::path(get, path = "/readyz", tag = "service",
    responses((status = 200, body = String, content_type = "text/plain"),
              (status = 503, body = Refused)))]
async fn readyz(State(service): State<Service>) -> Result<&'static str, Failure> {
    service.check_ready().await?;
    Ok("ready\n")
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
async fn metrics(
    State(App {
        service, bodies, ..
    }): State<App>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Failure> {
    let now = Now {
        queue: service.queue.len(),
        bodies: bodies.in_memory(),
        ledger: service
            .ledger
            .as_ref()
            .is_none_or(|ledger| ledger.is_well()),
        devices: service.devices.are_ready(),
    };
    let text = service.metrics.text(now).map_err(Failure::internal)?;
    let wanted = accepted(&headers);
    let open = |media: &String| matches!(&media[..], "*/*" | "application/openmetrics-text");
    let plain = |media: &String| matches!(&media[..], "text/plain" | "text/*");
    let first = wanted.iter().find(|media| open(media) || plain(media));
    let (media, text) = match first.is_some_and(plain) {
        true => ("text/plain; version=0.0.4; charset=utf-8", as_plain(&text)),
        false => (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            text,
        ),
    };
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, media)], text))
}

/// OpenMetrics as Prometheus' older text has it: a counter's name ends in `_total` in its
/// description too, and there are neither units nor an end.
fn as_plain(text: &str) -> String {
    let counter = |line: &str| {
        let rest = line.strip_prefix("# TYPE ")?;
        rest.strip_suffix(" counter").map(str::to_owned)
    };
    let counters: Vec<String> = text.lines().filter_map(counter).collect();
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let mut words = line.splitn(4, ' ');
        let described = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name), Some(rest))
                if counters.iter().any(|c| c == name) =>
            {
                format!("# {kind} {name}_total {rest}")
            }
            _ => line.to_owned(),
        };
        plain.push_str(&described);
        plain.push('\n');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_their_whole_name() {
        let open = "# HELP a Things.\n# TYPE a counter\na_total 1\n# HELP b Bytes.\n# TYPE b gauge\n\
                    # UNIT b bytes\nb 2\n# EOF\n";
        let plain = "# HELP a_total Things.\n# TYPE a_total counter\na_total 1\n# HELP b Bytes.\n\
                     # TYPE b gauge\nb 2\n";
        assert_eq!(as_plain(open), plain);
    }
}
