//! What the benches have in common: how samples are taken, and where the report goes.

use crate::cli::output;
use crate::cli::version::COMMIT;
use anyhow::Result;
use calotype::Error;
use calotype::bench::chart::{roofline, step};
use calotype::bench::measure::{Manner, REPETITIONS};
use calotype::bench::report::{DeviceFacts, Format, Program, Report, Row, SCHEMA, SystemFacts};
use calotype::gpu::Gpu;
use calotype::picture::write_file;
use std::path::PathBuf;

/// How samples are taken.
#[derive(clap::Args, Clone)]
pub struct SampleArgs {
    /// Samples of each figure, after one that warms up
    #[arg(long, default_value_t = REPETITIONS as u16, value_parser = clap::value_parser!(u16).range(5..=1000))]
    repetitions: u16,

    /// Whose time counts: the device's, or the processor's (for adapters that are CPUs,
    /// on machines that do other things as well)
    #[arg(long, default_value = "device", value_parser = ["device", "processor"])]
    clock: String,
}

impl SampleArgs {
    pub fn manner(&self) -> Manner {
        Manner {
            repetitions: self.repetitions.into(),
            by_processor: self.clock == "processor",
        }
    }
}

/// How the report is printed, and where it goes.
#[derive(clap::Args, Clone)]
pub struct OutputArgs {
    /// How the report is printed: a Markdown table, or with every sample
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "md", value_parser = FORMATS)]
    format: String,

    #[command(flatten)]
    pub files: FileArgs,
}

/// As [`OutputArgs`] where `-o` names ops.
#[derive(clap::Args, Clone)]
pub struct LongOutputArgs {
    /// How the report is printed: a Markdown table, or with every sample
    #[arg(long, value_name = "FORMAT", default_value = "md", value_parser = FORMATS)]
    format: String,

    #[command(flatten)]
    pub files: FileArgs,
}

const FORMATS: [&str; 4] = ["md", "csv", "json", "jsonl"];

/// Files that a report is written to.
#[derive(clap::Args, Clone)]
pub struct FileArgs {
    /// Write the report as JSON to this file as well, for `calotype bench compare`
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,

    /// Draw it: the roofline, or where a step's time goes
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Print what to paste into an issue to get it into docs/results.md; nothing is sent
    #[arg(long)]
    submit: bool,
}

/// What a report's picture shows.
pub enum Chart {
    Roofline,
    Step,
}

impl OutputArgs {
    /// Prints and writes `report`.
    pub fn finish(&self, report: &Report, chart: Chart) -> Result<()> {
        self.files.finish(report, &self.format, chart)
    }
}

impl LongOutputArgs {
    /// Prints and writes `report`.
    pub fn finish(&self, report: &Report, chart: Chart) -> Result<()> {
        self.files.finish(report, &self.format, chart)
    }
}

impl FileArgs {
    /// Whether a picture is wanted.
    pub fn draws(&self) -> bool {
        self.svg.is_some()
    }

    /// Fails where a picture is wanted of what has none, and says what has.
    pub fn refuse_chart(&self, allowed: &str) -> calotype::Result<()> {
        match &self.svg {
            Some(path) => Err(Error::invalid("svg", path.display(), allowed)),
            None => Ok(()),
        }
    }

    fn finish(&self, report: &Report, format: &str, chart: Chart) -> Result<()> {
        let json = report.print(Format::Json)?;
        if let Some(path) = &self.save {
            write_file(path, format!("{json}\n").as_bytes())?;
        }
        if let Some(path) = &self.svg {
            let svg = match chart {
                Chart::Roofline => roofline(report)?,
                Chart::Step => step(report)?,
            };
            write_file(path, svg.as_bytes())?;
        }
        if self.submit {
            return output::line(&submission(report, &json)?);
        }
        let format: Format = format.parse().map_err(anyhow::Error::msg)?;
        output::line(&report.print(format)?)
    }
}

/// Where results are sent.
const ISSUES: &str = "the project's issues";

/// The text of an issue.
fn submission(report: &Report, json: &str) -> Result<String> {
    let title = format!(
        "Results: {} ({}, {})",
        report.device.adapter, report.device.backend, report.device.driver_info
    );
    let table = report.print(Format::Markdown)?;
    Ok(format!(
        "Paste this into {ISSUES}, or add the JSON to docs/results/ in a pull request.\n\n{title}\n\n{table}\n\n<details><summary>JSON</summary>\n\n```json\n{json}\n```\n\n</details>"
    ))
}

/// A report of what `measure` finds on `gpu`.
pub fn report(gpu: &Gpu, rows: Vec<Row>, notes: Vec<String>, date: String) -> Report {
    Report {
        schema: SCHEMA,
        program: Program {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: COMMIT.into(),
        },
        date,
        command: command(),
        device: DeviceFacts::of(gpu),
        system: SystemFacts::here(),
        rows,
        notes,
    }
}

/// The program's arguments; of paths only the last part, as a report is made to be shown.
fn command() -> String {
    let plain = |word: String| match word.rsplit_once(['/', '\\']) {
        Some((_, name)) => name.to_string(),
        None => word,
    };
    let words: Vec<String> = std::env::args().skip(1).map(plain).collect();
    let words = shlex::try_join(words.iter().map(String::as_str));
    format!("calotype {}", words.unwrap_or_default())
}

/// The time in UTC.
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Says on stderr what was measured.
pub fn told(row: &Row) {
    let seconds = row.summary.median;
    let spread = 100.0 * row.summary.spread;
    eprintln!("{}: {seconds:.3e} s ± {spread:.1} %", row.subject.label());
}
