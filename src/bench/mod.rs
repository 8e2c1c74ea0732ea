//! Measuring a device: its peaks, the kernels, the models, the service; and what the
//! figures say. The command line prints what is found here.

pub mod ab;
pub mod chart;
pub mod compare;
pub mod kernels;
pub mod measure;
pub mod model;
pub mod peaks;
pub mod report;
pub mod results;
pub mod roofs;
#[cfg(feature = "server")]
pub mod serve;
pub mod statistics;
