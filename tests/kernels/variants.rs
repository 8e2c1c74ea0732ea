//! Every variant of the product by name: its results, its self-test, and how one is
//! chosen.

use crate::common::{Random, Report, device, storages};
use crate::product::{Parts, Problem, SAME, all_parts, storage_sets};
use calotype::kernel::product::{Call, Conv, Family, Storages, Variant, WeightStorage, dispatches};
use calotype::kernel::{Context, Entry, Mode, Storage, Tuning};

/// The storages of activations, beside weights as GPUs have them.
fn weights_in_f16() -> impl Iterator<Item = Storages> {
    let half = |s: &Storages| s.weights == WeightStorage::F16;
    storage_sets().into_iter().filter(half)
}

/// The candidates of an adapter that are for GPUs, matrices included where it has them.
fn variants(call: &Call) -> Vec<Variant> {
    let context = device().context(Mode { direct: false });
    let cut = context.cut_candidates(call);
    let all = context.candidates(call).into_iter().chain(cut);
    all.filter(|v| v.family(call) != Family::Direct).collect()
}

/// Shapes with every kind of tail: rows, columns and slices of tiles that are full and
/// that are not. K is a multiple of 32, as matrices want it.
fn shapes_of_tiles() -> Vec<Problem> {
    let mut random = Random::new(11);
    let mut all = Vec::new();
    for (i, parts) in all_parts().into_iter().enumerate() {
        let parts = Parts {
            scale: None,
            ..parts
        };
        let [rows, k] = [random.size(1, 300), 32 * random.size(1, 5)];
        let columns = random.size(1, 400);
        // The margins of this turn are even, as matrices want them.
        let seed = 3 * i as u64 + 2;
        all.push(Problem::linear([1 + i % 2, rows, k, columns], parts, seed));
        if parts.geglu {
            continue;
        }
        for (turn, conv) in CONVOLUTIONS.into_iter().enumerate() {
            if turn % 2 == i % 2 {
                all.push(Problem {
                    shape: [
                        1 + turn % 2,
                        random.size(3, 12) * conv.stride,
                        random.size(3, 12) * conv.stride,
                        32 * random.size(1, 3),
                    ],
                    co: random.size(1, 170),
                    taps: if conv.pad == 0 && conv.stride == 1 {
                        1
                    } else {
                        9
                    },
                    conv: Some(conv),
                    parts,
                    seed,
                });
            }
        }
    }
    all
}

const CONVOLUTIONS: [Conv; 5] = [
    SAME,
    Conv { stride: 2, ..SAME },
    Conv {
        stride: 2,
        pad: 0,
        upsample: false,
    },
    Conv {
        upsample: true,
        ..SAME
    },
    Conv { pad: 0, ..SAME },
];

#[test]
fn every_variant_over_tails_and_epilogues() {
    let mut report = Report::new("variants");
    let mut turn = 0;
    for problem in shapes_of_tiles() {
        for storages in storage_sets() {
            let twin = problem.twin(storages);
            let call = problem.on(device(), storages).call();
            let serving = variants(&call);
            let (matrices, scalars): (Vec<_>, Vec<_>) = serving
                .into_iter()
                .partition(|v| matches!(v, Variant::Coop(_)));
            // All of them in turn: each problem by one of each kind.
            turn += 1;
            for some in [matrices, scalars] {
                let Some(variant) = some.get(turn % some.len().max(1)) else {
                    continue;
                };
                let uploaded = problem.on(device(), storages);
                uploaded.run_by(*variant);
                let family = variant.family(&call).name();
                report.compare(
                    (family, storages),
                    storages.out,
                    &uploaded.read(),
                    &twin,
                    &(variant, &problem),
                );
            }
        }
    }
    report.finish(30);
}

/// Long sums in a few tiles, in parts that follow one another along K.
#[test]
fn products_cut_along_k() {
    let mut report = Report::new("cut along k");
    let mut random = Random::new(12);
    let parts = all_parts().into_iter().filter(|p| p.scale.is_none());
    let problems = parts.cycle().take(36).enumerate().map(|(i, parts)| {
        let seed = 3 * i as u64 + 2;
        if i % 3 == 2 && !parts.geglu {
            return Problem {
                shape: [
                    1,
                    random.size(3, 9),
                    random.size(3, 9),
                    32 * random.size(4, 6),
                ],
                co: random.size(1, 90),
                taps: 9,
                conv: Some(SAME),
                parts,
                seed,
            };
        }
        let k = 1024 + 32 * random.size(0, 9);
        Problem::linear([1, random.size(1, 90), k, random.size(1, 90)], parts, seed)
    });
    for (turn, problem) in problems.enumerate() {
        for storages in weights_in_f16() {
            let twin = problem.twin(storages);
            let call = problem.on(device(), storages).call();
            let cut = variants(&call).into_iter().filter(|v| v.parts() > 1);
            let (matrices, scalars): (Vec<_>, Vec<_>) =
                cut.partition(|v| matches!(v, Variant::Coop(_)));
            for some in [matrices, scalars] {
                let Some(variant) = some.get(turn % some.len().max(1)) else {
                    continue;
                };
                let uploaded = problem.on(device(), storages);
                uploaded.run_by(*variant);
                let name = (variant.family(&call).name(), storages);
                let out = uploaded.read();
                report.compare(name, storages.out, &out, &twin, &(variant, &problem));
            }
        }
    }
    report.finish(30);
}

/// What no variant may do: fail its own test on a device that works.
#[test]
fn every_variant_passes_its_self_test() {
    let context = device().context(Mode { direct: false });
    for storages in weights_in_f16() {
        for gather in [false, true] {
            let call = Call {
                // Few tiles and long sums, so that cut ones serve as well.
                m: 300,
                n8: 40,
                k8: 160,
                taps: if gather { 9 } else { 1 },
                gather,
                storages,
                plain: true,
            };
            // One number of parts stands for the others.
            let cut = context.cut_candidates(&call);
            let candidates = context.candidates(&call).into_iter().chain(cut);
            for variant in candidates.filter(|v| [1, 4].contains(&v.parts())) {
                let trusted = context.trusts(variant, &call).unwrap();
                assert!(trusted, "{variant}: {:?}", context.trust().failures());
            }
        }
    }
    assert!(context.trust().failures().is_empty());
    assert!(context.trust().passed() > 12);
}

/// A table names what is fastest of all, which is not asked for where a family is given
/// to begin with.
#[test]
fn a_table_does_not_bring_back_what_was_left_out() {
    let parts = Parts {
        bias: true,
        ..Default::default()
    };
    let problem = Problem::linear([1, 40, 64, 64], parts, 2);
    let (storage, weights) = (Storage::F16, WeightStorage::F16);
    if !storages().contains(&storage) {
        return;
    }
    let uploaded = problem.on(device(), (storage, weights));
    let product = uploaded.product(None);
    let scalar = |v: &Variant| v.family(&uploaded.call()) == Family::Scalar16;
    let tile = variants(&uploaded.call()).into_iter().find(scalar).unwrap();
    let mut table = Tuning::default();
    let entry = Entry {
        variant: tile.to_string(),
        microseconds: None,
    };
    table.entries.insert(uploaded.call().class(), entry);
    for (first, wanted) in [(Family::Scalar16, true), (Family::Scalar32, false)] {
        let context = Context::of_family(&device().gpu, Some(first)).unwrap();
        let context = context.with_tuning(table.clone());
        let made = dispatches(&context, &product).unwrap();
        let key = tile.key((storage, weights).into(), false);
        assert_eq!(Some(made[0].key()) == key.as_ref(), wanted, "{first:?}");
    }
}
