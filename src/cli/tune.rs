//! `calotype tune`.

use super::device::DeviceArgs;
use super::generate::whole;
use super::{interrupt, output};
use anyhow::Result;
use calotype::pipeline::{Observer, Pipeline, StepTime, Tuned, TuningSource};
use std::path::PathBuf;

/// Measure which kernels are fastest on a GPU, and keep the table for later runs
#[derive(clap::Args)]
pub struct Args {
    /// The checkpoint whose shapes are measured; random:sdxl-base needs no file
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

    /// Also time UNet steps of 1, 2 and 4 pictures at a time, by which it is decided how many
    /// are drawn together
    #[arg(long)]
    steps: bool,

    #[command(flatten)]
    device: DeviceArgs,

    /// Write the table to this file as well
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// Measures what the table lacks (with `--tuning force` everything), and prints it.
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
    let width = super::bench::side("width", args.width, native.0)?;
    let height = super::bench::side("height", args.height, native.1)?;
    let mut rows = Vec::new();
    let mut told = |tuned: Tuned| {
        eprintln!("{}", describe(&tuned));
        rows.push(tuned);
    };
    let batch = usize::from(args.batch);
    let size = [width, height];
    let mut table = pipeline.tune(size, batch, &observer, &mut told)?;
    if args.steps {
        let best = pipeline.tune_steps(size, &observer, &mut |step| {
            eprintln!("{}", describe_step(&step));
        })?;
        eprintln!("{width}x{height}: {}", describe_best(best));
        table = pipeline.tuning();
    }
    if let Some(path) = &args.output {
        table.save(path)?;
    }
    if args.json {
        return output::json(&table);
    }
    let mut lines: Vec<String> = table
        .entries
        .iter()
        .map(|(class, entry)| {
            let time = entry.microseconds;
            let time = time.map_or(String::new(), |us| format!(" {us:.1} us"));
            format!("{class:34} {:36}{time}", entry.variant)
        })
        .collect();
    for (class, times) in &table.steps {
        for (predictions, time) in times {
            lines.push(format!("{class} of {predictions}: {:.2} ms", time / 1e3));
        }
    }
    if lines.is_empty() {
        lines.push(match options.tuning {
            TuningSource::Off => "nothing is measured with --tuning off".into(),
            _ => "the kernels of this adapter leave nothing to choose".into(),
        });
    }
    output::line(&lines.join("\n"))
}

/// One call, for each of what it makes.
fn describe_step(step: &StepTime) -> String {
    let (all, count) = (step.seconds * 1e3, step.predictions);
    let each = all / count as f64;
    format!(
        "{} of {count}: {all:.2} ms, {each:.2} ms a prediction",
        step.class
    )
}

/// What is decided by the times of steps.
fn describe_best(best: Option<usize>) -> String {
    match best {
        Some(1) => "pictures with guidance are fastest one at a time".into(),
        Some(n) => format!("pictures with guidance are fastest {n} at a time"),
        None => "too few batches fit the device to say how many pictures are fastest".into(),
    }
}

/// One class, its best variants and what they do.
fn describe(tuned: &Tuned) -> String {
    let best = tuned.ranking.iter().take(3);
    let best: Vec<String> = best
        .map(|(variant, seconds)| {
            let rate = tuned.tera_flop / seconds;
            let digits = if rate < 10.0 { 4 } else { 1 };
            format!(
                "{variant} {:.1} us ({rate:.digits$} TFLOP/s)",
                seconds * 1e6
            )
        })
        .collect();
    format!("{}: {}", tuned.class, best.join(", "))
}
