//! `calotype devices`.

use super::output;
use anyhow::Result;
use calotype::gpu::AdapterReport;
use calotype::pipeline::devices;
use serde::Serialize;

/// List the GPUs that can draw
#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct List {
    devices: Vec<AdapterReport>,
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

fn describe(device: &AdapterReport) -> String {
    let mb = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    let lines = [
        format!(
            "{}: {} ({}, {}, driver {})",
            device.index, device.name, device.backend, device.kind, device.driver
        ),
        format!(
            "limits: buffer {}, binding {}, workgroup {} invocations, {} bytes shared",
            mb(device.max_buffer_bytes),
            mb(device.max_binding_bytes),
            device.max_workgroup_invocations,
            device.max_workgroup_storage_bytes
        ),
        format!(
            "features: {}; subgroups of {} to {}",
            device.features.join(", "),
            device.subgroup_size[0],
            device.subgroup_size[1]
        ),
        format!("kernels: {}", device.variants.join("; ")),
    ];
    lines.join("\n    ")
}
