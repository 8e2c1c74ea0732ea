//! Every permutation of the kernels runs in a case, or the adapter cannot run it.

use crate::common::{Case, device};
use calotype::bench::kernels::{Coverage, OPS, Outcome, Status, test};

fn covered(filter: &dyn Fn(&Case) -> bool) -> (Coverage, Vec<String>) {
    let mut failures = Vec::new();
    let mut told = |outcome: Outcome<'_>| {
        let Outcome { case, run, result } = outcome;
        if let Err(e) = result {
            failures.push(format!("{} {run}: {e}", case.label()));
        }
    };
    let coverage = test(&device().bed, filter, &mut told).unwrap();
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
