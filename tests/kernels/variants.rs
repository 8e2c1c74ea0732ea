//! Every variant of the product by name: its results, its self-test, and how one is
//! chosen.

use crate::common::{Run, device, in_turn, storage_sets, storages, sweep};
use crate::product::{Layer, Parts, on};
use calotype::kernel::product::{Call, Family, Storages, Variant, WeightStorage, dispatches};
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

#[test]
fn every_variant_over_tails_and_epilogues() {
    sweep(
        "sweep variants",
        |i, runs| in_turn(i, runs, |_, _| true),
        30,
    );
}

/// Long sums in a few tiles, in parts that follow one another along K.
#[test]
fn products_cut_along_k() {
    let cut = |run: &Run, variant: Variant| {
        variant.parts() > 1 && run.storages().weights == WeightStorage::F16
    };
    sweep("sweep cut along k", |i, runs| in_turn(i, runs, cut), 30);
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
    let problem = Layer::linear([1, 40, 64, 64], parts, 2);
    let (storage, weights) = (Storage::F16, WeightStorage::F16);
    if !storages().contains(&storage) {
        return;
    }
    let uploaded = on(&problem, device(), (storage, weights));
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
