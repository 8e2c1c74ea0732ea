//! The service from its start to its end.

use super::config::Setup;
use super::doors;
use super::http::{self, Listener, Serving, Tls};
use super::observe::{guard, meet_body, observe};
use super::page;
use super::service::Service;
use super::{health, worker};
use crate::{Error, Result};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware;
use std::sync::Arc;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

/// Serves until a signal says stop. `listening` hears the address, such as
/// `http://127.0.0.1:7860`, once requests are taken; the model is loaded after that.
///
/// # Errors
/// The settings make no sense, the address is taken, a file cannot be used, or the
/// model cannot be loaded.
pub fn serve(setup: Setup, listening: impl FnOnce(&str)) -> Result<()> {
    let config = &setup.config;
    config.check()?;
    let tls = match (&config.tls_cert, &config.tls_key) {
        (Some(certificate), Some(key)) => Some(Arc::new(Tls::open(certificate, key)?)),
        _ => None,
    };
    // Before anything is touched that another service may use.
    let listener = Listener::bind(&config.listen)?;
    let scheme = match (listener.is_unix(), &tls) {
        (true, _) => "",
        (false, None) => "http://",
        (false, Some(_)) => "https://",
    };
    let address = format!("{scheme}{}", listener.address());
    let service = Service::open(setup)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::file("/", e, "allow this user more threads"))?;
    // From now on no signal ends the process at once.
    let signals = {
        let _inside = runtime.enter();
        Signals::listen().map_err(|e| Error::file("/", e, "see that signals can be heard"))?
    };
    listening(&address);
    let result = runtime.block_on(run(service, listener, tls, signals));
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

async fn run(
    service: Service,
    listener: Listener,
    tls: Option<Arc<Tls>>,
    mut signals: Signals,
) -> Result<()> {
    /// For answers that are on their way when all work is done.
    const LAST_ANSWERS: Duration = Duration::from_secs(10);
    let (stop, stopped) = tokio::sync::watch::channel(None);
    let serving = tokio::spawn(http::serve(
        listener,
        serving(&service, tls.clone()),
        stopped,
    ));
    let tidying = tokio::spawn(tidy(service.clone()));

    let (ended, mut end) = tokio::sync::oneshot::channel();
    let worker = service.clone();
    std::thread::Builder::new()
        .name("device".into())
        .spawn(move || ended.send(worker::work(&worker)))
        .map_err(|e| Error::file("/", e, "allow this user more threads"))?;

    let reload = || reload(tls.as_deref());
    let (result, grace) = tokio::select! {
        // The model cannot be loaded.
        result = &mut end => (result, LAST_ANSWERS),
        () = signals.stop(reload) => {
            tracing::info!("stopping: what runs is finished, what waits is turned away");
            service.stop();
            let limit = Duration::from_secs(service.setup.config.stop_timeout);
            tokio::select! {
                result = &mut end => (result, LAST_ANSWERS),
                // What still runs has no answer to wait for.
                () = tokio::time::sleep(limit) => (Ok(Ok(())), Duration::ZERO),
                () = signals.stop(reload) => (Ok(Ok(())), Duration::ZERO),
            }
        }
    };
    service.bodies.close();
    stop.send_replace(Some(grace));
    if let Ok(Err(error)) = serving.await {
        tracing::error!("the listener failed: {error}");
    }
    tidying.abort();
    let _ = tokio::task::spawn_blocking(move || service.tidy()).await;
    result.unwrap_or(Ok(()))
}

/// How connections are served.
fn serving(service: &Service, tls: Option<Arc<Tls>>) -> Serving {
    let config = &service.setup.config;
    let (proxies, metrics) = (service.proxies.clone(), service.clone());
    Serving {
        app: router(service.clone()),
        tls,
        idle: Duration::from_secs(config.read_timeout),
        most: config.max_connections,
        most_per_address: config.max_connections_per_address,
        is_proxy: Box::new(move |address| proxies.iter().any(|network| network.has(address))),
        count: Box::new(move |count| metrics.metrics.connections(count)),
    }
}

/// Forgets what is too old, though nobody asks.
async fn tidy(service: Service) {
    const PERIOD: Duration = Duration::from_secs(1);
    let mut period = tokio::time::interval(PERIOD);
    loop {
        period.tick().await;
        let service = service.clone();
        let tidied = tokio::task::spawn_blocking(move || service.tidy());
        if let Err(error) = tidied.await {
            tracing::error!("{error}");
        }
    }
}

/// What a running service reads again.
fn reload(tls: Option<&Tls>) {
    match tls.map(Tls::reload) {
        None => tracing::info!("SIGHUP: there is nothing to read again"),
        Some(Ok(())) => tracing::info!("SIGHUP: the certificate was read again"),
        Some(Err(error)) => tracing::error!("SIGHUP: the old certificate stays: {error}"),
    }
}

/// What the operator says while the service runs.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hang_up: signal(SignalKind::hangup())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// SIGTERM or Ctrl-C; calls `reload` for every SIGHUP before.
    async fn stop(&mut self, reload: impl Fn()) {
        #[cfg(unix)]
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hang_up.recv() => reload(),
            }
        }
        #[cfg(not(unix))]
        {
            let _ = reload;
            let _ = tokio::signal::ctrl_c().await;
        }
    }
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
        .layer(middleware::from_fn_with_state(service.clone(), guard));
    if let Some(cors) = cors(&config.cors_origins) {
        app = app.layer(cors);
    }
    app.layer(middleware::from_fn_with_state(service.clone(), observe))
        .with_state(service)
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
            // `*` would leave out Authorization (Fetch standard, 4.8).
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(Any)
            .max_age(Duration::from_secs(7200)),
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
