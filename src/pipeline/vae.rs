//! The VAE: whole where memory allows, otherwise in overlapping tiles whose
//! seams are blended.

use super::load::Tiling;
use super::{Cancel, Pipeline};
use crate::Result;
use crate::checkpoint::Part;
use crate::graph::{Executor, Graph, Runner};
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

    fn executor(&self, graph: Graph) -> Result<Executor> {
        let gpu = &self.pipeline.gpu;
        let precision = &self.pipeline.precision;
        let source = self.pipeline.checkpoint.source(Part::Vae);
        let weights = DeviceWeights::new(gpu, source, precision.weights, self.loaded);
        let none = HashMap::new();
        Executor::new(
            gpu,
            self.pipeline.tuning,
            precision.vae,
            &graph.optimise(),
            &weights,
            &none,
        )
    }

    /// A decoder for latents of `[h, w]`.
    pub fn decoder(&self, size: [usize; 2]) -> Result<Coder<'a>> {
        let config = &self.pipeline.checkpoint.vae;
        let scale = self.pipeline.checkpoint.vae_scale();
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
        let config = &self.pipeline.checkpoint.vae;
        let scale = self.pipeline.checkpoint.vae_scale();
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
        let config = &self.pipeline.checkpoint.vae;
        let [tile, overlap] = [TILE * kind.down, OVERLAP * kind.down];
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
        let mut side = if whole { size } else { tiled };
        let executor = match self.executor((kind.graph)(config, side)) {
            Err(e) if whole && self.tiling == Tiling::Auto && e.is_out_of_memory() => {
                tracing::warn!("{e}: trying tiles");
                side = tiled;
                self.executor((kind.graph)(config, side))?
            }
            other => other?,
        };
        let gpu = &self.pipeline.gpu;
        let tuning = self.pipeline.tuning;
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
        Ok(Coder {
            pipeline: self.pipeline,
            executor,
            import: Program::new(gpu, vec![import])?,
            export: Program::new(gpu, vec![export])?,
            from,
            to,
            kind,
            size,
            side,
            overlap,
        })
    }
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
    executor: Executor,
    /// Between planes and the executor's activations.
    import: Program,
    export: Program,
    from: View,
    to: View,
    kind: Kind,
    size: [usize; 2],
    /// Of the executor's input: the whole, or a tile.
    side: [usize; 2],
    overlap: usize,
}

impl Coder<'_> {
    /// Latents `[c, h, w]` as the UNet leaves them to a picture `[c, 8 h, 8 w]` in
    /// -1..1.
    pub fn decode(&self, latents: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        let config = &self.pipeline.checkpoint.vae;
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
        if self.side == self.size {
            return self.tile(input, cancel);
        }
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
                let made = self.tile(&part, cancel)?;
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

    fn tile(&self, input: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        let gpu = &self.pipeline.gpu;
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

/// A picture put together from weighted tiles.
struct Blend {
    size: [usize; 2],
    sum: Vec<f32>,
    weight: Vec<f32>,
}

impl Blend {
    fn new(size: [usize; 2], channels: usize) -> Self {
        let plane = size[0] * size[1];
        Self {
            size,
            sum: vec![0.0; channels * plane],
            weight: vec![0.0; plane],
        }
    }

    /// Adds a tile `[c, side]` whose first pixel is `start`.
    fn add(&mut self, tile: &[f32], start: [usize; 2], side: [usize; 2], ramp: usize) {
        let [h, w] = self.size;
        let rows = weights(start[0], side[0], h, ramp);
        let columns = weights(start[1], side[1], w, ramp);
        for (i, row) in rows.iter().enumerate() {
            let at = (start[0] + i) * w + start[1];
            for (j, column) in columns.iter().enumerate() {
                self.weight[at + j] += row * column;
            }
            for (k, plane) in tile.chunks(side[0] * side[1]).enumerate() {
                let to = &mut self.sum[k * h * w + at..][..side[1]];
                let from = &plane[i * side[1]..][..side[1]];
                for ((to, from), column) in to.iter_mut().zip(from).zip(&columns) {
                    *to += row * column * from;
                }
            }
        }
    }

    fn finish(mut self) -> Vec<f32> {
        for plane in self.sum.chunks_mut(self.weight.len().max(1)) {
            for (value, weight) in plane.iter_mut().zip(&self.weight) {
                *value /= weight;
            }
        }
        self.sum
    }
}

/// Where tiles of `side` begin along `length`, at least `overlap` shared, on
/// multiples of `step`.
fn starts(length: usize, side: usize, overlap: usize, step: usize) -> Vec<usize> {
    if side >= length {
        return vec![0];
    }
    let count = (length - overlap).div_ceil(side - overlap);
    let last = length - side;
    (0..count)
        .map(|i| (last * i / (count - 1).max(1)) / step * step)
        .collect()
}

/// Weights of a tile's lines: a ramp over `ramp` lines at the edges that face
/// other tiles.
fn weights(start: usize, side: usize, length: usize, ramp: usize) -> Vec<f32> {
    let rise = |i: usize| ((i as f32 + 0.5) / ramp.max(1) as f32).min(1.0);
    (0..side)
        .map(|i| {
            let low = if start == 0 { 1.0 } else { rise(i) };
            let high = if start + side >= length {
                1.0
            } else {
                rise(side - 1 - i)
            };
            low * high
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_everything_and_overlap() {
        for length in [97, 100, 128, 180, 250] {
            let all = starts(length, 96, 24, 1);
            assert_eq!(all[0], 0);
            assert_eq!(all.last().unwrap() + 96, length);
            for pair in all.windows(2) {
                assert!(pair[1] > pair[0] && pair[1] + 24 <= pair[0] + 96, "{all:?}");
            }
        }
    }

    #[test]
    fn no_pixel_has_weight_zero() {
        for (start, side) in [(0, 96), (40, 96), (160, 96)] {
            assert!(weights(start, side, 256, 24).iter().all(|w| *w > 0.0));
        }
    }
}
