//! A validated request to pictures: conditioning, the denoising loop, decoding.

pub mod bench;
mod condition;
mod denoise;
mod devices;
pub mod event;
mod load;
mod output;
mod posterior;
pub mod preview;
pub mod request;
mod tiles;
pub mod trace;
pub mod vae;

pub use devices::devices;
pub use event::{Cancel, Event};
pub use load::{LoadOptions, Pipeline, Tiling};
pub use output::{LoopStats, Observer, Output, Seconds};
pub use posterior::{Posterior, scale_latents, unscale_latents};
pub use request::{Dtype, RawRequest, Request};
pub use trace::Trace;
