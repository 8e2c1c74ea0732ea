//! `calotype bench kernels`.

use super::common::{self, Chart, LongOutputArgs, SampleArgs};
use crate::cli::device::AdapterArgs;
use crate::cli::{interrupt, output};
use anyhow::{Context, Result};
use calotype::bench::kernels::timing::{Selection, plans};
use calotype::bench::kernels::{Bed, Case, Coverage, Outcome, Status, test};
use calotype::bench::measure::measure;
use calotype::bench::peaks;
use calotype::bench::report::table;
use calotype::bench::roofs::Roofs;
use calotype::gpu::{AdapterChoice, Gpu};
use calotype::shaders::SHADERS;
use calotype::{Error, error::Remedies};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Every kernel at SDXL's own shapes (a guided picture of 1024x1024), beside its error
/// against plain code; or, with --test, every kernel over small and odd shapes
#[derive(clap::Args, Clone)]
pub struct Args {
    /// Only cases whose name or shape holds one of these
    filter: Vec<String>,

    /// Only these ops, with commas: product (linear and conv), attention, group_norm, ...
    #[arg(short, long, value_delimiter = ',', value_name = "OPS")]
    op: Vec<String>,

    /// Other shapes than SDXL's, for one op: 2048x1280x1280 (rows, K, columns) of -o linear
    #[arg(long, value_delimiter = ',', value_name = "SHAPES")]
    shape: Vec<String>,

    /// all, or a part of a variant's name, such as "coop16 128x128" [default: what the
    /// adapter runs]
    #[arg(long)]
    variant: Option<String>,

    /// Only storages whose names hold this, such as f16
    #[arg(long)]
    storage: Option<String>,

    /// Fewer rows, for adapters that are CPUs
    #[arg(long)]
    quick: bool,

    /// Name the cases and stop
    #[arg(long)]
    list: bool,

    /// Measure times (the default)
    #[arg(long, conflicts_with = "test")]
    perf: bool,

    /// Compare every kernel with its twin over small and odd shapes, and say which of the
    /// program's shader permutations ran
    #[arg(long)]
    test: bool,

    /// Leave out the comparison with the twin at SDXL's shapes
    #[arg(long)]
    no_check: bool,

    /// Do not measure the adapter's peaks first
    #[arg(long)]
    no_peaks: bool,

    /// WGSL files in place of the program's shaders of the same names, which must stay
    /// within their bindings as those do
    #[arg(long, value_name = "FOLDER")]
    shaders: Option<PathBuf>,

    #[command(flatten)]
    adapter: AdapterArgs,

    #[command(flatten)]
    pub samples: SampleArgs,

    #[command(flatten)]
    output: LongOutputArgs,
}

impl Args {
    pub fn selection(&self) -> Selection {
        Selection {
            ops: self.op.clone(),
            filter: self.filter.clone(),
            shapes: self.shape.clone(),
            variant: self.variant.clone(),
            storage: self.storage.clone(),
            quick: self.quick,
            check: !self.no_check,
        }
    }

    /// The device, with the shaders of `--shaders`.
    pub fn open(&self) -> Result<Arc<Gpu>> {
        let shaders = match &self.shaders {
            Some(folder) => read(folder)?,
            None => HashMap::new(),
        };
        let choice: AdapterChoice = self.adapter.choice()?;
        // SAFETY: who gives shaders of his own vouches for them, as the flag says.
        Ok(unsafe { Gpu::open_with(&choice, shaders)? })
    }
}

