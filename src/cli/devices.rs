//! `calotype devices`.

use super::output;
use anyhow::Result;
use calotype::pipeline::{Device, devices};
use serde::Serialize;
use std::fmt::Write;

/// List the GPUs that can draw
#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct List {
    devices: Vec<Device>,
}

/// Lists the adapters.
pub fn run(args: &Args) -> Result<()> {
    let devices = devices()?;
    match args.json {
        true => output::json(&List { devices }),
        false => {
            let text: Vec<_> = devices.iter().map(describe).collect();
            output::line(&text.join("\n"))
        }
    }
}

fn describe(device: &Device) -> String {
    let mut text = format!(
        "{}: {} ({}, {}, driver {})",
        device.index, device.name, device.backend, device.kind, device.driver
    );
    for (name, value) in &device.limits {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n    {name}: {value}");
    }
    for (kernel, variant) in &device.variants {
        let _ = write!(text, "\n    {kernel} uses {variant}");
    }
    if !device.features.is_empty() {
        let _ = write!(text, "\n    features: {}", device.features.join(", "));
    }
    text
}
