//! Rules for the hosts that pictures may be fetched from.

use crate::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const FIELD: &str = "image-hosts";
const ALLOWED: &str = "name hosts such as \"example.org\", \"*.example.org\" for all below it, \
     or \"example.org:8080\" for another port, without scheme or path";

/// The longest name of a host, and of one part of it, in bytes (RFC 1035).
const MOST_NAME: usize = 253;
const MOST_LABEL: usize = 63;

/// One host, or all below one, that pictures may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostRule {
    host: Host,
    /// Whether the hosts below are meant and not the host itself.
    below: bool,
    /// None stands for the scheme's own port.
    port: Option<u16>,
}

/// A host as rules and URLs compare: a name in small letters or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Name(String),
    Address(IpAddr),
}

impl Host {
    /// None where `text` is neither a name nor an address in its usual spelling. A
    /// name that ends in a number is an address in an unusual spelling.
    pub fn read(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            return Some(Host::Address(inner.parse::<Ipv6Addr>().ok()?.into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Host::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let last = name.rsplit('.').next().unwrap_or_default();
        let number = last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit());
        let good = name.len() <= MOST_NAME && name.split('.').all(is_label) && !number;
        good.then_some(Host::Name(name))
    }
}

fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MOST_LABEL).contains(&label.len()) && label.bytes().all(plain)
}

impl HostRule {
    /// Reads a rule; `permits` says which addresses may be named.
    pub fn read(text: &str, permits: fn(IpAddr) -> bool) -> Result<Self> {
        let wrong = |allowed: &str| Error::invalid(FIELD, super::words::quoted(text), allowed);
        let rest = text.trim();
        let (below, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (host, port) = split_port(rest).ok_or_else(|| wrong(ALLOWED))?;
        let host = Host::read(host).ok_or_else(|| wrong(ALLOWED))?;
        match host {
            Host::Address(_) if below => Err(wrong(ALLOWED)),
            Host::Address(address) if !permits(address) => Err(wrong(
                "pictures are fetched from public addresses only; name another host",
            )),
            host => Ok(HostRule { host, below, port }),
        }
    }

    /// Whether the rule allows `host` at `port`, where `usual` is the scheme's port.
    pub fn allows(&self, host: &Host, port: u16, usual: u16) -> bool {
        let named = match (host, &self.host) {
            (Host::Name(name), Host::Name(parent)) if self.below => name
                .strip_suffix(parent.as_str())
                .is_some_and(|start| start.len() > 1 && start.ends_with('.')),
            (host, own) => host == own,
        };
        named && port == self.port.unwrap_or(usual)
    }
}

/// A host and the port after it, if there is one; None where the port is no number
/// from 1 to 65535.
pub(super) fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    match text.rsplit_once(':') {
        // The colon is one of an address in brackets.
        Some((_, after)) if after.ends_with(']') => Some((text, None)),
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let port = port.parse().ok().filter(|port| *port > 0)?;
            Some((host, Some(port)))
        }
        Some(_) => None,
        None => Some((text, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rule: &str, host: &str, port: u16) -> bool {
        let rule = HostRule::read(rule, |_| true).unwrap();
        rule.allows(&Host::read(host).unwrap(), port, 443)
    }

    #[test]
    fn a_rule_allows_its_host_alone() {
        for (rule, host, port, expected) in [
            ("example.org", "example.org", 443, true),
            (" Example.ORG ", "eXample.org.", 443, true),
            ("example.org", "example.org", 8443, false),
            ("example.org", "www.example.org", 443, false),
            ("example.org", "badexample.org", 443, false),
            ("example.org", "example.org.evil.net", 443, false),
            ("example.org:8443", "example.org", 8443, true),
            ("example.org:8443", "example.org", 443, false),
            ("*.example.org", "a.example.org", 443, true),
            ("*.example.org", "a.b.example.org", 443, true),
            ("*.example.org", "example.org", 443, false),
            ("*.example.org", "badexample.org", 443, false),
            ("*.example.org:81", "a.example.org", 81, true),
            ("8.8.8.8", "8.8.8.8", 443, true),
            ("[2606:4700::1]:81", "[2606:4700:0:0::1]", 81, true),
            ("[2606:4700::1]", "[2606:4700::2]", 443, false),
        ] {
            assert_eq!(allows(rule, host, port), expected, "{rule} {host} {port}");
        }
    }

    #[test]
    fn bad_rules_name_the_setting() {
        let long = "a".repeat(64);
        for rule in [
            "",
            " ",
            "*",
            "*.",
            "*.*.org",
            "a.*.org",
            "https://example.org",
            "example.org/path",
            "me@example.org",
            "example.org:",
            "example.org:0",
            "example.org:65536",
            "example.org:+1",
            "example..org",
            ".example.org",
            "exa mple.org",
            "bücher.example",
            "2130706433",
            "0x7f.1",
            "1.2.3",
            "*.8.8.8.8",
            "::1",
            "[::1",
            "[zz]",
            &long,
            "127.0.0.1",
            "[::1]",
            "10.0.0.1:80",
        ] {
            let error = HostRule::read(rule, super::super::address::is_public).unwrap_err();
            assert!(error.is_usage());
            let message = error.to_string();
            assert!(
                message.starts_with("image-hosts is \""),
                "{rule}: {message}"
            );
        }
    }

    #[test]
    fn unusual_spellings_are_no_hosts() {
        for text in [
            "2130706433",
            "0x7f000001",
            "0177.1",
            "127.1",
            "a%2eb",
            "",
            "a..b",
            "[v1.x]",
        ] {
            assert_eq!(Host::read(text), None, "{text}");
        }
    }
}
