//! The page at `/`, its assets, and the document of the API.

use super::docs;
use crate::server::http::App;
use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Nothing from elsewhere, nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// The files of the page: name, media type, text.
macro_rules! assets {
    ($($name:literal: $media:literal,)*) => {
        const ASSETS: &[(&str, &str, &str)] =
            &[$(($name, $media, include_str!(concat!("page/", $name))),)*];
    };
}

assets! {
    "icon.svg": "image/svg+xml",
    "style.css": "text/css; charset=utf-8",
    "parts.css": "text/css; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "fields.js": "text/javascript; charset=utf-8",
    "form.js": "text/javascript; charset=utf-8",
    "gallery.js": "text/javascript; charset=utf-8",
    "key.js": "text/javascript; charset=utf-8",
    "lightbox.js": "text/javascript; charset=utf-8",
    "mask.js": "text/javascript; charset=utf-8",
    "run.js": "text/javascript; charset=utf-8",
    "source.js": "text/javascript; charset=utf-8",
    "stage.js": "text/javascript; charset=utf-8",
    "store.js": "text/javascript; charset=utf-8",
    "theme.js": "text/javascript; charset=utf-8",
}

/// The page.
pub fn page() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(index))
}

/// The page's assets, and the document.
pub fn routes(document: OpenApi) -> Router<App> {
    // Plain data always has a JSON form.
    let document = serde_json::to_value(&document).unwrap_or_default();
    let docs = docs::page(&document);
    let docs = move || std::future::ready(file("text/html; charset=utf-8", docs.clone()));
    let openapi = document.to_string();
    let openapi = move || std::future::ready(file("application/json", openapi.clone()));
    Router::new()
        .route("/assets/{name}", get(asset))
        .route("/docs", get(docs))
        .route("/openapi.json", get(openapi))
}

/// The page to draw in.
#[utoipa::path(get, path = "/", tag = "service",
    responses((status = 200, body = String, content_type = "text/html")))]
async fn index() -> Response {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, media, text)) => file(media, *text),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn file(media: &'static str, text: impl Into<Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media)),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        // A new version of the program brings new files.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text.into()).into_response()
}
