//! Pictures of unfinished latents: estimated by a linear map that is fitted to
//! the VAE, or decoded with a small VAE.

use super::load::Tiling;
use super::vae::{Coder, Vae};
use super::{Cancel, Pipeline};
use crate::checkpoint::{Checkpoint, VaeFile, open_vae};
use crate::gpu::block_on;
use crate::model::{Loaded, autoencoder};
use crate::picture::Picture;
use crate::schedule::{NoiseGenerator, TorchCpuGenerator};
use crate::{Error, Result};
use image::imageops::{self, FilterType};
use std::sync::{Mutex, OnceLock};

/// Latents that the map is fitted on, a square of `PROBE` by `PROBE`: patches of
/// `PATCH` by `PATCH` of one colour each. Single pixels of noise would show what
/// the decoder makes of noise rather than of pictures.
const PROBE: usize = 16;
const PATCH: usize = 4;
/// Deviation of the probe, below that of finished latents: beyond it decoders
/// saturate, which flattens the map. Against finished pictures of the embedded
/// model, at the latents' size, 0.7 gives 24 to 29 dB, 1 gives 20 to 26, and 0.7 in
/// single pixels 17 to 22.
const DEVIATION: f32 = 0.7;

/// What previews are made with.
#[derive(Default)]
pub(super) struct Previews {
    vae: Option<(VaeFile, Loaded)>,
    linear: OnceLock<Linear>,
}

impl Previews {
    /// Opens the VAE at `path`, where there is one, and checks its tensors.
    ///
    /// # Errors
    /// Where its latents are not the checkpoint's, or as [`open_vae`].
    pub fn open(path: Option<&str>, checkpoint: &Checkpoint) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let mut vae = open_vae(path)?;
        vae.decode_latents_of(&checkpoint.vae)?;
        for (name, shape) in autoencoder::wanted(&vae.config) {
            vae.source().check(&name, &shape)?;
        }
        let fits = |f: fn(&crate::checkpoint::Autoencoder) -> usize| {
            let (have, want) = (f(&vae.config), f(&checkpoint.vae));
            let problem = format!("{have}, the model's VAE has {want}");
            (have == want).then_some(()).ok_or(problem)
        };
        let problem = fits(|c| c.latent_channels())
            .map_err(|problem| format!("its latent channels are {problem}"))
            .and(fits(|c| c.scale()).map_err(|problem| format!("its scale is {problem}")));
        if let Err(problem) = problem {
            return Err(Error::file(path, problem, "use an SDXL VAE or TAESD-XL"));
        }
        Ok(Self {
            vae: Some((vae, Loaded::default())),
            linear: OnceLock::new(),
        })
    }
}

/// Makes previews on a pipeline's device.
pub struct Previewer<'a> {
    way: Way<'a>,
    scale: usize,
}

enum Way<'a> {
    Linear(Linear),
    Decoder {
        vae: Vae<'a>,
        /// For latents of one size.
        coder: Mutex<Option<([usize; 2], Box<Coder>)>>,
    },
}

impl Pipeline {
    /// Previews through the VAE that was loaded for them, or else by a linear map,
    /// for which the first call decodes a small probe with the model's own VAE.
    pub fn previewer(&self, cancel: &Cancel) -> Result<Previewer<'_>> {
        block_on(self.previewer_async(cancel))
    }

    /// As [`Self::previewer`], without blocking.
    ///
    /// # Errors
    /// As [`Self::previewer`].
    pub async fn previewer_async(&self, cancel: &Cancel) -> Result<Previewer<'_>> {
        let way = match &self.previews.vae {
            Some((vae, loaded)) => Way::Decoder {
                vae: Vae::other(self, vae, loaded, Tiling::Auto),
                coder: Mutex::default(),
            },
            None => Way::Linear(self.linear(cancel).await?),
        };
        let scale = self.base.checkpoint.vae_scale();
        Ok(Previewer { way, scale })
    }

    async fn linear(&self, cancel: &Cancel) -> Result<Linear> {
        if let Some(known) = self.previews.linear.get() {
            return Ok(known.clone());
        }
        let linear = Linear::fit(self, cancel).await?;
        Ok(self.previews.linear.get_or_init(|| linear).clone())
    }
}

