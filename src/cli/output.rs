//! What goes to stdout.

use anyhow::{Context, Result};
use serde::Serialize;
use std::io::{self, Write};

/// Writes `text` and a line end to stdout. A reader that has gone is no error.
pub fn line(text: &str) -> Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes what is a file's content. A reader that has gone is no error.
pub fn bytes(content: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(content).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("stdout cannot be written; redirect it elsewhere"),
    }
}

/// Writes one JSON value on one line of stdout.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string(value).context("the result has no JSON form")?)
}
