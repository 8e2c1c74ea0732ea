//! Pictures and files: reading and resizing what others made, masks, conversion
//! from and to the VAE's numbers, encoding, the settings inside a file, contact
//! sheets, terminals, and writing that never leaves half a file.

mod embed;
mod encode;
mod grid;
mod infotext;
mod mask;
mod metadata;
mod open;
mod overlay;
mod repair;
mod resize;
#[cfg(feature = "cli")]
mod show;
#[cfg(feature = "cli")]
mod sixel;
mod write;

pub use encode::{Format, JPEG_QUALITY};
pub use grid::{grid, grid_shape, grid_size};
pub use mask::{MOST_BLUR, Mask, MaskReading};
pub use metadata::Parameters;
pub use open::{LEAST_INPUT_SIDE, MOST_SIDE};
pub use overlay::{Overlay, Region};
pub use resize::Fit;
#[cfg(feature = "cli")]
pub use show::{Protocol, render, show};
pub use write::{Destination, check_file, write_file};

use crate::{Error, Result};
use rayon::prelude::*;

/// A picture, 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// `height · width · 3` bytes, row by row, red green blue.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// From decoded values in `[-1, 1]`, shape `[3, height, width]`.
    ///
    /// Fails where `values` are not `3 · height · width`.
    pub fn from_planar(width: usize, height: usize, values: &[f32]) -> Result<Self> {
        let pixels = width * height;
        if values.len() != 3 * pixels {
            let allowed = format!("a picture of {width}x{height} has {}", 3 * pixels);
            return Err(Error::invalid("decoded values", values.len(), allowed));
        }
        let mut rgb = vec![0; 3 * pixels];
        let (red, rest) = values.split_at(pixels);
        let (green, blue) = rest.split_at(pixels);
        let rows = rgb.par_chunks_mut(3 * width.max(1)).enumerate();
        rows.for_each(|(y, row)| {
            let planes = [red, green, blue].map(|plane| &plane[y * width..(y + 1) * width]);
            for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                *pixel = planes.map(|plane| to_byte(plane[x]));
            }
        });
        Ok(Picture { width, height, rgb })
    }

    /// `x/127.5 − 1` of every byte: values in `[-1, 1]`, shape `[3, height, width]`.
    pub fn to_planar(&self) -> Vec<f32> {
        (0..3)
            .flat_map(|channel| self.rgb.iter().skip(channel).step_by(3))
            .map(|byte| f32::from(*byte) / 127.5 - 1.0)
            .collect()
    }
}

/// `round(clamp(x/2 + 1/2, 0, 1) · 255)`, halves to even as `torch.round`; NaN is 0.
fn to_byte(x: f32) -> u8 {
    /// Beyond it f32 has no fractions: adding rounds as the processor does, many values at
    /// a time, where `round_ties_even` is a call for each.
    const WHOLE: f32 = 12_582_912.0;
    ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0 + WHOLE - WHOLE) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_as_torch_does() {
        // (x/2 + 0.5)·255 of these: 0, 255, 127.5, 0 and 255 after clamping.
        let expected = [(-1.0, 0), (1.0, 255), (0.0, 128), (-3.0, 0), (2.0, 255)];
        for (x, byte) in expected {
            assert_eq!(to_byte(x), byte, "{x}");
        }
        assert_eq!(to_byte(f32::NAN), 0);
        // As the definition has it, for values on both sides of every boundary.
        for i in -3000..=3000 {
            for x in [
                i as f32 / 1000.0,
                i as f32 / 255.0,
                (i as f32 + 0.5) / 127.5 - 1.0,
            ] {
                let exact = ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
                assert_eq!(to_byte(x), exact, "{x}");
            }
        }
    }

    #[test]
    fn planes_become_pixels() {
        let planar = [-1.0, 1.0, 0.0, -1.0, 1.0, 0.0];
        let picture = Picture::from_planar(2, 1, &planar).unwrap();
        assert_eq!(picture.rgb, [0, 128, 255, 255, 0, 128]);
        assert!(Picture::from_planar(2, 2, &planar).is_err());
    }

    #[test]
    fn pixels_become_planes() {
        let every: Vec<u8> = (0..=255).flat_map(|x| [x, 255 - x, 7]).collect();
        let picture = Picture {
            width: 64,
            height: 4,
            rgb: every,
        };
        let planar = picture.to_planar();
        assert_eq!((planar[0], planar[255], planar[256]), (-1.0, 1.0, 1.0));
        assert_eq!(planar[3], 3.0 / 127.5 - 1.0);
        assert_eq!(Picture::from_planar(64, 4, &planar).unwrap(), picture);
    }
}
