//! A validated request to pictures.

pub mod event;
mod placeholder;
pub mod request;
pub mod trace;

pub use event::{Cancel, Event};
pub use placeholder::{
    Device, Inspection, LoadOptions, LoopStats, Observer, Output, Part, Pipeline, Seconds, devices,
    inspect,
};
pub use request::{Dtype, RawRequest, Request};
pub use trace::Trace;
