//! Pictures by URL, from hosts that the operator allows and nowhere else.

use super::address::{Checked, NotPublic};
use super::host::{Host, HostRule, split_port};
use super::words::{at_most, quoted};
use crate::{Error, Result};
use std::net::IpAddr;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{StatusCode, Uri};
use ureq::unversioned::resolver::Resolver;
use ureq::unversioned::transport::DefaultConnector;

const FORMATS: &str = "image/png, image/jpeg, image/webp, image/bmp";
const USER_AGENT: &str = concat!("calotype/", env!("CARGO_PKG_VERSION"));
const REMEDY: &str = "check the URL, or send the picture as base64";

/// Fetches from allowed hosts.
#[derive(Debug)]
pub(super) struct Fetcher {
    rules: Vec<HostRule>,
    timeout: Duration,
    agent: Agent,
}

impl Fetcher {
    /// From `allowed_hosts`, with names looked up by `lookup` and only at addresses
    /// that `permits` takes.
    pub fn new(
        allowed_hosts: &[String],
        timeout: Duration,
        lookup: impl Resolver,
        permits: fn(IpAddr) -> bool,
    ) -> Result<Self> {
        let rules = allowed_hosts
            .iter()
            .map(|text| HostRule::read(text, permits));
        let config = Agent::config_builder()
            // A proxy would look names up itself, unchecked.
            .proxy(None)
            // A redirect would lead past the list of hosts.
            .max_redirects(0)
            // Every connection is to be looked up and checked anew.
            .max_idle_connections(0)
            .http_status_as_error(false)
            .timeout_global(Some(timeout))
            .user_agent(USER_AGENT)
            .accept(FORMATS)
            .build();
        let resolver = Checked { lookup, permits };
        Ok(Fetcher {
            rules: rules.collect::<Result<_>>()?,
            timeout,
            agent: Agent::with_parts(config, DefaultConnector::default(), resolver),
        })
    }

    /// The body, of at most `most` bytes, of what `url` names. Blocks.
    pub fn fetch(&self, field: &str, url: &str, most: usize) -> Result<Vec<u8>> {
        let uri = self.allowed(field, url)?;
        let shown = shown(&uri);
        let wrong = |allowed: String| Error::invalid(field, &shown, allowed);
        let failed = |error| wrong(self.reason(error, most));
        let mut response = self.agent.get(uri).call().map_err(failed)?;
        let status = response.status();
        if status.is_redirection() {
            let why = "it redirects to another URL, which is not followed; send the final URL, \
                       or the picture as base64";
            return Err(wrong(why.into()));
        }
        if status != StatusCode::OK {
            return Err(wrong(format!("its host answered {status}; {REMEDY}")));
        }
        let body = response.body_mut().with_config().limit(most as u64);
        body.read_to_vec().map_err(failed)
    }

    /// `url`, if pictures may be fetched from it. It is parsed once: what is checked
    /// here is what is fetched.
    fn allowed(&self, field: &str, url: &str) -> Result<Uri> {
        if self.rules.is_empty() {
            let allowed = "pictures by URL are not allowed here; send the picture as base64";
            return Err(Error::invalid(field, "a URL", allowed));
        }
        // A URL that cannot be read may have a password anywhere: none of it is shown.
        let unreadable = || {
            let allowed = "write it in full as https://host/path, with spaces and other \
                           letters percent-encoded; or send the picture as base64";
            Error::invalid(field, "a URL that cannot be read", allowed)
        };
        let uri: Uri = url.parse().map_err(|_| unreadable())?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(unreadable());
        };
        let wrong = |allowed: &str| Err(Error::invalid(field, shown(&uri), allowed));
        if authority.as_str().contains('@') {
            return wrong("must have no user name or password; use a public URL or send base64");
        }
        let usual = if scheme == "https" { 443 } else { 80 };
        let (host, port) = split_port(authority.as_str()).ok_or_else(unreadable)?;
        let port = port.unwrap_or(usual);
        let allows = |host: Host| {
            self.rules
                .iter()
                .any(|rule| rule.allows(&host, port, usual))
        };
        if Host::read(host).is_some_and(allows) {
            return Ok(uri);
        }
        wrong("pictures from this host or port are not allowed; send the picture as base64")
    }

    /// Why a fetch failed, and what to do.
    fn reason(&self, error: ureq::Error, most: usize) -> String {
        let why = match error {
            ureq::Error::BodyExceedsLimit(_) => return at_most(most),
            ureq::Error::Timeout(_) => {
                format!("its host took longer than {:?}", self.timeout)
            }
            ureq::Error::HostNotFound => "its host was not found".into(),
            ureq::Error::Other(other) if other.is::<NotPublic>() => format!("its host {NotPublic}"),
            // Some errors are of several lines.
            other => {
                let text = other.to_string();
                let text: Vec<_> = text.split_whitespace().collect();
                format!("it could not be fetched ({})", text.join(" "))
            }
        };
        format!("{why}; {REMEDY}")
    }
}

/// A URL for messages: without name, password and query, which may be secrets.
fn shown(uri: &Uri) -> String {
    let host = uri.authority().map(|authority| authority.as_str());
    let host = host.and_then(|host| host.rsplit('@').next());
    let (scheme, host) = (
        uri.scheme_str().unwrap_or_default(),
        host.unwrap_or_default(),
    );
    quoted(&format!("{scheme}://{host}{}", uri.path()))
}
