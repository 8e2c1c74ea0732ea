//! One line a row, the same columns for every suite; samples are kept, after one another
//! in one column.

use super::{Report, Row};
use serde::Serialize;

/// A line of the table. Times in seconds.
#[derive(Serialize)]
struct Line<'a> {
    date: &'a str,
    version: &'a str,
    commit: &'a str,
    adapter: &'a str,
    backend: &'a str,
    driver: &'a str,
    suite: String,
    name: &'a str,
    op: Option<&'a str>,
    shape: Option<&'a str>,
    storage: Option<&'a str>,
    variant: Option<&'a str>,
    model: Option<&'a str>,
    batch: Option<usize>,
    steps: Option<usize>,
    timed_by: String,
    median: f64,
    first_quartile: f64,
    third_quartile: f64,
    least: f64,
    most: f64,
    spread: f64,
    drift: f64,
    operations: Option<f64>,
    bytes: Option<f64>,
    tera_operations_per_second: Option<f64>,
    giga_bytes_per_second: Option<f64>,
    share_of_peak: Option<f64>,
    device_bytes: Option<u64>,
    error: Option<f64>,
    figures: String,
    note: Option<&'a str>,
    samples: String,
}

pub(super) fn print(report: &Report) -> Result<String, csv::Error> {
    let mut out = csv::Writer::from_writer(Vec::new());
    for row in &report.rows {
        out.serialize(line(report, row))?;
    }
    let bytes = out.into_inner().map_err(csv::IntoInnerError::into_error)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_end().to_string())
}

fn line<'a>(report: &'a Report, row: &'a Row) -> Line<'a> {
    let (subject, summary) = (&row.subject, &row.summary);
    let joined = |values: Vec<String>| values.join(" ");
    let figures = row.figures.iter().map(|(name, x)| format!("{name}={x}"));
    Line {
        date: &report.date,
        version: &report.program.version,
        commit: &report.program.commit,
        adapter: &report.device.adapter,
        backend: &report.device.backend,
        driver: &report.device.driver_info,
        suite: format!("{:?}", subject.suite).to_lowercase(),
        name: &subject.name,
        op: subject.op.as_deref(),
        shape: subject.shape.as_deref(),
        storage: subject.storage.as_deref(),
        variant: subject.variant.as_deref(),
        model: subject.model.as_deref(),
        batch: subject.batch,
        steps: subject.steps,
        timed_by: format!("{:?}", row.timed_by).to_lowercase(),
        median: summary.median,
        first_quartile: summary.quartiles[0],
        third_quartile: summary.quartiles[1],
        least: summary.least,
        most: summary.most,
        spread: summary.spread,
        drift: summary.drift,
        operations: row.work.operations,
        bytes: row.work.bytes,
        tera_operations_per_second: row.tera_operations(),
        giga_bytes_per_second: row.giga_bytes(),
        share_of_peak: row.share_of_peak,
        device_bytes: row.device_bytes,
        error: row.error,
        figures: joined(figures.collect()),
        note: row.note.as_deref(),
        samples: joined(row.samples.iter().map(f64::to_string).collect()),
    }
}
