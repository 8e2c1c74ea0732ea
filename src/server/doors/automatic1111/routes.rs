//! Its routes.

use super::{draw, extras, lists, options, png_info, progress};
use crate::server::http::App;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(draw::text_to_image))
        .routes(routes!(draw::image_to_image))
        .routes(routes!(progress::progress))
        .routes(routes!(progress::interrupt))
        .routes(routes!(progress::skip))
        .routes(routes!(options::options, options::set_options))
        .routes(routes!(png_info::png_info))
        .merge(extras::routes())
        .merge(lists::routes())
}
