//! The plan, and how it is chosen: what is given up first, what last.

use super::Sizes;
use crate::kernel::product::BlockFormat;
use crate::model::WeightSizes;
use crate::pipeline::Tiling;
use serde::Serialize;
use std::fmt;

/// Pictures that a batch holds at the most where nobody says and nothing was measured, and
/// bytes of activations beyond which it is made smaller: drivers say too late, or with a
/// crawl, that there are too many.
pub(in crate::pipeline) const MOST_PICTURES: usize = 4;
pub(in crate::pipeline) const BATCH_BYTES: u64 = 2 << 30;

/// What no plan counts one by one: staging buffers, parameters, latents, what pipelines
/// take.
const OVERHEAD: u64 = 64 << 20;

/// The same of streamed weights, whose staging buffers are more.
const STREAMING: u64 = 96 << 20;

/// Where the text encoders are while pictures are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TextEncoders {
    /// On the device.
    Stay,
    /// Read for every request, one at a time.
    #[default]
    Leave,
    /// As [`Self::Leave`], and never as a whole on the device.
    Streamed,
}

/// How a UNet's weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct WeightsPlan {
    /// `None`: plainly.
    pub blocks: Option<BlockFormat>,
    /// Bytes of weights that stay on the device, the others streamed in every step;
    /// `None`: all.
    pub resident: Option<u64>,
    /// Bytes of all weights.
    pub weights: u64,
    /// Bytes on the device, what the products share included.
    pub bytes: u64,
}

impl WeightsPlan {
    /// Whether weights that are on the device by the plan `old` may stay there.
    pub(super) fn keeps(&self, old: &Self) -> bool {
        let resident = |plan: &Self| plan.resident.unwrap_or(plan.weights);
        self.blocks == old.blocks && old.weights > 0 && resident(old) <= resident(self)
    }
}

/// A part of a run, and the most that it takes on the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phase {
    pub name: &'static str,
    /// What takes how many bytes.
    pub parts: Vec<(&'static str, u64)>,
}

impl Phase {
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// How a request is drawn within the device's memory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct MemoryPlan {
    /// Bytes that may be used; `None`: nobody knows.
    pub limit: Option<u64>,
    /// Whether it fits that.
    pub fits: bool,
    pub unet: WeightsPlan,
    pub refiner: WeightsPlan,
    pub texts: TextEncoders,
    /// The base's UNet leaves the device for the refiner's.
    pub one_unet: bool,
    /// Pictures at a time, at the most.
    pub pictures: usize,
    /// A guided step is one UNet call.
    pub batched: bool,
    /// Side of the VAE's tiles in latents; `None`: whole, or tiles of the usual size.
    pub vae_tile: Option<usize>,
    pub phases: Vec<Phase>,
}

impl MemoryPlan {
    /// Bytes of weights that a guided step of each UNet streams.
    fn streamed(&self) -> u64 {
        let calls = if self.batched { 1 } else { 2 };
        let of = |plan: &WeightsPlan| {
            let stay = plan.resident.unwrap_or(plan.weights);
            plan.weights.saturating_sub(stay)
        };
        calls * (of(&self.unet) + of(&self.refiner))
    }

    /// Bytes that may be used beside it.
    pub(super) fn room(&self) -> u64 {
        let limit = self.limit.unwrap_or(u64::MAX);
        limit.saturating_sub(self.peak())
    }