impl Previewer<'_> {
    /// The picture, `8 h` by `8 w`, of latents `[c, h, w]` as the UNet leaves them.
    /// The first of a size makes its decoder, where there is one.
    pub fn picture(&self, latents: &[f32], h: usize, w: usize, cancel: &Cancel) -> Result<Picture> {
        block_on(self.picture_async(latents, h, w, cancel))
    }

    /// As [`Self::picture`], without blocking.
    ///
    /// # Errors
    /// As [`Self::picture`].
    pub async fn picture_async(
        &self,
        latents: &[f32],
        h: usize,
        w: usize,
        cancel: &Cancel,
    ) -> Result<Picture> {
        let (width, height) = (w * self.scale, h * self.scale);
        match &self.way {
            Way::Linear(linear) => linear.picture(latents, [h, w], self.scale),
            Way::Decoder { vae, coder } => {
                let kept = || coder.lock().unwrap_or_else(|e| e.into_inner());
                let last = kept().take();
                let mut ready = match last {
                    Some((size, ready)) if size == [h, w] => ready,
                    _ => Box::new(vae.decoder([h, w])?),
                };
                let mut wider = vae.wider();
                let decoded = loop {
                    match (ready.decode_async(latents, cancel).await, wider) {
                        (Err(e), Some(wide)) if e.is_not_finite() => {
                            ready = Box::new(wide.decoder([h, w])?);
                            wider = wide.wider();
                        }
                        (decoded, _) => break decoded,
                    }
                };
                *kept() = Some(([h, w], ready));
                Picture::from_planar(width, height, &decoded?)
            }
        }
    }
}

/// Red, green and blue, -1 to 1, of a latent pixel: one row of factors for each
/// latent channel, and the constants.
#[derive(Debug, Clone, PartialEq)]
struct Linear(Vec<[f64; 3]>);

impl Linear {
    /// Decodes a probe with the pipeline's VAE and fits the map by least squares to
    /// the means of what each latent pixel becomes.
    async fn fit(pipeline: &Pipeline, cancel: &Cancel) -> Result<Self> {
        let config = &pipeline.base.checkpoint.vae;
        let (channels, scale) = (config.latent_channels(), config.scale());
        let latents = probe(channels);
        let vae = pipeline.vae(Tiling::Auto);
        let decoder = vae.decoder([PROBE; 2])?;
        // What is said of the VAE is said of the picture itself.
        let mut said = Vec::new();
        let mut unheard = |_| {};
        let decoded = vae
            .decode_all(decoder, &[&latents], cancel, &mut unheard, &mut said)
            .await?;
        let means = means(&decoded.concat(), PROBE, scale);
        let plane = PROBE * PROBE;
        let mut sums = Normal::new(channels + 1);
        for i in 0..plane {
            let mut row: Vec<f64> = latents.chunks(plane).map(|p| f64::from(p[i])).collect();
            row.push(1.0);
            sums.add(&row, [0, 1, 2].map(|c| means[c * plane + i]));
        }
        Ok(Self(sums.solve()))
    }

    fn picture(&self, latents: &[f32], [h, w]: [usize; 2], scale: usize) -> Result<Picture> {
        let (plane, channels) = (h * w, self.0.len() - 1);
        if plane == 0 || latents.len() != channels * plane {
            let allowed = format!("{w}x{h} take {}, and at least 1x1", channels * plane);
            return Err(Error::invalid("latents", latents.len(), allowed));
        }
        let planes: Vec<f32> = (0..3 * plane)
            .map(|at| {
                let (colour, i) = (at / plane, at % plane);
                let values = latents.chunks(plane).map(|p| f64::from(p[i]));
                let row = values.chain([1.0]).zip(&self.0);
                row.map(|(x, factors)| x * factors[colour]).sum::<f64>() as f32
            })
            .collect();
        enlarge(Picture::from_planar(w, h, &planes)?, scale)
    }
}

/// The same with `scale` times the pixels along each side.
fn enlarge(small: Picture, scale: usize) -> Result<Picture> {
    let (width, height) = (small.width * scale, small.height * scale);
    let [w, h, to_w, to_h] = [small.width, small.height, width, height].map(|n| n as u32);
    let pixels = image::RgbImage::from_raw(w, h, small.rgb);
    let pixels = pixels.ok_or_else(|| {
        let allowed = "pixels must fill the picture; report this bug";
        Error::invalid("preview", format!("{w}x{h}"), allowed)
    })?;
    let rgb = imageops::resize(&pixels, to_w, to_h, FilterType::Triangle).into_raw();
    Ok(Picture { width, height, rgb })
}

