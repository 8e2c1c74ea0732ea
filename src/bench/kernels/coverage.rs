//! One run through all cases, and which of the kernels' permutations it ran.

use super::{Bed, Case, Checked, Fill, Kernel, Placed, Problem, Run, cases};
use crate::Result;
use crate::gpu::PipelineKey;
use crate::kernel::product::Storages;
use crate::kernel::{Mode, Storage, attention, permutations, product};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The ops of all cases.
pub const OPS: [&str; 20] = [
    "attention",
    "conv",
    "expand",
    "group_norm",
    "guidance",
    "latent_input",
    "layer_norm",
    "layout",
    "linear",
    "map",
    "mask",
    "narrow",
    "rescale",
    "sinusoid",
    "softmax",
    "subgroup_size",
    "threshold",
    "transpose",
    "update",
    "watch",
];

/// Floating-point operations that a case may take in [`test`].
const MOST: u64 = 1 << 28;

/// What became of one run.
pub struct Outcome<'a> {
    pub case: &'a Case,
    pub run: Run,
    pub result: Result<Checked>,
}

/// What became of a permutation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Ran,
    /// The adapter has not what it needs.
    CannotRun(String),
    /// It could run, and did not.
    Missing,
}

/// What a run through cases saw.
pub struct Coverage {
    /// Every permutation of the kernels by its label.
    pub permutations: BTreeMap<String, Status>,
    /// Runs of each op.
    pub ops: BTreeMap<&'static str, usize>,
    /// Runs whose results were not the twin's, or that failed.
    pub failed: usize,
}

impl Coverage {
    /// Permutations that ran, that cannot run, and that are missing.
    pub fn counts(&self) -> [usize; 3] {
        let count = |of: fn(&Status) -> bool| self.permutations.values().filter(|s| of(s)).count();
        [
            count(|s| *s == Status::Ran),
            count(|s| matches!(s, Status::CannotRun(_))),
            count(|s| *s == Status::Missing),
        ]
    }

    /// Labels of the permutations that could have run and did not.
    pub fn missing(&self) -> Vec<&str> {
        let missing = |(_, status): &(&String, &Status)| **status == Status::Missing;
        let all = self.permutations.iter().filter(missing);
        all.map(|(label, _)| label.as_str()).collect()
    }
}

/// Runs every case that `filter` keeps, SDXL's with fewer rows, against its twin. `told`
/// hears of each run. Every kernel and storage is run once at the least, and every case;
/// beyond that they take turns.
///
/// # Errors
/// What goes wrong on the device between the runs; what goes wrong in one is its
/// [`Outcome`].
pub fn test(
    bed: &Bed,
    filter: &dyn Fn(&Case) -> bool,
    told: &mut dyn FnMut(Outcome<'_>),
) -> Result<Coverage> {
    let mut session = Session {
        bed,
        told,
        ran: HashSet::new(),
        seen: HashSet::new(),
        ops: BTreeMap::new(),
        failed: 0,
    };
    let wanted: Vec<Case> = cases().into_iter().filter(|case| filter(case)).collect();
    let small: Vec<Case> = wanted.into_iter().map(Case::small).collect();
    for (turn, case) in small.iter().enumerate() {
        for run in session.turns(case, turn) {
            session.run(case, run);
        }
    }
    // What served only cases that had others to run; SDXL's take longest.
    for case in small.iter().rev() {
        for run in case.problem.runs(bed) {
            if !session.seen.contains(&(case.problem.op(), run)) {
                session.run(case, run);
            }
        }
    }
    let lacking = lacking(bed);
    let permutations = permutations().into_iter().map(|key| {
        let status = match session.ran.contains(&key) {
            true => Status::Ran,
            false => match lacking.get(&key) {
                Some(reason) => Status::CannotRun(reason.clone()),
                None => Status::Missing,
            },
        };
        (key.label(), status)
    });
    Ok(Coverage {
        permutations: permutations.collect(),
        ops: session.ops,
        failed: session.failed,
    })
}

struct Session<'a> {
    bed: &'a Bed,
    told: &'a mut dyn FnMut(Outcome<'_>),
    /// Permutations whose results were the twin's.
    ran: HashSet<PipelineKey>,
    seen: HashSet<(&'static str, Run)>,
    ops: BTreeMap<&'static str, usize>,
    failed: usize,
}

