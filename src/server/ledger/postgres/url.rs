//! The URL of a database, and what it asks for.

use super::tls::{Roots, Trust};
use crate::{Error, Result};
use std::fmt;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];
const SHAPE: &str = "must be as postgres://user:password@host:5432/database?sslmode=verify-full";
/// What is asked of every session. Names without a schema are ours, times are UTC.
const OPTIONS: &str = "-c search_path=calotype -c timezone=UTC -c client_min_messages=warning \
                       -c default_transaction_isolation=read\\ committed \
                       -c statement_timeout=2000 -c lock_timeout=1800 \
                       -c idle_in_transaction_session_timeout=10000";

/// A URL of `postgres://`. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

/// What a URL asks for.
pub(super) struct Wanted {
    pub config: Config,
    pub trust: Trust,
}

impl Url {
    /// The text, where it begins as such a URL does.
    pub(in crate::server::ledger) fn recognize(text: &str) -> Option<Self> {
        let ours = SCHEMES.iter().any(|scheme| text.starts_with(scheme));
        ours.then(|| Self(text.to_owned()))
    }

    /// With its password.
    pub(in crate::server::ledger) fn whole(&self) -> &str {
        &self.0
    }

    /// Whether it makes sense; connects to nothing.
    ///
    /// # Errors
    /// It names no server, or a parameter that is unknown or out of range.
    pub(in crate::server::ledger) fn check(&self) -> Result<()> {
        self.read().map(drop)
    }

    /// # Errors
    /// Those of [`Url::check`].
    pub(super) fn read(&self) -> Result<Wanted> {
        let invalid = |problem: String| Error::invalid("ledger", self, problem);
        let (plain, tls) = self.split();
        let mut config: Config = plain.parse().map_err(|error: tokio_postgres::Error| {
            let why = std::error::Error::source(&error).map(ToString::to_string);
            invalid(format!("{} ({SHAPE})", why.unwrap_or(error.to_string())))
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(invalid(format!("names no server; {SHAPE}")));
        }
        if !sound(&config) {
            let why = "has more than one @; write one in a password as %40";
            return Err(invalid(why.into()));
        }
        let trust = tls.trust(&mut config).map_err(invalid)?;
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        set_defaults(&mut config);
        Ok(Wanted { config, trust })
    }

    /// The URL as the driver knows it, and the parameters that it does not know.
    fn split(&self) -> (String, Parameters<'_>) {
        let mut tls = Parameters::default();
        let Some((base, query)) = self.0.split_once('?') else {
            return (self.0.clone(), tls);
        };
        let rest = query.split('&').filter(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "sslmode" => tls.mode = Some(value),
                "sslrootcert" => tls.root = Some(value),
                _ => return true,
            }
            false
        });
        let rest: Vec<&str> = rest.collect();
        let mark = if rest.is_empty() { "" } else { "?" };
        (format!("{base}{mark}{}", rest.join("&")), tls)
    }
}

/// What a URL says of TLS.
#[derive(Default)]
struct Parameters<'a> {
    mode: Option<&'a str>,
    root: Option<&'a str>,
}

impl Parameters<'_> {
    /// As libpq reads them, except that a certificate is checked whole or not at all.
    fn trust(&self, config: &mut Config) -> Result<Trust, String> {
        let root = self.root.map(|root| match root {
            "system" => Ok(Roots::System),
            "" => Err("sslrootcert is empty; name a PEM file, or system".to_owned()),
            path => percent_encoding::percent_decode_str(path)
                .decode_utf8()
                .map(|path| Roots::File(path.into_owned().into()))
                .map_err(|_| "sslrootcert is no UTF-8".to_owned()),
        });
        let root = root.transpose()?;
        let (mode, trust) = match (self.mode, root) {
            (Some("disable"), None) => (SslMode::Disable, Trust::Anybody),
            (Some("prefer") | None, None) => (SslMode::Prefer, Trust::Anybody),
            (Some("require"), None) => (SslMode::Require, Trust::Anybody),
            (Some("verify-full"), None) => (SslMode::Require, Trust::Known(Roots::System)),
            (Some("require" | "verify-full") | None, Some(root)) => {
                (SslMode::Require, Trust::Known(root))
            }
            (Some(mode @ ("disable" | "prefer")), Some(_)) => {
                return Err(format!("sslrootcert needs sslmode=verify-full, not {mode}"));
            }
            (Some(other), _) => {
                return Err(format!(
                    "sslmode={other} is unknown; choose disable, prefer, require or verify-full"
                ));
            }
        };
        config.ssl_mode(mode);
        Ok(trust)
    }
}

