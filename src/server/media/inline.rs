//! Pictures inside a request's text: base64 and data URLs.

use crate::{Error, Result};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;

const REMEDY: &str = "send the bytes of a picture file as base64, or as a data URL such as \
     \"data:image/png;base64,...\"";

/// Many encoders leave padding out, and some leave bits set that stand for nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// `text` after `prefix`, in letters of any case.
pub(super) fn after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The bytes of a data URL without its `data:`. What it says of its type is not
/// believed: the bytes tell.
pub(super) fn data_url(field: &str, rest: &str, most: usize) -> Result<Vec<u8>> {
    let Some((head, payload)) = rest.split_once(',') else {
        return Err(Error::invalid(field, "a data URL without a comma", REMEDY));
    };
    let marked = |part: &str| part.trim().eq_ignore_ascii_case("base64");
    if !head.split(';').skip(1).any(marked) {
        return Err(Error::invalid(field, "a data URL without ;base64", REMEDY));
    }
    decode(field, percent_decode_str(payload), most)
}

/// The bytes of base64 text.
pub(super) fn base64(field: &str, text: &str, most: usize) -> Result<Vec<u8>> {
    decode(field, text.bytes(), most)
}

fn decode(field: &str, text: impl Iterator<Item = u8>, most: usize) -> Result<Vec<u8>> {
    let mut plain: Vec<u8> = text
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    while plain.last() == Some(&b'=') {
        plain.pop();
    }
    if plain.is_empty() {
        return Err(Error::invalid(field, "empty", REMEDY));
    }
    super::words::require_at_most(field, plain.len() / 4 * 3 + plain.len() % 4 * 3 / 4, most)?;
    BASE64
        .decode(&plain)
        .map_err(|_| Error::invalid(field, "text that is no base64", REMEDY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_form_of_base64_is_read() {
        let bytes = [0xfb, 0xff, 0xfe, 0x01];
        for text in [
            "+//+AQ==",
            "+//+AQ",
            "-__-AQ==",
            "-__-AQ",
            "-//+AQ=",
            " +//+\r\n\tAQ== \n",
            "+//+AR==",
        ] {
            assert_eq!(base64("image", text, 4).unwrap(), bytes, "{text:?}");
        }
    }

    #[test]
    fn data_urls_are_read() {
        for head in [
            "image/png;base64",
            ";base64",
            "IMAGE/PNG;BASE64",
            "image/png;charset=utf-8;base64",
            "image/jpeg; name=a.jpg ; base64 ",
            "application/octet-stream;base64",
        ] {
            let text = format!("{head},-__-%41Q%3d%3D");
            let bytes = data_url("image", &text, 4).unwrap();
            assert_eq!(bytes, [0xfb, 0xff, 0xfe, 0x01], "{head}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_shortly() {
        let message = |result: Result<Vec<u8>>| {
            let message = result.unwrap_err().to_string();
            assert!(
                message.len() < 200 && !message.contains("secret"),
                "{message}"
            );
            message
        };
        for text in ["secret!", "A", "AAAAA", "AA=A", "é", "AAA\0"] {
            let message = message(base64("image", text, 100));
            let start = "image is text that is no base64: send";
            assert!(message.starts_with(start), "{text}: {message}");
        }
        for text in ["", " \n", "=="] {
            assert!(message(base64("mask", text, 9)).starts_with("mask is empty: send"));
        }
        for text in ["image/png;base64", "", "secret"] {
            let message = message(data_url("image", text, 9));
            assert!(message.contains("without a comma"), "{message}");
        }
        for text in ["image/png,AAAA", "base64,AAAA", ",AAAA", ";base64x,AAAA"] {
            let message = message(data_url("image", text, 9));
            assert!(message.contains("without ;base64"), "{message}");
        }
        let large = message(base64("image", "AAAAAAA=", 4));
        assert!(large.starts_with("image is 5 bytes: at most 4 "), "{large}");
    }
}
