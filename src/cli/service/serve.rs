//! `calotype serve`.

use super::broker::BrokerArgs;
use super::models::ModelArgs;
use anyhow::Result;
use calotype::server::ledger::Place;
use calotype::server::{Config, Listen, LogFormat, Network, PublicUrl, Role, Setup, serve};
use calotype::{Error, encoding};
use figment::Figment;
use figment::error::Kind;
use figment::providers::Serialized;
use serde::Serialize;
use std::path::PathBuf;

/// Serve pictures over HTTP
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,

    /// A configuration file (TOML) of the values below, named as the flags are
    #[arg(long, env = "CALOTYPE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    values: Values,
}

/// What may also stand in the configuration file; flags and environment win.
#[derive(clap::Args, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Service")]
struct Values {
    /// Where to listen: an address, a port, or unix:PATH [default: 127.0.0.1:7860]
    #[arg(long, env = "CALOTYPE_LISTEN", value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<Listen>,

    /// A certificate (PEM), to speak TLS; SIGHUP reads it again
    #[arg(
        long,
        env = "CALOTYPE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert: Option<PathBuf>,

    /// Its key (PEM)
    #[arg(
        long,
        env = "CALOTYPE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key: Option<PathBuf>,

    /// Keys and credits (see calotype keys): a file, or postgres://user@host/database, whose
    /// password may be in PGPASSWORD; anybody is served without. --keys means the same
    #[arg(
        long,
        alias = "keys",
        env = "CALOTYPE_LEDGER",
        hide_env_values = true,
        value_name = "PLACE"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    ledger: Option<Place>,

    #[command(flatten)]
    #[serde(flatten)]
    broker: BrokerArgs,

    /// Serve other machines although nobody needs a key
    #[arg(long, env = "CALOTYPE_INSECURE")]
    #[serde(skip_serializing_if = "is_false")]
    insecure: bool,

    /// How many requests may wait [default: 32]
    #[arg(long, env = "CALOTYPE_QUEUE", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<u64>,

    /// How many of one key may wait [default: half of --queue]
    #[arg(long, env = "CALOTYPE_QUEUE_PER_KEY", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_per_key: Option<u64>,

    /// Seconds after which a request is given up [default: 600]
    #[arg(long, env = "CALOTYPE_TIMEOUT", value_name = "S")]
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,

    /// Fewest steps of the sdxl-torch API [default: 20]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    api_min_steps: Option<u64>,

    /// Most steps of the sdxl-torch API [default: 100]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    api_max_steps: Option<u64>,

    /// Let the sdxl-torch API take other sizes than the model's own
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    api_any_size: bool,

    /// Steps where a request is silent [default: what the model asks for]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    default_steps: Option<u64>,

    /// Most steps of any request [default: 150]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_steps: Option<u64>,

    /// Most pictures of any request [default: 10]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_samples: Option<u64>,

    /// Most pixels of a picture [default: four times the model's own]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_pixels: Option<u64>,

    /// Largest cache_interval of any request; 1 allows no reuse [default: 5]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_cache_interval: Option<u64>,

    /// Most bytes of a request's body [default: 50331648]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_body: Option<u64>,

    /// Whether a step is drawn before the service says that it is ready [default: true]
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    #[serde(skip_serializing_if = "Option::is_none")]
    warm_up: Option<bool>,

    /// Most bytes of a prompt [default: 16384]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_prompt: Option<u64>,

    /// Most bytes of all requests' bodies in memory at a time [default: 536870912]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bodies: Option<u64>,

    /// Most pixels of a picture that is sent [default: 33554432]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_input_pixels: Option<u64>,

    /// Seconds for a request's head, and for an idle connection [default: 30]
    #[arg(long, value_name = "S")]
    #[serde(skip_serializing_if = "Option::is_none")]
    read_timeout: Option<u64>,

    /// Seconds for what runs when the service is asked to stop [default: 600]
    #[arg(long, value_name = "S")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<u64>,

