//! Masks: which part of a picture is painted anew.

use super::open::{decode, flatten, read};
use super::resize::{Fit, resize};
use super::{Picture, Region};
use crate::{Error, Result};
use image::DynamicImage;
use rayon::prelude::*;
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

/// How the pixels of a mask's file are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaskReading {
    /// White is painted: the mean of the channels decides. What is transparent is
    /// laid over black, so it is kept.
    #[default]
    Mean,
    /// What is transparent is painted.
    Transparent,
    /// As AUTOMATIC1111's `create_binary_mask`: where anything is transparent, what
    /// has more than half of the opacity is painted, whatever its colour; else white
    /// is painted, by ITU-R 601's luma.
    AlphaOrLuma,
}

/// The widest blur, in pixels.
pub const MOST_BLUR: f64 = 256.0;

/// From this grey up a pixel is painted: the mean of a pixel's channels is above
/// 127.5, the middle, exactly where it rounds to this or more.
const PAINTED: u8 = 128;

impl Mask {
    /// Reads a mask from a picture file, as [`Picture::open`] does; but what is
    /// transparent is laid over black: it is kept. A coloured pixel counts by the
    /// mean of its channels.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_noting(path, &mut Vec::new())
    }

    /// [`Mask::open`]; what is wrong with the file but cost no pixel joins `notes`.
    pub fn open_noting(path: impl AsRef<Path>, notes: &mut Vec<String>) -> Result<Self> {
        let path = path.as_ref();
        let decoded = decode(&read(path)?).map_err(|refusal| refusal.of_file(path))?;
        notes.extend(decoded.note(&path.display()));
        Ok(Self::from_decoded(decoded.image, MaskReading::Mean))
    }

    /// As [`Mask::open`] from the bytes of such a file, which a request's `field`
    /// brought; what is wrong with them is [`Error::Invalid`].
    pub fn from_bytes(field: &str, bytes: &[u8]) -> Result<Self> {
        Self::read(field, bytes, MaskReading::Mean, &mut Vec::new())
    }

    /// As [`Mask::from_bytes`], its pixels read as `reading` says; what is wrong with
    /// the file but cost no pixel joins `notes`.
    pub fn read(
        field: &str,
        bytes: &[u8],
        reading: MaskReading,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let decoded = decode(bytes).map_err(|refusal| refusal.of_field(field))?;
        notes.extend(decoded.note(&field));
        Ok(Self::from_decoded(decoded.image, reading))
    }

    fn from_decoded(image: DynamicImage, reading: MaskReading) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let has_alpha = image.color().has_alpha();
        let alpha = |image: &DynamicImage| -> Vec<u8> {
            let image = image.to_luma_alpha8();
            image.pixels().map(|pixel| pixel.0[1]).collect()
        };
        let values = match reading {
            MaskReading::Mean => return Mask::from(&Picture::from(flatten(image, 0))),
            MaskReading::Transparent => alpha(&image).iter().map(|a| 255 - a).collect(),
            MaskReading::AlphaOrLuma => {
                let alpha = if has_alpha { alpha(&image) } else { Vec::new() };
                match alpha.iter().any(|a| *a < 255) {
                    true => alpha.iter().map(|a| 255 * u8::from(*a > 128)).collect(),
                    false => image.to_rgb8().pixels().map(|p| luma(p.0)).collect(),
                }
            }
        };
        Mask {
            width,
            height,
            values,
        }
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

    /// Softens the edge with a Gaussian whose standard deviation is `x` pixels along
    /// rows and `y` along columns; 0 changes nothing. As AUTOMATIC1111's program does
    /// it: cut off 2.5 standard deviations away, the edges mirrored, and rounded to
    /// 8 bits after each of the two passes.
    ///
    /// [`Error::Invalid`] where one is not from 0 to [`MOST_BLUR`].
    pub fn blurred(&self, [x, y]: [f64; 2]) -> Result<Self> {
        for radius in [x, y] {
            if !(0.0..=MOST_BLUR).contains(&radius) {
                let allowed = format!("must be from 0 to {MOST_BLUR} pixels");
                return Err(Error::invalid("mask_blur", radius, allowed));
            }
        }
        let mut blurred = self.clone();
        if let Some(weights) = gaussian(x) {
            let rows = blurred.values.par_chunks_mut(self.width.max(1));
            rows.for_each(|row| convolve(row, &weights));
        }
        if let Some(weights) = gaussian(y) {
            let columns: Vec<Vec<u8>> = (0..self.width)
                .into_par_iter()
                .map(|x| {
                    let column = blurred.values.iter().skip(x).step_by(self.width);
                    let mut column: Vec<u8> = column.copied().collect();
                    convolve(&mut column, &weights);
                    column
                })
                .collect();
            for (at, value) in blurred.values.iter_mut().enumerate() {
                *value = columns[at % self.width][at / self.width];
            }
        }
        Ok(blurred)
    }

    /// Every grey twice as light, white at the most.
    pub fn doubled(&self) -> Self {
        Mask {
            values: self.values.iter().map(|v| v.saturating_mul(2)).collect(),
            ..*self
        }
    }

    /// The part of it inside `region`.
    pub fn cropped(&self, region: Region) -> Result<Self> {
        let values = region.of(&self.values, 1, (self.width, self.height))?;
        Ok(Mask {
            width: region.width,
            height: region.height,
            values,
        })
    }

    /// The least rectangle around all that is not black, `padding` pixels wider on
    /// every side, then grown to the shape of `width` times `height` as far as the
    /// mask has room; all of it where everything is black. AUTOMATIC1111's
    /// `get_crop_region` and `expand_crop_region`, diffusers' `get_crop_region`.
    pub fn region(&self, padding: usize, width: usize, height: usize) -> Region {
        let lit = |at: &usize| self.values[*at] > 0;
        let all = || (0..self.values.len()).filter(lit);
        let (columns, rows) = (
            all().map(|at| at % self.width),
            all().map(|at| at / self.width),
        );
        let span = |least: Option<usize>, most: Option<usize>, whole: usize| match least.zip(most) {
            Some((least, most)) => {
                let start = least.saturating_sub(padding);
                (start, (most + 1 + padding).min(whole))
            }
            None => (0, whole),
        };
        let (x1, x2) = span(columns.clone().min(), columns.max(), self.width);
        let (y1, y2) = span(rows.clone().min(), rows.max(), self.height);
        let (wide, high) = ((x2 - x1) as f64, (y2 - y1) as f64);
        let shape = width as f64 / height as f64;
        let (x, y) = match wide / high > shape {
            true => (
                (x1, x2),
                grown((y1, y2), (wide / shape) as usize, self.height),
            ),
            false => (
                grown((x1, x2), (high * shape) as usize, self.width),
                (y1, y2),
            ),
        };
        Region {
            x: x.0,
            y: y.0,
            width: x.1 - x.0,
            height: y.1 - y.0,
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

/// A span of `wanted` around the middle of this one, moved to fit into `whole`, or
/// else cut off there.
fn grown((start, end): (usize, usize), wanted: usize, whole: usize) -> (usize, usize) {
    let more = wanted.saturating_sub(end - start);
    let length = (end - start + more).min(whole);
    let start = start.saturating_sub(more / 2).min(whole - length);
    (start, start + length)
}

/// ITU-R 601-2's luma, as Pillow's `convert("L")` has it.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    let sum = u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471;
    ((sum + 0x8000) >> 16) as u8
}

/// The weights of a Gaussian of this standard deviation from its middle outwards, of
/// the sum 1; `None` for one that leaves every grey as it is.
fn gaussian(deviation: f64) -> Option<Vec<f64>> {
    let reach = (2.5 * deviation + 0.5) as usize;
    let half: Vec<f64> = (0..=reach)
        .map(|x| (-((x * x) as f64) / (2.0 * deviation * deviation)).exp())
        .collect();
    let sum = 2.0 * half.iter().sum::<f64>() - half[0];
    (reach > 0).then(|| half.iter().map(|weight| weight / sum).collect())
}

/// A line under symmetric weights, mirrored at its ends about their pixels.
fn convolve(line: &mut [u8], half: &[f64]) {
    let last = line.len() as isize - 1;
    let mirrored = |at: isize| match last {
        0 => 0,
        _ => last - (at.rem_euclid(2 * last) - last).abs(),
    };
    let reach = half.len() as isize - 1;
    let padded: Vec<f64> = (-reach..=last + reach)
        .map(|at| f64::from(line[mirrored(at) as usize]))
        .collect();
    for (value, window) in line.iter_mut().zip(padded.windows(2 * half.len() - 1)) {
        let middle = half.len() - 1;
        let pairs = half.iter().enumerate().skip(1);
        let sides: f64 = pairs
            .map(|(x, weight)| weight * (window[middle - x] + window[middle + x]))
            .sum();
        *value = (half[0] * window[middle] + sides).round() as u8;
    }
}

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
        let blurred = dot.blurred([1.0, 1.0]).unwrap();
        // 255/(2π): the density's peak.
        assert!(
            blurred.values[220].abs_diff(41) <= 1,
            "{}",
            blurred.values[220]
        );
        let sum: u32 = blurred.values.iter().map(|v| u32::from(*v)).sum();
        assert!(sum.abs_diff(255) < 12, "{sum}");
        assert_eq!(dot.blurred([0.0, 0.0]).unwrap(), dot);
        assert_eq!(dot.blurred([0.1, 0.1]).unwrap(), dot);
        let row = dot.blurred([1.0, 0.0]).unwrap();
        assert!(row.values[220].abs_diff(102) <= 1 && row.values[220 + 21] == 0);
        for bad in [-1.0, f64::NAN, f64::INFINITY, 257.0] {
            assert!(dot.blurred([0.0, bad]).unwrap_err().is_usage());
        }
        let even = mask(5, &[200; 25]);
        assert_eq!(
            even.blurred([3.0, 3.0]).unwrap(),
            even,
            "edges do not darken"
        );
    }

    #[test]
    fn a_blurred_mask_ends_where_opencvs_does() {
        // `cv2.GaussianBlur(row, (2 * int(2.5 * 4 + 0.5) + 1, 1), 4)` of 12 black
        // pixels and 12 white ones ends 10 pixels from the edge.
        let values: Vec<u8> = (0..24).map(|x| 255 * u8::from(x >= 12)).collect();
        let blurred = mask(24, &values).blurred([4.0, 4.0]).unwrap().values;
        assert!(blurred[..2].iter().all(|v| *v == 0), "{blurred:?}");
        assert!(blurred[2] > 0 && blurred[21] < 255, "{blurred:?}");
        assert!(blurred[22..].iter().all(|v| *v == 255), "{blurred:?}");
        let falls = blurred.windows(2).all(|pair| pair[0] <= pair[1]);
        assert!(falls && blurred[11] + blurred[12] == 255, "{blurred:?}");
    }

    #[test]
    fn regions_take_the_shape_that_is_drawn() {
        let mut spot = mask(40, &[0; 40 * 20]);
        for (x, y) in [(30, 4), (37, 7)] {
            spot.values[y * 40 + x] = 1;
        }
        let region = |padding, width, height| {
            let Region {
                x,
                y,
                width,
                height,
            } = spot.region(padding, width, height);
            (x, y, width, height)
        };
        assert_eq!(region(0, 8, 4), (30, 4, 8, 4));
        assert_eq!(region(0, 64, 64), (30, 2, 8, 8));
        // At the border it is moved, and where there is no room it is cut off.
        assert_eq!(region(2, 64, 64), (28, 0, 12, 12));
        assert_eq!(region(0, 16, 64), (30, 0, 8, 20));
        assert_eq!(region(0, 64, 8), (8, 4, 32, 4));
        assert_eq!(mask(40, &[0; 800]).region(5, 8, 8).width, 40);
    }

    #[test]
    fn webui_looks_at_the_opacity_where_there_is_any() {
        let read = |image: DynamicImage| {
            let mut png = Cursor::new(Vec::new());
            image.write_to(&mut png, ImageFormat::Png).unwrap();
            let reading = MaskReading::AlphaOrLuma;
            Mask::read("mask", png.get_ref(), reading, &mut Vec::new())
                .unwrap()
                .values
        };
        let rgba = |pixels: &[u8]| {
            let image = ImageBuffer::from_raw(pixels.len() as u32 / 4, 1, pixels.to_vec());
            DynamicImage::ImageRgba8(image.unwrap())
        };
        // A brush of any colour over nothing.
        let brush = [0, 0, 0, 255, 255, 255, 255, 0, 9, 9, 9, 129, 9, 9, 9, 128];
        assert_eq!(read(rgba(&brush)), [255, 0, 255, 0]);
        // All opaque: luma. 76 is red's.
        assert_eq!(read(rgba(&[255, 0, 0, 255, 255, 255, 255, 255])), [76, 255]);
        let grey = ImageBuffer::from_raw(2, 1, vec![100u8, 200]).unwrap();
        assert_eq!(read(DynamicImage::ImageLuma8(grey)), [100, 200]);
    }
}
