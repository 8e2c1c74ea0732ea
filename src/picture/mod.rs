//! Pictures and files: conversion from what the VAE decodes, encoding, the
//! settings inside a PNG, and writing that never leaves half a file.

mod encode;
mod metadata;
mod temp;
mod write;
pub use temp::*;

pub use encode::Format;
pub use metadata::Parameters;
pub use write::{Destination, check_file, write_file};

use crate::{Error, Result};

/// A finished picture, 8 bits a channel.
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
        let rgb = (0..3 * pixels)
            .map(|i| to_byte(values[i % 3 * pixels + i / 3]))
            .collect();
        Ok(Picture { width, height, rgb })
    }
}

/// `round(clamp(x/2 + 1/2, 0, 1) · 255)`, halves to even as `torch.round`; NaN is 0.
fn to_byte(x: f32) -> u8 {
    ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
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
    }

    #[test]
    fn planes_become_pixels() {
        let planar = [-1.0, 1.0, 0.0, -1.0, 1.0, 0.0];
        let picture = Picture::from_planar(2, 1, &planar).unwrap();
        assert_eq!(picture.rgb, [0, 128, 255, 255, 0, 128]);
        assert!(Picture::from_planar(2, 2, &planar).is_err());
    }
}
