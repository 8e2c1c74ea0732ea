//! Files to named tensors and configurations. Knows nothing of GPUs.

pub mod config;
pub mod tensor;

pub use config::{Activation, ClipConfig, UNetConfig, VaeConfig};
pub use tensor::{DType, Part, TensorSource, TensorView};
