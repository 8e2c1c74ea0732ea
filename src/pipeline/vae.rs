//! The VAE: whole where memory allows, otherwise in overlapping tiles whose
//! seams are blended. Each tile by itself would be normed by its own mean and
//! spread, which shifts colours (40.9 dB against the whole on a smooth picture);
//! so all of them take the group norms' factors from a small copy of the whole.

use super::load::Tiling;
use super::tiles::{Blend, shrink, starts};
use super::{Cancel, Pipeline};
use crate::Result;
use crate::checkpoint::Part;
use crate::gpu::Gpu;
use crate::graph::{Executor, Graph, Runner, SharedNorms};
use crate::kernel::{Program, Storage, Tensor, View, layout};
use crate::model::{DeviceWeights, Loaded, vae};
use std::collections::HashMap;
use std::sync::Arc;

/// Activations beyond which a CPU adapter, whose memory is the machine's, works
/// on tiles.
const WHOLE_BYTES: u64 = 6 << 30;
/// Side of a tile and overlap of neighbours, in latents.
const TILE: usize = 96;
const OVERLAP: usize = 24;
/// Longest side of the small copy that the tiles' group norms are measured on, in
/// latents.
const PILOT: usize = 64;

/// The VAE of a pipeline.
pub struct Vae<'a> {
    pipeline: &'a Pipeline,
    loaded: &'a Loaded,
    tiling: Tiling,
}

impl<'a> Vae<'a> {
    pub(super) fn new(pipeline: &'a Pipeline, loaded: &'a Loaded, tiling: Tiling) -> Self {
        Self {
            pipeline,
            loaded,
            tiling,
        }
    }

    /// The graph of `kind` for an input of `side`, ready to run.
    fn pass(&self, kind: &Kind, side: [usize; 2], norms: Option<SharedNorms<'_>>) -> Result<Pass> {
        let gpu = &self.pipeline.gpu;
        let (precision, tuning) = (&self.pipeline.precision, self.pipeline.tuning);
        let checkpoint = &self.pipeline.base.checkpoint;
        let source = checkpoint.source(Part::Vae);
        let weights = DeviceWeights::new(gpu, source, precision.weights, self.loaded);
        let graph = (kind.graph)(&checkpoint.vae, side).optimise();
        let none = HashMap::new();
        let executor =
            Executor::with_norms(gpu, tuning, precision.vae, &graph, &weights, &none, norms)?;
        let planes = |t: &Tensor| {
            let bytes = (t.rows() * t.c * 4) as u64;
            Ok::<_, crate::Error>(View::whole(&Arc::new(gpu.buffer("planes", bytes)?)))
        };
        let input = executor.input(kind.input).cloned();
        let input = input.ok_or_else(|| gpu.error("the VAE has no input", "report this bug"))?;
        let output = executor.output(0).clone();
        let (from, to) = (planes(&input)?, planes(&output)?);
        let import = layout::to_pixels(tuning, &from, &input, [1.0, 0.0]);
        let export = layout::to_planes(tuning, &output, &to, [1.0, 0.0]);
        Ok(Pass {
            executor,
            import: Program::new(gpu, vec![import])?,
            export: Program::new(gpu, vec![export])?,
            from,
            to,
        })
    }

