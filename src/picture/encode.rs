//! Pictures to bytes.

use super::{Parameters, Picture};
use crate::{Error, Result};
use image::{ExtendedColorType, ImageEncoder};
use std::path::Path;

/// A file format, chosen by a file name's extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lossless.
    Png,
    /// Quality 95.
    Jpeg,
    /// Lossless.
    Webp,
}

pub const JPEG_QUALITY: u8 = 95;
/// The longest EXIF block of a JPEG: a segment's 65,535 bytes without its length
/// and the mark `Exif`.
const JPEG_EXIF: usize = 65_535 - 2 - 6;
/// The longest EXIF block that is put into a WebP file.
const WEBP_EXIF: usize = 64 << 20;

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

    /// The usual extension of a file's name, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Png => "png",
            Format::Jpeg => "jpg",
            Format::Webp => "webp",
        }
    }

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Png => "image/png",
            Format::Jpeg => "image/jpeg",
            Format::Webp => "image/webp",
        }
    }

    /// Encodes `picture` with `parameters` inside: in a PNG as text, in the other
    /// formats as EXIF. A JPEG holds 64 KiB of them; see [`Parameters`] for what is
    /// left out beyond.
    ///
    /// Fails for sizes that the format cannot hold.
    pub fn encode(self, picture: &Picture, parameters: Option<&Parameters>) -> Result<Vec<u8>> {
        self.encode_at(JPEG_QUALITY, picture, parameters)
    }

    /// [`Format::encode`] with a quality from 1 to 100, which lossless formats do not need.
    pub fn encode_at(
        self,
        quality: u8,
        picture: &Picture,
        parameters: Option<&Parameters>,
    ) -> Result<Vec<u8>> {
        let exif = |most| parameters.map(|parameters| parameters.to_exif(most));
        let encoded = match self {
            Format::Png => png(picture, parameters).map_err(|e| e.to_string()),
            Format::Jpeg => jpeg(picture, quality, exif(JPEG_EXIF)).map_err(|e| e.to_string()),
            Format::Webp => webp(picture, exif(WEBP_EXIF)).map_err(|e| e.to_string()),
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

fn png(picture: &Picture, parameters: Option<&Parameters>) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(picture.width), side(picture.height));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(parameters) = parameters {
        parameters.put_png(&mut encoder)?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&picture.rgb)?;
    writer.finish()?;
    Ok(bytes)
}

fn jpeg(picture: &Picture, quality: u8, exif: Option<Vec<u8>>) -> image::ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality);
    with_image(encoder, picture, exif)?;
    Ok(bytes)
}

fn webp(picture: &Picture, exif: Option<Vec<u8>>) -> image::ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
    with_image(encoder, picture, exif)?;
    Ok(bytes)
}

fn with_image(
    mut encoder: impl ImageEncoder,
    picture: &Picture,
    exif: Option<Vec<u8>>,
) -> image::ImageResult<()> {
    if let Some(exif) = exif.filter(|exif| !exif.is_empty()) {
        encoder
            .set_exif_metadata(exif)
            .map_err(image::ImageError::Unsupported)?;
    }
    let (width, height) = (side(picture.width), side(picture.height));
    encoder.write_image(&picture.rgb, width, height, ExtendedColorType::Rgb8)
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
            let settings = Parameters::new("x", None);
            let bytes = format.encode(&picture, Some(&settings)).unwrap();
            let back = image::load_from_memory(&bytes).unwrap().to_rgb8();
            assert_eq!(back.as_raw(), &picture.rgb);
        }
        let bytes = Format::Jpeg.encode(&picture, None).unwrap();
        let back = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!(back.dimensions(), (16, 8));
    }

    #[test]
    fn settings_travel_as_latin1_or_unicode() {
        for (prompt, unicode) in [("a naïve cat", 0), ("日本", 1)] {
            let settings = Parameters::new(prompt, None).with("Steps", 1);
            let bytes = Format::Png.encode(&gradient(), Some(&settings)).unwrap();
            assert_eq!(
                texts(&bytes),
                (unicode, vec![format!("{prompt}\nSteps: 1")])
            );
        }
    }

    #[test]
    fn pictures_without_pixels_are_refused() {
        let none = Picture {
            width: 0,
            height: 0,
            rgb: Vec::new(),
        };
        for format in [Format::Png, Format::Jpeg, Format::Webp] {
            assert!(format.encode(&none, None).unwrap_err().is_usage());
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
