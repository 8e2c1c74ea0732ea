//! AUTOMATIC1111's API, as its clients use it.
//!
//! Seeds are CUDA's here, which that program draws with wherever it runs on an NVIDIA
//! card: a seed of it is the same noise. What this service cannot do and what would
//! change the result (hires fix, scripts, a checkpoint that is not loaded as refiner)
//! is refused; what clients send always and what changes less is left out, and said
//! in `warnings` of the answer's `info`.

mod answer;
mod draw;
mod extras;
mod lists;
mod names;
mod options;
mod png_info;
mod progress;
mod refusal;
mod routes;
mod types;

pub use refusal::refusal;
pub use routes::routes;
