//! What every dispatch is made with.

use super::product::{Call, Family, PARTIALS, Variant};
use super::program::Operand;
use super::subgroup::subgroup_size;
use super::tuning::{Measurement, Ranking, Shape, StepTimes};
use super::{Measured, Mode, Trust, Tuning, View, attention};
use crate::Result;
use crate::gpu::{Buffer, Gpu};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// Bytes of zeros that stand for an operand that there is not: the bias of the widest
/// product.
const ZEROS: u64 = 128 << 10;

/// A device, and which kernels are chosen on it.
#[derive(Clone)]
pub struct Context {
    pub gpu: Arc<Gpu>,
    pub mode: Mode,
    /// What was measured on the adapter.
    tuning: Arc<RwLock<Tuning>>,
    none: Arc<Buffer>,
    /// Room for the parts of a product that is cut along K; its dispatches follow one
    /// another, so that one serves all.
    partials: Arc<OnceLock<Arc<Buffer>>>,
    /// Every variant of the product that the device can run.
    pub(super) candidates: Arc<[Variant]>,
    /// Every variant of attention in one pass that it can run, best first.
    pub(super) attention: Arc<[attention::Variant]>,
    /// Invocations of a subgroup, 0 where there are no matrices.
    lanes: u32,
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
            partials: Arc::default(),
            candidates: Variant::candidates(gpu.capabilities(), lanes).into(),
            attention: attention::Variant::candidates(gpu.capabilities(), lanes).into(),
            lanes,
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
            tuning: Arc::new(RwLock::new(tuning)),
            ..self
        }
    }

    /// `bytes` of zeros, to bind where a kernel has an operand that a dispatch has not.
    pub(super) fn nothing(&self, bytes: u64) -> Result<Operand> {
        let view = View::whole(&self.none).first(bytes.max(16))?;
        view.operand("nothing", bytes)
    }

    /// `bytes` of room for the parts of a product.
    ///
    /// # Errors
    /// Out of memory.
    pub(super) fn partials(&self, bytes: u64) -> Result<View> {
        let buffer = match self.partials.get() {
            Some(buffer) => buffer,
            None => {
                let made = Arc::new(self.gpu.buffer("parts of products", PARTIALS)?);
                self.partials.get_or_init(|| made)
            }
        };
        View::whole(buffer).first(bytes)
    }

    /// What was measured on the adapter, so far.
    pub fn tuning(&self) -> Tuning {
        let table = self.tuning.read().unwrap_or_else(PoisonError::into_inner);
        table.clone()
    }

    /// What was measured of UNets of `class`, see [`Tuning::steps`].
    pub fn step_times(&self, class: &str) -> Option<StepTimes> {
        let table = self.tuning.read().unwrap_or_else(PoisonError::into_inner);
        table.steps.get(class).cloned()
    }

    /// Notes the time of a call that makes `predictions`, in seconds.
    pub fn note_step(&self, class: &str, predictions: usize, seconds: f64) {
        let mut table = self.tuning.write().unwrap_or_else(PoisonError::into_inner);
        let of = table.steps.entry(class.to_owned()).or_default();
        of.insert(predictions, (seconds * 1e8).round() / 100.0);
        table
            .measured
            .get_or_insert_with(|| Measured::here(&self.gpu));
    }

    /// The fastest variant for `call`, if that was measured.
    pub(super) fn measured(&self, call: &Call) -> Option<Variant> {
        let table = self.tuning.read().unwrap_or_else(PoisonError::into_inner);
        table.product(call)
    }

    /// As [`Self::measured`].
    pub(super) fn measured_attention(&self, call: &attention::Call) -> Option<attention::Variant> {
        let table = self.tuning.read().unwrap_or_else(PoisonError::into_inner);
        table.attention(call)
    }

    /// Measures those of `shapes` that the table lacks, and puts the fastest
    /// variants into it. `told` hears of each. Says how many were measured.
    ///
    /// # Errors
    /// What goes wrong on the device; [`crate::Error::Cancelled`].
    pub fn tune(
        &self,
        shapes: &[Shape],
        cancelled: &dyn Fn() -> bool,
        mut told: impl FnMut(&Shape, &Ranking),
    ) -> Result<usize> {
        if self.mode.direct {
            return Ok(0);
        }
        let table = self.tuning();
        let lacking = shapes
            .iter()
            .filter(|shape| !table.entries.contains_key(&shape.class()));
        let mut measurement = Measurement::new(self)?;
        let mut count = 0;
        for shape in lacking {
            let ranking = measurement.rank(shape, cancelled)?;
            if let Some(best) = ranking.first() {
                let mut table = self.tuning.write().unwrap_or_else(PoisonError::into_inner);
                table.entries.insert(shape.class(), best.into());
                table
                    .measured
                    .get_or_insert_with(|| Measured::here(&self.gpu));
                count += 1;
                drop(table);
                told(shape, &ranking);
            }
        }
        Ok(count)
    }

    /// Invocations of a subgroup, 0 where the adapter has no matrices or they are not used.
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    /// What the self-tests found so far.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }
}
