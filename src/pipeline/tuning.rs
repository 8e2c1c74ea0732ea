//! Tables of the fastest kernels: found when a device is opened, completed when a model
//! has shapes that were not measured yet, and kept in the user's cache folder.

use super::{Observer, Pipeline};
use crate::gpu::Gpu;
use crate::graph::{Activations, Graph};
use crate::kernel::product::Family;
use crate::kernel::{Ranking, Shape, Tuning};
use crate::model::unet;
use crate::{Error, Result};
use std::path::PathBuf;
use std::str::FromStr;

/// Where the table of the fastest kernels comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TuningSource {
    /// What was measured on this adapter before, or ships with the program; what is
    /// lacking is measured once.
    #[default]
    Auto,
    /// No table: variants are chosen by their shapes.
    Off,
    /// Everything is measured again.
    Force,
    /// This file, and nothing else.
    File(PathBuf),
}

impl FromStr for TuningSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "force" => Ok(Self::Force),
            "" => Err(Error::invalid(
                "tuning",
                "empty",
                "auto, off, force or a file",
            )),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl TuningSource {
    /// The table to begin with.
    pub(super) fn open(&self, gpu: &Gpu, first: Option<Family>) -> Result<Tuning> {
        match self {
            TuningSource::Off | TuningSource::Force => Ok(Tuning::default()),
            TuningSource::File(path) => Tuning::open(path),
            TuningSource::Auto => Ok(Tuning::known(gpu, first)),
        }
    }

    /// Whether what the table lacks is measured. A CPU is measured on request only: its
    /// kernels leave little to choose and take long.
    fn measures(&self, gpu: &Gpu) -> bool {
        match self {
            TuningSource::Auto => !gpu.capabilities().is_cpu,
            TuningSource::Force => true,
            TuningSource::Off | TuningSource::File(_) => false,
        }
    }
}

/// What a measurement found for one class of products or of attention.
#[derive(Debug)]
pub struct Tuned {
    pub class: String,
    pub tera_flop: f64,
    pub ranking: Ranking,
}

impl Pipeline {
    /// What was measured on the adapter, so far.
    pub fn tuning(&self) -> Tuning {
        self.context.tuning()
    }

    /// Measures the products and the attention of `graph` that the table lacks, unless the table is not
    /// to grow.
    pub(super) fn tune_for(
        &self,
        graph: &Graph,
        activations: impl Into<Activations>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        if self.options.tuning.measures(&self.gpu) {
            let shapes = graph.measured_shapes(activations, self.precision.weights);
            self.measure(&shapes, cancelled, |_| ())?;
        }
        Ok(())
    }

    fn measure(
        &self,
        shapes: &[Shape],
        cancelled: &dyn Fn() -> bool,
        mut told: impl FnMut(Tuned),
    ) -> Result<usize> {
        let report = |shape: &Shape, ranking: &Ranking| {
            told(Tuned {
                class: shape.class(),
                tera_flop: shape.flop() / 1e12,
                ranking: ranking.clone(),
            });
        };
        let count = self.context.tune(shapes, cancelled, report)?;
        if let (1.., Some(path)) = (count, Tuning::path(&self.gpu, self.options.kernels))
            && let Err(e) = self.context.tuning().save(&path)
        {
            tracing::debug!("tuning table not kept: {e}");
        }
        Ok(count)
    }

    /// Measures every product and attention of the UNets for `width` x `height` pixels and
    /// batches of `batch`, and of the VAE's decoder, as far as the table lacks it and may
    /// grow. `told` hears of each class.
    ///
    /// # Errors
    /// What goes wrong on the device; [`Error::Cancelled`].
    pub fn tune(
        &self,
        [width, height]: [usize; 2],
        batch: usize,
        observer: &Observer<'_>,
        told: &mut dyn FnMut(Tuned),
    ) -> Result<Tuning> {
        if matches!(
            self.options.tuning,
            TuningSource::Off | TuningSource::File(_)
        ) {
            return Ok(self.context.tuning());
        }
        let cancelled = || observer.cancel.is_cancelled();
        let base = &self.base.checkpoint;
        let refiner = self.refiner.as_ref().map(|r| &r.model.checkpoint);
        for checkpoint in [Some(base), refiner].into_iter().flatten() {
            let scale = checkpoint.vae_scale();
            let size = unet::Size {
                batch,
                height: height / scale,
                width: width / scale,
                tokens: checkpoint.tokenizer_2.max_length(),
            };
            let graph = unet::graph(&checkpoint.unet, size).optimise();
            let shapes = graph.measured_shapes(self.precision.activations, self.precision.weights);
            self.measure(&shapes, &cancelled, &mut *told)?;
        }
        let vae = self.vae(self.options.vae_tiling);
        let shapes = vae.decoder_shapes([height, width].map(|x| x / base.vae_scale()));
        self.measure(&shapes, &cancelled, &mut *told)?;
        Ok(self.context.tuning())
    }
}