/// The shaders in `folder`.
fn read(folder: &Path) -> Result<HashMap<&'static str, String>> {
    const REMEDY: &str = "give a folder with copies of files of shaders/, changed";
    let fail = |path: &Path, problem: &dyn std::fmt::Display| {
        Error::file(path, problem.to_string(), Remedies::from(REMEDY))
    };
    let mut found = HashMap::new();
    for entry in std::fs::read_dir(folder).map_err(|e| fail(folder, &e))? {
        let path = entry.map_err(|e| fail(folder, &e))?.path();
        if path.extension().is_none_or(|extension| extension != "wgsl") {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let known = SHADERS.iter().find(|(name, _)| Some(*name) == stem);
        let (name, _) =
            known.ok_or_else(|| fail(&path, &"no shader of the program has its name"))?;
        let text = std::fs::read_to_string(&path).map_err(|e| fail(&path, &e))?;
        found.insert(*name, text);
    }
    match found.is_empty() {
        true => Err(fail(folder, &"it has no .wgsl file").into()),
        false => Ok(found),
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let selection = args.selection();
    if args.list {
        let labels: Vec<String> = selection.cases()?.iter().map(Case::label).collect();
        output::line(&labels.join("\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let ops = selection.ops()?;
    let cancel = interrupt::install();
    let cancelled = || cancel.is_cancelled();
    if args.test {
        let bed = Bed::new(&args.open()?)?;
        return run_tests(&bed, &ops, &args.filter);
    }
    let date = common::now();
    let cases = selection.cases()?;
    let gpu = args.open()?;
    let bed = Bed::tuned(&gpu)?;
    let plans = plans(&bed, &cases, &selection)?;
    let counts = plans.iter().any(|plan| plan.work.operations.is_some());
    if args.no_peaks || !counts {
        let allowed = "a roofline needs the peaks, and a kernel with arithmetic such as -o product";
        args.output.files.refuse_chart(allowed)?;
    }
    let manner = args.samples.manner();
    let mut rows = match args.no_peaks {
        true => Vec::new(),
        false => peaks::run(&gpu, manner, &cancelled, &mut common::told)?,
    };
    let mut notes = Vec::new();
    if args.quick {
        notes.push("Fewer rows than SDXL's own shapes have (--quick).".to_string());
    }
    let mut failed = 0;
    for plan in &plans {
        let label = plan.subject.label();
        match measure(plan, manner, &cancelled) {
            Ok(row) => {
                common::told(&row);
                rows.push(row);
            }
            Err(Error::Cancelled) => return Err(Error::Cancelled.into()),
            // The others go on: a table with holes says more than none.
            Err(error) => {
                gpu.check().context("the device failed")?;
                failed += 1;
                notes.push(format!("{label}: {error}"));
            }
        }
    }
    if let Some(roofs) = Roofs::of(rows.iter()) {
        roofs.apply(&mut rows);
    }
    let report = common::report(&gpu, rows, notes, date);
    args.output.finish(&report, Chart::Roofline)?;
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Of one op: runs, the largest error, failures.
#[derive(Default)]
struct Tested {
    runs: usize,
    error: f64,
    failed: usize,
}

fn run_tests(bed: &Bed, ops: &[&str], filter: &[String]) -> Result<ExitCode> {
    let wanted = |case: &Case| {
        let label = case.label();
        let named = filter.iter().any(|text| label.contains(text.as_str()));
        ops.contains(&case.problem.op()) && (filter.is_empty() || named)
    };
    let mut by_op: BTreeMap<&str, Tested> = BTreeMap::new();
    let mut told = |outcome: Outcome<'_>| {
        let of = by_op.entry(outcome.case.problem.op()).or_default();
        of.runs += 1;
        match outcome.result {
            Ok(checked) => of.error = of.error.max(checked.error),
            Err(error) => {
                of.failed += 1;
                eprintln!("{}: {error}", outcome.case.name);
            }
        }
    };
    let coverage = test(bed, &wanted, &mut told)?;
    let rows = by_op.iter().map(|(op, tested)| {
        vec![
            op.to_string(),
            tested.runs.to_string(),
            format!("{:.1e}", tested.error),
            tested.failed.to_string(),
        ]
    });
    let heads = ["op", "runs", "largest error", "failed"];
    let mut lines = vec![table::markdown(&heads, &[1, 2, 3], rows.collect())];
    let whole = filter.is_empty() && ops.len() == calotype::bench::kernels::OPS.len();
    if whole {
        lines.push(describe(&coverage));
    }
    output::line(&lines.join("\n\n"))?;
    let missing = whole && !coverage.missing().is_empty();
    Ok(match coverage.failed == 0 && !missing {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Which permutations ran, and why others did not.
fn describe(coverage: &Coverage) -> String {
    let [ran, cannot, missing] = coverage.counts();
    let all = coverage.permutations.len();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for status in coverage.permutations.values() {
        if let Status::CannotRun(reason) = status {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    let reasons = reasons
        .iter()
        .map(|(reason, count)| format!("{count}: {reason}"));
    let reasons: Vec<String> = reasons.collect();
    let mut text = format!("{ran} of {all} shader permutations ran");
    if cannot > 0 {
        let reasons = reasons.join("; ");
        text.push_str(&format!("; {cannot} cannot on this adapter ({reasons})"));
    }
    if missing > 0 {
        let labels = coverage.missing().join("; ");
        text.push_str(&format!("; {missing} could and did not: {labels}"));
    }
    text + "."
}
