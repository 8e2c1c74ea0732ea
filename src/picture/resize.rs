//! Resizing, as Pillow does it (`src/libImaging/Resample.c`) and to the bit: Lanczos
//! with three lobes, widened where a picture shrinks, in fixed point.

use super::Picture;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::str::FromStr;

/// How a picture is brought to a size of another shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Fit {
    /// Stretched: width and height are scaled apart. diffusers' "default".
    #[default]
    Stretch,
    /// Scaled to cover the size, and what stands over is cut off on both sides, as
    /// Pillow's `ImageOps.fit` does.
    Crop,
    /// Scaled to fit into the size, and the border is filled with the colours of
    /// the edge. diffusers' "fill".
    Pad,
}

impl Fit {
    /// The names that [`FromStr`] takes.
    pub const NAMES: [&str; 3] = ["stretch", "crop", "pad"];

    /// [`Fit::NAMES`]' name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The size that `from` is scaled to before it is laid into `to`: smaller only
    /// for [`Fit::Pad`], in whole pixels as diffusers' `_resize_and_fill` finds them.
    fn scaled(self, from: (usize, usize), to: (usize, usize)) -> (usize, usize) {
        match self {
            Fit::Pad if from.0 * to.1 > to.0 * from.1 => (to.0, (from.1 * to.0 / from.0).max(1)),
            Fit::Pad => ((from.0 * to.1 / from.1).max(1), to.1),
            Fit::Stretch | Fit::Crop => to,
        }
    }
}

impl FromStr for Fit {
    type Err = Error;

    /// Takes [`Fit::NAMES`] in any case.
    fn from_str(name: &str) -> Result<Self> {
        [Fit::Stretch, Fit::Crop, Fit::Pad]
            .into_iter()
            .find(|fit| fit.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| Error::unknown("fit", name, Self::NAMES))
    }
}

impl Picture {
    /// The picture at `width` times `height` pixels, brought there by `fit`.
    ///
    /// A side of 0 is [`Error::Invalid`].
    pub fn resized(&self, width: usize, height: usize, fit: Fit) -> Result<Self> {
        let (from, to) = ((self.width, self.height), (width, height));
        let rgb = resize(&self.rgb, 3, from, to, fit)?;
        Ok(Picture { width, height, rgb })
    }
}

/// Resizes pixels of `channels` bytes.
pub(super) fn resize(
    pixels: &[u8],
    channels: usize,
    from: (usize, usize),
    to: (usize, usize),
    fit: Fit,
) -> Result<Vec<u8>> {
    for (width, height) in [from, to] {
        if width == 0 || height == 0 {
            let size = format!("{width}x{height}");
            return Err(Error::invalid("size", size, "must have pixels"));
        }
    }
    if pixels.len() != from.0 * from.1 * channels {
        let expected = from.0 * from.1 * channels;
        let allowed = format!("a picture of {}x{} has {expected}", from.0, from.1);
        return Err(Error::invalid("bytes of a picture", pixels.len(), allowed));
    }
    let middle = fit.scaled(from, to);
    let scaled = lanczos(pixels, channels, from, middle, fit == Fit::Crop);
    Ok(match middle == to {
        true => scaled,
        false => centred(&scaled, channels, middle, to),
    })
}

/// With `crop`, only the part of `from` in the middle that has the shape of `to`.
///
/// What stands out of 8 bits between the two passes is cut off, so their order
/// shows. It is Pillow 13's: as measured there, columns come first where they lose
/// more than twice as many pixels as rows do. Pillow 12 always began with rows.
fn lanczos(
    pixels: &[u8],
    channels: usize,
    from: (usize, usize),
    to: (usize, usize),
    crop: bool,
) -> Vec<u8> {
    let whole = (from.0 as f64, from.1 as f64);
    let shape = to.0 as f64 / to.1 as f64;
    let part = match crop {
        true if whole.0 > shape * whole.1 => (shape * whole.1, whole.1),
        true => (whole.0, whole.0 / shape),
        false => whole,
    };
    let same = |part: f64, from: usize, to: usize| part == from as f64 && from == to;
    let rows = |pixels: Vec<u8>| match same(part.0, from.0, to.0) {
        true => pixels,
        false => along_rows(&pixels, channels, from.0, &taps(from.0, part.0, to.0)),
    };
    let columns = |pixels: Vec<u8>, width: usize| match same(part.1, from.1, to.1) {
        true => pixels,
        false => along_columns(&pixels, channels * width, &taps(from.1, part.1, to.1)),
    };
    match to.1 < from.1 && from.1 - to.1 + 2 * to.0 > 2 * from.0 {
        true => rows(columns(pixels.to_vec(), from.0)),
        false => columns(rows(pixels.to_vec()), to.0),
    }
}

/// Bits after the point of a weight.
const POINT: u32 = 32 - 8 - 2;

/// The weights of the pixels that one pixel is made of.
struct Taps {
    /// The first of them.
    first: usize,
    weights: Vec<i32>,
}

