//! Masks: which part of a picture is painted anew.

use super::Picture;
use super::open::{decode, flatten, read};
use super::resize::{Fit, resize};
use crate::{Error, Result};
use image::{DynamicImage, GrayImage};
use std::path::Path;

/// Which part of a picture is painted anew: white is, black is kept.
///
/// Greys stay as they are until [`Mask::to_planar`] or [`Mask::to_latent`] decides:
/// painted from 128 up, as diffusers' masks are from a half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// `height · width` greys, row by row.
    pub values: Vec<u8>,
}

/// The widest blur, in pixels.
pub const MOST_BLUR: f32 = 256.0;

/// From this grey up a pixel is painted: the mean of a pixel's channels is above
/// 127.5, the middle, exactly where it rounds to this or more.
const PAINTED: u8 = 128;

impl Mask {
    /// Reads a mask from a picture file, as [`Picture::open`] does; but what is
    /// transparent is laid over black: it is kept. A coloured pixel counts by the
    /// mean of its channels.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let decoded = decode(&read(path)?).map_err(|refusal| refusal.of_file(path))?;
        Ok(Self::from_decoded(decoded))
    }

    /// As [`Mask::open`] from the bytes of such a file, which a request's `field`
    /// brought; what is wrong with them is [`Error::Invalid`].
    pub fn from_bytes(field: &str, bytes: &[u8]) -> Result<Self> {
        let decoded = decode(bytes).map_err(|refusal| refusal.of_field(field))?;
        Ok(Self::from_decoded(decoded))
    }

    /// A mask whose transparent pixels are painted anew and whose opaque ones are
    /// kept, from the bytes of a picture file; otherwise as [`Mask::from_bytes`].
    pub fn from_alpha(field: &str, bytes: &[u8]) -> Result<Self> {
        let decoded = decode(bytes).map_err(|refusal| refusal.of_field(field))?;
        let image = decoded.to_luma_alpha8();
        Ok(Mask {
            width: image.width() as usize,
            height: image.height() as usize,
            values: image.pixels().map(|pixel| 255 - pixel.0[1]).collect(),
        })
    }

    fn from_decoded(decoded: DynamicImage) -> Self {
        Mask::from(&Picture::from(flatten(decoded, 0)))
    }

    /// Refuses a mask whose size is not its picture's as [`Error::Invalid`].
    pub fn require_size_of(&self, picture: &Picture, field: &str) -> Result<()> {
        if (self.width, self.height) == (picture.width, picture.height) {
            return Ok(());
        }
        let size = format!("{}x{} pixels", self.width, self.height);
        let allowed = format!(
            "its picture has {}x{}; use a mask of that size",
            picture.width, picture.height
        );
        Err(Error::invalid(field, size, allowed))
    }

    /// How many pixels are painted.
    pub fn painted(&self) -> usize {
        self.values.iter().filter(|grey| **grey >= PAINTED).count()
    }

    /// Painted and kept change places.
    pub fn inverted(&self) -> Self {
        Mask {
            values: self.values.iter().map(|grey| 255 - grey).collect(),
            ..*self
        }
    }

    /// Softens the edge with a Gaussian whose standard deviation is `radius` pixels;
    /// 0 changes nothing.
    ///
    /// [`Error::Invalid`] where `radius` is not from 0 to [`MOST_BLUR`].
    pub fn blurred(&self, radius: f32) -> Result<Self> {
        if !(0.0..=MOST_BLUR).contains(&radius) {
            let allowed = format!("must be from 0 to {MOST_BLUR} pixels");
            return Err(Error::invalid("mask_blur", radius, allowed));
        }
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        let grey = GrayImage::from_raw(side(self.width), side(self.height), self.values.clone());
        match grey {
            Some(grey) if radius >= LEAST_BLUR && !self.values.is_empty() => Ok(Mask {
                values: image::imageops::blur(&grey, radius).into_raw(),
                ..*self
            }),
            _ => Ok(self.clone()),
        }
    }

    /// The mask at `width` times `height` pixels, resized as [`Picture::resized`] is.
    pub fn resized(&self, width: usize, height: usize, fit: Fit) -> Result<Self> {
        let (from, to) = ((self.width, self.height), (width, height));
        let values = resize(&self.values, 1, from, to, fit)?;
        Ok(Mask {
            width,
            height,
            values,
        })
    }

    /// `[1, height, width]`: 1 where painted, 0 where kept.
    pub fn to_planar(&self) -> Vec<f32> {
        self.values.iter().map(|grey| decided(*grey)).collect()
    }

    /// [`Mask::to_planar`] at the latent's `width` times `height`, `[1, height,
    /// width]`: every value is that of the nearest pixel up and left, as torch's
    /// `interpolate` takes it.
    pub fn to_latent(&self, width: usize, height: usize) -> Vec<f32> {
        let row = |y: usize| y * self.height / height * self.width;
        let rows = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        rows.map(|(x, y)| decided(self.values[row(y) + x * self.width / width]))
            .collect()
    }
}