/// Whether no part of a password was taken for a host.
fn sound(config: &Config) -> bool {
    let hosts = config.get_hosts();
    !hosts.iter().any(|host| name(host).contains('@'))
}

fn name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    }
}

/// Bounds every wait for a server that is away, where the URL does not.
fn set_defaults(config: &mut Config) {
    const PATIENCE: Duration = Duration::from_secs(2);
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(PATIENCE);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(5 * PATIENCE);
    }
    if config.get_application_name().is_none() {
        config.application_name("calotype");
    }
    config.keepalives_idle(15 * PATIENCE);
    let given = config.get_options().unwrap_or_default();
    config.options(format!("{OPTIONS} {given}").trim_end());
}

impl fmt::Display for Url {
    /// User, servers and database; nothing where they cannot be told from a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plain, _) = self.split();
        let config = plain.parse::<Config>().ok().filter(sound);
        let Some(config) = config else {
            return f.write_str("postgres://...");
        };
        f.write_str(SCHEMES[0])?;
        if let Some(user) = config.get_user() {
            write!(f, "{user}@")?;
        }
        for (index, host) in config.get_hosts().iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let port = config.get_ports().get(index).or(config.get_ports().first());
            write!(f, "{comma}{}", name(host))?;
            port.map_or(Ok(()), |port| write!(f, ":{port}"))?;
        }
        config
            .get_dbname()
            .map_or(Ok(()), |database| write!(f, "/{database}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::recognize(text).unwrap()
    }

    #[test]
    fn passwords_are_never_shown() {
        for (given, shown) in [
            (
                "postgres://ada:pa55@db:5433/keys?sslmode=require",
                "postgres://ada@db:5433/keys",
            ),
            (
                "postgresql://ada:pa55@a,b:1/keys",
                "postgres://ada@a:5432,b:1/keys",
            ),
            (
                "postgres://ada:pa55@db/keys?password=pa55",
                "postgres://ada@db:5432/keys",
            ),
            ("postgres://ada:1@pa55@db/keys", "postgres://..."),
            ("postgres://ada:pa55", "postgres://..."),
            ("postgres://ada:pa55@db/keys?pa55", "postgres://..."),
        ] {
            let url = url(given);
            assert_eq!(url.to_string(), shown);
            let error = url.check().err().map(|error| error.to_string());
            assert!(!error.unwrap_or_default().contains("pa55"), "{given}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (given, why) in [
            ("postgres:///keys", "names no server"),
            ("postgres://ada:1@pa55@db/keys", "%40"),
            ("postgres://db/keys?sslmode=verify-ca", "verify-full"),
            (
                "postgres://db/keys?sslmode=prefer&sslrootcert=a.pem",
                "not prefer",
            ),
            ("postgres://db/keys?sslrootcert=", "sslrootcert is empty"),
            ("postgres://db/keys?colour=red", "colour"),
            ("postgres://db:port/keys", "port"),
        ] {
            let message = url(given).check().unwrap_err().to_string();
            assert!(message.starts_with("ledger is postgres://"), "{message}");
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn tls_is_as_strict_as_it_is_asked_for() {
        let root = |name: &str| Trust::Known(Roots::File(name.into()));
        for (query, mode, trust) in [
            ("", SslMode::Prefer, Trust::Anybody),
            ("?sslmode=disable", SslMode::Disable, Trust::Anybody),
            ("?sslmode=require", SslMode::Require, Trust::Anybody),
            (
                "?sslmode=verify-full",
                SslMode::Require,
                Trust::Known(Roots::System),
            ),
            (
                "?sslmode=require&sslrootcert=a%20b.pem",
                SslMode::Require,
                root("a b.pem"),
            ),
            ("?sslrootcert=a.pem", SslMode::Require, root("a.pem")),
        ] {
            let wanted = url(&format!("postgres://db/keys{query}")).read().unwrap();
            assert_eq!(
                (wanted.config.get_ssl_mode(), wanted.trust),
                (mode, trust),
                "{query}"
            );
        }
    }
}
