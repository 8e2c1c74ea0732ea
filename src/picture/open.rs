//! Pictures that others made, from a file or from bytes.

use super::{Picture, repair};
use crate::{Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The longest side that is read, in pixels.
pub const MOST_SIDE: usize = 16_384;
/// The shortest side to start a picture from, in pixels: one latent pixel.
pub const LEAST_INPUT_SIDE: usize = 8;
/// The most that one decoded picture may take, in bytes: the longest sides with
/// four channels of 8 bits.
const MOST_DECODED: u64 = 1 << 30;
/// The largest file that is read, in bytes.
const MOST_ENCODED: u64 = 1 << 29;

const FORMATS: &str = "use a PNG, JPEG, WebP or BMP file";

/// Why a picture is not taken: what it is, and the remedy.
pub(super) struct Refusal {
    what: String,
    remedy: String,
}

impl Refusal {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (what, remedy) = (what.into(), remedy.into());
        Refusal { what, remedy }
    }

    pub(super) fn damaged(format: &str, why: impl ToString) -> Self {
        let why = why.to_string();
        // Some decoders quote what they met at length, and over several lines.
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        let why: String = why.trim_matches('"').chars().take(120).collect();
        Refusal::new(
            format!("a damaged {format} file ({why})"),
            "save or download it again, or use another picture",
        )
    }

    /// About a file.
    pub(super) fn of_file(self, path: &Path) -> Error {
        Error::file(path, format!("is {}", self.what), self.remedy)
    }

    /// About a field of a request.
    pub(super) fn of_field(self, field: &str) -> Error {
        Error::invalid(field, self.what, self.remedy)
    }
}

impl Picture {
    /// Reads a PNG, JPEG, WebP or BMP file, known by its content and not its name;
    /// of an animation the first frame.
    ///
    /// It is turned as its EXIF orientation says. Grey, palette, CMYK and 16-bit
    /// pictures become 8-bit red green blue, and what is transparent is laid over
    /// white. Colour profiles are not applied.
    ///
    /// [`Error::File`] where the file cannot be read, is no such picture, is cut
    /// short or damaged, or has a side of more than [`MOST_SIDE`]; that is found
    /// before its pixels are decoded.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_noting(path, &mut Vec::new())
    }

    /// [`Picture::open`]; what is wrong with the file but cost no pixel joins `notes`.
    pub fn open_noting(path: impl AsRef<Path>, notes: &mut Vec<String>) -> Result<Self> {
        let path = path.as_ref();
        let decoded = decode(&read(path)?).map_err(|refusal| refusal.of_file(path))?;
        notes.extend(decoded.note(&path.display()));
        Ok(flatten(decoded.image, 255).into())
    }

    /// As [`Picture::open`] from the bytes of such a file, which a request's `field`
    /// brought; what is wrong with them is [`Error::Invalid`].
    pub fn from_bytes(field: &str, bytes: &[u8]) -> Result<Self> {
        Self::from_bytes_noting(field, bytes, &mut Vec::new())
    }

    /// [`Picture::from_bytes`]; what is wrong with the file but cost no pixel joins
    /// `notes`.
    pub fn from_bytes_noting(field: &str, bytes: &[u8], notes: &mut Vec<String>) -> Result<Self> {
        let decoded = decode(bytes).map_err(|refusal| refusal.of_field(field))?;
        notes.extend(decoded.note(&field));
        Ok(flatten(decoded.image, 255).into())
    }

    /// Width and height in pixels as the file's header says, before it is turned;
    /// no pixel is decoded. [`Error::Invalid`] as [`Picture::from_bytes`] has it.
    pub fn size_of(field: &str, bytes: &[u8]) -> Result<(usize, usize)> {
        header_size(bytes).map_err(|refusal| refusal.of_field(field))
    }

    /// Refuses a picture with a side below `least` pixels as [`Error::Invalid`].
    pub fn require_at_least(&self, least: usize, field: &str) -> Result<()> {
        if self.width.min(self.height) >= least {
            return Ok(());
        }
        let size = format!("{}x{} pixels", self.width, self.height);
        let allowed = format!("must be at least {least}x{least}; use a larger picture");
        Err(Error::invalid(field, size, allowed))
    }
}

