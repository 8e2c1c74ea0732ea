//! What the operator says: every value of the configuration file, the flags and
//! the environment, under one name each.

use super::broker_url::BrokerUrl;
use super::listen::Listen;
use super::network::Network;
use super::price::Price;
use super::public_url::PublicUrl;
use crate::pipeline::LoadOptions;
use crate::pipeline::request::{CACHE_INTERVAL, SAMPLES, SIZES, STEPS};
use crate::server::ledger::Place;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The service's settings, as a configuration file has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    pub listen: Listen,
    /// PEM files of a certificate and its key: with them the service speaks TLS itself.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// Where keys and credits are, a file or a PostgreSQL server's database; without it
    /// anybody is served.
    pub ledger: Option<Place>,
    /// The older name of `ledger`, which wins.
    pub keys: Option<Place>,
    /// Workers draw that are found there, and none of this process' devices.
    pub broker: Option<BrokerUrl>,
    /// A file of the broker's credentials.
    pub broker_credentials: Option<PathBuf>,
    /// A PEM file of the authority that signed the broker's certificate.
    pub broker_ca: Option<PathBuf>,
    /// Seconds that a worker may be silent before its task is given to another one.
    pub lease: u64,
    /// Anybody is served even from other machines.
    pub insecure: bool,
    /// How many requests may wait.
    pub queue: usize,
    /// How many of one key may wait; half of `queue` where silent.
    pub queue_per_key: Option<usize>,
    /// Seconds from a request's arrival after which it is given up.
    pub timeout: u64,
    /// The range of `num_inference_steps` in the `sdxl-torch` API.
    pub api_min_steps: usize,
    pub api_max_steps: usize,
    /// Whether that API takes other sizes than the model's native one.
    pub api_any_size: bool,
    /// Steps where a request is silent; what the model asks for where this is silent.
    pub default_steps: Option<usize>,
    /// At every front door.
    pub max_steps: usize,
    pub max_samples: usize,
    /// 1 allows no reuse of the UNet's deep layers.
    pub max_cache_interval: usize,
    /// Width times height; four times the model's native size where silent.
    pub max_pixels: Option<usize>,
    /// Width times height of a picture that is sent.
    pub max_input_pixels: usize,
    /// Bytes of each prompt.
    pub max_prompt: usize,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Bytes of all requests' bodies that are in memory at a time.
    pub max_bodies: usize,
    /// Seconds for a request's headers, and between two pieces of its body.
    pub read_timeout: u64,
    /// Connections in all, and of one address.
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    /// Addresses and networks whose `X-Forwarded-` headers are believed.
    pub trusted_proxies: Vec<Network>,
    /// Names by which an open service may be asked, beside addresses and local names.
    pub hosts: Vec<String>,
    /// Hosts that pictures may be fetched from by URL.
    pub image_hosts: Vec<String>,
    /// Origins whose pages may call this service; `*` for all.
    pub cors_origins: Vec<String>,
    /// The address that clients see, for links; what they asked for where silent.
    pub public_url: Option<PublicUrl>,
    /// Where results of jobs are kept; a folder for the time of the run where silent.
    pub results: Option<PathBuf>,
    /// Seconds.
    pub results_for: u64,
    /// Bytes.
    pub results_most: u64,
    /// Draws a picture of one step before it says that it is ready.
    pub warm_up: bool,
    /// Seconds for a running request when the service is asked to stop.
    pub stop_timeout: u64,
    pub lora_dir: Option<PathBuf>,
    pub styles_file: Option<PathBuf>,
    pub price: Price,
    pub log: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 7860))),
            tls_cert: None,
            tls_key: None,
            ledger: None,
            keys: None,
            broker: None,
            broker_credentials: None,
            broker_ca: None,
            lease: 30,
            insecure: false,
            queue: 32,
            queue_per_key: None,
            timeout: 600,
            api_min_steps: 20,
            api_max_steps: 100,
            api_any_size: false,
            default_steps: None,
            max_steps: 150,
            max_samples: 10,
            max_cache_interval: 5,
            max_pixels: None,
            max_input_pixels: 32 << 20,
            max_prompt: 16 << 10,
            max_body: 48 << 20,
            max_bodies: 512 << 20,
            read_timeout: 30,
            max_connections: 1024,
            max_connections_per_address: 512,
            trusted_proxies: Vec::new(),
            hosts: Vec::new(),
            image_hosts: Vec::new(),
            cors_origins: Vec::new(),
            public_url: None,
            results: None,
            results_for: 3600,
            results_most: 1 << 30,
            warm_up: true,
            stop_timeout: 600,
            lora_dir: None,
            styles_file: None,
            price: Price::default(),
            log: LogFormat::Text,
        }
    }
}

