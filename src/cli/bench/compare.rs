//! `calotype bench compare`.

use crate::cli::output;
use anyhow::Result;
use calotype::bench::compare::{Compared, Comparison, compare};
use calotype::bench::report::Report;
use calotype::bench::report::table;
use calotype::bench::statistics::{CONFIDENCE, Verdict};
use std::path::PathBuf;
use std::process::ExitCode;

/// Whether B is slower than A: two reports of `calotype bench ... --save FILE`, row by row
#[derive(clap::Args)]
pub struct Args {
    /// The report before
    a: PathBuf,

    /// The report after
    b: PathBuf,

    /// Exit with 1 where a row is slower by more than this
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = percent)]
    fail_above: f64,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `5%` or `5` as 0.05.
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim();
    let value: Option<f64> = number.parse().ok();
    let value = value.filter(|x| (0.0..=1000.0).contains(x));
    value
        .map(|x| x / 100.0)
        .ok_or_else(|| "must be a percentage from 0 to 1000, such as 5%".into())
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let (a, b) = (Report::open(&args.a)?, Report::open(&args.b)?);
    let compared = compare((&args.a, &a), (&args.b, &b), args.fail_above)?;
    print(&compared, args.json)?;
    Ok(exit(compared.slower()))
}

/// 1 where something is slower.
pub fn exit(slower: usize) -> ExitCode {
    match slower {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// A table of what was compared, the most slowed first.
pub fn print(compared: &Comparison, json: bool) -> Result<()> {
    if json {
        return output::json(compared);
    }
    let mut rows: Vec<&Compared> = compared.rows.iter().collect();
    rows.sort_by(|a, b| b.ratio.ratio.total_cmp(&a.ratio.ratio));
    let cells = rows.iter().map(|row| {
        let [low, high] = row.ratio.interval;
        vec![
            row.subject.clone(),
            table::time(row.medians[0]),
            table::time(row.medians[1]),
            format!("{:.3}", row.ratio.ratio),
            format!("{low:.3} to {high:.3}"),
            format!("{:.4}", row.ratio.p),
            match row.verdict {
                Verdict::Faster => "faster".into(),
                Verdict::Same => "same".into(),
                Verdict::Slower => "slower".into(),
            },
        ]
    });
    let interval = format!("{:.0} % interval", 100.0 * CONFIDENCE);
    let heads = ["subject", "A", "B", "B / A", &interval, "p", "B is"];
    let mut lines = vec![table::markdown(&heads, &[1, 2, 3, 4, 5], cells.collect())];
    let only = [("A", &compared.only_a), ("B", &compared.only_b)];
    for (which, subjects) in only.into_iter().filter(|(_, s)| !s.is_empty()) {
        lines.push(format!("Only in {which}: {}", subjects.join("; ")));
    }
    lines.extend(compared.notes.iter().cloned());
    output::line(&lines.join("\n\n"))
}