    /// Most connections [default: 1024]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections: Option<u64>,

    /// Most connections of one address [default: 512]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections_per_address: Option<u64>,

    /// An address or network of a proxy whose X-Forwarded headers are believed; may be
    /// given again
    #[arg(long = "trusted-proxy", value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trusted_proxies: Vec<Network>,

    /// A name by which this service may be asked without keys, beside addresses and names
    /// without a dot; may be given again
    #[arg(long = "host", value_name = "NAME")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<String>,

    /// A host that pictures may be fetched from by URL; may be given again
    #[arg(long = "image-host", value_name = "HOST")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    image_hosts: Vec<String>,

    /// An origin whose pages may call this service, * for all; may be given again
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cors_origins: Vec<String>,

    /// The address that clients see, for links in answers
    #[arg(long, env = "CALOTYPE_PUBLIC_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    public_url: Option<PublicUrl>,

    /// Where results of jobs are kept [default: a temporary folder]
    #[arg(long, env = "CALOTYPE_RESULTS", value_name = "FOLDER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<PathBuf>,

    /// For how many seconds results are kept [default: 3600]
    #[arg(long, value_name = "S")]
    #[serde(skip_serializing_if = "Option::is_none")]
    results_for: Option<u64>,

    /// How many bytes of results are kept [default: 1073741824]
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    results_most: Option<u64>,

    /// A folder of LoRAs, for <lora:name:weight> in prompts
    #[arg(long, env = "CALOTYPE_LORA_DIR", value_name = "FOLDER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lora_dir: Option<PathBuf>,

    /// More styles, as `calotype generate` takes them
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    styles_file: Option<PathBuf>,

    /// The log's form: text or json
    #[arg(long, env = "CALOTYPE_LOG_FORMAT", value_parser = ["text", "json"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Args {
    /// The file's values under the flags'.
    fn config(&self) -> Result<Config> {
        let mut figment = Figment::from(Serialized::defaults(Config::default()));
        if let Some(path) = &self.config {
            if !path.is_file() {
                let remedy = "name a TOML file that is there";
                return Err(Error::file(path, "is no file", remedy).into());
            }
            let text = encoding::read(path, "name a TOML file that can be read")?;
            let file: toml::Table = toml::from_str(&text)
                .map_err(|e| anyhow::anyhow!("configuration: {}: {e}", path.display()))?;
            figment = figment.merge(Serialized::defaults(file));
        }
        // The older name in the environment wins over the file, as all variables do.
        if self.values.ledger.is_none()
            && let Some(place) = super::keys::older_name()
        {
            figment = figment.merge(Serialized::default("ledger", place));
        }
        let config: Config = figment
            .merge(Serialized::defaults(&self.values))
            .extract()
            .map_err(|e| {
                if let Kind::UnknownField(_, known) = &e.kind {
                    let (key, known) = (e.path.join("."), known.iter().copied());
                    return anyhow::anyhow!(
                        "configuration: {}",
                        Error::unknown("key", &key, known)
                    );
                }
                // The profile's name is figment's matter.
                let text = e.to_string().replace("\"default.", "\"");
                anyhow::anyhow!("configuration: {text}")
            })?;
        config.check()?;
        Ok(config)
    }
}

/// Serves until it is told to stop.
pub fn run(args: &Args) -> Result<()> {
    let config = args.config()?;
    crate::cli::start_log("info", config.log == LogFormat::Json);
    let (load, more) = args.models.all_load_options()?;
    if config.place().is_none() && !config.listen.is_local() {
        tracing::warn!(
            "anybody who reaches {} may draw: there are no keys",
            config.listen
        );
    }
    let setup = Setup {
        load,
        more,
        adapters: args.models.adapters()?,
        role: match config.broker {
            Some(_) => Role::Front,
            None => Role::Whole,
        },
        config,
    };
    serve(setup, |address| {
        // Nobody may be reading; the service goes on.
        let _ = crate::cli::output::line(&format!("listening on {address}"));
    })?;
    Ok(())
}
