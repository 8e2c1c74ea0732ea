//! A validated request to pictures: conditioning, the denoising loop, decoding.

mod adapters;
mod bench;
mod condition;
mod denoise;
mod devices;
pub mod event;
mod finite;
mod generate;
mod load;
mod memory;
mod output;
mod posterior;
mod preset;
pub mod preview;
pub mod request;
mod route;
mod run;
mod settings;
mod start;
mod tiles;
pub mod trace;
mod tuning;
pub mod vae;

pub use bench::{Forward, KernelTime};
pub use devices::{Device, devices};
pub use event::{Cancel, Event};
pub use load::{LoadOptions, Pipeline, Tiling};
pub use memory::{MemoryLimit, MemoryPlan, Phase, TextEncoders, WeightFormat, WeightsPlan};
pub use output::{LoopStats, Observer, Output, Seconds};
pub use posterior::{Posterior, scale_latents, unscale_latents};
pub use preset::{PRESETS, Preset};
pub use request::{Context, Dtype, Lora, RawRequest, Refinement, Request, Rng};
pub use settings::{Recipe, Settings, model_name};
pub use trace::Trace;
pub use tuning::{Tuned, TuningSource};
