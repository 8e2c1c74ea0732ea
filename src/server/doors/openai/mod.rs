//! The OpenAI images API.

mod answer;
mod draw;
mod models;
mod refusal;
mod routes;
mod stream;
mod types;

pub use refusal::refusal;
pub use routes::routes;
