//! Where settings lie in a file: PNG text chunks; EXIF's user comment and maker
//! note in JPEG and WebP.

use super::Parameters;
use super::open::{Refusal, format_of, read, with_decoder};
use crate::Result;
use exif::experimental::Writer;
use exif::{Exif, Field, In, Reader, Tag};
use image::ImageFormat;
use serde_json::Value;
use std::io::Cursor;
use std::path::Path;

/// The PNG keyword of the text that other programs read.
const TEXT: &str = "parameters";
/// The PNG keyword of this program's settings, and what its maker note begins with.
const SETTINGS: &str = "calotype";
/// The most that a text may take, in bytes, after decompression.
const MOST_TEXT: usize = 16 << 20;
/// PNG keywords of other programs, what the text begins with, and the program.
const FOREIGN: [(&str, &str, &str); 6] = [
    ("workflow", "{", "ComfyUI"),
    ("prompt", "{", "ComfyUI"),
    ("invokeai_metadata", "", "InvokeAI"),
    ("sd-metadata", "", "InvokeAI"),
    ("Dream", "", "InvokeAI"),
    ("Software", "NovelAI", "NovelAI"),
];
/// How EXIF's user comment says that it is UTF-16.
const UNICODE: &[u8; 8] = b"UNICODE\0";

impl Parameters {
    /// Reads the settings inside a PNG, JPEG or WebP file, as this program or
    /// AUTOMATIC1111's wrote them; `None` where it holds none. The picture itself
    /// is not decoded.
    ///
    /// [`crate::Error::File`] where the file cannot be read or is no picture.
    pub fn open(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        find(&read(path)?).map_err(|refusal| refusal.of_file(path))
    }

    /// The program that wrote other metadata into this file than settings that can be
    /// read, by its name; `None` where it is not known.
    ///
    /// [`crate::Error::File`] as [`Parameters::open`].
    pub fn foreign(path: impl AsRef<Path>) -> Result<Option<&'static str>> {
        let path = path.as_ref();
        let bytes = read(path)?;
        let texts = format_of(&bytes).and_then(|format| match format {
            ImageFormat::Png => png_chunks(&bytes),
            _ => Ok(Vec::new()),
        });
        let texts = texts.map_err(|refusal| refusal.of_file(path))?;
        Ok(FOREIGN.iter().find_map(|(keyword, begins, program)| {
            let written = |(name, text): &(String, String)| {
                name == keyword && text.trim_start().starts_with(begins)
            };
            texts.iter().any(written).then_some(*program)
        }))
    }

    /// As [`Parameters::open`] from the bytes of such a file, which a request's
    /// `field` brought; what is wrong with them is [`crate::Error::Invalid`].
    pub fn read(field: &str, bytes: &[u8]) -> Result<Option<Self>> {
        find(bytes).map_err(|refusal| refusal.of_field(field))
    }

    /// Puts the settings into a PNG that is about to be written.
    pub(super) fn put_png<W: std::io::Write>(
        &self,
        encoder: &mut png::Encoder<'_, W>,
    ) -> Result<(), png::EncodingError> {
        let text = (TEXT, Some(self.to_string()));
        let settings = (SETTINGS, self.settings.as_ref().map(Value::to_string));
        for (keyword, text) in [text, settings] {
            let Some(text) = text else { continue };
            match text.chars().all(|c| u32::from(c) < 256) {
                true => encoder.add_text_chunk(keyword.to_owned(), text)?,
                false => encoder.add_itxt_chunk(keyword.to_owned(), text)?,
            }
        }
        Ok(())
    }

    /// An EXIF block of at most `most` bytes: the text as user comment, in UTF-16,
    /// and the settings as maker note. What does not fit is left out, the user
    /// comment first, for what is in it the maker note has too.
    pub(super) fn to_exif(&self, most: usize) -> Vec<u8> {
        let comment = undefined(Tag::UserComment, utf16(&self.to_string()));
        let settings = self.settings.as_ref().map(|settings| {
            let note = format!("{SETTINGS}\0{settings}");
            undefined(Tag::MakerNote, note.into_bytes())
        });
        let both: Vec<&Field> = std::iter::once(&comment).chain(&settings).collect();
        let choices = [both, settings.iter().collect(), vec![&comment]];
        choices
            .iter()
            .filter_map(|fields| exif_of(fields))
            .find(|block| block.len() <= most)
            .unwrap_or_default()
    }
}

fn undefined(tag: Tag, bytes: Vec<u8>) -> Field {
    Field {
        tag,
        ifd_num: In::PRIMARY,
        value: exif::Value::Undefined(bytes, 0),
    }
}

fn exif_of(fields: &[&Field]) -> Option<Vec<u8>> {
    let mut writer = Writer::new();
    fields.iter().for_each(|field| writer.push_field(field));
    let mut block = Cursor::new(Vec::new());
    writer.write(&mut block, false).ok()?;
    Some(block.into_inner())
}

/// As AUTOMATIC1111's program writes it: the mark, then big-endian words.
fn utf16(text: &str) -> Vec<u8> {
    let words = text.encode_utf16().flat_map(u16::to_be_bytes);
    UNICODE.iter().copied().chain(words).collect()
}