/// Those of `to` pixels that the `part` in the middle of `from` pixels becomes.
fn taps(from: usize, part: f64, to: usize) -> Vec<Taps> {
    let start = (from as f64 - part) / 2.0;
    // Pillow keeps the part's ends in 32 bits.
    let (start, end) = (f64::from(start as f32), f64::from((start + part) as f32));
    let scale = (end - start) / to as f64;
    let widening = scale.max(1.0);
    let reach = 3.0 * widening;
    (0..to)
        .map(|at| {
            let centre = start + (at as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let last = ((centre + reach + 0.5) as usize).min(from);
            let weigh = |pixel: usize| window((pixel as f64 - centre + 0.5) / widening);
            let weights: Vec<f64> = (first..last).map(weigh).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: &f64| (weight / sum * f64::from(1 << POINT)).round() as i32;
            Taps {
                first,
                weights: weights.iter().map(fixed).collect(),
            }
        })
        .collect()
}

/// `sinc(x) · sinc(x/3)` from −3 to 3, and 0 beyond.
fn window(x: f64) -> f64 {
    let sinc = |x: f64| match x == 0.0 {
        true => 1.0,
        false => (PI * x).sin() / (PI * x),
    };
    match (-3.0..3.0).contains(&x) {
        true => sinc(x) * sinc(x / 3.0),
        false => 0.0,
    }
}

/// A weighted sum, rounded and within a byte.
fn byte(sum: i64) -> u8 {
    ((sum + (1 << (POINT - 1))) >> POINT).clamp(0, 255) as u8
}

/// Makes every row of `width` pixels one of as many as there are `taps`.
fn along_rows(pixels: &[u8], channels: usize, width: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = vec![0; pixels.len() / width * taps.len()];
    let rows = out.par_chunks_exact_mut(channels * taps.len());
    rows.zip(pixels.par_chunks_exact(channels * width))
        .for_each(|(out, row)| {
            for (out, tap) in out.chunks_exact_mut(channels).zip(taps) {
                for (channel, out) in out.iter_mut().enumerate() {
                    let bytes = row[tap.first * channels..].iter().skip(channel);
                    let weighted = bytes.step_by(channels).zip(&tap.weights);
                    *out = byte(weighted.map(|(b, w)| i64::from(*b) * i64::from(*w)).sum());
                }
            }
        });
    out
}

/// Makes all rows of `line` bytes as many as there are `taps`.
fn along_columns(pixels: &[u8], line: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = vec![0; line * taps.len()];
    out.par_chunks_exact_mut(line).zip(taps).for_each_init(
        Vec::new,
        |sums: &mut Vec<i64>, (out, tap)| {
            sums.clear();
            sums.resize(line, 0);
            let rows = pixels[tap.first * line..].chunks_exact(line);
            for (row, weight) in rows.zip(&tap.weights) {
                for (sum, b) in sums.iter_mut().zip(row) {
                    *sum += i64::from(*b) * i64::from(*weight);
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = byte(*sum);
            }
        },
    );
    out
}

/// `from` laid in the middle of `to`, its edges going on outwards.
fn centred(pixels: &[u8], channels: usize, from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let source =
        |at: usize, from: usize, to: usize| (at + from / 2).saturating_sub(to / 2).min(from - 1);
    let mut out = Vec::with_capacity(to.0 * to.1 * channels);
    for y in 0..to.1 {
        let row = source(y, from.1, to.1) * from.0;
        for x in 0..to.0 {
            let start = (row + source(x, from.0, to.0)) * channels;
            out.extend_from_slice(&pixels[start..start + channels]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of pixels of these greys.
    fn row(greys: &[u8]) -> Picture {
        Picture {
            width: greys.len(),
            height: 1,
            rgb: greys.iter().flat_map(|grey| [*grey; 3]).collect(),
        }
    }

    fn greys(picture: &Picture) -> Vec<u8> {
        picture.rgb.iter().step_by(3).copied().collect()
    }

    #[test]
    fn names_are_read_in_any_case() {
        for name in Fit::NAMES {
            assert_eq!(name.to_uppercase().parse::<Fit>().unwrap().name(), name);
        }
        let error = "squeeze".parse::<Fit>().unwrap_err().to_string();
        assert!(error.contains("stretch, crop, pad"), "{error}");
    }

    #[test]
    fn what_stands_over_is_cut_on_both_sides() {
        let picture = row(&[1, 2, 3, 4]);
        let cropped = picture.resized(2, 1, Fit::Crop).unwrap();
        assert_eq!(greys(&cropped), [2, 3]);
        let thin = Picture {
            width: 4096,
            height: 1,
            rgb: vec![9; 3 * 4096],
        };
        // Scaled whole, it would take 48 GiB.
        let grown = thin.resized(2048, 2048, Fit::Crop).unwrap();
        assert_eq!(grown.rgb, vec![9; 3 * 2048 * 2048]);
    }

    #[test]
    fn borders_take_the_colours_of_the_edge() {
        let padded = row(&[1, 2, 3, 4]).resized(4, 3, Fit::Pad).unwrap();
        assert_eq!(greys(&padded), [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]);
        let tall = Picture {
            width: 1,
            height: 4,
            ..row(&[5, 6, 7, 8])
        };
        let padded = tall.resized(4, 4, Fit::Pad).unwrap();
        assert_eq!(greys(&padded), [[5; 4], [6; 4], [7; 4], [8; 4]].concat());
    }

    #[test]
    fn every_shape_comes_out_as_asked() {
        let picture = Picture {
            width: 13,
            height: 5,
            rgb: vec![200; 13 * 5 * 3],
        };
        for fit in [Fit::Stretch, Fit::Crop, Fit::Pad] {
            for (width, height) in [(1, 1), (1, 64), (64, 1), (8, 8), (13, 5), (31, 12)] {
                let resized = picture.resized(width, height, fit).unwrap();
                assert_eq!((resized.width, resized.height), (width, height));
                assert_eq!(resized.rgb, vec![200; width * height * 3], "{fit:?}");
            }
            assert!(picture.resized(0, 8, fit).unwrap_err().is_usage());
        }
    }
}