impl From<RgbImage> for Picture {
    fn from(image: RgbImage) -> Self {
        Picture {
            width: image.width() as usize,
            height: image.height() as usize,
            rgb: image.into_raw(),
        }
    }
}

/// The bytes of a file that may be a picture.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |error: std::io::Error| {
        let problem = format!("cannot be read: {error}");
        Error::file(path, problem, "name a picture that is there and readable")
    };
    let file = File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if found.is_dir() {
        return Err(Error::file(path, "is a folder", "name a picture in it"));
    }
    let mut bytes = Vec::new();
    // Pipes and devices have no length to ask for beforehand.
    if found.len() <= MOST_ENCODED {
        let mut part = file.take(MOST_ENCODED + 1);
        part.read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 <= MOST_ENCODED {
            return Ok(bytes);
        }
    }
    let problem = format!("is larger than {MOST_ENCODED} bytes");
    Err(Error::file(path, problem, "use a smaller picture"))
}

/// The format of `bytes`, if it is one of those that are read.
pub(super) fn format_of(bytes: &[u8]) -> Result<ImageFormat, Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::new("empty", FORMATS));
    }
    match image::guess_format(bytes) {
        Ok(known) if known.reading_enabled() => Ok(known),
        Ok(other) => Err(Refusal::new(
            format!("a picture of another format ({other:?})"),
            FORMATS,
        )),
        Err(_) => Err(Refusal::new("no picture", FORMATS)),
    }
}

/// A picture, turned, and what is wrong with its file but cost no pixel.
pub(super) struct Decoded {
    pub image: DynamicImage,
    damage: Vec<String>,
}

impl Decoded {
    /// A sentence for the user about what is wrong, of a file or field of this name.
    pub fn note(&self, name: &impl std::fmt::Display) -> Option<String> {
        let damage = self.damage.join(", ");
        (!damage.is_empty()).then(|| format!("{name} is damaged, but no pixel is lost: {damage}"))
    }
}

/// Decodes and turns a picture.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, Refusal> {
    let (mut image, orientation, damage) = match format_of(bytes)? {
        ImageFormat::Jpeg => jpeg(bytes)?,
        ImageFormat::Png => png(bytes)?,
        other => {
            let (image, orientation) = plainly(bytes, other)?;
            (image, orientation, Vec::new())
        }
    };
    image.apply_orientation(orientation);
    Ok(Decoded { image, damage })
}

fn plainly(bytes: &[u8], format: ImageFormat) -> Result<(DynamicImage, Orientation), Refusal> {
    with_decoder(bytes, format, |mut decoder, name| {
        let damaged = |error| Refusal::damaged(name, error);
        let orientation = decoder.orientation().map_err(damaged)?;
        let image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        Ok((image, orientation))
    })
}

/// A picture, how it is to be turned, and what is wrong with its file.
type Noted = (DynamicImage, Orientation, Vec<String>);

/// A PNG; where its container is damaged, from a new one.
fn png(bytes: &[u8]) -> Result<Noted, Refusal> {
    let plain = plainly(bytes, ImageFormat::Png);
    // A size that is too large is no damage.
    if plain.is_err() {
        header_size(bytes)?;
    }
    let parts = repair::png(bytes).map_err(|why| Refusal::damaged("PNG", why))?;
    let (image, orientation) = plain.or_else(|refusal| match parts.repaired() {
        Some(repaired) => plainly(repaired, ImageFormat::Png),
        None => Err(refusal),
    })?;
    Ok((image, orientation, parts.damage))
}

/// Width and height as the header says.
fn header_size(bytes: &[u8]) -> Result<(usize, usize), Refusal> {
    match format_of(bytes)? {
        ImageFormat::Jpeg => {
            let read = repair::Jpeg::read(bytes).map_err(|why| Refusal::damaged("JPEG", why))?;
            Ok(jpeg_header(&read.repaired.bytes)?.1)
        }
        other => with_decoder(bytes, other, |decoder, _| {
            let (width, height) = decoder.dimensions();
            Ok((width as usize, height as usize))
        }),
    }
}

