//! `calotype bench model`.

use super::common::{self, Chart, OutputArgs, SampleArgs};
use crate::cli::device::EngineArgs;
use crate::cli::{checked_model, interrupt};
use anyhow::Result;
use calotype::Error;
use calotype::bench::model::{self, Wanted};
use calotype::bench::peaks;
use calotype::bench::report::{Report, Row};
use calotype::bench::roofs::Roofs;
use calotype::pipeline::{Dtype, Observer, Pipeline, request};

/// SDXL's stages: every combination of sizes, batches, precisions and steps
#[derive(clap::Args, Clone)]
pub struct Args {
    /// A checkpoint; random:sdxl-base is the real architecture without any file
    #[arg(long, default_value = "random:sdxl-base")]
    model: String,

    /// Pixels: a side of square pictures, or WIDTHxHEIGHT; several with commas [default: the model's own]
    #[arg(long, value_delimiter = ',', value_parser = size, value_name = "SIZE")]
    sizes: Vec<[usize; 2]>,

    /// Pictures at a time, several with commas; a guided step has two halves for each
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u8).range(1..=32))]
    batch: Vec<u8>,

    /// Denoising steps of whole pictures, several with commas; 0 times the UNet alone
    #[arg(long, value_delimiter = ',', default_value = "20", value_parser = clap::value_parser!(u16).range(0..=1000))]
    steps: Vec<u16>,

    /// Precision of weights and activations, several with commas; auto takes f16 where the
    /// adapter has it, f32 on CPU adapters
    #[arg(long, value_delimiter = ',', default_value = "auto", value_parser = ["auto", "f32", "f16"], ignore_case = true)]
    dtype: Vec<String>,

    /// Do not measure the adapter's peaks first
    #[arg(long)]
    no_peaks: bool,

    /// Time the kernels of a UNet forward one by one as well
    #[arg(long)]
    profile: bool,

    #[command(flatten)]
    pub engine: EngineArgs,

    #[command(flatten)]
    pub samples: SampleArgs,

    #[command(flatten)]
    pub output: OutputArgs,
}

/// A square's side or WIDTHxHEIGHT.
fn size(text: &str) -> Result<[usize; 2], String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    let side = |text: &str| {
        let side = text.trim().parse::<usize>().ok();
        side.filter(|v| request::SIZES.contains(v) && v % request::SIZE_STEP == 0)
    };
    match (side(width), side(height)) {
        (Some(width), Some(height)) => Ok([width, height]),
        _ => Err("must be a multiple of 8 from 64 to 8192, or two of them as WIDTHxHEIGHT".into()),
    }
}

pub fn run(args: &Args) -> Result<()> {
    let cancel = interrupt::install();
    let date = common::now();
    let mut observer = Observer {
        events: &mut |_| {},
        cancel: &cancel,
        trace: None,
        preview_every: 0,
    };
    let mut rows: Vec<Row> = Vec::new();
    let mut report: Option<Report> = None;
    for dtype in &args.dtype {
        let model = checked_model(&args.model)?.to_owned();
        let mut options = args.engine.load_options(model)?;
        options.dtype = dtype.parse::<Dtype>()?;
        let mut pipeline = Pipeline::load(&options, &mut observer)?;
        let gpu = pipeline.gpu().clone();
        if report.is_none() && !args.no_peaks {
            let cancelled = || cancel.is_cancelled();
            let manner = args.samples.manner();
            rows.extend(peaks::run(&gpu, manner, &cancelled, &mut common::told)?);
        }
        let native: [usize; 2] = pipeline.native_size().into();
        let wanted = Wanted {
            sizes: match args.sizes.is_empty() {
                true => vec![native],
                false => args.sizes.clone(),
            },
            batches: args.batch.iter().map(|n| usize::from(*n)).collect(),
            steps: args
                .steps
                .iter()
                .map(|n| usize::from(*n))
                .filter(|n| *n > 0)
                .collect(),
            profile: args.profile || args.output.files.draws(),
        };
        let manner = args.samples.manner();
        let new = model::run(
            &mut pipeline,
            &wanted,
            manner,
            &mut observer,
            &mut common::told,
        )?;
        rows.extend(new);
        report.get_or_insert_with(|| common::report(&gpu, Vec::new(), Vec::new(), date.clone()));
    }
    let mut report = report.ok_or_else(|| Error::internal("bench", "no precision"))?;
    if let Some(roofs) = Roofs::of(rows.iter()) {
        roofs.apply(&mut rows);
    }
    report.rows = rows;
    args.output.finish(&report, Chart::Step)
}
