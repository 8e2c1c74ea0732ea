//! The original around what a mask paints: laid over the result, cut out beforehand
//! to draw that part alone, and spread into the hole.

use super::{Fit, Mask, Picture};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A rectangle of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Of the left edge.
    pub x: usize,
    /// Of the top edge.
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

impl Region {
    /// Its part of pixels of `channels` bytes; [`Error::Invalid`] where it does not
    /// lie in a picture of this size.
    pub(super) fn of(
        self,
        pixels: &[u8],
        channels: usize,
        size: (usize, usize),
    ) -> Result<Vec<u8>> {
        if self.x + self.width > size.0 || self.y + self.height > size.1 {
            let value = format!("{}x{} at {},{}", self.width, self.height, self.x, self.y);
            let allowed = format!("must lie in the picture of {}x{}", size.0, size.1);
            return Err(Error::invalid("region", value, allowed));
        }
        let rows = pixels.chunks_exact(channels * size.0).skip(self.y);
        let part = channels * self.x..channels * (self.x + self.width);
        Ok(rows
            .take(self.height)
            .flat_map(|row| row[part.clone()].to_vec())
            .collect())
    }
}

/// What is laid over a result: the original where the mask is black, the result where
/// it is white, and as much of each as the grey says in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The original.
    pub picture: Picture,
    /// Of its size.
    pub mask: Mask,
    /// The part of it that is drawn, where that is not all.
    pub region: Option<Region>,
}

impl Overlay {
    /// The result with the original around it: of the original's size, and its very
    /// bytes where the mask is 0. `drawn` is brought to the region that it stands for.
    pub fn laid_over(&self, drawn: &Picture) -> Result<Picture> {
        let original = &self.picture;
        let whole = Region {
            x: 0,
            y: 0,
            width: original.width,
            height: original.height,
        };
        let region = self.region.unwrap_or(whole);
        let drawn = drawn.resized(region.width, region.height, Fit::Crop)?;
        let mut rgb = original.rgb.clone();
        for (y, row) in drawn.rgb.chunks_exact(3 * region.width).enumerate() {
            let start = (region.y + y) * original.width + region.x;
            let masks = &self.mask.values[start..start + region.width];
            let kept = rgb[3 * start..3 * (start + region.width)].chunks_exact_mut(3);
            for ((kept, drawn), mask) in kept.zip(row.chunks_exact(3)).zip(masks) {
                let mask = u32::from(*mask);
                for (kept, drawn) in kept.iter_mut().zip(drawn) {
                    let sum = u32::from(*drawn) * mask + u32::from(*kept) * (255 - mask);
                    *kept = ((sum + 127) / 255) as u8;
                }
            }
        }
        Ok(Picture { rgb, ..*original })
    }
}

impl Picture {
    /// The part of it inside `region`.
    pub fn cropped(&self, region: Region) -> Result<Self> {
        let rgb = region.of(&self.rgb, 3, (self.width, self.height))?;
        Ok(Picture {
            width: region.width,
            height: region.height,
            rgb,
        })
    }

    /// The picture with the colours around the mask's white spread into it, wider and
    /// fainter the farther: AUTOMATIC1111's `masking.fill`. What is kept, black, is
    /// as it was; the mask has the picture's size.
    pub fn filled(&self, mask: &Mask) -> Self {
        /// Standard deviations in pixels, and how often each is laid over the last.
        const LAYERS: [(f32, usize); 6] = [
            (256.0, 1),
            (64.0, 1),
            (16.0, 2),
            (4.0, 4),
            (2.0, 2),
            (0.0, 1),
        ];
        let kept = |at: usize| f32::from(255 - mask.values[at]) / 255.0;
        // Colours times opacity, and the opacity.
        let planes: Vec<Vec<f32>> = (0..4)
            .map(|channel| {
                let value = |at: usize| match channel {
                    3 => kept(at),
                    _ => kept(at) * f32::from(self.rgb[3 * at + channel]),
                };
                (0..mask.values.len()).map(value).collect()
            })
            .collect();
        let mut filled = vec![[0.0f32; 4]; mask.values.len()];
        for (deviation, times) in LAYERS {
            let blurred: Vec<Vec<f32>> = planes
                .iter()
                .map(|plane| blurred(plane, self.width, deviation))
                .collect();
            for (at, below) in filled.iter_mut().enumerate() {
                let over: [f32; 4] = std::array::from_fn(|channel| blurred[channel][at]);
                for _ in 0..times {
                    for (below, over_channel) in below.iter_mut().zip(over) {
                        *below = over_channel + *below * (1.0 - over[3]);
                    }
                }
            }
        }
        let byte = |value: f32| value.round().clamp(0.0, 255.0) as u8;
        let pixel = |[r, g, b, opacity]: &[f32; 4]| {
            let opacity = opacity.max(f32::MIN_POSITIVE);
            [r, g, b].map(|colour| byte(colour / opacity))
        };
        Picture {
            rgb: filled.iter().flat_map(pixel).collect(),
            ..*self
        }
    }
}

