//! What every dispatch is made with.

use super::Mode;
use crate::Result;
use crate::gpu::{Buffer, Gpu};
use std::sync::Arc;

/// A device, and which kernels are chosen on it.
#[derive(Clone)]
pub struct Context {
    pub gpu: Arc<Gpu>,
    pub mode: Mode,
    /// Bound where a kernel has an operand that a dispatch has not.
    pub(super) none: Arc<Buffer>,
}

impl Context {
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Arc<Gpu>, mode: Mode) -> Result<Self> {
        Ok(Self {
            gpu: gpu.clone(),
            mode,
            none: Arc::new(gpu.buffer("none", 256)?),
        })
    }
}
