//! Where the broker is, with the password that may stand there.

use crate::{Error, Result};
use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Such as `nats://user:password@host:4222`, or several with commas between them. It is
/// shown without name and password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BrokerUrl {
    text: String,
    servers: Vec<ServerAddr>,
}

impl BrokerUrl {
    /// The name and password of the first that has them.
    pub fn user(&self) -> Option<(String, String)> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let with = |server: &&ServerAddr| server.has_user_pass();
        let server = self.servers.iter().find(with)?;
        let password = server.password().unwrap_or_default();
        Some((decoded(server.username()?), decoded(password)))
    }

    pub fn servers(&self) -> Vec<ServerAddr> {
        self.servers.clone()
    }
}

impl FromStr for BrokerUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = |part: &&str| part.starts_with("nats://") || part.starts_with("tls://");
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let servers = parts.iter().map(|part| match known(part) {
            true => part.parse::<ServerAddr>().ok(),
            false => None,
        });
        match servers.collect::<Option<Vec<_>>>() {
            Some(servers) => Ok(Self {
                text: text.to_owned(),
                servers,
            }),
            // It may hold a password.
            None => {
                let allowed = "must be nats://HOST:PORT or tls://HOST:PORT, with USER:PASSWORD@ \
                               before the host where the server asks for it";
                Err(Error::invalid("broker", "no such address", allowed))
            }
        }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, server) in self.servers.iter().enumerate() {
            let (comma, scheme) = (if i > 0 { "," } else { "" }, server.scheme());
            write!(f, "{comma}{scheme}://{}:{}", server.host(), server.port())?;
        }
        Ok(())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<BrokerUrl> for String {
    fn from(url: BrokerUrl) -> Self {
        url.text
    }
}

impl TryFrom<String> for BrokerUrl {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::BrokerUrl;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let url: BrokerUrl = "nats://ada:s3cret@a:4333, tls://b".parse().unwrap();
        assert_eq!(url.to_string(), "nats://a:4333,tls://b:4222");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert_eq!(url.user().unwrap(), ("ada".into(), "s3cret".into()));
        let again: BrokerUrl = String::from(url.clone()).parse().unwrap();
        assert_eq!(again, url);
        for wrong in ["", "a:4222", "http://ada:s3cret@a", "nats://a,b"] {
            let said = wrong.parse::<BrokerUrl>().unwrap_err().to_string();
            assert!(
                said.contains("nats://HOST:PORT") && !said.contains("s3cret"),
                "{said}"
            );
        }
    }
}
