//! What is neither an API nor part of one: the page, the document, what watches the service.

mod docs;
mod health;
mod page;

pub use health::routes as health;
pub use page::{page, routes as assets};
