//! All routes, their document, and what is around them.

use super::config::Role;
use super::doors;
use super::http::{App, guard, meet_body, observe};
use super::site;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

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

/// The routes that the document knows. A worker only tells how it is.
fn documented(role: Role) -> OpenApiRouter<App> {
    let routes = OpenApiRouter::with_openapi(Document::openapi()).merge(site::health());
    match role {
        Role::Worker => routes,
        Role::Whole | Role::Front => routes.merge(doors::routes()).merge(site::page()),
    }
}

/// All routes and what is around them.
pub fn router(app: App) -> Router {
    let state = app;
    let (config, role) = (&state.service.setup.config, state.service.setup.role);
    let (routes, mut document) = documented(role).split_for_parts();
    // A path's rest is a parameter like others to OpenAPI.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    let body_timeout = Duration::from_secs(config.read_timeout);
    let routes = match role {
        Role::Worker => routes,
        Role::Whole | Role::Front => routes.merge(site::assets(document)),
    };
    let mut app = routes
        .fallback(|| async { StatusCode::NOT_FOUND })
        .method_not_allowed_fallback(|| async { StatusCode::METHOD_NOT_ALLOWED })
        .layer(CatchPanicLayer::new())
        .layer(RequestBodyTimeoutLayer::new(body_timeout))
        .layer(RequestBodyLimitLayer::new(config.max_body))
        .layer(middleware::from_fn_with_state(state.clone(), meet_body))
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(state.clone(), guard))
        .layer(middleware::from_fn(doors::dress));
    if let Some(cors) = cors(&config.cors_origins) {
        app = app.layer(cors);
    }
    app.layer(middleware::from_fn_with_state(state.clone(), observe))
        .with_state(state)
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
        let document = serde_json::to_value(documented(Role::Whole).to_openapi()).unwrap();
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