/// What a request may ask for.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Of the `sdxl-torch` API.
    pub api_steps: (usize, usize),
    pub api_any_size: bool,
    pub default_steps: Option<usize>,
    pub max_steps: usize,
    pub max_samples: usize,
    pub max_cache_interval: usize,
    pub max_pixels: Option<usize>,
    /// Bytes of each prompt.
    pub max_prompt: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Config::default().limits()
    }
}

impl Limits {
    /// Width times height of a picture of a model of `native` size.
    pub fn most_pixels(&self, native: (usize, usize)) -> usize {
        /// Twice the native side.
        const TIMES: usize = 4;
        self.max_pixels.unwrap_or(TIMES * native.0 * native.1)
    }
}

impl Config {
    pub fn limits(&self) -> Limits {
        Limits {
            api_steps: (self.api_min_steps, self.api_max_steps),
            api_any_size: self.api_any_size,
            default_steps: self.default_steps,
            max_steps: self.max_steps,
            max_samples: self.max_samples,
            max_cache_interval: self.max_cache_interval,
            max_pixels: self.max_pixels,
            max_prompt: self.max_prompt,
        }
    }

    /// Where keys and credits are.
    pub fn place(&self) -> Option<&Place> {
        self.ledger.as_ref().or(self.keys.as_ref())
    }

    /// Waiting requests of one key.
    pub fn per_key(&self) -> usize {
        let half = self.queue.div_ceil(2);
        match (self.queue_per_key, self.place()) {
            (Some(most), _) => most,
            (None, Some(_)) => half,
            // All requests have one owner then.
            (None, None) => self.queue,
        }
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Refuses what makes no sense, by the name of the value.
    pub fn check(&self) -> Result<()> {
        let steps = STEPS.into_inner();
        let samples = SAMPLES.into_inner();
        let interval = CACHE_INTERVAL.into_inner();
        let counts = [
            ("queue", self.queue, (1, 10_000)),
            ("queue-per-key", self.per_key(), (1, 10_000)),
            ("timeout", self.timeout as usize, (1, 86_400)),
            ("api-min-steps", self.api_min_steps, steps),
            ("api-max-steps", self.api_max_steps, steps),
            ("default-steps", self.default_steps.unwrap_or(1), steps),
            ("max-steps", self.max_steps, steps),
            ("max-samples", self.max_samples, samples),
            ("max-cache-interval", self.max_cache_interval, interval),
            (
                "max-pixels",
                self.max_pixels.unwrap_or(SIZES.start().pow(2)),
                (SIZES.start().pow(2), SIZES.end().pow(2)),
            ),
            ("max-input-pixels", self.max_input_pixels, (64, 1 << 28)),
            ("max-prompt", self.max_prompt, (64, 1 << 20)),
            ("max-body", self.max_body, (1024, 1 << 30)),
            ("max-bodies", self.max_bodies, (1024, 1 << 40)),
            ("read-timeout", self.read_timeout as usize, (1, 3600)),
            ("max-connections", self.max_connections, (8, 1 << 20)),
            (
                "max-connections-per-address",
                self.max_connections_per_address,
                (1, 1 << 20),
            ),
            ("results-for", self.results_for as usize, (1, 31_536_000)),
            ("stop-timeout", self.stop_timeout as usize, (1, 86_400)),
            ("lease", self.lease as usize, (2, 3600)),
        ];
        for (field, value, (least, most)) in counts {
            if !(least..=most).contains(&value) {
                let allowed = format!("must be from {least} to {most}");
                return Err(Error::invalid(field, value, allowed));
            }
        }
        for (field, least, most) in [
            ("api-min-steps", self.api_min_steps, self.api_max_steps),
            ("api-min-steps", self.api_min_steps, self.max_steps),
            (
                "default-steps",
                self.default_steps.unwrap_or(1),
                self.max_steps,
            ),
        ] {
            if least > most {
                let allowed = format!("must not be above the most steps, which are {most}");
                return Err(Error::invalid(field, least, allowed));
            }
        }
        if self.max_bodies < self.max_body {
            let allowed = format!("must not be below max-body, which is {}", self.max_body);
            return Err(Error::invalid("max-bodies", self.max_bodies, allowed));
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            let allowed = "needs the other of tls-cert and tls-key too";
            return Err(Error::invalid("tls", "half given", allowed));
        }
        self.cors_origins
            .iter()
            .try_for_each(|origin| check_origin(origin))?;
        self.price.check()?;
        self.place().map_or(Ok(()), Place::check)?;
        self.check_exposure(&self.listen)
    }

    /// Without keys, only this machine is served: refuses a place that others reach.
    pub fn check_exposure(&self, listen: &Listen) -> Result<()> {
        if self.place().is_some() || self.insecure || listen.is_local() {
            return Ok(());
        }
        let allowed = "is open to other machines, and nobody would need a key; add --ledger PLACE, \
                       or --insecure if that is meant";
        Err(Error::invalid("listen", listen, allowed))
    }
}

/// Refuses what no browser sends as `Origin`.
fn check_origin(origin: &str) -> Result<()> {
    let bare = origin.split_once("://").is_some_and(|(scheme, rest)| {
        let scheme = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_lowercase());
        let forbidden = |c: char| c.is_whitespace() || c.is_uppercase() || "/?#@".contains(c);
        scheme && !rest.is_empty() && !rest.contains(forbidden)
    });
    if origin == "*" || bare {
        return Ok(());
    }
    let allowed = "must be * or as browsers send it: https://app.example, in lower case, with a \
                   port if it has one, without a path or a slash at the end";
    Err(Error::invalid(
        "cors-origin",
        format!("{origin:?}"),
        allowed,
    ))
}

