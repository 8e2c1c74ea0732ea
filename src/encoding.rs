//! Text of files and bodies, as editors save it.

use crate::error::Remedies;
use crate::{Error, Result};
use std::borrow::Cow;
use std::io;
use std::path::Path;

/// What to do with bytes that are no text.
pub const REMEDY: &str = "save it as UTF-8";

/// The text that `bytes` stand for: UTF-8, whose byte order mark is left out, or
/// UTF-16 of either order where such a mark says so (the Unicode standard, 23.8). The
/// error says what the bytes are instead, to be followed by [`REMEDY`].
pub fn text(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        let text: Result<String, _> = char::decode_utf16(units).collect();
        match (text, bytes.len() % 2) {
            (Ok(text), 0) => Ok(Cow::Owned(text)),
            _ => Err("damaged UTF-16".to_owned()),
        }
    };
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err("UTF-32".to_owned()),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Borrowed(without_mark(text))),
            Err(error) => Err(format!("not UTF-8 (byte {})", error.valid_up_to() + 1)),
        },
    }
}

/// The text of a file, as [`text`] reads it.
///
/// [`Error::File`] with `remedy` where it cannot be read, and with [`REMEDY`] where
/// it holds no text.
pub fn read(path: &Path, remedy: impl Into<Remedies>) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e, remedy))?;
    of_file(&bytes, path)
}

/// As [`read`]; `None` where there is no such file.
pub fn read_optional(path: &Path, remedy: impl Into<Remedies>) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => of_file(&bytes, path).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file(path, e, remedy)),
    }
}

fn of_file(bytes: &[u8], path: &Path) -> Result<String> {
    match text(bytes) {
        Ok(text) => Ok(text.into_owned()),
        Err(what) => Err(Error::file(path, format!("its text is {what}"), REMEDY)),
    }
}

/// `text` without the byte order mark that may stand before it.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_and_left_out() {
        for bytes in [
            &b"a\xc3\xa9"[..],
            b"\xef\xbb\xbfa\xc3\xa9",
            b"\xff\xfea\0\xe9\0",
            b"\xfe\xff\0a\0\xe9",
        ] {
            assert_eq!(text(bytes).unwrap(), "a\u{e9}", "{bytes:?}");
        }
        // One mark, and only before the text: others are characters of it.
        let twice = "\u{feff}\u{feff}a\u{feff}";
        assert_eq!(text(twice.as_bytes()).unwrap(), "\u{feff}a\u{feff}");
        assert_eq!(text(b"").unwrap(), "");
        // A pair of surrogates.
        assert_eq!(text(b"\xff\xfe\x3d\xd8\x00\xde").unwrap(), "\u{1f600}");
    }

    #[test]
    fn what_is_no_text_is_named() {
        for (bytes, what) in [
            (&b"a\xe9b"[..], "not UTF-8 (byte 2)"),
            (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
            (b"\0\0\xfe\xff\0\0\0a", "UTF-32"),
            (b"\xff\xfea", "damaged UTF-16"),
            (b"\xff\xfe\x3d\xd8", "damaged UTF-16"),
        ] {
            assert_eq!(text(bytes).unwrap_err(), what);
        }
    }
}
