//! The cases by the clock: operands rotate through more buffers than caches hold, and the
//! error of each run stands beside its time.

use super::{Bed, Case, Fill, Kernel, OPS, Problem, Run, cases, shape};
use crate::bench::measure::{Plan, Programs, Timed};
use crate::bench::report::{Subject, Suite, TimedBy, Work};
use crate::kernel::product::WeightStorage;
use crate::kernel::{Mode, Program, Sample, Storage};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Bytes that are touched before any of them is touched again: more than caches hold.
const AROUND: u64 = 384 << 20;

/// Copies of a case's operands at the most.
const COPIES: u64 = 64;

/// Bytes of operands beyond which one copy has to do.
const LARGE: u64 = 1 << 30;

/// What is timed.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Names of [`OPS`]; all where empty. `product` stands for linear layers and
    /// convolutions.
    pub ops: Vec<String>,
    /// Only cases whose name or shape holds one of these; all where empty.
    pub filter: Vec<String>,
    /// In place of SDXL's shapes.
    pub shapes: Vec<String>,
    /// A part of a variant's name, or `all`; what the adapter suggests where silent.
    pub variant: Option<String>,
    /// A part of the storages' names, such as `f16`.
    pub storage: Option<String>,
    /// Fewer rows, for adapters that are CPUs.
    pub quick: bool,
    /// Whether every result is compared with its twin's.
    pub check: bool,
}

impl Selection {
    /// The ops that are meant.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is none of that name.
    pub fn ops(&self) -> Result<Vec<&'static str>> {
        let mut all = Vec::new();
        for name in &self.ops {
            let name = name.trim();
            match OPS.iter().find(|op| **op == name) {
                Some(op) => all.push(*op),
                None if name == "product" => all.extend(["linear", "conv"]),
                None => {
                    let allowed = format!("there are: product, {}", OPS.join(", "));
                    return Err(Error::invalid("op", name, allowed));
                }
            }
        }
        Ok(match all.is_empty() {
            true => OPS.to_vec(),
            false => all,
        })
    }

    /// The cases that are meant.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there are none, or a shape is none.
    pub fn cases(&self) -> Result<Vec<Case>> {
        let ops = self.ops()?;
        if !self.shapes.is_empty() {
            let [op] = ops[..] else {
                let allowed = "a shape needs the one op that it is of, such as -o linear";
                return Err(Error::invalid("shape", self.shapes.join(","), allowed));
            };
            let given = self.shapes.iter().map(|text| {
                Ok(Case {
                    name: op,
                    problem: shape::problem(op, text)?,
                    of_sdxl: true,
                })
            });
            return given.collect();
        }
        let wanted = |case: &Case| {
            let label = case.label();
            let named = self.filter.iter().any(|text| label.contains(text.as_str()));
            case.of_sdxl && ops.contains(&case.problem.op()) && (named || self.filter.is_empty())
        };
        let cases = cases().into_iter().map(|case| match self.quick {
            true => case.quick(),
            false => case,
        });
        let cases: Vec<Case> = cases.filter(wanted).collect();
        match cases.is_empty() {
            true => {
                let allowed = "no case of SDXL has such a name or shape; see --list";
                Err(Error::invalid("filter", self.filter.join(" "), allowed))
            }
            false => Ok(cases),
        }
    }

    /// Those of a case's runs that are meant.
    fn runs(&self, bed: &Bed, problem: &dyn Problem) -> Vec<Run> {
        let own = Kernel::Mode(Mode::of(bed.gpu.capabilities()));
        let runs = problem.runs(bed);
        let has_modes = runs.iter().any(is_mode);
        let chosen = |run: &Run| match self.variant.as_deref() {
            None => run.kernel == own || !has_modes,
            // A mode stands for one of the others there.
            Some("all") => !matches!(problem.op(), "linear" | "conv") || !is_mode(run),
            Some(part) => run.variant().contains(part),
        };
        let stored = |run: &Run| {
            let storage = run.storage();
            let part = self.storage.as_deref();
            part.is_none_or(|part| storage.contains(part)) && !is_spare(run)
        };
        runs.into_iter()
            .filter(|run| chosen(run) && stored(run))
            .collect()
    }
}

