//! SDXL on any GPU: handwritten WGSL compute kernels, run through wgpu on
//! Vulkan, Metal and DX12.
//!
//! The rooms, from the street door down to the engine; a room calls only the
//! rooms below it:
//!
//! | room | holds |
//! |---|---|
//! | `server` | the HTTP service: front doors, keys and credits, jobs, the page |
//! | `hub` | downloading models |
//! | `bench` | measuring a device, its kernels, models and service |
//! | [`pipeline`] | a validated request to pictures |
//! | [`picture`] | reading, resizing, masks, encoding, metadata, atomic writing |
//! | [`model`] | CLIP, UNet and VAE written as graphs |
//! | [`checkpoint`] | files to named tensors and configurations, the scheduler's too |
//! | [`schedule`] | schedulers and their configuration, noise generators; no device |
//! | [`text`] | prompts: styles, weights, tokenizers |
//! | [`graph`] | ops, shape inference, fusion, memory plan, executor |
//! | [`kernel`] | one file an op, paired with a shader and a CPU twin |
//! | [`gpu`] | adapter, buffers, pipelines, timestamps |
//!
//! `server`, `bench` and `hub` (`pull`) are features, as is `cli`, the program; the default
//! is all. Without
//! them (`default-features = false`) the library draws, and depends on no HTTP or database.
//! In a browser it draws through WebGPU, by the functions that end in `_async`: those of their
//! names without that block.

#[cfg(feature = "bench")]
pub mod bench;
pub mod checkpoint;
pub mod encoding;
pub mod error;
pub mod gpu;
pub mod graph;
#[cfg(feature = "pull")]
pub mod hub;
pub mod kernel;
pub mod model;
pub mod picture;
pub mod pipeline;
pub mod quantise;
pub mod schedule;
#[cfg(feature = "server")]
pub mod server;
pub mod shaders;
pub mod text;

pub use error::{Error, Field, Remedy, Result};
