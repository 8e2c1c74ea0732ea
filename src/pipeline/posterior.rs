//! What an encoder says of a picture, and the scale of latents.

use crate::checkpoint::Autoencoder;

/// Bounds of the log-variance (`DiagonalGaussianDistribution`).
const LOGVAR: (f32, f32) = (-30.0, 20.0);

/// Latents of a picture as the VAE has them, not yet scaled: planes `[latent, h, w]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Posterior {
    pub mean: Vec<f32>,
    /// Deviations, as `mean`; `None` where the VAE gives the latents themselves, as
    /// TAESD does. No noise is drawn then.
    pub std: Option<Vec<f32>>,
}

impl Posterior {
    /// From an encoder's planes: mean and log-variance where they are `moments`.
    pub(super) fn new(mut values: Vec<f32>, moments: bool) -> Self {
        if !moments {
            return Self {
                mean: values,
                std: None,
            };
        }
        let logvar = values.split_off(values.len() / 2);
        let deviation = |x: &f32| (0.5 * x.clamp(LOGVAR.0, LOGVAR.1)).exp();
        Self {
            std: Some(logvar.iter().map(deviation).collect()),
            mean: values,
        }
    }

    /// `mean + std * noise`, of as many values each; the mean where there is no
    /// deviation.
    pub fn sample(&self, noise: &[f32]) -> Vec<f32> {
        let Some(std) = &self.std else {
            return self.mean.clone();
        };
        let spread = std.iter().zip(noise).map(|(std, noise)| std * noise);
        self.mean.iter().zip(spread).map(|(m, s)| m + s).collect()
    }
}

/// Latents `[latent, h, w]` of an encoder as the UNet takes them (`_encode_vae_image`
/// of diffusers' image-to-image): by channel where the checkpoint has means and
/// deviations.
pub fn scale_latents(config: &Autoencoder, latents: &[f32]) -> Vec<f32> {
    let (factor, shift) = (config.scaling_factor(), config.shift_factor());
    by_channel(config, latents, |x, statistics| match statistics {
        Some((mean, std)) => (x - mean) * factor / std,
        None => (x - shift) * factor,
    })
}

/// The inverse of [`scale_latents`]: latents of the UNet as the decoder takes them.
pub fn unscale_latents(config: &Autoencoder, latents: &[f32]) -> Vec<f32> {
    let (factor, shift) = (config.scaling_factor(), config.shift_factor());
    by_channel(config, latents, |x, statistics| match statistics {
        Some((mean, std)) => x * std / factor + mean,
        None => x / factor + shift,
    })
}

/// `f` of every value and its channel's mean and deviation.
fn by_channel(
    config: &Autoencoder,
    latents: &[f32],
    f: impl Fn(f32, Option<(f32, f32)>) -> f32,
) -> Vec<f32> {
    let plane = (latents.len() / config.latent_channels().max(1)).max(1);
    let statistics = config.latents_mean_std();
    let of = |channel: usize| {
        let (mean, std) = statistics?;
        Some((*mean.get(channel)?, *std.get(channel)?))
    };
    let planes = latents.chunks(plane).enumerate();
    planes
        .flat_map(|(channel, plane)| {
            let statistics = of(channel);
            plane.iter().map(|x| f(*x, statistics)).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    #[test]
    fn scaling_is_undone() {
        let Autoencoder::Kl(plain) = Checkpoint::open("demo").unwrap().vae else {
            panic!("the demo has an AutoencoderKL");
        };
        let mut shifted = plain.clone();
        shifted.shift_factor = Some(0.25);
        let mut by_channel = plain.clone();
        by_channel.latents_mean = Some(vec![0.5, -1.0, 0.0, 2.0]);
        by_channel.latents_std = Some(vec![2.0, 1.0, 4.0, 0.5]);
        let latents = [1.0, -2.0, 3.0, 0.5, 0.0, 1.0, -1.0, 2.0];
        let scaled = |config| scale_latents(&Autoencoder::Kl(config), &latents);
        assert_eq!(scaled(plain.clone())[0], 0.13025);
        assert_eq!(scaled(shifted.clone())[1], -2.25 * 0.13025);
        // The last plane: (2 - 2) / 0.5.
        assert_eq!(scaled(by_channel.clone())[7], 0.0);
        assert_eq!(scaled(by_channel.clone())[0], 0.5 * 0.13025 / 2.0);
        for config in [plain, shifted, by_channel].map(Autoencoder::Kl) {
            let back = unscale_latents(&config, &scale_latents(&config, &latents));
            for (a, b) in back.iter().zip(latents) {
                assert!((a - b).abs() < 1e-5, "{config:?}");
            }
        }
    }

    #[test]
    fn deviations_are_bounded_and_noise_counts_only_with_them() {
        let moments = vec![1.0, 2.0, 100.0, -100.0];
        let posterior = Posterior::new(moments, true);
        let std = posterior.std.clone().unwrap();
        assert_eq!(std, [10f32.exp(), (-15f32).exp()]);
        assert_eq!(posterior.sample(&[0.0, 1.0]), [1.0, 2.0 + std[1]]);
        let latents = Posterior::new(vec![1.0, 2.0], false);
        assert_eq!(latents.sample(&[5.0, 5.0]), [1.0, 2.0]);
    }
}