/// Calls `then` with a decoder whose size has been checked and the format's name.
pub(super) fn with_decoder<T>(
    bytes: &[u8],
    format: ImageFormat,
    then: impl FnOnce(Box<dyn ImageDecoder + '_>, &str) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let name = format!("{format:?}");
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_DECODED);
    reader.limits(limits);
    let decoder = reader
        .into_decoder()
        .map_err(|error| Refusal::damaged(&name, error))?;
    let (width, height) = decoder.dimensions();
    check_size(width as usize, height as usize, decoder.total_bytes())?;
    then(Box::new(decoder), &name)
}

fn check_size(width: usize, height: usize, bytes: u64) -> Result<(), Refusal> {
    let size = format!("{width}x{height} pixels");
    if width == 0 || height == 0 {
        return Err(Refusal::new(size, "use a picture that has pixels"));
    }
    if width.max(height) > MOST_SIDE {
        let remedy =
            format!("a side may have at most {MOST_SIDE}; scale the picture down and try again");
        return Err(Refusal::new(size, remedy));
    }
    if bytes > MOST_DECODED {
        let what = format!("{size}, {bytes} bytes when decoded");
        let remedy = format!("at most {MOST_DECODED} are taken; save it with 8 bits a channel");
        return Err(Refusal::new(what, remedy));
    }
    Ok(())
}

type Jpeg<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

/// A decoder that has read a JPEG's headers, and the width and height they give.
fn jpeg_header(bytes: &[u8]) -> Result<(Jpeg<'_>, (usize, usize)), Refusal> {
    let damaged = |error| Refusal::damaged("JPEG", error);
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(damaged)?;
    let size = decoder.dimensions();
    let (width, height) = size.ok_or_else(|| Refusal::damaged("JPEG", "no size"))?;
    check_size(width, height, 3 * (width * height) as u64)?;
    Ok((decoder, (width, height)))
}

/// A JPEG. Its pixels are decoded strictly, because the `image` crate's own way fills
/// what is missing or damaged with grey and reports nothing; its container is not.
fn jpeg(bytes: &[u8]) -> Result<Noted, Refusal> {
    let read = repair::Jpeg::read(bytes).map_err(|why| Refusal::damaged("JPEG", why))?;
    let (image, orientation) = match read.ended {
        true => strict_jpeg(&read.repaired.bytes)?,
        false => endless_jpeg(&read)?,
    };
    Ok((image, orientation, read.repaired.damage))
}

/// A JPEG whose end is missing. The decoder does not notice that bits are missing from
/// the last row of blocks, so they are tried: pixels that depend on them differ.
fn endless_jpeg(read: &repair::Jpeg<'_>) -> Result<(DynamicImage, Orientation), Refusal> {
    let cut = || Refusal::damaged("JPEG", "its end is missing");
    let continued = read.continued();
    let mut all = continued.iter().map(|bytes| strict_jpeg(bytes));
    let first = all.next().ok_or_else(cut)??;
    match all.all(|other| other.is_ok_and(|other| other.0 == first.0)) {
        true => Ok(first),
        false => Err(cut()),
    }
}

fn strict_jpeg(bytes: &[u8]) -> Result<(DynamicImage, Orientation), Refusal> {
    let (mut decoder, (width, height)) = jpeg_header(bytes)?;
    let rgb = decoder
        .decode()
        .map_err(|error| Refusal::damaged("JPEG", error))?;
    let orientation = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif))
        .unwrap_or(Orientation::NoTransforms);
    let image = RgbImage::from_raw(width as u32, height as u32, rgb)
        .ok_or_else(|| Refusal::damaged("JPEG", "pixels are missing"))?;
    Ok((DynamicImage::ImageRgb8(image), orientation))
}

