//! A page of many reports: what people sent, side by side.

use super::report::{Report, Row, Suite, table};
use crate::{Error, Result};
use std::path::Path;

/// The reports of all `.json` files in `folder`, by adapter and date.
///
/// # Errors
/// [`Error::File`] where the folder cannot be read, has none, or one is no report.
pub fn read(folder: &Path) -> Result<Vec<Report>> {
    const REMEDY: &str = "give a folder of files that `calotype bench -o json` wrote";
    let fail = |problem: String| Error::file(folder, problem, REMEDY);
    let mut reports = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| fail(e.to_string()))? {
        let path = entry.map_err(|e| fail(e.to_string()))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            reports.push(Report::open(&path)?);
        }
    }
    if reports.is_empty() {
        return Err(fail("it has no .json file".into()));
    }
    let key = |r: &Report| (r.device.adapter.clone(), r.date.clone());
    reports.sort_by_key(key);
    Ok(reports)
}

type Cells = Vec<Vec<String>>;

/// The page, in Markdown.
pub fn page(reports: &[Report]) -> String {
    let steps: Cells = reports.iter().flat_map(steps).collect();
    let peaks: Cells = reports.iter().filter_map(peaks).collect();
    let sources = reports.iter().map(|report| {
        format!(
            "- {} ({}, {}): `{}`, calotype {} ({}), {}, {}, {} cores, {}",
            report.device.adapter,
            report.device.backend,
            report.device.driver_info,
            report.command,
            report.program.version,
            report.program.commit,
            report.system.os,
            report.system.processor,
            report.system.cores,
            report.date
        )
    });
    let mut parts = vec![INTRODUCTION.to_string()];
    if !steps.is_empty() {
        let heads = [
            "adapter",
            "model",
            "dtype",
            "size",
            "batch",
            "stage",
            "median",
            "± spread",
            "it/s",
            "TFLOP/s",
            "of peak",
            "peak MiB",
        ];
        parts.push("## SDXL".into());
        parts.push(table::markdown(&heads, &[4, 6, 7, 8, 9, 10, 11], steps));
    }
    if !peaks.is_empty() {
        let heads = [
            "adapter",
            "f32",
            "f16",
            "best matrix",
            "int8 dot",
            "memory",
            "shared memory",
            "launch",
        ];
        parts.push("## What the adapters do at the most".into());
        parts.push(table::markdown(&heads, &[1, 2, 3, 4, 5, 6, 7], peaks));
    }
    parts.push("## Measured with".into());
    parts.push(sources.collect::<Vec<_>>().join("\n"));
    parts.join("\n\n") + "\n"
}

const INTRODUCTION: &str = "\
# Results

What `calotype bench` found on adapters, from the files in [results](results). To add
yours, run `calotype bench --submit` and paste what it prints into an issue; the program
sends nothing. This page is written by `calotype bench results docs/results`; figures of
a GPU from before this form are in [gpu.md](gpu.md).";

fn text(text: &Option<String>) -> String {
    text.clone().unwrap_or_default()
}

fn steps(report: &Report) -> Cells {
    let cells = |row: &Row| {
        let number = |x: Option<f64>| x.map_or(String::new(), table::figures);
        vec![
            report.device.adapter.clone(),
            text(&row.subject.model),
            text(&row.subject.storage),
            text(&row.subject.shape),
            row.subject.batch.map_or(String::new(), |n| n.to_string()),
            match row.subject.steps {
                Some(steps) => format!("{}, {steps} steps", row.subject.name),
                None => row.subject.name.clone(),
            },
            table::time(row.summary.median),
            format!("{:.1} %", 100.0 * row.summary.spread),
            table::figures(1.0 / row.summary.median),
            number(row.tera_operations()),
            row.share_of_peak
                .map_or(String::new(), |x| format!("{:.0} %", 100.0 * x)),
            row.device_bytes
                .map_or(String::new(), |b| format!("{:.0}", b as f64 / 1_048_576.0)),
        ]
    };
    report.of(Suite::Model).map(cells).collect()
}

fn peaks(report: &Report) -> Option<Vec<String>> {
    let rows: Vec<&Row> = report.of(Suite::Peaks).collect();
    if rows.is_empty() {
        return None;
    }
    let best = |start: &str, of: fn(&Row) -> Option<f64>, unit: &str| {
        let named = rows
            .iter()
            .filter(|row| row.subject.name.starts_with(start));
        let rates = named.filter_map(|row| of(row));
        let most = rates.fold(0.0, f64::max);
        match most > 0.0 {
            true => format!("{} {unit}", table::figures(most)),
            false => "none".into(),
        }
    };
    let launch = rows
        .iter()
        .find(|row| row.subject.name.starts_with("launch, one"));
    Some(vec![
        report.device.adapter.clone(),
        best("f32", Row::tera_operations, "TOP/s"),
        best("f16", Row::tera_operations, "TOP/s"),
        best("matrix", Row::tera_operations, "TOP/s"),
        best("int8", Row::tera_operations, "TOP/s"),
        best("memory", Row::giga_bytes, "GB/s"),
        best("shared", Row::giga_bytes, "GB/s"),
        launch.map_or(String::new(), |row| table::time(row.summary.median)),
    ])
}