    /// A decoder for latents of `[h, w]`.
    pub fn decoder(&self, size: [usize; 2]) -> Result<Coder<'a>> {
        let config = &self.pipeline.base.checkpoint.vae;
        let scale = self.pipeline.base.checkpoint.vae_scale();
        self.coder(
            size,
            Kind {
                input: "latents",
                channels: [config.latent_channels, config.out_channels],
                graph: |config, size| vae::decoder(config, size),
                up: scale,
                down: 1,
            },
        )
    }

    /// An encoder for pictures of `[h, w]` pixels.
    pub fn encoder(&self, size: [usize; 2]) -> Result<Coder<'a>> {
        let config = &self.pipeline.base.checkpoint.vae;
        let scale = self.pipeline.base.checkpoint.vae_scale();
        self.coder(
            size,
            Kind {
                input: "picture",
                channels: [config.in_channels, 2 * config.latent_channels],
                graph: |config, size| vae::encoder(config, size),
                up: 1,
                down: scale,
            },
        )
    }

    fn coder(&self, size: [usize; 2], kind: Kind) -> Result<Coder<'a>> {
        let config = &self.pipeline.base.checkpoint.vae;
        let tile = TILE * kind.down;
        let tiled = [size[0].min(tile), size[1].min(tile)];
        let fits = || {
            let is_cpu = self.pipeline.gpu.capabilities().is_cpu;
            let storage = self.pipeline.precision.vae;
            let graph = (kind.graph)(config, size).optimise();
            let (bytes, largest) = graph.planned_bytes(self.pipeline.tuning, storage);
            let limit = self.pipeline.gpu.capabilities().max_buffer;
            largest <= limit && (!is_cpu || bytes <= WHOLE_BYTES)
        };
        let whole = match self.tiling {
            Tiling::Never => true,
            Tiling::Always => false,
            Tiling::Auto => tiled == size || fits(),
        };
        if whole || tiled == size {
            match self.pass(&kind, size, None) {
                Err(e) if self.tiling == Tiling::Auto && e.is_out_of_memory() => {
                    tracing::warn!("{e}: trying tiles");
                }
                pass => return Ok(self.finish(kind, size, size, pass?, None)),
            }
        }
        self.tiles(kind, size, tiled)
    }

    /// Tiles that are normed alike: a small copy of the whole says how.
    fn tiles(&self, kind: Kind, size: [usize; 2], side: [usize; 2]) -> Result<Coder<'a>> {
        let gpu = &self.pipeline.gpu;
        let most = PILOT * kind.down;
        let longest = size[0].max(size[1]).max(most);
        let small = size.map(|x| (x * most / longest / kind.down).max(1) * kind.down);
        let graph = (kind.graph)(&self.pipeline.base.checkpoint.vae, small);
        let factors = SharedNorms::room(gpu, &graph)?;
        let norms = |measure| {
            Some(SharedNorms {
                factors: &factors,
                measure,
            })
        };
        let pilot = Pilot {
            pass: self.pass(&kind, small, norms(true))?,
            size: small,
        };
        let pass = self.pass(&kind, side, norms(false))?;
        Ok(self.finish(kind, size, side, pass, Some(pilot)))
    }

    fn finish(
        &self,
        kind: Kind,
        size: [usize; 2],
        side: [usize; 2],
        pass: Pass,
        pilot: Option<Pilot>,
    ) -> Coder<'a> {
        Coder {
            pipeline: self.pipeline,
            pass,
            pilot,
            overlap: OVERLAP * kind.down,
            kind,
            size,
            side,
        }
    }
}

/// A graph with the way from planes to its activations and back.
struct Pass {
    executor: Executor,
    import: Program,
    export: Program,
    from: View,
    to: View,
}

impl Pass {
    fn run(&self, gpu: &Arc<Gpu>, input: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        gpu.upload(&self.from.buffer, bytemuck::cast_slice(input))?;
        let mut runner = Runner::new(gpu, false)?;
        let cancelled = || cancel.is_cancelled();
        let programs = [&self.import, self.executor.step(), &self.export];
        runner.run(|_| {}, &programs, &cancelled)?;
        runner.finish()?;
        let output = self.executor.output(0);
        let count = output.rows() * output.c;
        let bytes = gpu.download(&self.to.buffer, 0, (count * 4) as u64)?;
        Ok(Storage::F32.decode(&bytes))
    }
}

/// The whole, made small, from which the tiles' group norms are worked out.
struct Pilot {
    pass: Pass,
    size: [usize; 2],
}

/// Decoder or encoder.
struct Kind {
    input: &'static str,
    /// Of input and output.
    channels: [usize; 2],
    graph: fn(&crate::checkpoint::VaeConfig, [usize; 2]) -> Graph,
    /// The output is larger by `up` and smaller by `down`.
    up: usize,
    down: usize,
}

