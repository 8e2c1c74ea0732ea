//! Sixel, the picture format of DEC's terminals: bands of six rows, in each band
//! one line of characters a colour (VT330/VT340 Programmer Reference Manual,
//! volume 2, chapter 14).

use image::imageops::{self, ColorMap};
use image::{Rgb, RgbImage};
use std::fmt::Write;

/// Levels of each channel.
const LEVELS: usize = 6;
const COLOURS: usize = LEVELS * LEVELS * LEVELS;

/// Six evenly spaced levels of each channel.
struct Cube;

impl Cube {
    fn level(byte: u8) -> usize {
        (usize::from(byte) * (LEVELS - 1) + 127) / 255
    }

    fn levels(index: usize) -> [usize; 3] {
        [
            index / (LEVELS * LEVELS),
            index / LEVELS % LEVELS,
            index % LEVELS,
        ]
    }
}

impl ColorMap for Cube {
    type Color = Rgb<u8>;

    fn index_of(&self, colour: &Rgb<u8>) -> usize {
        colour
            .0
            .iter()
            .fold(0, |index, byte| index * LEVELS + Self::level(*byte))
    }

    fn map_color(&self, colour: &mut Rgb<u8>) {
        let byte = |level: usize| (level * 255 / (LEVELS - 1)) as u8;
        colour.0 = Self::levels(self.index_of(colour)).map(byte);
    }
}

/// The control sequence that shows `image`, of 216 colours and dithered, and moves
/// the cursor below it.
pub(super) fn encode(mut image: RgbImage) -> String {
    let (width, height) = image.dimensions();
    // The library's dithering needs a neighbour on each side.
    if width > 1 && height > 1 {
        imageops::dither(&mut image, &Cube);
    }
    // Pixels are square, and of those that no colour draws none are touched.
    let mut text = format!("\x1bP0;1q\"1;1;{width};{height}");
    for index in 0..COLOURS {
        let [r, g, b] = Cube::levels(index).map(|level| level * 100 / (LEVELS - 1));
        let _ = write!(text, "#{index};2;{r};{g};{b}");
    }
    for top in (0..height).step_by(6) {
        band(&image, top, &mut text);
    }
    text.push_str("\x1b\\\n");
    text
}

/// The rows from `top` on, at most six.
fn band(image: &RgbImage, top: u32, text: &mut String) {
    let rows = top..image.height().min(top + 6);
    // For each colour the six pixels of every column as bits, the top one lowest.
    let mut bits: Vec<Vec<u8>> = vec![Vec::new(); COLOURS];
    for y in rows {
        for x in 0..image.width() {
            let columns = &mut bits[Cube.index_of(image.get_pixel(x, y))];
            columns.resize(image.width() as usize, 0);
            columns[x as usize] |= 1 << (y - top);
        }
    }
    for (index, columns) in bits.iter().enumerate().filter(|(_, c)| !c.is_empty()) {
        let _ = write!(text, "#{index}");
        for run in columns.chunk_by(|a, b| a == b) {
            let pattern = char::from(0x3f + run[0]);
            match run.len() {
                1..=3 => text.extend(std::iter::repeat_n(pattern, run.len())),
                long => {
                    let _ = write!(text, "!{long}{pattern}");
                }
            }
        }
        // Back to the band's start for the next colour.
        text.push('$');
    }
    text.push('-');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_hold_six_rows_of_every_colour() {
        let image = RgbImage::from_fn(5, 7, |_, y| match y {
            0 | 6 => Rgb([255, 0, 0]),
            _ => Rgb([0, 0, 255]),
        });
        let text = encode(image);
        assert!(
            text.starts_with("\x1bP0;1q\"1;1;5;7#0;2;0;0;0#1;2;0;0;20"),
            "{text}"
        );
        // Colour 5 is blue: rows 1 to 5, bits 0b111110; 180 is red: row 0.
        assert!(text.ends_with("#5!5}$#180!5@$-#180!5@$-\x1b\\\n"), "{text}");
    }

    #[test]
    fn dithering_keeps_the_mean() {
        let mut image = RgbImage::from_pixel(60, 60, Rgb([100, 30, 220]));
        imageops::dither(&mut image, &Cube);
        for (channel, expected) in [100.0, 30.0, 220.0].into_iter().enumerate() {
            let sum: f64 = image.pixels().map(|p| f64::from(p.0[channel])).sum();
            let mean = sum / 3600.0;
            assert!((mean - expected).abs() < 3.0, "{channel}: {mean}");
        }
        // Sizes at the edge of what the library dithers.
        for (width, height) in [(1, 1), (1, 9), (9, 1), (2, 2)] {
            assert!(encode(RgbImage::new(width, height)).contains("#0"));
        }
    }
}
