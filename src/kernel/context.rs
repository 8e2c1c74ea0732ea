//! What every dispatch is made with.

use super::product::{Family, Trust, Variant};
use super::program::Operand;
use super::subgroup::subgroup_size;
use super::{Mode, Tuning, View};
use crate::Result;
use crate::gpu::{Buffer, Gpu};
use std::sync::Arc;

/// Bytes of zeros that stand for an operand that there is not: the bias of the widest
/// product.
const ZEROS: u64 = 128 << 10;

/// A device, and which kernels are chosen on it.
#[derive(Clone)]
pub struct Context {
    pub gpu: Arc<Gpu>,
    pub mode: Mode,
    /// What was measured on the adapter.
    pub tuning: Arc<Tuning>,
    none: Arc<Buffer>,
    /// Every variant of the product that the device can run.
    pub(super) candidates: Arc<[Variant]>,
    /// No better family than this one.
    pub(super) first: Option<Family>,
    pub(super) trust: Arc<Trust>,
}

impl Context {
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Arc<Gpu>, mode: Mode) -> Result<Self> {
        let lanes = match gpu.capabilities().matrices.is_empty() || mode.direct {
            true => 0,
            false => subgroup_size(gpu)?,
        };
        Ok(Self {
            gpu: gpu.clone(),
            mode,
            tuning: Arc::default(),
            none: Arc::new(gpu.buffer("none", ZEROS)?),
            candidates: Variant::candidates(gpu.capabilities(), lanes).into(),
            first: None,
            trust: Arc::default(),
        })
    }

    /// With kernels of `first` and of the families after it; of all where there is none,
    /// as the adapter suggests.
    ///
    /// # Errors
    /// Out of memory.
    pub fn of_family(gpu: &Arc<Gpu>, first: Option<Family>) -> Result<Self> {
        let mode = match first {
            None => Mode::of(gpu.capabilities()),
            Some(first) => Mode {
                direct: first == Family::Direct,
            },
        };
        Ok(Self {
            first,
            ..Self::new(gpu, mode)?
        })
    }

    #[must_use]
    pub fn with_tuning(self, tuning: Tuning) -> Self {
        Self {
            tuning: Arc::new(tuning),
            ..self
        }
    }

    /// `bytes` of zeros, to bind where a kernel has an operand that a dispatch has not.
    pub(super) fn nothing(&self, bytes: u64) -> Result<Operand> {
        let view = View::whole(&self.none).first(bytes.max(16))?;
        view.operand("nothing", bytes)
    }

    /// What the self-tests found so far.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }
}