/// A decoder or encoder, ready for pictures of one size.
pub struct Coder<'a> {
    pipeline: &'a Pipeline,
    pass: Pass,
    /// Where the pass is for a tile.
    pilot: Option<Pilot>,
    kind: Kind,
    size: [usize; 2],
    /// Of the pass's input: the whole, or a tile.
    side: [usize; 2],
    overlap: usize,
}

impl Coder<'_> {
    /// Latents `[c, h, w]` as the UNet leaves them to a picture `[c, 8 h, 8 w]` in
    /// -1..1.
    pub fn decode(&self, latents: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        let config = &self.pipeline.base.checkpoint.vae;
        let plane = (self.size[0] * self.size[1]).max(1);
        let both = config
            .latents_mean
            .as_ref()
            .zip(config.latents_std.as_ref());
        let scaled: Vec<f32> = latents
            .iter()
            .enumerate()
            .map(|(i, x)| {
                // Per channel where the checkpoint says so, as diffusers does.
                match both.and_then(|(m, s)| m.get(i / plane).zip(s.get(i / plane))) {
                    Some((mean, std)) => x * std / config.scaling_factor + mean,
                    None => x / config.scaling_factor + config.shift_factor.unwrap_or(0.0),
                }
            })
            .collect();
        self.run(&scaled, cancel)
    }

    /// Runs the graph over the planes `[c, h, w]`, tile by tile where need be.
    pub fn run(&self, input: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        let gpu = &self.pipeline.gpu;
        let Some(pilot) = &self.pilot else {
            return self.pass.run(gpu, input, cancel);
        };
        let small = shrink(input, self.size, pilot.size);
        pilot.pass.run(gpu, &small, cancel)?;
        let [h, w] = self.size;
        let mut blend = Blend::new(self.out([h, w]), self.kind.channels[1]);
        for y in starts(h, self.side[0], self.overlap, self.kind.down) {
            for x in starts(w, self.side[1], self.overlap, self.kind.down) {
                let mut part = Vec::with_capacity(self.side[0] * self.side[1]);
                for plane in input.chunks(h * w) {
                    for line in plane.chunks(w).skip(y).take(self.side[0]) {
                        part.extend_from_slice(&line[x..x + self.side[1]]);
                    }
                }
                let made = self.pass.run(gpu, &part, cancel)?;
                let ramp = self.out([self.overlap; 2])[0];
                blend.add(&made, self.out([y, x]), self.out(self.side), ramp);
            }
        }
        Ok(blend.finish())
    }

    /// A length of the input in the output.
    fn out(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|x| x * self.kind.up / self.kind.down)
    }
}

/// A picture's place among the latents: mean and standard deviation, planes
/// `[c, h, w]`. A coder that has no deviation gives the latents themselves.
pub struct Posterior {
    pub mean: Vec<f32>,
    pub std: Option<Vec<f32>>,
}

impl Posterior {
    /// The posterior's value for this noise, of its shape.
    pub fn sample(&self, noise: &[f32]) -> Vec<f32> {
        match &self.std {
            Some(std) => (0..self.mean.len())
                .map(|i| self.mean[i] + std[i] * noise[i])
                .collect(),
            None => self.mean.clone(),
        }
    }
}

impl Pipeline {
    pub(super) fn encode(
        &self,
        planes: &[f32],
        request: &super::Request,
        cancel: &Cancel,
    ) -> Result<Posterior> {
        let vae = self.vae(self.options.vae_tiling);
        let moments = vae
            .encoder([request.height, request.width])?
            .run(planes, cancel)?;
        let (mean, logvar) = moments.split_at(moments.len() / 2);
        let std = logvar
            .iter()
            .map(|x| (0.5 * x.clamp(-30.0, 20.0)).exp())
            .collect();
        Ok(Posterior {
            mean: mean.to_vec(),
            std: Some(std),
        })
    }

    pub(super) fn scaled(&self, latents: &[f32]) -> Vec<f32> {
        let f = self.base.checkpoint.vae.scaling_factor;
        latents.iter().map(|x| x * f).collect()
    }

    pub(super) fn first_model(&self, _: &super::Request) -> &super::load::Model {
        &self.base
    }
}