/// A narrower Gaussian leaves every 8-bit grey as it is.
const LEAST_BLUR: f32 = 0.1;

fn decided(grey: u8) -> f32 {
    match grey >= PAINTED {
        true => 1.0,
        false => 0.0,
    }
}

impl From<&Picture> for Mask {
    /// The mean of the channels, rounded.
    fn from(picture: &Picture) -> Self {
        let mean = |pixel: &[u8]| {
            let sum: u16 = pixel.iter().map(|channel| u16::from(*channel)).sum();
            ((sum + 1) / 3) as u8
        };
        Mask {
            width: picture.width,
            height: picture.height,
            values: picture.rgb.chunks_exact(3).map(mean).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageBuffer, ImageFormat};
    use std::io::Cursor;

    fn mask(width: usize, values: &[u8]) -> Mask {
        Mask {
            width,
            height: values.len() / width,
            values: values.to_vec(),
        }
    }

    #[test]
    fn the_middle_decides_by_the_mean_of_the_channels() {
        let picture = Picture {
            width: 5,
            height: 1,
            rgb: vec![
                127, 127, 127, 128, 128, 128, 127, 127, 128, 255, 128, 0, 255, 127, 0,
            ],
        };
        // Sums above 382.5, three times the middle, are painted.
        let expected = [0.0, 1.0, 0.0, 1.0, 0.0];
        assert_eq!(Mask::from(&picture).to_planar(), expected);
        assert_eq!(Mask::from(&picture).painted(), 2);
        assert_eq!(Mask::from(&picture).inverted().painted(), 3);
    }

    #[test]
    fn transparent_parts_are_kept() {
        let image = ImageBuffer::from_raw(2, 1, vec![255u8, 0, 255, 255]).unwrap();
        let mut png = Cursor::new(Vec::new());
        DynamicImage::ImageLumaA8(image)
            .write_to(&mut png, ImageFormat::Png)
            .unwrap();
        let mask = Mask::from_bytes("mask", png.get_ref()).unwrap();
        assert_eq!(mask.values, [0, 255]);
    }

    #[test]
    fn a_mask_of_another_size_names_both() {
        let picture = Picture {
            width: 3,
            height: 1,
            rgb: vec![0; 9],
        };
        let error = mask(2, &[0; 4]).require_size_of(&picture, "mask");
        let expected = "mask is 2x2 pixels: its picture has 3x1; use a mask of that size";
        assert_eq!(error.unwrap_err().to_string(), expected);
        assert!(mask(3, &[0; 3]).require_size_of(&picture, "mask").is_ok());
    }

    #[test]
    fn the_latent_takes_the_pixel_up_and_left() {
        let mask = mask(4, &[255, 0, 0, 255, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0, 0]);
        assert_eq!(mask.to_latent(2, 2), [1.0, 0.0, 0.0, 1.0]);
        // floor(4i/3): 0, 1, 2.
        let third = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0];
        assert_eq!(mask.to_latent(3, 3), third);
    }

    #[test]
    fn blurring_spreads_but_keeps_the_sum() {
        let mut values = [0; 21 * 21];
        values[10 * 21 + 10] = 255;
        let dot = mask(21, &values);
        let blurred = dot.blurred(1.0).unwrap();
        // 255/(2π): the density's peak.
        assert!(
            blurred.values[220].abs_diff(41) <= 1,
            "{}",
            blurred.values[220]
        );
        let sum: u32 = blurred.values.iter().map(|v| u32::from(*v)).sum();
        assert!(sum.abs_diff(255) < 12, "{sum}");
        assert_eq!(dot.blurred(0.0).unwrap(), dot);
        for bad in [-1.0, f32::NAN, f32::INFINITY, 257.0] {
            assert!(dot.blurred(bad).unwrap_err().is_usage());
        }
        let even = mask(5, &[200; 25]);
        assert_eq!(even.blurred(3.0).unwrap(), even, "edges do not darken");
    }
}
