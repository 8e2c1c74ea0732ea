//! How a request fits the device: what stays there, what leaves, what is streamed. All of
//! it is known before anything is allocated.

mod plan;
mod sizes;

pub use plan::{MemoryPlan, Phase, TextEncoders, WeightsPlan};
pub(super) use sizes::Sizes;

use super::vae::Vae;
use super::{Pipeline, Refinement, Request};
use crate::checkpoint::{Checkpoint, Part};
use crate::kernel::product::BlockFormat;
use crate::model::{Keeping, Loaded, unet};
use crate::{Error, Field, Remedy, Result};
use parse_size::Config;
use plan::Needs;
pub(super) use plan::{BATCH_BYTES, MOST_PICTURES};
use std::fmt;
use std::str::FromStr;
use std::sync::PoisonError;

/// How the UNet's weights are kept on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightFormat {
    /// Plainly where they fit the device, else as q8.
    #[default]
    Auto,
    /// As the precision says, plainly.
    F16,
    /// Blocks of 32 int8 values that share a scale.
    Q8,
    /// Blocks of 32 four-bit values that share a scale.
    Q4,
}

impl WeightFormat {
    const ALL: [Self; 4] = [Self::Auto, Self::F16, Self::Q8, Self::Q4];

    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            WeightFormat::Auto => "auto",
            WeightFormat::F16 => "f16",
            WeightFormat::Q8 => "q8",
            WeightFormat::Q4 => "q4",
        }
    }

    /// The formats to try, the best first.
    fn blocks(self) -> &'static [Option<BlockFormat>] {
        match self {
            WeightFormat::Auto => &[None, Some(BlockFormat::Q8)],
            WeightFormat::F16 => &[None],
            WeightFormat::Q8 => &[Some(BlockFormat::Q8)],
            WeightFormat::Q4 => &[Some(BlockFormat::Q4)],
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut all = Self::ALL.into_iter();
        let known = all.find(|format| format.name().eq_ignore_ascii_case(text));
        let allowed = "choose one of auto, f16, q8, q4";
        known.ok_or_else(|| Error::invalid(Field::Weights, format!("{text:?}"), allowed))
    }
}

/// How much of the device's memory may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryLimit {
    /// What a GPU of its own memory has, less what others need of it; no limit where that
    /// is not known, and on CPUs.
    #[default]
    Auto,
    Bytes(u64),
}

/// The least that is accepted.
const LEAST: u64 = 256 << 20;

impl FromStr for MemoryLimit {
    type Err = Error;

    /// `auto`, or a size such as `4G`, `3500M` or a number of bytes; K, M and G are powers
    /// of 1024.
    fn from_str(text: &str) -> Result<Self> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        let parsed = Config::new().with_binary().parse_size(text);
        match parsed {
            Ok(bytes) if bytes >= LEAST => Ok(Self::Bytes(bytes)),
            _ => {
                let allowed = "give auto, or a size of 256M or more such as 4G or 3500M";
                Err(Error::invalid(
                    Field::MaxMemory,
                    format!("{text:?}"),
                    allowed,
                ))
            }
        }
    }
}

/// Of the memory of a discrete GPU, what may be used where nobody says: desktops, drivers
/// and other programs need some.
const SHARE: f64 = 0.9;

/// How many plans are remembered.
const PLANS: usize = 4;

/// What a plan depends on: planning builds every graph, which takes a tenth of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    size: [usize; 2],
    samples: usize,
    /// Pictures at a time.
    most: usize,
    cache_interval: usize,
    is_refined: bool,
    has_picture: bool,
    limit: Option<u64>,
}

impl MemoryPlan {
    /// Before there is a request.
    pub(super) fn of_format(format: WeightFormat) -> Self {
        let blocks = format.blocks().first().copied().flatten();
        let weights = WeightsPlan {
            blocks,
            ..Default::default()
        };
        Self {
            unet: weights,
            refiner: weights,
            ..Default::default()
        }
    }
}

