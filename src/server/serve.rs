//! The service from its start to its end.

use super::config::Setup;
use super::doors;
use super::observe::{meet_body, observe};
use super::page;
use super::service::Service;
use super::{health, worker};
use crate::{Error, Result};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware;
use axum_server::Handle;
use hyper_util::rt::TokioTimer;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

/// Serves until a signal says stop. `listening` hears the address once requests are
/// taken; the model is loaded after that.
///
/// # Errors
/// The settings make no sense, the address is taken, a file cannot be used, or the
/// model cannot be loaded.
pub fn serve(setup: Setup, listening: impl FnOnce(SocketAddr)) -> Result<()> {
    let service = Service::open(setup)?;
    let (listener, address) = bind(service.setup.config.listen)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::file("/", e, "allow this user more threads"))?;
    listening(address);
    let result = runtime.block_on(run(service, listener));
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let refused = |e: std::io::Error| {
        let allowed = format!("cannot be used ({e}); choose another address, port 0 for any");
        Error::invalid("listen", listen, allowed)
    };
    let listener = TcpListener::bind(listen).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((listener, address))
}

async fn run(service: Service, listener: TcpListener) -> Result<()> {
    /// For answers that are on their way when all work is done.
    const LAST_ANSWERS: Duration = Duration::from_secs(10);
    let handle = Handle::new();
    let app = router(service.clone());
    let read_timeout = Duration::from_secs(service.setup.config.read_timeout);
    let unusable = |e: std::io::Error| Error::invalid("listen", "unusable", e.to_string());
    let mut server = axum_server::from_tcp(listener)
        .map_err(unusable)?
        .handle(handle.clone());
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(read_timeout);
    let serving = tokio::spawn(server.serve(app.into_make_service()));

    let (ended, mut end) = tokio::sync::oneshot::channel();
    let worker = service.clone();
    std::thread::Builder::new()
        .name("device".into())
        .spawn(move || ended.send(worker::work(&worker)))
        .map_err(|e| Error::file("/", e, "allow this user more threads"))?;

    let (result, grace) = tokio::select! {
        // The model cannot be loaded.
        result = &mut end => (result, LAST_ANSWERS),
        () = asked_to_stop() => {
            tracing::info!("stopping: what runs is finished, what waits is turned away");
            service.stop();
            let limit = Duration::from_secs(service.setup.config.stop_timeout);
            tokio::select! {
                result = &mut end => (result, LAST_ANSWERS),
                // What still runs has no answer to wait for.
                () = tokio::time::sleep(limit) => (Ok(Ok(())), Duration::ZERO),
                () = asked_to_stop() => (Ok(Ok(())), Duration::ZERO),
            }
        }
    };
    handle.graceful_shutdown(Some(grace));
    let _ = serving.await;
    result.unwrap_or(Ok(()))
}

/// SIGTERM or Ctrl-C.
async fn asked_to_stop() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupt.await;
}

/// The API's document, to which the routes add themselves.
#[derive(OpenApi)]
#[openapi(
    info(title = "calotype", description = "SDXL over HTTP: the sdxl-torch API, jobs, and the APIs of its neighbours."),
    modifiers(&Keys),
    // utoipa does not gather what an `IntoResponses` names.
    components(schemas(doors::hugging_face::TaskError)),
)]
struct Document;

/// How a key is sent.
struct Keys;

impl utoipa::Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{
            ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme,
        };
        let components = document.components.get_or_insert_with(Default::default);
        let header = ApiKey::Header(ApiKeyValue::new("x-api-key"));
        components.add_security_scheme("x-api-key", SecurityScheme::ApiKey(header));
        let bearer = Http::new(HttpAuthScheme::Bearer);
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let basic = Http::new(HttpAuthScheme::Basic);
        components.add_security_scheme("basic", SecurityScheme::Http(basic));
    }
}

/// The routes that the document knows.
fn documented() -> OpenApiRouter<Service> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(doors::routes())
        .merge(health::routes())
        .merge(page::page())
}

/// All routes and what is around them.
fn router(service: Service) -> Router {
    let config = &service.setup.config;
    let (routes, mut document) = documented().split_for_parts();
    // A path's rest is a parameter like others to OpenAPI.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    let body_timeout = Duration::from_secs(config.read_timeout);
    let mut app = routes
        .merge(page::routes(document))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .method_not_allowed_fallback(|| async { StatusCode::METHOD_NOT_ALLOWED })
        .layer(CatchPanicLayer::new())
        .layer(RequestBodyTimeoutLayer::new(body_timeout))
        .layer(RequestBodyLimitLayer::new(config.max_body))
        .layer(middleware::from_fn_with_state(service.clone(), meet_body))
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(service.clone(), observe));
    if let Some(cors) = cors(&config.cors_origins) {
        app = app.layer(cors);
    }
    app.with_state(service)
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    let named: Vec<_> = origins.iter().filter_map(|o| o.parse().ok()).collect();
    let allowed = match origins {
        [] => return None,
        all if all.iter().any(|o| o == "*") => AllowOrigin::any(),
        _ => AllowOrigin::list(named),
    };
    let layer = CorsLayer::new().allow_origin(allowed);
    Some(
        layer
            .allow_methods(Any)
            .allow_headers(Any)
            .expose_headers(Any),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        const START: &str = "#/components/schemas/";
        let document = serde_json::to_value(documented().to_openapi()).unwrap();
        let text = document.to_string();
        for rest in text.split(START).skip(1) {
            let name = rest.split('"').next().unwrap();
            assert!(
                document["components"]["schemas"][name].is_object(),
                "{name}"
            );
        }
    }
}
