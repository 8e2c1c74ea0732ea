//! Its routes.

use super::{draw, models};
use crate::server::http::App;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(draw::generations))
        .routes(routes!(draw::edits))
        .routes(routes!(draw::variations))
        .routes(routes!(models::models))
        .routes(routes!(models::model))
}