    /// The most bytes that are on the device at a time.
    pub fn peak(&self) -> u64 {
        self.phases.iter().map(Phase::bytes).max().unwrap_or(0)
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit.map_or("no limit".into(), mebibytes);
        let fits = if self.fits { "" } else { ": too little" };
        writeln!(f, "memory: {} of {limit}{fits}", mebibytes(self.peak()))?;
        for (name, plan) in [("UNet", &self.unet), ("refiner", &self.refiner)] {
            if plan.weights == 0 {
                continue;
            }
            let format = plan.blocks.map_or("as they are", BlockFormat::name);
            let all = mebibytes(plan.weights);
            match plan.resident {
                None => writeln!(f, "{name}: {all} of weights, {format}, all stay")?,
                Some(stay) => {
                    let (stay, rest) = (stay.min(plan.weights), plan.weights.saturating_sub(stay));
                    let (stay, rest) = (mebibytes(stay), mebibytes(rest));
                    writeln!(
                        f,
                        "{name}: {all} of weights, {format}: {stay} stay, {rest} are streamed in every UNet call"
                    )?
                }
            }
        }
        if self.one_unet && self.refiner.weights > 0 {
            writeln!(f, "one UNet on the device at a time")?;
        }
        let texts = match self.texts {
            TextEncoders::Stay => "stay",
            TextEncoders::Leave => "leave once the prompts are encoded",
            TextEncoders::Streamed => "are streamed",
        };
        writeln!(f, "text encoders {texts}")?;
        let calls = if self.batched {
            "one UNet call"
        } else {
            "a UNet call a prompt"
        };
        writeln!(f, "pictures at a time: {}, {calls} a step", self.pictures)?;
        writeln!(
            f,
            "VAE: {}",
            match self.vae_tile {
                Some(side) => format!("on tiles of {side} latents"),
                None => "whole".into(),
            }
        )?;
        for phase in &self.phases {
            write!(f, "{}: {} =", phase.name, mebibytes(phase.bytes()))?;
            for (i, (name, bytes)) in phase.parts.iter().enumerate() {
                let plus = if i > 0 { " +" } else { "" };
                write!(f, "{plus} {name} {}", mebibytes(*bytes))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Of what stays on the device, the part that is lost between buffers in wgpu's blocks of
/// memory: a tenth. An NVIDIA H200 had 3 to 10 %, llvmpipe 9 (2026-11-27,
/// `peak_reserved_bytes` less `peak_device_bytes` of `generate --json`, SDXL).
const GAPS: u64 = 10;

/// What is asked of a plan.
pub(super) struct Needs {
    pub limit: Option<u64>,
    pub low_memory: bool,
    /// The formats of weights to try, the best first.
    pub weights: &'static [Option<BlockFormat>],
    /// Pictures at a time, where somebody says.
    pub pictures: Option<usize>,
    /// As many at the most where nobody does.
    pub most: usize,
    pub tiling: Tiling,
    pub samples: usize,
}

/// Sides of the VAE's tiles in latents: the usual one, and smaller ones.
const TILES: [usize; 3] = [96, 64, 48];

/// What a plan gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Freedom {
    texts: TextEncoders,
    one_unet: bool,
    /// Pictures one by one.
    single: bool,
    batched: bool,
    tile: Option<usize>,
}

impl Freedom {
    const NONE: Self = Self {
        texts: TextEncoders::Stay,
        one_unet: false,
        single: false,
        batched: true,
        tile: None,
    };
    const LEAVE: Self = Self {
        texts: TextEncoders::Leave,
        ..Self::NONE
    };
    const TILED: Self = Self {
        tile: Some(TILES[0]),
        ..Self::LEAVE
    };
    const SINGLE: Self = Self {
        single: true,
        ..Self::TILED
    };
    const ONE_UNET: Self = Self {
        one_unet: true,
        ..Self::SINGLE
    };
    const SMALL: Self = Self {
        tile: Some(TILES[1]),
        ..Self::ONE_UNET
    };
    const SMALLEST: Self = Self {
        tile: Some(TILES[2]),
        ..Self::ONE_UNET
    };
    const STREAMED: Self = Self {
        texts: TextEncoders::Streamed,
        ..Self::SMALLEST
    };
    const SPLIT: Self = Self {
        batched: false,
        ..Self::STREAMED
    };
    /// The same, given up from the beginning what costs time alone.
    fn low(self) -> Self {
        Self {
            texts: match self.texts {
                TextEncoders::Stay => TextEncoders::Leave,
                other => other,
            },
            one_unet: true,
            single: true,
            batched: false,
            ..self
        }
    }

    /// In the order in which they are given up.
    const ALL: [Self; 9] = [
        Self::NONE,
        Self::LEAVE,
        Self::TILED,
        Self::SINGLE,
        Self::ONE_UNET,
        Self::SMALL,
        Self::SMALLEST,
        Self::STREAMED,
        Self::SPLIT,
    ];
}

/// What a plan is made of, all sizes looked up once.
struct Parts<'a> {
    needs: &'a Needs,
    sizes: &'a Sizes<'a>,
    /// Of each format to try.
    unets: Vec<(Option<BlockFormat>, [WeightSizes; 2])>,
    texts: Vec<(WeightSizes, u64)>,
    vae: u64,
}

/// The plan that gives up the least and fits; where none does, the one that needs the
/// least.
pub(super) fn choose(needs: &Needs, sizes: &Sizes<'_>) -> MemoryPlan {
    let unets = needs.weights.iter().map(|blocks| {
        let of = |refiner| sizes.unet(refiner, *blocks);
        (*blocks, [of(false), of(true)])
    });
    let parts = Parts {
        needs,
        sizes,
        unets: unets.collect(),
        texts: sizes.texts(),
        vae: sizes.vae(),
    };
    let low = |freedom: Freedom| match needs.low_memory {
        true => freedom.low(),
        false => freedom,
    };
    let Some(limit) = needs.limit else {
        return parts.plan(0, low(Freedom::LEAVE), None);
    };
    let freedoms = Freedom::ALL.map(low);
    for format in 0..parts.unets.len() {
        for freedom in freedoms {
            let plan = parts.plan(format, freedom, None);
            if plan.fits {
                return plan;
            }
        }
    }
    // Weights must be streamed: of the last format, which has the fewest bytes.
    let format = parts.unets.len() - 1;
    let plans = freedoms.map(|freedom| parts.streamed(format, freedom, limit));
    let fitting = plans.iter().filter(|plan| plan.fits);
    let best = fitting.min_by_key(|plan| plan.streamed());
    let least = || plans.iter().min_by_key(|plan| plan.peak());
    best.or_else(least).cloned().unwrap_or_default()
}

impl Parts<'_> {
    /// The plan that streams as little as `limit` allows.
    fn streamed(&self, format: usize, freedom: Freedom, limit: u64) -> MemoryPlan {
        let bare = self.plan(format, freedom, Some([0; 2]));
        // What stays leaves gaps.
        let room = limit.saturating_sub(bare.peak()) / (GAPS + 1) * GAPS;
        let unets = &self.unets[format].1;
        let all: u64 = unets.iter().map(|sizes| sizes.weights).sum();
        let share = |sizes: &WeightSizes| match freedom.one_unet {
            true => room,
            false => (room as f64 * sizes.weights as f64 / all.max(1) as f64) as u64,
        };
        self.plan(format, freedom, Some([share(&unets[0]), share(&unets[1])]))
    }

    /// The plan of a format of weights, `resident` bytes of which stay.
    fn plan(&self, format: usize, freedom: Freedom, resident: Option<[u64; 2]>) -> MemoryPlan {
        let (blocks, unets) = &self.unets[format];
        let unet = |i: usize| {
            let sizes = unets[i];
            let resident = resident.map(|resident| resident[i]);
            let resident = resident.filter(|resident| *resident < sizes.weights);
            let stay = resident.unwrap_or(sizes.weights);
            let slots = match resident {
                Some(_) => 2 * sizes.largest,
                None => 0,
            };
            WeightsPlan {
                blocks: *blocks,
                resident,
                weights: sizes.weights,
                bytes: stay + slots + sizes.others + sizes.plane,
            }
        };
        let [unet, refiner] = [unet(0), unet(1)];
        let (pictures, activations) = self.pictures(freedom);
        let tile = match self.needs.tiling {
            Tiling::Always => Some(freedom.tile.unwrap_or(TILES[0])),
            Tiling::Never => None,
            Tiling::Auto => freedom.tile,
        };
        let mut plan = MemoryPlan {
            limit: self.needs.limit,
            fits: false,
            unet,
            refiner,
            texts: freedom.texts,
            one_unet: freedom.one_unet,
            pictures,
            batched: freedom.batched,
            vae_tile: tile,
            phases: Vec::new(),
        };
        plan.phases = self.phases(&plan, activations);
        plan.fits = plan.limit.is_none_or(|limit| plan.peak() <= limit);
        plan
    }

    /// Pictures at a time, and bytes of activations.
    fn pictures(&self, freedom: Freedom) -> (usize, u64) {
        let most = match (self.needs.pictures, freedom.single) {
            (Some(most), _) => most,
            (None, true) => 1,
            (None, false) => self.needs.most,
        };
        let mut pictures = most.clamp(1, self.needs.samples.max(1));
        let calls = if freedom.batched { 2 } else { 1 };
        let mut bytes = self.sizes.unet_activations(calls * pictures);
        while self.needs.pictures.is_none() && pictures > 1 && bytes > BATCH_BYTES {
            pictures /= 2;
            bytes = self.sizes.unet_activations(calls * pictures);
        }
        (pictures, bytes)
    }

    fn phases(&self, plan: &MemoryPlan, activations: u64) -> Vec<Phase> {
        let unets = match plan.one_unet {
            true => plan.unet.bytes.max(plan.refiner.bytes),
            false => plan.unet.bytes + plan.refiner.bytes,
        };
        let texts = self
            .texts
            .iter()
            .map(|(sizes, _)| sizes.weights + sizes.others);
        let stay = match plan.texts {
            TextEncoders::Stay => texts.clone().sum(),
            TextEncoders::Leave | TextEncoders::Streamed => 0,
        };
        let come = match plan.texts {
            TextEncoders::Stay => 0,
            TextEncoders::Leave => texts.max().unwrap_or(0),
            TextEncoders::Streamed => {
                let streamed = self.texts.iter();
                streamed
                    .map(|(sizes, _)| sizes.others + 2 * sizes.largest)
                    .max()
                    .unwrap_or(0)
            }
        };
        let text_activations = self
            .texts
            .iter()
            .map(|(_, bytes)| *bytes)
            .max()
            .unwrap_or(0);
        let streams = [plan.unet, plan.refiner]
            .iter()
            .any(|unet| unet.resident.is_some());
        let gaps = plan.limit.map_or(0, |_| (unets + stay) / GAPS);
        let others = OVERHEAD + gaps + if streams { STREAMING } else { 0 };
        // In the order of a second request: the first has less on the device.
        let all = [
            ("UNet", unets),
            ("text encoders", stay),
            ("VAE", self.vae),
            ("others", others),
        ];
        let phase = |name, own: &[(&'static str, u64)]| Phase {
            name,
            parts: all
                .iter()
                .chain(own)
                .copied()
                .filter(|(_, bytes)| *bytes > 0)
                .collect(),
        };
        vec![
            phase(
                "text",
                &[("text encoder", come), ("activations", text_activations)],
            ),
            phase("denoising", &[("activations", activations)]),
            phase(
                "decoding",
                &[("activations", self.sizes.vae_activations(plan.vae_tile))],
            ),
        ]
    }
}
