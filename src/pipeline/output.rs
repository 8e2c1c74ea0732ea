//! Who watches a run, and what it returns.

use super::{Cancel, Event, MemoryPlan, Trace};
use crate::picture::Picture;
use crate::schedule::automatic1111::Names;
use serde::Serialize;

/// Who watches a run.
pub struct Observer<'a> {
    /// Hears every event.
    pub events: &'a mut dyn FnMut(Event),
    /// Stops the run.
    pub cancel: &'a Cancel,
    /// Where the tensors of every stage go, if anywhere.
    pub trace: Option<&'a mut Trace>,
    /// Sends [`Event::Preview`] after every so many steps; 0 for never.
    pub preview_every: usize,
}

/// Wall time of each stage, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Opening checkpoint and device; the UNet's and VAE's weights and pipelines.
    pub load: f64,
    /// Text encoders, their loading included.
    pub encode: f64,
    /// The VAE's encoding of the picture to start from.
    pub encode_picture: f64,
    pub denoise: f64,
    pub decode: f64,
}

/// What the denoising loop did to the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LoopStats {
    /// Share of the loop's wall time inside compute passes, by the device's
    /// timestamps; `None` without them.
    pub gpu_busy: Option<f64>,
    pub loop_buffers_created: u64,
    pub loop_pipelines_created: u64,
    /// Of all UNet calls, for all pictures, without what only a new text asks for.
    pub unet_multiply_adds: u64,
    /// Bytes of weights that UNet calls brought from the checkpoint to the device.
    pub streamed_bytes: u64,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// In the order of `seeds`.
    pub pictures: Vec<Picture>,
    pub seeds: Vec<u64>,
    /// Pictures were ended early, see [`Cancel::finish`] and [`Cancel::skip`]: there
    /// may be fewer than asked for.
    pub interrupted: bool,
    pub seconds: Seconds,
    pub adapter: String,
    pub backend: String,
    /// The precision of the weights in use, `f32` or `f16`.
    pub dtype: String,
    /// The precision of the activations, `f32` or `f16`.
    pub activations: String,
    pub peak_device_bytes: u64,
    /// What wgpu reserved of the driver at the most, gaps included; 0 where it does not
    /// tell.
    pub peak_reserved_bytes: u64,
    /// Of the base's UNet on the device: weights that stay, biases and norms.
    pub unet_device_bytes: u64,
    /// What its products take turns in: where blocks are expanded to, and where streamed
    /// weights are brought to.
    pub unet_shared_bytes: u64,
    /// How the memory was used.
    pub plan: MemoryPlan,
    pub stats: LoopStats,
    pub warnings: Vec<String>,
    /// What AUTOMATIC1111's program calls the scheduler and the schedule of the base.
    pub names: Names,
}
