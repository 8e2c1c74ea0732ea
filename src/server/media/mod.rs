//! How a request's picture becomes bytes and then pixels: base64, data URLs,
//! uploads, and URLs of hosts that the operator allows.

mod address;
mod fetch;
mod host;
mod inline;
mod words;

use crate::picture::{Mask, MaskReading, Picture};
use crate::{Error, Result};
use address::is_public;
use fetch::Fetcher;
use std::net::IpAddr;
use std::time::Duration;
use ureq::unversioned::resolver::{DefaultResolver, Resolver};
use words::require_at_most;

/// Where pictures by URL may come from, and how large pictures may be.
#[derive(Debug)]
pub struct Sources {
    most_bytes: usize,
    most_pixels: usize,
    fetcher: Fetcher,
}

impl Sources {
    /// Pictures of at most `most_bytes` bytes as files and `most_pixels` pixels.
    ///
    /// By URL they come only from `allowed_hosts`: `example.org`, `*.example.org` for
    /// all hosts below that one, either with `:port` where it is not the scheme's own;
    /// none where the list is empty. A whole fetch takes at most `timeout`.
    ///
    /// [`Error::Invalid`] about `image-hosts` where a host is none.
    pub fn new(
        allowed_hosts: &[String],
        most_bytes: usize,
        most_pixels: usize,
        timeout: Duration,
    ) -> Result<Self> {
        let limits = (most_bytes, most_pixels, timeout);
        Self::build(allowed_hosts, limits, DefaultResolver::default(), is_public)
    }

    fn build(
        allowed_hosts: &[String],
        (most_bytes, most_pixels, timeout): (usize, usize, Duration),
        lookup: impl Resolver,
        permits: fn(IpAddr) -> bool,
    ) -> Result<Self> {
        Ok(Sources {
            most_bytes,
            most_pixels,
            fetcher: Fetcher::new(allowed_hosts, timeout, lookup, permits)?,
        })
    }

    /// The bytes that the text of `field` stands for: base64 (standard or URL alphabet,
    /// padded or not, white space is skipped), a base64 data URL, or an http or https
    /// URL. Waits for the network in that last case.
    ///
    /// [`Error::Invalid`] whatever is wrong; it quotes no more of `text` than a URL's
    /// host and path.
    pub fn bytes(&self, field: &str, text: &str) -> Result<Vec<u8>> {
        let text = text.trim();
        if let Some(rest) = inline::after(text, "data:") {
            return inline::data_url(field, rest, self.most_bytes);
        }
        if ["http://", "https://"]
            .iter()
            .any(|start| inline::after(text, start).is_some())
        {
            return self.fetcher.fetch(field, text, self.most_bytes);
        }
        if is_other_url(text) {
            let allowed = "send the picture as base64, or an http or https URL if this \
                           service allows its host";
            return Err(Error::invalid(field, "a URL of another scheme", allowed));
        }
        inline::base64(field, text, self.most_bytes)
    }

    /// The picture in a file that was uploaded as `field`, see
    /// [`Picture::from_bytes_noting`].
    pub fn picture_from(
        &self,
        field: &str,
        bytes: &[u8],
        notes: &mut Vec<String>,
    ) -> Result<Picture> {
        self.size(field, bytes)?;
        Picture::from_bytes_noting(field, bytes, notes)
    }

    /// The mask in a file that was uploaded as `field`, see [`Mask::read`].
    pub fn mask_from(
        &self,
        field: &str,
        bytes: &[u8],
        reading: MaskReading,
        notes: &mut Vec<String>,
    ) -> Result<Mask> {
        self.size(field, bytes)?;
        Mask::read(field, bytes, reading, notes)
    }

    /// Width and height of the picture in a file that was uploaded as `field`, by its
    /// header. Refuses what is too large, before its pixels take memory.
    pub fn size(&self, field: &str, bytes: &[u8]) -> Result<(usize, usize)> {
        require_at_most(field, bytes.len(), self.most_bytes)?;
        let (width, height) = Picture::size_of(field, bytes)?;
        if width.saturating_mul(height) <= self.most_pixels {
            return Ok((width, height));
        }
        let size = format!("{width}x{height} pixels");
        let allowed = format!(
            "at most {} are taken in all; scale the picture down and try again",
            self.most_pixels
        );
        Err(Error::invalid(field, size, allowed))
    }
}

/// Whether `text` starts as a URL does: a colon and two slashes after a word.
fn is_other_url(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.split_once("://")
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(word))
}

#[cfg(test)]
mod tests;
