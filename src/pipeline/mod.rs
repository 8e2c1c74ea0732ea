//! A validated request to pictures.

pub mod request;

pub use request::{Dtype, RawRequest, Request};
