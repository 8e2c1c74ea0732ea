//! `calotype bench peaks`.

use super::common::{self, Chart, OutputArgs, SampleArgs};
use crate::cli::device::AdapterArgs;
use crate::cli::interrupt;
use anyhow::Result;
use calotype::bench::peaks;

/// What the adapter does at the most: arithmetic, matrices, memory, launches
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    adapter: AdapterArgs,

    #[command(flatten)]
    samples: SampleArgs,

    #[command(flatten)]
    output: OutputArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let allowed = "peaks alone make no chart; `calotype bench kernels` draws the roofline";
    args.output.files.refuse_chart(allowed)?;
    let cancel = interrupt::install();
    let date = common::now();
    let gpu = args.adapter.open()?;
    let cancelled = || cancel.is_cancelled();
    let rows = peaks::run(&gpu, args.samples.manner(), &cancelled, &mut common::told)?;
    let report = common::report(&gpu, rows, Vec::new(), date);
    args.output.finish(&report, Chart::Roofline)
}
