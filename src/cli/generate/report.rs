//! What `generate --json` prints.

use calotype::pipeline::{LoopStats, MemoryPlan, Output, Seconds, Settings};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// What `--json` prints.
#[derive(Serialize)]
pub struct Report<'a> {
    files: Vec<String>,
    seeds: &'a [u64],
    seconds: Stages,
    adapter: &'a str,
    backend: &'a str,
    dtype: &'a str,
    activations: &'a str,
    peak_device_bytes: u64,
    peak_reserved_bytes: u64,
    unet_device_bytes: u64,
    unet_shared_bytes: u64,
    memory: &'a MemoryPlan,
    #[serde(flatten)]
    stats: LoopStats,
    warnings: &'a [String],
    settings: Value,
    version: &'static str,
}

#[derive(Serialize)]
struct Stages {
    #[serde(flatten)]
    run: Seconds,
    write: f64,
}

impl<'a> Report<'a> {
    pub fn new(settings: &Settings<'_>, output: &'a Output, files: &[PathBuf], write: f64) -> Self {
        Report {
            files: files
                .iter()
                .map(|f| f.to_string_lossy().into_owned())
                .collect(),
            seeds: &output.seeds,
            seconds: Stages {
                run: output.seconds,
                write,
            },
            adapter: &output.adapter,
            backend: &output.backend,
            dtype: &output.dtype,
            activations: &output.activations,
            peak_device_bytes: output.peak_device_bytes,
            peak_reserved_bytes: output.peak_reserved_bytes,
            unet_device_bytes: output.unet_device_bytes,
            unet_shared_bytes: output.unet_shared_bytes,
            memory: &output.plan,
            stats: output.stats,
            warnings: &output.warnings,
            settings: settings.all(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}
