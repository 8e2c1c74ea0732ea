//! Tables that can be pasted into an issue.

use super::table::{self, figures, time};
use super::{Report, Row, Suite};

type Column = (&'static str, bool, fn(&Report, &Row) -> String);

const SUBJECT: &[Column] = &[("", false, |_, row| row.subject.name.clone())];

const PEAKS: &[Column] = &[
    ("rate", true, |_, row| rate(row)),
    ("± spread", true, |_, row| percent(row.summary.spread)),
    ("time of one", true, |_, row| time(row.summary.median)),
    ("runs", true, |_, row| row.samples.len().to_string()),
    ("note", false, |_, row| text(&row.note)),
];

const KERNELS: &[Column] = &[
    ("shape", false, |_, row| text(&row.subject.shape)),
    ("storage", false, |_, row| text(&row.subject.storage)),
    ("variant", false, |_, row| text(&row.subject.variant)),
    ("median", true, |_, row| time(row.summary.median)),
    ("± spread", true, |_, row| percent(row.summary.spread)),
    ("rate", true, |_, row| rate(row)),
    ("of peak", true, |_, row| share(row.share_of_peak)),
    ("error", true, |_, row| {
        row.error.map_or(String::new(), |e| format!("{e:.0e}"))
    }),
    ("note", false, |_, row| text(&row.note)),
];

const MODEL: &[Column] = &[
    ("model", false, |_, row| text(&row.subject.model)),
    ("dtype", false, |_, row| text(&row.subject.storage)),
    ("size", false, |_, row| text(&row.subject.shape)),
    ("batch", true, |_, row| number(row.subject.batch)),
    ("steps", true, |_, row| number(row.subject.steps)),
    ("median", true, |_, row| time(row.summary.median)),
    ("± spread", true, |_, row| percent(row.summary.spread)),
    ("it/s", true, |_, row| figures(1.0 / row.summary.median)),
    ("TFLOP/s", true, |_, row| {
        row.tera_operations().map_or(String::new(), figures)
    }),
    ("of peak", true, |_, row| share(row.share_of_peak)),
    ("GB/s", true, |_, row| {
        row.giga_bytes().map_or(String::new(), figures)
    }),
    ("peak MiB", true, |_, row| {
        let bytes = row.device_bytes;
        bytes.map_or(String::new(), |b| format!("{:.0}", b as f64 / 1048576.0))
    }),
];

const STEP: &[Column] = &[
    ("dispatches", true, |_, row| figure(row, "dispatches")),
    ("time in all", true, |_, row| time(row.summary.median)),
    ("share", true, |_, row| {
        share(row.figures.get("share").copied())
    }),
    ("rate", true, |_, row| rate(row)),
    ("of peak", true, |_, row| share(row.share_of_peak)),
];

const SERVE: &[Column] = &[
    ("clients", true, |_, row| number(row.subject.batch)),
    ("size", false, |_, row| text(&row.subject.shape)),
    ("steps", true, |_, row| number(row.subject.steps)),
    ("pictures", true, |_, row| row.samples.len().to_string()),
    ("a minute", true, |_, row| {
        figure(row, "pictures_per_minute")
    }),
    ("p50 s", true, |_, row| figures(row.summary.median)),
    ("p95 s", true, |_, row| figure(row, "p95_seconds")),
    ("p99 s", true, |_, row| figure(row, "p99_seconds")),
    ("queue p50 s", true, |_, row| {
        figure(row, "queue_p50_seconds")
    }),
    ("queue p95 s", true, |_, row| {
        figure(row, "queue_p95_seconds")
    }),
    ("refused", true, |_, row| figure(row, "refused")),
];

/// Title of the first column, and the other columns.
fn columns(suite: Suite) -> (&'static str, &'static [Column]) {
    match suite {
        Suite::Peaks => ("peak", PEAKS),
        Suite::Kernels => ("kernel", KERNELS),
        Suite::Model => ("stage", MODEL),
        Suite::Step => ("kernel of a UNet forward", STEP),
        Suite::Decode => ("kernel of a VAE decode", STEP),
        Suite::Serve => ("service", SERVE),
    }
}

/// A table of each suite there is, then one line of what they were measured with.
pub(super) fn print(report: &Report) -> String {
    let suites = [
        Suite::Peaks,
        Suite::Kernels,
        Suite::Model,
        Suite::Step,
        Suite::Decode,
        Suite::Serve,
    ];
    let mut parts = vec![format!(
        "**{}** ({}, {})",
        report.device.adapter, report.device.backend, report.device.driver_info
    )];
    for suite in suites {
        let rows: Vec<&Row> = report.of(suite).collect();
        if !rows.is_empty() {
            parts.push(suite_table(report, suite, &rows));
        }
    }
    parts.extend(noise(report));
    parts.extend(report.notes.iter().cloned());
    parts.push(foot(report));
    parts.join("\n\n")
}

fn suite_table(report: &Report, suite: Suite, rows: &[&Row]) -> String {
    let (title, others) = columns(suite);
    // Columns that say nothing of these rows are left out.
    let told = |column: &&Column| rows.iter().any(|row| !column.2(report, row).is_empty());
    let all: Vec<&Column> = SUBJECT.iter().chain(others.iter().filter(told)).collect();
    let heads: Vec<&str> = all
        .iter()
        .map(|(head, ..)| match *head {
            "" => title,
            head => head,
        })
        .collect();
    let numbers = all.iter().enumerate().filter(|(_, column)| column.1);
    let numbers: Vec<usize> = numbers.map(|(i, _)| i).collect();
    let cells = rows
        .iter()
        .map(|row| all.iter().map(|(_, _, cell)| cell(report, row)).collect());
    table::markdown(&heads, &numbers, cells.collect())
}

/// Rows whose figures should not be trusted far.
fn noise(report: &Report) -> Option<String> {
    let told: Vec<String> = report
        .rows
        .iter()
        .filter(|row| row.subject.suite != Suite::Serve)
        .filter_map(|row| Some((row, row.summary.warning()?)))
        .map(|(row, warning)| format!("{} ({warning})", row.subject.label()))
        .collect();
    let more = told.len().saturating_sub(5);
    let rest = match more {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let some = told.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
    (!told.is_empty()).then(|| {
        format!("Noisy, by more than 5 %: {some}{rest}. Close other programs and run it again.")
    })
}

/// Versions, driver, system, runs.
fn foot(report: &Report) -> String {
    let (device, system) = (&report.device, &report.system);
    let samples = report.rows.iter().map(|row| row.samples.len());
    let (least, most) = (samples.clone().min(), samples.max());
    let runs = match (least, most) {
        (Some(least), Some(most)) if least != most => format!("{least} to {most} runs"),
        (Some(count), _) => format!("{count} runs"),
        _ => "no runs".into(),
    };
    let variables = system.environment.iter();
    let variables = variables.map(|(name, value)| format!(" · {name}={value}"));
    format!(
        "calotype {} ({}) · {} {} · {}, {} · {}, {} cores · {runs} · {}{}",
        report.program.version,
        report.program.commit,
        device.driver,
        device.driver_info,
        system.os,
        system.kernel,
        system.processor,
        system.cores,
        report.date,
        variables.collect::<String>()
    )
}

fn text(text: &Option<String>) -> String {
    text.clone().unwrap_or_default()
}

fn number(number: Option<usize>) -> String {
    number.map_or(String::new(), |n| n.to_string())
}

fn figure(row: &Row, name: &str) -> String {
    row.figures.get(name).map_or(String::new(), |x| figures(*x))
}

fn percent(x: f64) -> String {
    format!("{:.1} %", 100.0 * x)
}

fn share(share: Option<f64>) -> String {
    share.map_or(String::new(), |x| format!("{:.0} %", 100.0 * x))
}

fn rate(row: &Row) -> String {
    let operations = row.tera_operations().filter(|x| *x > 0.0);
    match (operations, row.giga_bytes()) {
        (Some(tera), _) if tera < 1.0 => format!("{} GOP/s", figures(tera * 1e3)),
        (Some(tera), _) => format!("{} TOP/s", figures(tera)),
        (None, Some(giga)) => format!("{} GB/s", figures(giga)),
        (None, None) => String::new(),
    }
}