impl Pipeline {
    /// Bytes that may be used, as far as that is known.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        let asked = match self.options.max_memory {
            MemoryLimit::Bytes(bytes) => Some(bytes),
            MemoryLimit::Auto => {
                let capabilities = self.gpu.capabilities();
                let own = capabilities.memory.filter(|_| capabilities.is_discrete);
                own.map(|bytes| (bytes as f64 * SHARE) as u64)
            }
        };
        match (asked, self.short_of) {
            (Some(asked), Some(short)) => Some(asked.min(short)),
            (asked, short) => asked.or(short),
        }
    }

    /// How `request` would be drawn within the memory that may be used.
    pub fn memory_plan(&self, request: &Request) -> MemoryPlan {
        self.plan_for(request, request.samples)
    }

    /// The same for `samples` pictures of requests that may share with `request`.
    pub(super) fn plan_for(&self, request: &Request, samples: usize) -> MemoryPlan {
        let question = Question {
            size: [request.width, request.height],
            samples,
            most: self.measured_pictures(request).unwrap_or(MOST_PICTURES),
            cache_interval: request.cache_interval,
            is_refined: request.refinement != Refinement::None,
            has_picture: request.image.is_some(),
            limit: self.memory_limit(),
        };
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = planned.iter().find(|(known, _)| *known == question) {
            return plan.clone();
        }
        let plan = self.new_plan(request, question);
        planned.truncate(PLANS - 1);
        planned.insert(0, (question, plan.clone()));
        plan
    }

    fn new_plan(&self, request: &Request, question: Question) -> MemoryPlan {
        let sizes = Sizes::new(self, request);
        let needs = Needs {
            limit: question.limit,
            low_memory: self.options.low_memory,
            weights: self.options.weights.blocks(),
            pictures: self.options.batch,
            most: question.most,
            tiling: self.options.vae_tiling,
            samples: question.samples,
        };
        plan::choose(&needs, &sizes)
    }

    /// How the weights of the UNet are kept, by the plan in use.
    pub(super) fn unet_keeping(&self, of_refiner: bool) -> Keeping {
        let weights = match of_refiner {
            false => self.plan.unet,
            true => self.plan.refiner,
        };
        Keeping {
            storage: self.precision.weights,
            blocks: weights.blocks,
            resident: weights.resident,
        }
    }

    /// How text encoders are kept, which leave the device.
    pub(super) fn text_keeping(&self) -> Keeping {
        Keeping {
            resident: match self.plan.texts {
                TextEncoders::Streamed => Some(0),
                TextEncoders::Stay | TextEncoders::Leave => None,
            },
            ..self.precision.weights.into()
        }
    }

    /// The VAE by the plan in use: whole or on tiles.
    pub(super) fn planned_vae(&self) -> Vae<'_> {
        let vae = self.vae(self.options.vae_tiling);
        match self.plan.vae_tile {
            Some(side) => vae.on_tiles(side),
            None => vae,
        }
    }

    /// After the device ran out of memory, though the plan in use says that it should
    /// not: takes a lower limit, and says whether a plan fits that. What is on the device
    /// leaves it.
    pub(super) fn gives_up_more(&mut self, request: &Request, samples: usize) -> bool {
        let peak = self.plan.peak();
        // Half of it at the most, then again.
        for share in [0.85, 0.7, 0.5] {
            self.short_of = Some((peak as f64 * share) as u64);
            let plan = self.plan_for(request, samples);
            if plan.fits && plan.peak() < peak {
                let refiner = self.refiner.as_ref().map(|refiner| &refiner.model);
                for model in [Some(&self.base), refiner].into_iter().flatten() {
                    model.unet.clear();
                    model.texts.iter().for_each(Loaded::clear);
                }
                self.vae.clear();
                self.adopt(plan);
                return true;
            }
        }
        self.short_of = None;
        false
    }

    /// Why nothing can be drawn within `limit`.
    pub(super) fn too_little(&self, plan: &MemoryPlan, limit: u64) -> Error {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        let (need, have) = (mebibytes(plan.peak()), mebibytes(limit));
        let problem =
            format!("this picture takes {need} MiB of memory at the least, {have} MiB may be used");
        let mut remedies = vec![Remedy::SmallerPicture];
        if plan.unet.blocks.is_none() {
            remedies.push(Remedy::Set {
                field: Field::Weights,
                value: "q8".into(),
            });
        }
        self.gpu.error(problem, remedies)
    }

    /// The place of a text encoder's weights, where they stay on the device.
    pub(super) fn texts_on_device(&self, checkpoint: &Checkpoint, part: Part) -> Option<&Loaded> {
        if self.plan.texts != TextEncoders::Stay {
            return None;
        }
        let model = match (&self.refiner, checkpoint.is_refiner()) {
            (Some(refiner), true) => &refiner.model,
            _ => &self.base,
        };
        Some(&model.texts[usize::from(part == Part::TextEncoder2)])
    }

    /// Takes a plan into use; what it wants otherwise than the last one leaves the device.
    pub(super) fn adopt(&mut self, plan: MemoryPlan) {
        let mut plan = plan;
        let room = plan.room();
        let refiner = self.refiner.as_ref().map(|refiner| &refiner.model.unet);
        for (new, old, loaded) in [
            (&mut plan.unet, self.plan.unet, Some(&self.base.unet)),
            (&mut plan.refiner, self.plan.refiner, refiner),
        ] {
            // A refiner that this request does without may wait for the next.
            let waits = new.weights == 0 && old.bytes <= room;
            match (waits || new.keeps(&old), loaded) {
                // What is there takes no more than it may.
                (true, _) => *new = old,
                (false, Some(loaded)) => loaded.clear(),
                (false, None) => {}
            }
        }
        if plan.texts != TextEncoders::Stay {
            self.base.texts.iter().for_each(|texts| texts.clear());
            if let Some(refiner) = &self.refiner {
                refiner.model.texts.iter().for_each(|texts| texts.clear());
            }
        }
        tracing::debug!("memory plan\n{plan}");
        self.gpu.counters().limit(self.memory_limit());
        self.plan = plan;
    }
}

/// A UNet's size for so many predictions of a request's pictures.
fn unet_size(pipeline: &Pipeline, request: &Request, predictions: usize) -> unet::Size {
    let shape = pipeline.latent_shape(request);
    let checkpoint = &pipeline.base.checkpoint;
    unet::Size {
        batch: predictions,
        height: shape.h,
        width: shape.w,
        tokens: checkpoint.tokenizer_2.max_length(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_people_write_them() {
        let bytes = |text: &str| text.parse::<MemoryLimit>();
        assert_eq!(bytes("auto").unwrap(), MemoryLimit::Auto);
        for (text, want) in [
            ("4G", 4 << 30),
            ("4g", 4 << 30),
            ("4GiB", 4 << 30),
            ("3500M", 3500 << 20),
            ("1.5G", 3 << 29),
            ("4294967296", 1 << 32),
        ] {
            assert_eq!(bytes(text).unwrap(), MemoryLimit::Bytes(want), "{text}");
        }
        for text in ["", "much", "-1G", "12", "100M", "4X"] {
            let error = bytes(text).unwrap_err().to_string();
            assert!(
                error.contains("max_memory") && error.contains("4G"),
                "{error}"
            );
        }
    }
}
