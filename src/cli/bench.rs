//! `calotype bench`.

use super::device::DeviceArgs;
use super::generate::whole;
use super::{interrupt, output};
use anyhow::Result;
use calotype::Error;
use calotype::pipeline::bench::Report;
use calotype::pipeline::{Observer, Pipeline, request};

/// Time the UNet of a checkpoint on a GPU, kernel by kernel
#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint; random:sdxl-base is the real architecture without any file
    #[arg(long, default_value = "random:sdxl-base")]
    model: String,

    /// Pixels, a multiple of 8 [default: the model's own]
    #[arg(long, value_parser = whole)]
    width: Option<i64>,

    /// Pixels, a multiple of 8 [default: the model's own]
    #[arg(long, value_parser = whole)]
    height: Option<i64>,

    /// Pictures a forward; a guided step takes 2
    #[arg(long, default_value = "2", value_parser = clap::value_parser!(u8).range(1..=64))]
    batch: u8,

    /// Forwards, of which the fastest counts
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repetitions: u16,

    #[command(flatten)]
    device: DeviceArgs,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Loads the UNet, runs it, says how long it took.
pub fn run(args: &Args) -> Result<()> {
    let cancel = interrupt::install();
    let model = super::checked_model(&args.model)?.to_owned();
    let options = args.device.load_options(model)?;
    let mut observer = Observer {
        events: &mut |_| {},
        cancel: &cancel,
        trace: None,
        preview_every: 0,
    };
    let pipeline = Pipeline::load(&options, &mut observer)?;
    let native = pipeline.native_size();
    let size = [
        side("width", args.width, native.0)?,
        side("height", args.height, native.1)?,
    ];
    let (batch, repetitions) = (args.batch.into(), args.repetitions.into());
    let report = pipeline.bench(size, batch, repetitions, &mut observer)?;
    match args.json {
        true => output::json(&report),
        false => output::line(&describe(&report)),
    }
}

/// A side in pixels, the model's own where it is not given.
pub fn side(field: &str, value: Option<i64>, native: usize) -> calotype::Result<usize> {
    let Some(value) = value else {
        return Ok(native);
    };
    usize::try_from(value)
        .ok()
        .filter(|v| request::SIZES.contains(v) && v % request::SIZE_STEP == 0)
        .ok_or_else(|| Error::invalid(field, value, "must be a multiple of 8 from 64 to 8192"))
}

fn describe(r: &Report) -> String {
    let seconds = |s: Option<f64>| s.map_or("unknown".into(), |s| format!("{s:.4} s"));
    let mut lines = vec![
        format!("{} ({}), {}", r.adapter, r.driver, r.model),
        format!(
            "UNet {}x{}, batch {}, weights {}, activations {}: {:.3} TFLOP",
            r.width, r.height, r.batch, r.weights, r.activations, r.tera_flop
        ),
        format!(
            "forward {:.4} s ({:.3} TFLOP/s), on the device {}, processor {}, {:.2} GB on the device",
            r.wall_seconds,
            r.tera_flop_per_second,
            seconds(r.device_seconds),
            seconds(r.cpu_seconds),
            r.device_bytes as f64 / 1e9
        ),
    ];
    for k in &r.kernels {
        lines.push(format!(
            "{:>5.1} % {:>9.4} s {:>5} x {:>9.1} GFLOP/s {:>8.2} GB/s  {}",
            100.0 * k.share,
            k.seconds,
            k.dispatches,
            k.gflop_per_second,
            k.gbyte_per_second,
            k.kernel
        ));
    }
    lines.join("\n")
}
