//! What a request does with a mask, and the picture and mask that are drawn with.

use super::RawRequest;
use super::check::count;
use crate::picture::{Fit, LEAST_INPUT_SIDE, Mask, Overlay, Picture};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::sync::Arc;

/// The most surroundings of a part that is drawn alone, in pixels.
const MOST_PADDING: usize = 1 << 14;

/// What is painted over: AUTOMATIC1111's "masked content".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MaskedContent {
    /// The picture itself, as in diffusers.
    #[default]
    Original,
    /// The colours around it, see [`Picture::filled`].
    Fill,
    /// Latents that are the seed's noise.
    LatentNoise,
    /// Latents of 0.
    LatentNothing,
}

impl MaskedContent {
    const ALL: [Self; 4] = [
        Self::Original,
        Self::Fill,
        Self::LatentNoise,
        Self::LatentNothing,
    ];

    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Fill => "fill",
            Self::LatentNoise => "latent_noise",
            Self::LatentNothing => "latent_nothing",
        }
    }
}

impl FromStr for MaskedContent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|content| content.name() == text)
            .ok_or_else(|| Error::unknown("masked_content", text, Self::ALL.map(Self::name)))
    }
}

/// What a request does with its mask.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Masking {
    pub invert: bool,
    /// Standard deviations in pixels, along rows and columns.
    pub blur: [f64; 2],
    /// To the picture's size, where it has another.
    pub stretch: bool,
    pub content: MaskedContent,
    /// The original lies over the result where the mask is black. A grey counts twice
    /// there, so that only what is not painted shows it: from 128 up, where the mask
    /// paints, the result stands alone.
    pub keep_unmasked: bool,
    /// Only the part around what is painted is drawn, with so many pixels of its
    /// surroundings, and put back through the mask as it is.
    pub padding_crop: Option<usize>,
}

impl Masking {
    pub(super) fn of(raw: &RawRequest) -> Result<Self> {
        let padding = raw.padding_mask_crop;
        let padding = padding.map(|_| count("padding_mask_crop", padding, 0, 0..=MOST_PADDING));
        let masking = Self {
            invert: raw.mask_invert == Some(true),
            blur: raw.mask_blur.unwrap_or_default(),
            stretch: raw.mask_stretch,
            content: match raw.masked_content.as_deref() {
                Some(name) => name.parse()?,
                None => MaskedContent::default(),
            },
            keep_unmasked: raw.keep_unmasked == Some(true),
            padding_crop: padding.transpose()?,
        };
        if raw.mask.is_none() {
            for (field, given) in [
                ("keep_unmasked", masking.keep_unmasked),
                ("padding_mask_crop", masking.padding_crop.is_some()),
            ] {
                if given {
                    return Err(Error::invalid(field, "given", "needs a mask"));
                }
            }
        }
        Ok(masking)
    }

    /// The mask as it paints `image`: inverted, softened, of its size.
    fn mask(&self, mask: &Mask, image: &Picture) -> Result<Mask> {
        let mask = match self.invert {
            true => mask.inverted(),
            false => mask.clone(),
        };
        let mask = mask.blurred(self.blur)?;
        if self.stretch && (mask.width, mask.height) != (image.width, image.height) {
            return mask.resized(image.width, image.height, Fit::Stretch);
        }
        mask.require_size_of(image, "mask")?;
        Ok(mask)
    }
}

/// What a request is drawn with: picture and mask at its size, and what is laid over
/// the result.
#[derive(Default)]
pub(super) struct Pictures {
    pub image: Option<Arc<Picture>>,
    pub mask: Option<Arc<Mask>>,
    pub overlay: Option<Arc<Overlay>>,
}

pub(super) fn pictures(
    raw: &RawRequest,
    masking: &Masking,
    [width, height]: [usize; 2],
    fit: Fit,
) -> Result<Pictures> {
    let Some(image) = &raw.image else {
        return match &raw.mask {
            Some(_) => Err(Error::invalid(
                "mask",
                "given",
                "needs an image to paint in",
            )),
            None => Ok(Pictures::default()),
        };
    };
    image.require_at_least(LEAST_INPUT_SIDE, "image")?;
    let Some(mask) = &raw.mask else {
        let image = Some(Arc::new(image.resized(width, height, fit)?));
        return Ok(Pictures {
            image,
            ..Default::default()
        });
    };
    let mask = masking.mask(mask, image)?;
    let (image, mask, overlay) = match masking.padding_crop {
        Some(padding) => {
            let region = mask.region(padding, width, height);
            let part = image.cropped(region)?.resized(width, height, Fit::Pad)?;
            let painted = mask.cropped(region)?.resized(width, height, Fit::Pad)?;
            let overlay = Overlay {
                picture: (**image).clone(),
                mask,
                region: Some(region),
            };
            (part, painted, Some(overlay))
        }
        None => {
            let image = image.resized(width, height, fit)?;
            let mask = mask.resized(width, height, fit)?;
            let overlay = masking.keep_unmasked.then(|| Overlay {
                picture: image.clone(),
                mask: mask.doubled(),
                region: None,
            });
            (image, mask, overlay)
        }
    };
    let image = match masking.content {
        MaskedContent::Fill => image.filled(&mask),
        _ => image,
    };
    Ok(Pictures {
        image: Some(Arc::new(image)),
        mask: Some(Arc::new(mask)),
        overlay: overlay.map(Arc::new),
    })
}
