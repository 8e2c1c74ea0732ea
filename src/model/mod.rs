//! SDXL's models written as graphs, layer for layer as the checkpoint names
//! them, and their weights on the device.

pub mod autoencoder;
mod blocks;
pub mod clip;
mod describe;
pub mod taesd;
pub mod time;
pub mod unet;
pub mod vae;
mod weights;

pub use describe::{GRAPHS, describe};
pub use weights::{DeviceWeights, Keeping, Loaded, Streamed, WeightSizes, tensors};
