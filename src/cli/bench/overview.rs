//! `calotype bench` alone: what fits into a minute and a half.

use super::common::{self, Chart, OutputArgs, SampleArgs};
use crate::cli::device::DeviceArgs;
use crate::cli::{checked_model, interrupt};
use anyhow::Result;
use calotype::Error;
use calotype::bench::model::{self, Wanted};
use calotype::bench::peaks;
use calotype::bench::roofs::Roofs;
use calotype::pipeline::{Observer, Pipeline};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint; random:sdxl-base is the real architecture without any file
    #[arg(long, default_value = "random:sdxl-base")]
    model: String,

    /// About how long it may take; where the adapter is too slow for 1024x1024 pixels and
    /// 20 steps, smaller pictures of fewer steps are drawn, or none, and the report says so
    #[arg(long, default_value = "90", value_parser = clap::value_parser!(u32).range(10..=86400))]
    seconds: u32,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    samples: SampleArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Sides of pictures and steps that are tried, the largest first; no steps, no pictures.
const TRIED: [(usize, Option<usize>); 10] = [
    (1024, Some(20)),
    (1024, Some(10)),
    (1024, Some(4)),
    (768, Some(4)),
    (512, Some(4)),
    (256, Some(4)),
    (128, Some(2)),
    (64, Some(2)),
    (64, Some(1)),
    (64, None),
];

/// Of the peak rate, what a model is taken to reach: 20 % on an H200, 11 to 20 % on
/// lavapipe.
const SHARE: f64 = 0.15;

pub fn run(args: &Args) -> Result<()> {
    let cancel = interrupt::install();
    let (date, start) = (common::now(), Instant::now());
    let mut observer = Observer {
        events: &mut |_| {},
        cancel: &cancel,
        trace: None,
        preview_every: 0,
    };
    let model = checked_model(&args.model)?.to_owned();
    let options = args.device.load_options(model)?;
    let mut pipeline = Pipeline::load(&options, &mut observer)?;
    let gpu = pipeline.gpu().clone();
    let cancelled = || cancel.is_cancelled();
    let manner = args.samples.manner();
    let mut rows = peaks::run(&gpu, manner, &cancelled, &mut common::told)?;
    let roofs = Roofs::of(rows.iter());
    let roofs = roofs.ok_or_else(|| Error::internal("bench", "no peaks"))?;
    let rate = SHARE * roofs.arithmetic(Some(&pipeline.storage_name()));
    let left = f64::from(args.seconds) - start.elapsed().as_secs_f64();
    let native = pipeline.native_size();
    let whole = native.0.max(native.1);
    let fits = |(side, steps): &(usize, Option<usize>)| {
        let size = [*side; 2];
        *side <= whole && model::estimate(&pipeline, size, *steps, manner, rate) < left
    };
    let found = TRIED.into_iter().find(fits);
    let (side, steps) = found.unwrap_or(TRIED[TRIED.len() - 1]);
    let mut notes = Vec::new();
    if (side, steps) != TRIED[0] {
        let what = match steps {
            None => "UNet steps alone and no whole pictures".to_string(),
            Some(1) => "one step".into(),
            Some(steps) => format!("{steps} steps"),
        };
        notes.push(format!(
            "{side}x{side} pixels, {what}: 1024x1024 and 20 steps would take this adapter longer than {} s (--seconds).",
            args.seconds
        ));
    }
    let wanted = Wanted {
        sizes: vec![[side; 2]],
        batches: vec![1],
        steps: steps.into_iter().collect(),
        profile: args.output.files.draws(),
    };
    let new = model::run(
        &mut pipeline,
        &wanted,
        manner,
        &mut observer,
        &mut common::told,
    )?;
    rows.extend(new);
    roofs.apply(&mut rows);
    let report = common::report(&gpu, rows, notes, date);
    args.output.finish(&report, Chart::Step)
}
