//! The flags that say where the broker is.

use calotype::server::{BrokerUrl, Config};
use serde::Serialize;
use std::path::PathBuf;

#[derive(clap::Args, Serialize, Clone)]
#[serde(rename_all = "kebab-case")]
pub struct BrokerArgs {
    /// A NATS server with JetStream, such as nats://USER:PASSWORD@HOST:4222, through which
    /// the calotype workers draw that are started with it
    #[arg(
        long,
        env = "CALOTYPE_BROKER",
        value_name = "URL",
        hide_env_values = true,
        global = true
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerUrl>,

    /// A file of credentials for it
    #[arg(
        long,
        env = "CALOTYPE_BROKER_CREDENTIALS",
        value_name = "FILE",
        global = true
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    broker_credentials: Option<PathBuf>,

    /// The authority that signed its certificate (PEM)
    #[arg(long, env = "CALOTYPE_BROKER_CA", value_name = "FILE", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    broker_ca: Option<PathBuf>,

    /// Seconds that a worker may be silent before its task is given to another one
    /// [default: 30]
    #[arg(long, value_name = "S")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<u64>,
}

impl BrokerArgs {
    /// A configuration with these values.
    pub fn over(&self, config: Config) -> Config {
        Config {
            broker: self.broker.clone().or(config.broker),
            broker_credentials: self
                .broker_credentials
                .clone()
                .or(config.broker_credentials),
            broker_ca: self.broker_ca.clone().or(config.broker_ca),
            lease: self.lease.unwrap_or(config.lease),
            ..config
        }
    }
}
