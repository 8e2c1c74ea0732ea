//! The VAE of a checkpoint, whichever of the two kinds it is.

use super::{taesd, tensors, vae};
use crate::checkpoint::Autoencoder;
use crate::graph::Graph;

/// The decoder: input `latents` `[1, h, w, latent]` to the picture `[1, 8 h, 8 w, 3]`,
/// whose values [`picture_range`] takes to -1..1.
pub fn decoder(config: &Autoencoder, size: [usize; 2]) -> Graph {
    match config {
        Autoencoder::Kl(config) => vae::decoder(config, size),
        Autoencoder::Tiny(config) => taesd::decoder(config, size),
    }
}

/// The encoder: input `picture` `[1, h, w, 3]` to what [`encodes_moments`] says.
pub fn encoder(config: &Autoencoder, size: [usize; 2]) -> Graph {
    match config {
        Autoencoder::Kl(config) => vae::encoder(config, size),
        Autoencoder::Tiny(config) => taesd::encoder(config, size),
    }
}

/// Scale and shift of a picture in -1..1 before the encoder, and of the decoder's
/// output to -1..1.
pub fn picture_range(config: &Autoencoder) -> [[f32; 2]; 2] {
    match config {
        Autoencoder::Kl(_) => [[1.0, 0.0]; 2],
        Autoencoder::Tiny(_) => [taesd::TO_UNIT, taesd::FROM_UNIT],
    }
}

/// Whether the encoder gives the mean and log-variance of a posterior, `2 latent`
/// channels, rather than latents.
pub fn encodes_moments(config: &Autoencoder) -> bool {
    matches!(config, Autoencoder::Kl(_))
}

/// Names and shapes of every tensor of decoder and encoder, where there is one.
pub fn wanted(config: &Autoencoder) -> Vec<(String, Vec<usize>)> {
    let side = 8 * config.scale();
    let mut all = tensors(&decoder(config, [8, 8]));
    if config.has_encoder() {
        all.extend(tensors(&encoder(config, [side, side])));
    }
    all
}
