//! Resizing, as Pillow does it: Lanczos with three lobes, widened where a picture
//! shrinks, on 8-bit channels.

use super::Picture;
use crate::{Error, Result};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use std::str::FromStr;

/// How a picture is brought to a size of another shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
        let rgb = resize(&self.rgb, PixelType::U8x3, from, to, fit)?;
        Ok(Picture { width, height, rgb })
    }
}

/// Resizes 8-bit pixels of any number of channels.
pub(super) fn resize(
    pixels: &[u8],
    kind: PixelType,
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
    let middle = fit.scaled(from, to);
    let scaled = lanczos(pixels, kind, from, middle, fit == Fit::Crop)?;
    Ok(match middle == to {
        true => scaled,
        false => centred(&scaled, kind.size(), middle, to),
    })
}

/// With `crop`, only the part of `from` in the middle that has the shape of `to`.
fn lanczos(
    pixels: &[u8],
    kind: PixelType,
    from: (usize, usize),
    to: (usize, usize),
    crop: bool,
) -> Result<Vec<u8>> {
    if from == to {
        return Ok(pixels.to_vec());
    }
    let refused = |error: &dyn std::fmt::Display| {
        let size = format!("{}x{}", from.0, from.1);
        let allowed = format!("cannot become {}x{} ({error}); use another", to.0, to.1);
        Error::invalid("size", size, allowed)
    };
    let side = |n: usize| u32::try_from(n).map_err(|error| refused(&error));
    let source = ImageRef::new(side(from.0)?, side(from.1)?, pixels, kind);
    let source = source.map_err(|error| refused(&error))?;
    let mut target = Image::new(side(to.0)?, side(to.1)?, kind);
    let mut options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
    if crop {
        options = options.fit_into_destination(None);
    }
    Resizer::new()
        .resize(&source, &mut target, &options)
        .map_err(|error| refused(&error))?;
    Ok(target.into_vec())
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