/// Storages that no model has: activations of f16 beside weights of f32, f16 sums of f32
/// operands.
fn is_spare(run: &Run) -> bool {
    let narrows = run.a == Storage::F32 && run.out == Storage::F16;
    let mixes = run.a == Storage::F16 && run.weights == Some(WeightStorage::F32);
    run.weights.is_some() && (narrows || mixes)
}

fn is_mode(run: &Run) -> bool {
    matches!(run.kernel, Kernel::Mode(_))
}

/// A case on the device by one of its runs.
struct Placement {
    programs: Programs,
    error: Option<f64>,
}

impl Timed for Placement {
    fn sample(&mut self) -> Result<Sample> {
        self.programs.sample()
    }

    fn timed_by(&self) -> TimedBy {
        self.programs.timed_by()
    }

    fn error(&self) -> Option<f64> {
        self.error
    }
}

/// How many copies of operands of `bytes` rotate.
fn copies(bytes: u64) -> u64 {
    match bytes {
        0 => 1,
        bytes if bytes > LARGE => 1,
        bytes => AROUND.div_ceil(bytes).clamp(1, COPIES),
    }
}

fn prepare(bed: &Bed, problem: &dyn Problem, run: &Run, check: bool) -> Result<Placement> {
    let error = match check {
        false => None,
        true => {
            let placed = problem.place(bed, run, Fill::Exact)?;
            bed.run(placed.dispatches)?;
            Some(placed.check.run(bed)?.error)
        }
    };
    let make = |_| {
        let placed = problem.place(bed, run, Fill::Rotating)?;
        Program::new(&bed.gpu, placed.dispatches)
    };
    let programs = (0..copies(problem.work(run).bytes)).map(make);
    let programs = programs.collect::<Result<Vec<Program>>>()?;
    Ok(Placement {
        programs: Programs::new(&bed.gpu, programs, 1)?,
        error,
    })
}

/// A plan for each case and each of its runs that `selection` means.
///
/// # Errors
/// As [`Selection::cases`]; [`Error::Invalid`] where no case has such a variant on this
/// adapter.
pub fn plans<'a>(bed: &'a Bed, cases: &'a [Case], selection: &Selection) -> Result<Vec<Plan<'a>>> {
    let check = selection.check;
    let mut all = Vec::new();
    for case in cases {
        let problem = &*case.problem;
        for run in selection.runs(bed, problem) {
            let work = problem.work(&run);
            let some = |n: u64| (n > 0).then_some(n as f64);
            all.push(Plan {
                subject: Subject {
                    op: Some(problem.op().into()),
                    shape: Some(problem.shape()),
                    storage: Some(run.storage()),
                    variant: Some(run.variant()),
                    ..Subject::new(Suite::Kernels, case.name)
                },
                work: Work {
                    operations: some(work.flops),
                    bytes: some(work.bytes),
                },
                figures: BTreeMap::new(),
                note: problem.chosen(bed, &run)?,
                prepare: Box::new(move || Ok(Box::new(prepare(bed, problem, &run, check)?))),
            });
        }
    }
    match all.is_empty() {
        false => Ok(all),
        true => {
            let wanted = selection.variant.iter().chain(&selection.storage);
            let wanted: Vec<String> = wanted.cloned().collect();
            let mut variants: Vec<String> = cases
                .iter()
                .flat_map(|case| case.problem.runs(bed))
                .map(|run| run.to_string())
                .collect();
            variants.sort();
            variants.dedup();
            let more = variants.len().saturating_sub(12);
            variants.truncate(12);
            let rest = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let allowed = format!("this adapter has: {}{rest}", variants.join(", "));
            Err(Error::invalid("variant", wanted.join(", "), allowed))
        }
    }
}
