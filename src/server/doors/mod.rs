//! The front doors: one room an API, which translates its requests into orders, and what
//! they come to into its answers. [`Door`] lists them.

pub mod automatic1111;
pub mod hugging_face;
pub mod info;
pub mod jobs;
mod names;
pub mod openai;
pub mod sdxl_torch;
mod shared;
pub mod stability;
mod table;

pub use table::{DOORS, dress, routes};
