//! The address that clients see, where a proxy hides it from the service.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Such as `https://pictures.example/draw`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicUrl {
    /// Scheme, host and port, as browsers send it in `Origin`.
    origin: String,
    /// Empty, or begins with a slash; ends with none.
    path: String,
}

impl PublicUrl {
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn is_origin(&self, origin: &str) -> bool {
        self.origin == origin
    }

    /// The host without its port, in lower case.
    pub fn name(&self) -> String {
        name_of(self.origin.split_once("://").map_or("", |(_, host)| host))
    }
}

impl FromStr for PublicUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            let rest = ["http://", "https://"]
                .iter()
                .find_map(|scheme| text.strip_prefix(scheme))?;
            let host = rest.split('/').next()?;
            let sound = !text.contains(|c: char| c.is_whitespace() || "?#@".contains(c));
            let (origin, path) = text.split_at(text.len() - rest.len() + host.len());
            (sound && !host.is_empty()).then(|| PublicUrl {
                origin: origin.to_owned(),
                path: path.trim_end_matches('/').to_owned(),
            })
        };
        read().ok_or_else(|| {
            let allowed =
                "must be as clients see it: https://pictures.example, or below a path of it";
            Error::invalid("public-url", format!("{text:?}"), allowed)
        })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

impl From<PublicUrl> for String {
    fn from(url: PublicUrl) -> Self {
        url.to_string()
    }
}

impl TryFrom<String> for PublicUrl {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// A host without its port, in lower case.
pub fn name_of(host: &str) -> String {
    let end = match host.rfind(']') {
        Some(at) => at + 1,
        None => host.rfind(':').unwrap_or(host.len()),
    };
    let name = host.get(..end).unwrap_or(host);
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_once_for_all_its_uses() {
        let url: PublicUrl = "http://pictures.example:8080/draw/".parse().unwrap();
        assert_eq!(url.to_string(), "http://pictures.example:8080/draw");
        assert_eq!((url.path(), &url.name()[..]), ("/draw", "pictures.example"));
        assert!(url.is_origin("http://pictures.example:8080"));
        for other in ["http://pictures.example", "https://pictures.example:8080"] {
            assert!(!url.is_origin(other), "{other}");
        }
        let bare: PublicUrl = "https://pictures.example".parse().unwrap();
        assert_eq!(bare.path(), "");
        for text in [
            "pictures.example",
            "https://",
            "https:///draw",
            "https://a@b",
        ] {
            assert!(text.parse::<PublicUrl>().is_err(), "{text}");
        }
    }
}
