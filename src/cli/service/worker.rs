//! `calotype worker`.

use super::broker::BrokerArgs;
use super::models::ModelArgs;
use anyhow::Result;
use calotype::Error;
use calotype::server::{Config, Listen, LogFormat, Role, Setup, serve};
use std::path::PathBuf;

/// Draw what front ends (calotype serve --broker) take in
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,

    #[command(flatten)]
    broker: BrokerArgs,

    /// Where to tell how it is: /healthz, /readyz and /metrics
    #[arg(
        long,
        env = "CALOTYPE_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7861"
    )]
    listen: Listen,

    /// A folder of LoRAs, with the names that the front ends' have
    #[arg(long, env = "CALOTYPE_LORA_DIR", value_name = "FOLDER")]
    lora_dir: Option<PathBuf>,

    /// Whether a step is drawn before the worker joins
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value = "true")]
    warm_up: bool,

    /// Seconds for what runs when the worker is asked to stop
    #[arg(long, value_name = "S", default_value = "600")]
    stop_timeout: u64,

    /// The log's form: text or json
    #[arg(long, env = "CALOTYPE_LOG_FORMAT", value_parser = ["text", "json"], default_value = "text")]
    log: String,
}

/// Draws until it is told to stop.
pub fn run(args: &Args) -> Result<()> {
    crate::cli::start_log("info", args.log == "json");
    if args.broker.broker.is_none() {
        let allowed = "a worker needs --broker nats://HOST:PORT, that of its front ends";
        return Err(Error::invalid("broker", "missing", allowed).into());
    }
    let (load, more) = args.models.all_load_options()?;
    let config = Config {
        listen: args.listen.clone(),
        // It tells nothing that needs a key.
        insecure: true,
        // It takes no more tasks than its devices draw.
        queue: 10_000,
        lora_dir: args.lora_dir.clone(),
        warm_up: args.warm_up,
        stop_timeout: args.stop_timeout,
        log: match &args.log[..] {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        ..args.broker.over(Config::default())
    };
    let setup = Setup {
        config,
        load,
        more,
        adapters: args.models.adapters()?,
        role: Role::Worker,
    };
    serve(setup, |address| {
        // Nobody may be reading; the worker goes on.
        let _ = crate::cli::output::line(&format!("listening on {address}"));
    })?;
    Ok(())
}