/// A plane under three boxes in a row, which together are nearly a Gaussian, as
/// Pillow's `GaussianBlur` has it (P. Gwosdek et al., "Theoretical foundations of
/// Gaussian convolution by extended box filtering", 2011); the edges go on outwards.
fn blurred(plane: &[f32], width: usize, deviation: f32) -> Vec<f32> {
    const BOXES: usize = 3;
    if deviation == 0.0 {
        return plane.to_vec();
    }
    let variance = f64::from(deviation).powi(2) / BOXES as f64;
    let length = ((12.0 * variance + 1.0).sqrt() - 1.0) / 2.0;
    let whole = length.floor();
    let rest = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
        / (6.0 * (variance - (whole + 1.0).powi(2)));
    let mut plane = plane.to_vec();
    let height = plane.len() / width.max(1);
    for (lines, count, step, next) in [(height, width, 1, width), (width, height, width, 1)] {
        for line in 0..lines {
            let places = (0..count).map(|at| line * next + at * step);
            let mut values: Vec<f64> = places.clone().map(|at| f64::from(plane[at])).collect();
            for _ in 0..BOXES {
                boxed(&mut values, whole as usize, rest);
            }
            places
                .zip(values)
                .for_each(|(at, value)| plane[at] = value as f32);
        }
    }
    plane
}

/// The mean of `reach` values to each side, and of the next ones by `rest`.
fn boxed(line: &mut [f64], reach: usize, rest: f64) {
    let last = line.len() - 1;
    let at = |place: isize| line[place.clamp(0, last as isize) as usize];
    let reach = reach as isize;
    let weight = 1.0 / ((2 * reach + 1) as f64 + 2.0 * rest);
    let mut sum: f64 = (-reach..=reach).map(at).sum();
    let means: Vec<f64> = (0..line.len() as isize)
        .map(|x| {
            let mean = weight * (sum + rest * (at(x - reach - 1) + at(x + reach + 1)));
            sum += at(x + reach + 1) - at(x - reach);
            mean
        })
        .collect();
    line.copy_from_slice(&means);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, values: &[u8]) -> Picture {
        Picture {
            width,
            height: values.len() / width,
            rgb: values.iter().flat_map(|value| [*value; 3]).collect(),
        }
    }

    fn mask(width: usize, values: &[u8]) -> Mask {
        Mask {
            width,
            height: values.len() / width,
            values: values.to_vec(),
        }
    }

    #[test]
    fn the_original_lies_over_the_result_by_the_masks_grey() {
        let overlay = Overlay {
            picture: grey(4, &[10, 20, 200, 90]),
            mask: mask(4, &[0, 255, 128, 1]),
            region: None,
        };
        let drawn = grey(4, &[99, 99, 100, 90]);
        // 128/255 of 100 and 127/255 of 200.
        let found = overlay.laid_over(&drawn).unwrap();
        assert_eq!(found, grey(4, &[10, 99, 150, 90]));
    }

    #[test]
    fn a_region_is_put_back_where_it_was() {
        let overlay = Overlay {
            picture: grey(3, &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
            mask: mask(3, &[255; 9]),
            region: Some(Region {
                x: 1,
                y: 1,
                width: 2,
                height: 1,
            }),
        };
        // Twice as large as its place.
        let drawn = grey(4, &[50; 8]);
        let found = overlay.laid_over(&drawn).unwrap();
        assert_eq!(found, grey(3, &[1, 2, 3, 4, 50, 50, 7, 8, 9]));
        let part = overlay.picture.cropped(overlay.region.unwrap()).unwrap();
        assert_eq!(part, grey(2, &[5, 6]));
        let outside = Region {
            x: 2,
            y: 0,
            width: 2,
            height: 1,
        };
        assert!(overlay.picture.cropped(outside).is_err());
    }

    #[test]
    fn holes_take_the_colours_around_them() {
        let mut values = [40; 32 * 32];
        let mut hole = [0; 32 * 32];
        for (x, y) in (10..22).flat_map(|x| (10..22).map(move |y| (x, y))) {
            values[y * 32 + x] = 255;
            hole[y * 32 + x] = 255;
        }
        let filled = grey(32, &values).filled(&mask(32, &hole));
        assert!(
            filled.rgb.iter().all(|v| v.abs_diff(40) <= 1),
            "{:?}",
            filled.rgb
        );
        let same = grey(32, &values).filled(&mask(32, &[0; 32 * 32]));
        assert_eq!(same, grey(32, &values));
    }
}
