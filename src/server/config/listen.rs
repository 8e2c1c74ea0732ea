//! Where the service listens, as the operator writes it.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

const EXAMPLES: &str = "write 127.0.0.1:7860, [::1]:7860, localhost:7860, a port alone, \
     or unix:/run/calotype.sock";

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Listen {
    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Tcp(address) => address.ip().is_loopback(),
            Listen::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl TryFrom<String> for Listen {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Listen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let refused = || Error::invalid("listen", format!("{text:?}"), EXAMPLES);
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() {
                true => Err(refused()),
                false => Ok(Listen::Unix(path.into())),
            };
        }
        if let Ok(port) = text.parse::<u16>() {
            return Ok(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], port))));
        }
        if let Ok(address) = text.parse() {
            return Ok(Listen::Tcp(address));
        }
        let mut addresses = text.to_socket_addrs().map_err(|_| refused())?;
        addresses.next().map(Listen::Tcp).ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, wanted) in [
            ("127.0.0.1:7860", "127.0.0.1:7860"),
            ("[::1]:7860", "[::1]:7860"),
            ("7926", "127.0.0.1:7926"),
            ("unix:/run/calotype.sock", "unix:/run/calotype.sock"),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), wanted);
        }
        assert!("localhost:7926".parse::<Listen>().unwrap().is_local());
        for text in ["", "unix:", "here", "1.2.3.4", "127.0.0.1:99999"] {
            let message = text.parse::<Listen>().unwrap_err().to_string();
            assert!(message.contains("127.0.0.1:7860"), "{message}");
        }
    }
}
