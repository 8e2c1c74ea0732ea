//! Two reports, row by row: did it get slower?

use super::report::{Report, Suite};
use super::statistics::{Ratio, Verdict};
use crate::{Error, Result};
use serde::Serialize;
use std::path::Path;

/// One subject in both reports, or in two arms of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    pub subject: String,
    /// Medians of A and B, in seconds.
    pub medians: [f64; 2],
    #[serde(flatten)]
    pub ratio: Ratio,
    pub verdict: Verdict,
}

/// What two reports have in common.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Comparison {
    pub rows: Vec<Compared>,
    /// Subjects of only one of them.
    pub only_a: Vec<String>,
    pub only_b: Vec<String>,
    /// What makes the two harder to compare.
    pub notes: Vec<String>,
}

/// Compares `b` with `a`; the file names are for messages. A row is slower or faster where
/// it is so by more than `share`, as far as its interval tells.
///
/// # Errors
/// [`Error::File`] where the two are of different adapters, or have nothing in common.
pub fn compare(
    (a_path, a): (&Path, &Report),
    (b_path, b): (&Path, &Report),
    share: f64,
) -> Result<Comparison> {
    if !a.device.is_like(&b.device) {
        let problem = format!(
            "it is of {} ({}), and {} of {} ({})",
            b.device.adapter,
            b.device.backend,
            a_path.display(),
            a.device.adapter,
            a.device.backend
        );
        return Err(Error::file(
            b_path,
            problem,
            "compare reports of one adapter",
        ));
    }
    let mut compared = Comparison {
        rows: Vec::new(),
        only_a: Vec::new(),
        only_b: Vec::new(),
        notes: notes(a, b),
    };
    for row in &a.rows {
        let other = b.rows.iter().find(|other| other.subject == row.subject);
        let Some(other) = other else {
            compared.only_a.push(row.subject.label());
            continue;
        };
        if row.timed_by != other.timed_by {
            let (label, [a, b]) = (row.subject.label(), [row.timed_by, other.timed_by]);
            let note = format!("{label}: timed by {a:?} in A and by {b:?} in B, left out");
            compared.notes.push(note);
            continue;
        }
        let Some(ratio) = Ratio::of_sets(&row.samples, &other.samples) else {
            continue;
        };
        compared.rows.push(Compared {
            subject: row.subject.label(),
            medians: [row.summary.median, other.summary.median],
            ratio,
            verdict: ratio.verdict(share),
        });
    }
    let known = |row: &&super::report::Row| a.rows.iter().any(|r| r.subject == row.subject);
    let new = b.rows.iter().filter(|row| !known(row));
    compared.only_b = new.map(|row| row.subject.label()).collect();
    if compared.rows.is_empty() {
        let problem = format!("it has no row in common with {}", a_path.display());
        let remedy = "compare reports of the same bench";
        return Err(Error::file(b_path, problem, remedy));
    }
    Ok(compared)
}

fn notes(a: &Report, b: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    let mut differs = |what: &str, a: String, b: String| {
        if a != b {
            notes.push(format!("{what}: {a} in A, {b} in B"));
        }
    };
    let driver = |r: &Report| r.device.driver_info.clone();
    differs("driver", driver(a), driver(b));
    let version = |r: &Report| format!("{} ({})", r.program.version, r.program.commit);
    differs("calotype", version(a), version(b));
    let processor = |r: &Report| format!("{}, {} cores", r.system.processor, r.system.cores);
    differs("processor", processor(a), processor(b));
    let environment = |r: &Report| format!("{:?}", r.system.environment);
    differs("environment", environment(a), environment(b));
    let noisy = a.rows.iter().chain(&b.rows);
    let noisy = noisy.filter(|row| row.subject.suite != Suite::Serve);
    let noisy = noisy.filter(|row| row.summary.warning().is_some()).count();
    if noisy > 0 {
        notes.push(format!(
            "{noisy} rows are noisy by more than 5 %; `calotype bench ab` tells more on a busy machine"
        ));
    }
    notes
}

impl Comparison {
    /// Rows that are slower in B.
    pub fn slower(&self) -> usize {
        let rows = self.rows.iter();
        rows.filter(|row| row.verdict == Verdict::Slower).count()
    }
}