fn find(bytes: &[u8]) -> Result<Option<Parameters>, Refusal> {
    let format = format_of(bytes)?;
    let (mut text, mut settings) = match format {
        ImageFormat::Png => png_texts(bytes)?,
        _ => (None, None),
    };
    if text.is_none() && settings.is_none() {
        let block = with_decoder(bytes, format, |mut decoder, name| {
            let block = decoder.exif_metadata();
            block.map_err(|error| Refusal::damaged(name, error))
        })?;
        (text, settings) = block.map_or((None, None), exif_texts);
    }
    if text.is_none() && settings.is_none() {
        return Ok(None);
    }
    let found = Parameters::parse(&text.unwrap_or_default());
    let settings = settings.and_then(|json| serde_json::from_str::<Value>(&json).ok());
    Ok(Some(match settings {
        Some(settings) => found.with_read_settings(settings),
        None => found,
    }))
}

type Texts = (Option<String>, Option<String>);

/// The text and the settings of a PNG.
fn png_texts(bytes: &[u8]) -> Result<Texts, Refusal> {
    let mut found = png_chunks(bytes)?;
    let mut named = |keyword: &str| {
        let at = found.iter().position(|(name, _)| name == keyword)?;
        Some(found.swap_remove(at).1)
    };
    Ok((named(TEXT), named(SETTINGS)))
}

/// All texts of a PNG by their keywords, which may stand before or after the pixels.
fn png_chunks(bytes: &[u8]) -> Result<Vec<(String, String)>, Refusal> {
    let limits = png::Limits { bytes: MOST_TEXT };
    let decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    let mut reader = decoder
        .read_info()
        .map_err(|error| Refusal::damaged("PNG", error))?;
    // What stands before a damaged part is read all the same.
    let _ = reader.finish();
    let info = reader.info();
    let mut found = Vec::new();
    for chunk in &info.uncompressed_latin1_text {
        found.push((chunk.keyword.clone(), chunk.text.clone()));
    }
    for mut chunk in info.compressed_latin1_text.iter().cloned() {
        if chunk.decompress_text_with_limit(MOST_TEXT).is_ok() {
            found.extend(chunk.get_text().map(|text| (chunk.keyword.clone(), text)));
        }
    }
    for mut chunk in info.utf8_text.iter().cloned() {
        if chunk.decompress_text_with_limit(MOST_TEXT).is_ok() {
            found.extend(chunk.get_text().map(|text| (chunk.keyword.clone(), text)));
        }
    }
    Ok(found)
}

/// The text and the settings of an EXIF block; of one that is damaged, what can be
/// read.
fn exif_texts(block: Vec<u8>) -> Texts {
    let block = match block.strip_prefix(b"Exif\0\0") {
        Some(rest) => rest.to_vec(),
        None => block,
    };
    let read = Reader::new().continue_on_error(true).read_raw(block);
    let read = read.or_else(|error| error.distill_partial_result(|_| {}));
    let Ok(read) = read else { return (None, None) };
    let text = bytes_of(&read, Tag::UserComment).and_then(comment);
    let settings = bytes_of(&read, Tag::MakerNote).and_then(|note| {
        let json = note
            .strip_prefix(SETTINGS.as_bytes())?
            .strip_prefix(b"\0")?;
        String::from_utf8(json.to_vec()).ok()
    });
    (text, settings)
}

fn bytes_of(read: &Exif, tag: Tag) -> Option<&[u8]> {
    match &read.get_field(tag, In::PRIMARY)?.value {
        exif::Value::Undefined(bytes, _) | exif::Value::Byte(bytes) => Some(bytes),
        exif::Value::Ascii(parts) => parts.first().map(Vec::as_slice),
        _ => None,
    }
}

/// A user comment's text; `None` where it is blank.
fn comment(bytes: &[u8]) -> Option<String> {
    let text = match bytes.strip_prefix(UNICODE) {
        Some(words) => from_utf16(words),
        None => {
            let marks: [&[u8]; 2] = [b"ASCII\0\0\0", &[0; 8]];
            let mark = marks.iter().find_map(|mark| bytes.strip_prefix(*mark));
            String::from_utf8_lossy(mark.unwrap_or(bytes)).into_owned()
        }
    };
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

/// EXIF leaves the order of the two bytes open; the names of the pairs, which are
/// ASCII, show which one of the two is zero.
fn from_utf16(bytes: &[u8]) -> String {
    let zeros = |at: usize| {
        bytes
            .iter()
            .skip(at)
            .step_by(2)
            .filter(|b| **b == 0)
            .count()
    };
    let little = match bytes {
        [0xff, 0xfe, ..] => true,
        [0xfe, 0xff, ..] => false,
        _ => zeros(1) > zeros(0),
    };
    let word = |pair: &[u8]| match little {
        true => u16::from_le_bytes([pair[0], pair[1]]),
        false => u16::from_be_bytes([pair[0], pair[1]]),
    };
    let words: Vec<u16> = bytes.chunks_exact(2).map(word).collect();
    let text = String::from_utf16_lossy(&words);
    text.trim_start_matches('\u{feff}').to_owned()
}