/// 8-bit red green blue; what is transparent is laid over a grey of `background`.
pub(super) fn flatten(image: DynamicImage, background: u8) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let over = |colour: u8, alpha: u8| {
        let (colour, alpha) = (u32::from(colour), u32::from(alpha));
        let sum = colour * alpha + u32::from(background) * (255 - alpha);
        ((sum + 127) / 255) as u8
    };
    let (width, height) = image.dimensions();
    RgbImage::from_fn(width, height, |x, y| {
        let [r, g, b, a] = image.get_pixel(x, y).0;
        image::Rgb([over(r, a), over(g, a), over(b, a)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageBuffer, LumaA, Rgba};

    fn png(image: DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn message(bytes: &[u8]) -> String {
        let error = Picture::from_bytes("image", bytes).unwrap_err();
        assert!(error.is_usage());
        error.to_string()
    }

    #[test]
    fn transparent_parts_are_white() {
        let image = ImageBuffer::from_raw(3, 1, vec![9u8, 8, 7, 255, 9, 8, 7, 0, 100, 200, 0, 51]);
        let image = DynamicImage::ImageRgba8(image.unwrap());
        let picture = Picture::from_bytes("image", &png(image)).unwrap();
        // A fifth of 100, 200 and 0 over four fifths of 255.
        assert_eq!(picture.rgb, [9, 8, 7, 255, 255, 255, 224, 244, 204]);
    }

    #[test]
    fn sixteen_bits_and_grey_become_eight_bit_colours() {
        let deep: ImageBuffer<Rgba<u16>, _> =
            ImageBuffer::from_raw(1, 1, vec![0xffff, 0x8080, 257, 0xffff]).unwrap();
        let picture = Picture::from_bytes("image", &png(DynamicImage::ImageRgba16(deep)));
        assert_eq!(picture.unwrap().rgb, [255, 128, 1]);
        let grey: ImageBuffer<LumaA<u8>, _> = ImageBuffer::from_raw(1, 1, vec![77, 255]).unwrap();
        let picture = Picture::from_bytes("image", &png(DynamicImage::ImageLumaA8(grey)));
        assert_eq!(picture.unwrap().rgb, [77; 3]);
    }

    #[test]
    fn what_is_no_picture_is_named() {
        assert!(message(b"").contains("image is empty: use a PNG"));
        assert!(message(b"a letter").contains("is no picture: use a PNG"));
        assert!(message(b"GIF89a........").contains("another format (Gif)"));
        assert!(message(b"\x89PNG\r\n\x1a\n").contains("a damaged Png file"));
        let none = Picture::open("no/such.png").unwrap_err().to_string();
        assert!(none.starts_with("no/such.png: cannot be read: "), "{none}");
        let folder = Picture::open(".").unwrap_err().to_string();
        assert!(folder.contains("is a folder; name a picture in it"));
    }

    #[test]
    fn a_size_is_known_from_the_header_alone() {
        let image = DynamicImage::new_rgb8(40, 24);
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp] {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, format).unwrap();
            let bytes = bytes.into_inner();
            // Pixels are missing (of a PNG's end 16 bytes are checksums), but the size is there.
            let end = match format {
                ImageFormat::Png => bytes.len() / 2,
                _ => bytes.len() - 17,
            };
            let header = &bytes[..end];
            assert_eq!(Picture::size_of("image", header).unwrap(), (40, 24));
            assert!(Picture::from_bytes("image", header).is_err(), "{format:?}");
        }
        assert!(Picture::size_of("image", b"a letter").is_err());
    }

    #[test]
    fn small_pictures_are_the_callers_choice() {
        let dot = Picture::from_bytes("image", &png(DynamicImage::new_rgb8(1, 1))).unwrap();
        let error = dot.require_at_least(LEAST_INPUT_SIDE, "image").unwrap_err();
        let expected = "image is 1x1 pixels: must be at least 8x8; use a larger picture";
        assert_eq!(error.to_string(), expected);
        assert!(dot.require_at_least(1, "image").is_ok());
    }
}