impl Session<'_> {
    /// Runs of a case: what was not seen yet, but no more than one with each storage, or
    /// any.
    fn turns(&self, case: &Case, turn: usize) -> Vec<Run> {
        let op = case.problem.op();
        let runs = case.problem.runs(self.bed);
        let mut new: Vec<Run> = Vec::new();
        for run in &runs {
            let alike = |other: &Run| other.storage() == run.storage();
            if !self.seen.contains(&(op, *run)) && !new.iter().any(alike) {
                new.push(*run);
            }
        }
        if case.of_sdxl {
            // They take longest.
            new.truncate(1);
        }
        match new.is_empty() {
            true => runs
                .get(turn % runs.len().max(1))
                .copied()
                .into_iter()
                .collect(),
            false => new,
        }
    }

    fn run(&mut self, case: &Case, run: Run) {
        let problem = &*case.problem;
        self.seen.insert((problem.op(), run));
        let result = checked(self.bed, problem, &run);
        let result = result.map(|(keys, checked)| {
            self.ran.extend(keys);
            *self.ops.entry(problem.op()).or_default() += 1;
            checked
        });
        self.failed += usize::from(result.is_err());
        (self.told)(Outcome { case, run, result });
    }
}

/// Runs a problem once and compares it with its twin.
fn checked(bed: &Bed, problem: &dyn Problem, run: &Run) -> Result<(Vec<PipelineKey>, Checked)> {
    let Placed { dispatches, check } = problem.place(bed, run, Fill::Exact)?;
    let keys = dispatches.iter().map(|d| d.key().clone()).collect();
    bed.run(dispatches)?;
    Ok((keys, check.run(bed)?))
}

impl Case {
    /// Small enough for any adapter.
    fn small(self) -> Self {
        if !self.of_sdxl {
            return self;
        }
        let run = Run::of(Kernel::Mode(Mode { direct: true }), Storage::F32);
        let mut case = self.quick();
        while case.problem.work(&run).flops > MOST {
            let problem = case.problem.shrunk(2);
            if problem.work(&run).flops >= case.problem.work(&run).flops {
                break;
            }
            case = Self { problem, ..case };
        }
        case
    }
}

/// What the adapter lacks, for each permutation that it cannot run.
fn lacking(bed: &Bed) -> HashMap<PipelineKey, String> {
    let capabilities = bed.gpu.capabilities();
    let lanes = bed.context(Mode { direct: false }).lanes();
    let mut all = HashMap::new();
    for variant in product::Variant::all() {
        let Some(reason) = variant.lacks(capabilities, lanes) else {
            continue;
        };
        for storages in Storages::all() {
            let keys = [false, true].map(|gather| variant.key(storages, gather));
            let keys = keys.into_iter().flatten();
            all.extend(keys.map(|key| (key, reason.clone())));
        }
    }
    for variant in attention::Variant::all() {
        let Some(reason) = variant.lacks(capabilities, lanes) else {
            continue;
        };
        for storage in [Storage::F32, Storage::F16] {
            let keys = [false, true].map(|masked| variant.key(storage, masked));
            let keys = keys.into_iter().flatten();
            all.extend(keys.map(|key| (key, reason.clone())));
        }
    }
    for key in permutations() {
        let has = |name: &str| key.defines.iter().any(|(define, _)| define == name);
        // Operands of f16 that f32 ones are made into.
        let narrows = key.shader.starts_with("narrow");
        let half = has("F16") || has("OUT16") || narrows;
        if half && !capabilities.shader_f16 {
            all.insert(key, "no SHADER_F16".into());
        } else if key.shader == "subgroup_size" && !capabilities.subgroup {
            all.insert(key, "no SUBGROUP".into());
        }
    }
    all
}
