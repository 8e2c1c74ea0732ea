//! Measuring: what the kernels do, and how fast.

pub mod kernels;
