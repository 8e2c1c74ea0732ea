//! Pictures to bytes.

use super::Picture;
use crate::{Error, Result};
use image::ExtendedColorType;
use std::path::Path;

/// A file format, chosen by a file name's extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lossless, with the settings inside.
    Png,
    /// Quality 95.
    Jpeg,
    /// Lossless.
    Webp,
}

const JPEG_QUALITY: u8 = 95;

impl Format {
    /// The format that `path` asks for. An extension other than png, jpg, jpeg
    /// and webp, or none, is [`Error::Invalid`].
    pub fn of_path(path: &Path) -> Result<Self> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("png") => Ok(Format::Png),
            Some("jpg" | "jpeg") => Ok(Format::Jpeg),
            Some("webp") => Ok(Format::Webp),
            _ => Err(Error::invalid(
                "out",
                path.display(),
                "must be a file name that ends in .png, .jpg, .jpeg or .webp",
            )),
        }
    }

    /// Encodes `picture`; only PNG carries `parameters`.
    ///
    /// Fails for sizes that the format cannot hold.
    pub fn encode(self, picture: &Picture, parameters: Option<&str>) -> Result<Vec<u8>> {
        let encoded = match self {
            Format::Png => png(picture, parameters).map_err(|e| e.to_string()),
            Format::Jpeg => jpeg(picture).map_err(|e| e.to_string()),
            Format::Webp => webp(picture).map_err(|e| e.to_string()),
        };
        encoded.map_err(|problem| {
            let size = format!("{}x{}", picture.width, picture.height);
            Error::invalid(
                "size",
                size,
                format!("cannot be encoded ({problem}); choose another format"),
            )
        })
    }
}

/// A side in 32 bits; what does not fit is refused by every encoder.
fn side(pixels: usize) -> u32 {
    u32::try_from(pixels).unwrap_or(u32::MAX)
}

fn png(picture: &Picture, parameters: Option<&str>) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(picture.width), side(picture.height));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(text) = parameters {
        let keyword = "parameters".to_owned();
        match text.chars().all(|c| u32::from(c) < 256) {
            true => encoder.add_text_chunk(keyword, text.to_owned())?,
            false => encoder.add_itxt_chunk(keyword, text.to_owned())?,
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&picture.rgb)?;
    writer.finish()?;
    Ok(bytes)
}

fn jpeg(picture: &Picture) -> image::ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode(
        &picture.rgb,
        side(picture.width),
        side(picture.height),
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

fn webp(picture: &Picture) -> image::ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    image::codecs::webp::WebPEncoder::new_lossless(&mut bytes).encode(
        &picture.rgb,
        side(picture.width),
        side(picture.height),
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient() -> Picture {
        let rgb = (0..16 * 8)
            .flat_map(|i| [(i % 16 * 16) as u8, (i / 16 * 32) as u8, 99])
            .collect();
        Picture {
            width: 16,
            height: 8,
            rgb,
        }
    }

    fn texts(bytes: &[u8]) -> (usize, Vec<String>) {
        let reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let info = reader.info();
        let latin = info
            .uncompressed_latin1_text
            .iter()
            .map(|chunk| chunk.text.clone());
        let unicode = info.utf8_text.iter().map(|chunk| chunk.get_text().unwrap());
        (info.utf8_text.len(), latin.chain(unicode).collect())
    }

    #[test]
    fn lossless_formats_keep_every_pixel() {
        let picture = gradient();
        for format in [Format::Png, Format::Webp] {
            let bytes = format.encode(&picture, Some("x")).unwrap();
            let back = image::load_from_memory(&bytes).unwrap().to_rgb8();
            assert_eq!(back.as_raw(), &picture.rgb);
        }
        let bytes = Format::Jpeg.encode(&picture, None).unwrap();
        let back = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!(back.dimensions(), (16, 8));
    }

    #[test]
    fn settings_travel_as_latin1_or_unicode() {
        for (text, unicode) in [("a naïve cat\nSteps: 1", 0), ("日本\nSteps: 1", 1)] {
            let bytes = Format::Png.encode(&gradient(), Some(text)).unwrap();
            assert_eq!(texts(&bytes), (unicode, vec![text.to_owned()]));
        }
    }

    #[test]
    fn extensions_choose() {
        let of = |name: &str| Format::of_path(Path::new(name));
        assert_eq!(of("a.PNG").unwrap(), Format::Png);
        assert_eq!(of("a.b.jpeg").unwrap(), Format::Jpeg);
        assert_eq!(of("x/a.webp").unwrap(), Format::Webp);
        for bad in ["a", "a.gif", ".png", "x.png/a", ""] {
            assert!(of(bad).unwrap_err().is_usage(), "{bad}");
        }
    }
}