/// Planes `[channels, PROBE, PROBE]` of patches.
fn probe(channels: usize) -> Vec<f32> {
    let side = PROBE / PATCH;
    let noise = TorchCpuGenerator::new(0).randn(channels * side * side);
    (0..channels * PROBE * PROBE)
        .map(|i| {
            let (c, y, x) = (i / (PROBE * PROBE), i / PROBE % PROBE, i % PROBE);
            DEVIATION * noise[(c * side + y / PATCH) * side + x / PATCH]
        })
        .collect()
}

/// Means of every square of `scale` by `scale` of the planes `[3, side * scale,
/// side * scale]`.
fn means(planes: &[f32], side: usize, scale: usize) -> Vec<f64> {
    let long = side * scale;
    let mut means = vec![0.0; 3 * side * side];
    for (i, value) in planes.iter().enumerate() {
        let (c, y, x) = (i / (long * long), i / long % long, i % long);
        means[(c * side + y / scale) * side + x / scale] += f64::from(*value);
    }
    let count = (scale * scale) as f64;
    means.iter().map(|sum| sum / count).collect()
}

/// The normal equations of a least-squares fit of three values.
struct Normal {
    /// `[n][n + 3]`: the sums of products, and beside them the right-hand sides.
    rows: Vec<Vec<f64>>,
}

/// Added along the diagonal, in observations of variance 1, so that the equations
/// can be solved whatever the observations.
const RIDGE: f64 = 1e-3;

impl Normal {
    fn new(n: usize) -> Self {
        let mut rows = vec![vec![0.0; n + 3]; n];
        for (i, row) in rows.iter_mut().enumerate() {
            row[i] = RIDGE;
        }
        Self { rows }
    }

    fn add(&mut self, inputs: &[f64], outputs: [f64; 3]) {
        for (row, a) in self.rows.iter_mut().zip(inputs) {
            let all = inputs.iter().chain(&outputs);
            for (sum, b) in row.iter_mut().zip(all) {
                *sum += a * b;
            }
        }
    }

    /// Gauss and Jordan's elimination; the matrix is positive definite, so that no
    /// pivot is needed.
    fn solve(mut self) -> Vec<[f64; 3]> {
        let n = self.rows.len();
        for i in 0..n {
            let pivot = self.rows[i][i];
            let line: Vec<f64> = self.rows[i].iter().map(|x| x / pivot).collect();
            for (j, row) in self.rows.iter_mut().enumerate() {
                let factor = row[i];
                if j != i {
                    row.iter_mut()
                        .zip(&line)
                        .for_each(|(x, y)| *x -= factor * y);
                }
            }
            self.rows[i] = line;
        }
        let rows = self.rows.iter();
        rows.map(|row| [row[n], row[n + 1], row[n + 2]]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_map_is_found_again() {
        let truth = [[0.5, -1.0, 0.0], [2.0, 0.25, 1.0], [0.1, 0.2, -0.3]];
        let noise = TorchCpuGenerator::new(3).randn(2000);
        let mut sums = Normal::new(3);
        for pair in noise.chunks(2) {
            let row = [f64::from(pair[0]), f64::from(pair[1]), 1.0];
            let made = |c: usize| row.iter().zip(truth).map(|(x, t)| x * t[c]).sum();
            sums.add(&row, [0, 1, 2].map(made));
        }
        for (found, truth) in sums.solve().iter().zip(truth) {
            for (a, b) in found.iter().zip(truth) {
                assert!((a - b).abs() < 1e-5, "{found:?} {truth:?}");
            }
        }
    }

    #[test]
    fn a_map_that_knows_nothing_is_grey() {
        let map = Linear(Normal::new(5).solve());
        let picture = map.picture(&[3.0; 4 * 6], [2, 3], 8).unwrap();
        assert_eq!((picture.width, picture.height), (24, 16));
        assert!(picture.rgb.iter().all(|x| *x == 128));
        assert!(map.picture(&[3.0; 4 * 6], [2, 2], 8).is_err());
        assert!(map.picture(&[], [0, 3], 8).is_err());
    }
}