/// The model and the device, and the service's settings.
#[derive(Debug, Clone)]
pub struct Setup {
    pub config: Config,
    pub load: LoadOptions,
    /// Other models, which requests may name.
    pub more: Vec<LoadOptions>,
    /// The adapters that draw, each as [`LoadOptions::adapter`] names one; without any
    /// the one of `load`.
    pub adapters: Vec<String>,
    pub role: Role,
}

/// What this process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// It takes requests and draws them.
    #[default]
    Whole,
    /// It takes requests, and workers draw them.
    Front,
    /// It draws what front ends took.
    Worker,
}

impl Setup {
    /// How every model is loaded, the default one first.
    pub fn models(&self) -> impl Iterator<Item = &LoadOptions> {
        std::iter::once(&self.load).chain(&self.more)
    }

    /// [`Setup::models`] on the adapter of this place.
    pub fn models_on(&self, device: usize) -> Vec<LoadOptions> {
        let mut models: Vec<LoadOptions> = self.models().cloned().collect();
        if let Some(adapter) = self.adapters.get(device) {
            for options in &mut models {
                options.adapter = Some(adapter.clone());
            }
        }
        models
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_sound() {
        Config::default().check().unwrap();
    }

    #[test]
    fn without_keys_only_loopback_is_served() {
        let mut config = Config {
            listen: Listen::Tcp(SocketAddr::from(([0, 0, 0, 0], 7860))),
            ..Config::default()
        };
        let message = config.check().unwrap_err().to_string();
        assert!(
            message.starts_with("listen is 0.0.0.0:7860: is open"),
            "{message}"
        );
        config.insecure = true;
        config.check().unwrap();
        config.insecure = false;
        config.keys = Some("keys.db".into());
        config.check().unwrap();
        config.ledger = Some("postgres://ada:pa55@db/keys?sslmode=loud".into());
        let message = config.check().unwrap_err().to_string();
        assert!(message.contains("sslmode=loud"), "{message}");
        assert!(!format!("{message}{config:?}").contains("pa55"));
    }

    #[test]
    fn origins_that_never_match_are_refused() {
        for (origin, sound) in [
            ("*", true),
            ("https://app.example", true),
            ("http://localhost:3000", true),
            ("https://app.example/", false),
            ("https://App.example", false),
            ("app.example", false),
            ("not an origin", false),
            ("", false),
        ] {
            assert_eq!(check_origin(origin).is_ok(), sound, "{origin}");
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        let config = Config {
            queue: 0,
            ..Config::default()
        };
        let message = config.check().unwrap_err().to_string();
        assert_eq!(message, "queue is 0: must be from 1 to 10000");
        let config = Config {
            max_steps: 10,
            ..Config::default()
        };
        assert!(
            config
                .check()
                .unwrap_err()
                .to_string()
                .contains("api-min-steps is 20")
        );
    }
}
