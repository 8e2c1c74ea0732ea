//! Every permutation of the kernels runs in a case, or the adapter cannot run it.

use crate::common::{BELOW, Case, Device, Fill, WIDE, cases, device};
use calotype::bench::kernels::{Coverage, OPS, Outcome, Status, test};
use calotype::kernel::Storage;
use std::sync::LazyLock;

/// Beside that of the other tests: a device of Mesa's CPU driver compiles on one thread.
static OWN: LazyLock<Device> = LazyLock::new(|| Device::open(None));

fn covered(filter: &dyn Fn(&Case) -> bool) -> (Coverage, Vec<String>) {
    let mut failures = Vec::new();
    let mut told = |outcome: Outcome<'_>| {
        let Outcome { case, run, result } = outcome;
        if let Err(e) = result {
            failures.push(format!("{} {run}: {e}", case.label()));
        }
    };
    let coverage = test(&OWN.bed, filter, &mut told).unwrap();
    assert_eq!(coverage.failed, failures.len());
    (coverage, failures)
}

#[test]
fn every_permutation_runs_or_cannot() {
    let started = std::time::Instant::now();
    let (coverage, failures) = covered(&|_| true);
    let [ran, cannot, _] = coverage.counts();
    let seconds = started.elapsed().as_secs_f64();
    let runs: usize = coverage.ops.values().sum();
    println!("{ran} permutations ran in {runs} runs, {cannot} cannot run here: {seconds:.1} s");
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(coverage.missing(), Vec::<&str>::new());
    // What adapters without f16 have no runs of.
    let half = device().gpu.capabilities().shader_f16;
    let subgroup = device().gpu.capabilities().subgroup;
    let served = |op: &&str| match *op {
        "narrow" => half,
        "subgroup_size" => subgroup,
        _ => true,
    };
    for op in OPS.into_iter().filter(served) {
        assert!(coverage.ops.get(op).is_some_and(|runs| *runs > 0), "{op}");
    }
    assert!(coverage.ops.keys().all(|op| OPS.contains(op)));
    assert!(ran > 60, "{ran}");
}

/// Without the cases of an op its permutations are missing, and those alone that run
/// nowhere else.
#[test]
fn what_no_case_runs_is_missing() {
    let (coverage, failures) = covered(&|case| case.problem.op() == "map");
    assert!(failures.is_empty(), "{failures:#?}");
    let of = |label: &str| label.starts_with("map ") || label == "map";
    let missing = coverage.missing();
    assert!(missing.iter().any(|label| label.starts_with("layer_norm")));
    assert!(
        missing
            .iter()
            .any(|label| label.starts_with("product_direct"))
    );
    assert!(!missing.iter().any(|label| of(label)), "{missing:?}");
    let ran = coverage
        .permutations
        .iter()
        .filter(|(_, s)| **s == Status::Ran);
    assert!(ran.clone().count() > 0);
    for (label, _) in ran {
        assert!(of(label), "{label}");
    }
    assert_eq!(coverage.ops.keys().copied().collect::<Vec<_>>(), ["map"]);
}

/// The error of a case whose dispatches did not run; `None` where it has no run here, or
/// there is nothing to do.
fn error_of_nothing(case: &Case) -> Option<String> {
    let bed = &device().bed;
    let run = *case.problem.runs(bed).first()?;
    let placed = case.problem.place(bed, &run, Fill::Exact).unwrap();
    placed.check.run(bed).err().map(|e| e.to_string())
}

/// Of every op, SDXL's shapes (whose results are looked at in some places only) included.
#[test]
fn what_did_not_run_is_wrong() {
    let half = device().gpu.capabilities().shader_f16;
    let subgroup = device().gpu.capabilities().subgroup;
    for of_sdxl in [true, false] {
        for op in OPS {
            let wanted = |case: &Case| case.of_sdxl == of_sdxl && case.problem.op() == op;
            let some = cases().into_iter().filter(wanted).take(2);
            let errors: Vec<String> = some
                .filter_map(|case| error_of_nothing(&case.quick()))
                .collect();
            let runs = match op {
                "narrow" => half,
                // No shape of SDXL.
                "subgroup_size" => subgroup && !of_sdxl,
                // All finite there, which is what a clear mark says.
                "watch" => !of_sdxl,
                _ => true,
            };
            assert_eq!(runs, !errors.is_empty(), "{op}");
            assert!(errors.iter().all(|e| e.contains(op)), "{errors:?}");
        }
    }
}

#[test]
fn what_is_touched_around_a_result_is_named() {
    let (bed, gpu) = (&device().bed, &device().gpu);
    let shape = [1, 3, 1, 6];
    for (margin, place) in [(WIDE, "row 0, column"), (BELOW, "padding column 6")] {
        let values = vec![1.5; 18];
        let tensor = bed.tensor(Storage::F32, shape, &values, margin).unwrap();
        assert_eq!(bed.read(&tensor).unwrap(), values);
        let buffer = &tensor.view.buffer;
        let ones = vec![1f32; buffer.size() as usize / 4];
        gpu.upload(buffer, bytemuck::cast_slice(&ones)).unwrap();
        let error = bed.read(&tensor).unwrap_err().to_string();
        assert!(error.contains(place), "{error}");
    }
    let room = bed.room(8).unwrap();
    let zeros = vec![0u8; room.buffer.size() as usize];
    gpu.upload(&room.buffer, &zeros).unwrap();
    let error = bed.read_floats(&room, 8).unwrap_err().to_string();
    assert!(error.contains("value 0 after the last of 8"), "{error}");
}
