//! What the loop starts from: noise, or a picture and noise.

use super::denoise::{Place, Sample, Shape, Stand};
use super::request::MaskedContent;
use super::route::Start;
use super::{Observer, Pipeline, Posterior, Request, scale_latents};
use crate::schedule::NoiseGenerator;
use crate::{Error, Result};

/// The pictures of a request before the first step, and what is painted anew.
pub(super) struct Departure {
    pub samples: Vec<Sample>,
    /// Latents that are painted anew, 1 or 0, `[h, w]`.
    pub mask: Option<Vec<f32>>,
}

/// Encodes the picture of request number `number` of those that are drawn together, if
/// any, and draws the first noise. The order of
/// the draws is diffusers': for each picture its latents, the noise, then the
/// latents of the picture without what is painted anew.
pub(super) async fn depart(
    pipeline: &Pipeline,
    (number, request): (usize, &Request),
    start: Start,
    observer: &mut Observer<'_>,
    warnings: &mut Vec<String>,
) -> Result<Departure> {
    let shape = pipeline.latent_shape(request);
    let pixels = Pixels::new(request);
    let beside = pipeline.base.checkpoint.unet.in_channels > shape.c;
    let mut encode = async |planes: &Option<Vec<f32>>| match planes {
        Some(planes) => {
            let vae = pipeline.planned_vae();
            let size = [request.height, request.width];
            let encoded = vae.encode_or_widen(planes, size, observer.cancel, warnings);
            encoded.await.map(Some)
        }
        None => Ok::<_, Error>(None),
    };
    let encoded = Encoded {
        // An inpainting UNet sees the masked picture; the whole is wanted only to
        // start from.
        picture: match (beside, start) {
            (true, Start::Noise(_)) => None,
            _ => encode(&pixels.picture).await?,
        },
        masked: encode(&pixels.masked).await?,
    };
    let mask = request
        .mask
        .as_ref()
        .map(|mask| mask.to_latent(shape.w, shape.h));
    let content = request.masking.content;
    let samples = request
        .seeds()
        .into_iter()
        .enumerate()
        .map(|(index, seed)| {
            let place = Place {
                request: number,
                index,
            };
            let generator = request.rng.generator(seed);
            sample(
                pipeline,
                place,
                &encoded,
                (start, content),
                generator,
                shape,
                mask.as_deref(),
            )
        });
    let departure = Departure {
        samples: samples.collect(),
        mask,
    };
    if let Some(trace) = &mut observer.trace {
        let (n, h, w) = (request.samples, request.height, request.width);
        if let Some(picture) = &pixels.picture {
            trace.put_f32("init_image", &[n, 3, h, w], &picture.repeat(n));
        }
        if let Some(mask) = &pixels.mask {
            trace.put_f32("mask", &[n, 1, h, w], &mask.repeat(n));
        }
    }
    Ok(departure)
}

/// The request's picture as the VAE takes it, planes of -1..1.
struct Pixels {
    picture: Option<Vec<f32>>,
    /// 1 where painted anew, `[h, w]`.
    mask: Option<Vec<f32>>,
    /// The picture with 0, grey, where it is painted anew.
    masked: Option<Vec<f32>>,
}

impl Pixels {
    fn new(request: &Request) -> Self {
        let picture = request.image.as_ref().map(|picture| picture.to_planar());
        let mask = request.mask.as_ref().map(|mask| mask.to_planar());
        let masked = picture.as_ref().zip(mask.as_ref()).map(|(picture, mask)| {
            let keep = |(i, x): (usize, &f32)| match mask[i % mask.len()] < 0.5 {
                true => *x,
                false => 0.0,
            };
            picture.iter().enumerate().map(keep).collect()
        });
        Self {
            picture,
            mask,
            masked,
        }
    }
}

/// The picture's latents with what the mask's content asks for where it paints.
fn painted_over(
    mut latents: Vec<f32>,
    noise: &[f32],
    mask: Option<&[f32]>,
    content: MaskedContent,
) -> Vec<f32> {
    let Some(mask) = mask else { return latents };
    let painted = |at: &usize| mask[at % mask.len()] > 0.5;
    let places = (0..latents.len()).filter(painted);
    match content {
        MaskedContent::Original | MaskedContent::Fill => {}
        MaskedContent::LatentNoise => places.for_each(|at| latents[at] = noise[at]),
        MaskedContent::LatentNothing => places.for_each(|at| latents[at] = 0.0),
    }
    latents
}

/// What the VAE made of the request's picture.
struct Encoded {
    picture: Option<Posterior>,
    masked: Option<Posterior>,
}

fn sample(
    pipeline: &Pipeline,
    place: Place,
    encoded: &Encoded,
    (start, content): (Start, MaskedContent),
    mut generator: Box<dyn NoiseGenerator>,
    shape: Shape,
    mask: Option<&[f32]>,
) -> Sample {
    let count = shape.count();
    let drawn = |posterior: &Posterior, generator: &mut dyn NoiseGenerator| {
        // Where there is no posterior nothing is drawn.
        let noise = match posterior.std {
            Some(_) => generator.randn(count),
            None => Vec::new(),
        };
        scale_latents(&pipeline.base.checkpoint.vae, &posterior.sample(&noise))
    };
    let picture = encoded.picture.as_ref();
    let picture = picture.map(|posterior| drawn(posterior, generator.as_mut()));
    let noise = generator.randn(count);
    let picture = picture.map(|picture| painted_over(picture, &noise, mask, content));
    let masked = encoded.masked.as_ref();
    let masked = masked.map(|posterior| drawn(posterior, generator.as_mut()));
    let latents = match (start, &picture) {
        (Start::Picture(mix), Some(picture)) => {
            let (a, b) = (mix.original as f32, mix.noise as f32);
            let pairs = picture.iter().zip(&noise);
            pairs.map(|(x, n)| a * x + b * n).collect()
        }
        (Start::Noise(deviation), _) => noise.iter().map(|n| n * deviation).collect(),
        // A way that starts from a picture has one.
        (Start::Picture(_), None) => noise.clone(),
    };
    // The channels of an inpainting UNet: the mask, then the masked picture.
    let extra = match (mask, &masked) {
        (Some(mask), Some(masked)) => [mask, masked].concat(),
        _ => Vec::new(),
    };
    Sample {
        place,
        latents,
        kept: picture
            .filter(|_| mask.is_some())
            .map(|picture| [picture, noise]),
        extra,
        generator,
        progress: Stand::Waiting,
    }
}
