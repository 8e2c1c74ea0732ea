//! `calotype devices`.

use super::output;
use anyhow::Result;
use calotype::pipeline::{Device, devices};
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

fn describe(found: &Device) -> String {
    let device = &found.adapter;
    let mb = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    let tests = &found.self_tests;
    let failed = tests.failed.iter();
    let failed: String = failed
        .map(|(kernel, how)| format!("; {kernel} failed: {how}"))
        .collect();
    let table = match &found.tuning {
        Some(table) => format!("of {} shapes, driver {}", table.classes, table.driver),
        None => "none; calotype tune measures one".into(),
    };
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
        format!("kernels: {}", found.variants.join("; ")),
        format!("self-tests: {} passed{failed}", tests.passed),
        format!("table of the fastest kernels: {table}"),
    ];
    lines.join("\n    ")
}
