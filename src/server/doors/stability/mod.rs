//! Stability AI's REST API, version 1.

mod draw;
mod prompts;
mod refusal;
mod types;

pub use draw::routes;
pub use refusal::refusal;
