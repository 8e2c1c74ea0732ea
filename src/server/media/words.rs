//! What refusals of pictures say.

use crate::{Error, Result};

/// As much of a URL or a rule is shown in a message, in characters.
const MOST_SHOWN: usize = 100;

pub(super) fn require_at_most(field: &str, bytes: usize, most: usize) -> Result<()> {
    if bytes <= most {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        format!("{bytes} bytes"),
        at_most(most),
    ))
}

pub(super) fn at_most(bytes: usize) -> String {
    format!("at most {bytes} bytes are taken; send a smaller picture, or one with more compression")
}

/// The start of `text` in quotes, on one line.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{:?}", format!("{}...", &text[..end])),
        None => format!("{text:?}"),
    }
}
