//! The VAE: whole where memory allows, otherwise in overlapping tiles whose
//! seams are blended.

use super::load::Tiling;
use super::{Cancel, Pipeline};
use crate::Result;
use crate::checkpoint::Part;
use crate::graph::{Executor, Graph, Runner};
use crate::model::{DeviceWeights, Loaded, vae};
use std::collections::HashMap;

/// Activations beyond which a CPU adapter, whose memory is the machine's, works
/// on tiles.
const WHOLE_BYTES: u64 = 6 << 30;
/// Side of a tile and overlap of neighbours, in latents.
const TILE: usize = 96;
const OVERLAP: usize = 24;

/// Values channels last `[pixels, c]` to planes `[c, pixels]`.
pub fn to_planes(values: &[f32], c: usize) -> Vec<f32> {
    let pixels = values.len() / c.max(1);
    (0..c)
        .flat_map(|j| (0..pixels).map(move |i| values[i * c + j]))
        .collect()
}

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
        Ok(Coder {
            pipeline: self.pipeline,
            executor,
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
    kind: Kind,
    size: [usize; 2],
    /// Of the executor's input: the whole, or a tile.
    side: [usize; 2],
    overlap: usize,
}

impl Coder<'_> {
    /// Latents `[h, w, c]` as the UNet leaves them to a picture `[8 h, 8 w, c]` in
    /// -1..1.
    pub fn decode(&self, latents: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        let config = &self.pipeline.checkpoint.vae;
        let c = config.latent_channels;
        let scaled: Vec<f32> = latents
            .iter()
            .enumerate()
            .map(|(i, x)| {
                // Per channel where the checkpoint says so, as diffusers does.
                let both = config
                    .latents_mean
                    .as_ref()
                    .zip(config.latents_std.as_ref());
                match both.and_then(|(m, s)| m.get(i % c).zip(s.get(i % c))) {
                    Some((mean, std)) => x * std / config.scaling_factor + mean,
                    None => x / config.scaling_factor + config.shift_factor.unwrap_or(0.0),
                }
            })
            .collect();
        self.run(&scaled, cancel)
    }

    /// Runs the graph over `input` `[h, w, c]`, tile by tile where need be.
    pub fn run(&self, input: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        if self.side == self.size {
            return self.tile(input, cancel);
        }
        let [h, w] = self.size;
        let [c_in, c_out] = self.kind.channels;
        let out = |x: usize| x * self.kind.up / self.kind.down;
        let mut sum = vec![0f32; out(h) * out(w) * c_out];
        let mut weight = vec![0f32; out(h) * out(w)];
        for y in starts(h, self.side[0], self.overlap, self.kind.down) {
            for x in starts(w, self.side[1], self.overlap, self.kind.down) {
                let mut part = Vec::with_capacity(self.side[0] * self.side[1] * c_in);
                for row in y..y + self.side[0] {
                    let at = (row * w + x) * c_in;
                    part.extend_from_slice(&input[at..at + self.side[1] * c_in]);
                }
                let made = self.tile(&part, cancel)?;
                let [th, tw] = [out(self.side[0]), out(self.side[1])];
                let ramp = out(self.overlap);
                let wy = weights(out(y), th, out(h), ramp);
                let wx = weights(out(x), tw, out(w), ramp);
                for i in 0..th {
                    for j in 0..tw {
                        let at = (out(y) + i) * out(w) + out(x) + j;
                        let share = wy[i] * wx[j];
                        weight[at] += share;
                        for k in 0..c_out {
                            sum[at * c_out + k] += share * made[(i * tw + j) * c_out + k];
                        }
                    }
                }
            }
        }
        for (pixel, weight) in sum.chunks_mut(c_out).zip(&weight) {
            pixel.iter_mut().for_each(|v| *v /= weight);
        }
        Ok(sum)
    }

    fn tile(&self, input: &[f32], cancel: &Cancel) -> Result<Vec<f32>> {
        let gpu = &self.pipeline.gpu;
        self.executor.write(gpu, self.kind.input, input)?;
        let mut runner = Runner::new(gpu, false)?;
        let cancelled = || cancel.is_cancelled();
        runner.run(|_| {}, &[self.executor.step()], &cancelled)?;
        runner.finish()?;
        self.executor.read(gpu, 0)
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
