//! Attention, in one pass and by products, and the turning of keys.

use crate::common::{
    BELOW, Device, EVEN, Margin, Numbers, Report, WIDE, blocks, device, modes, relative_error,
    rounded, storages, sweep,
};
pub use calotype::bench::kernels::attention::Attend;
use calotype::bench::kernels::attention::Scores;
use calotype::kernel::attention::{Attention, Call, Variant, scratch_bytes, twin};
use calotype::kernel::product::Family;
use calotype::kernel::{Context, Dispatch, Entry, Mode, Storage, Tuning};

/// The result and the number of dispatches.
pub fn run(
    shape: &Attend,
    device: &Device,
    mode: Mode,
    storage: Storage,
    numbers: &[Vec<f32>; 3],
) -> (Vec<f32>, usize) {
    let placed = shape
        .on(&device.bed, mode, storage, &given(numbers))
        .unwrap();
    let attention = placed.attention();
    let dispatches = attention.dispatches(&device.context(mode)).unwrap();
    let count = dispatches.len();
    device.run(dispatches);
    (device.read(&placed.out), count)
}

fn given(numbers: &[Vec<f32>; 3]) -> [Numbers; 3] {
    numbers.each_ref().map(|values| values.clone().into())
}

/// Queries, keys, values.
pub fn numbers(shape: &Attend, seed: u64) -> [Vec<f32>; 3] {
    let seeded = Attend { seed, ..*shape };
    seeded.numbers().map(|numbers| numbers.all())
}

fn sharp(shape: &Attend, seed: u64) -> [Vec<f32>; 3] {
    let scores = Scores::Sharp;
    numbers(&Attend { scores, ..*shape }, seed)
}

/// The result by `variant`, rows at even vec4s.
fn run_by(shape: &Attend, variant: Variant, storage: Storage, numbers: &[Vec<f32>; 3]) -> Vec<f32> {
    let even = Attend {
        even: true,
        ..*shape
    };
    let (device, mode) = (device(), Mode { direct: false });
    let placed = even
        .on(&device.bed, mode, storage, &given(numbers))
        .unwrap();
    device.run(vec![placed.attention().dispatch_by(variant).unwrap()]);
    device.read(&placed.out)
}

/// What a variant is chosen for, where rows lie at even vec4s.
fn even_call(shape: &Attend, storage: Storage) -> Call {
    let even = Attend {
        even: true,
        ..*shape
    };
    even.call(storage)
}

fn check(shape: &Attend, report: &mut Report, seed: u64) {
    let numbers = numbers(shape, seed);
    for storage in storages() {
        let seen = numbers.clone().map(|x| rounded(storage, &x));
        let twin = shape.twin(&given(&seen));
        for direct in [true, false] {
            let (out, _) = run(shape, device(), Mode { direct }, storage, &numbers);
            let variant = if direct { "direct" } else { "tiled" };
            report.compare(variant, storage, &out, &twin, shape);
        }
    }
}

pub fn shape(sizes: [usize; 3], heads: [usize; 2], causal: bool) -> Attend {
    Attend::new(sizes, heads, causal)
}

pub fn fused(sizes: [usize; 2], heads: [usize; 2], causal: bool) -> Attend {
    Attend::fused(sizes, heads, causal)
}

#[test]
fn heads_64_wide() {
    sweep("sweep attention of 64", modes, 30);
}

#[test]
fn heads_of_other_widths() {
    sweep("sweep attention", modes, 30);
}

/// Scores of hundreds: weights from one to nothing, rows far below zero, a single key.
#[test]
fn scores_of_hundreds() {
    sweep("sweep sharp attention", modes, 18);
}

/// What a large problem is compared by, some queries, is what the twin of the whole says.
#[test]
fn a_sample_of_the_twin_is_the_twin() {
    for shape in [
        shape([2, 9, 7], [2, 16], true),
        shape([3, 5, 20], [1, 64], false),
        fused([2, 6], [2, 8], true),
    ] {
        let numbers = shape.numbers();
        let rows: Vec<usize> = (0..shape.n * shape.queries).collect();
        assert_eq!(shape.twin_at(&numbers, &rows), shape.twin(&numbers));
        let some = shape.twin_at(&numbers, &[shape.queries - 1, 1]);
        let whole = shape.twin(&numbers);
        let c = shape.width();
        assert_eq!(some[c..], whole[c..2 * c]);
    }
}

/// The same where the root of the width is no power of two: scores are rounded.
#[test]
fn scores_of_hundreds_in_wide_heads() {
    for (i, shape) in [
        fused([1, 81], [1, 512], false),
        fused([1, 77], [2, 160], true),
        shape([2, 9, 77], [1, 40], false),
        shape([1, 7, 1], [1, 8], false),
    ]
    .into_iter()
    .enumerate()
    {
        let numbers = sharp(&shape, i as u64);
        let [q, k, v] = &numbers;
        let sizes = [shape.n, shape.queries, shape.keys];
        let twin = twin([q, k, v], sizes, [shape.heads, shape.d], shape.causal);
        for direct in [true, false] {
            let (out, _) = run(&shape, device(), Mode { direct }, Storage::F32, &numbers);
            let error = relative_error(&out, &twin);
            assert!(error <= 2e-4, "{shape:?} direct {direct}: {error:e}");
        }
    }
}

/// Means of values at the ends of f32.
#[test]
fn values_at_the_ends_of_f32() {
    let mut report = Report::new("large values");
    for (i, shape) in [
        shape([1, 9, 77], [1, 64], false),
        fused([1, 77], [1, 64], true),
        shape([1, 9, 77], [1, 16], false),
    ]
    .into_iter()
    .enumerate()
    {
        let [q, k, v] = numbers(&shape, 2 * i as u64);
        let v: Vec<f32> = v.iter().map(|x| x * 2e38).collect();
        let twin = twin(
            [&q, &k, &v],
            [shape.n, shape.queries, shape.keys],
            [shape.heads, shape.d],
            shape.causal,
        );
        let small = |x: &[f32]| -> Vec<f32> { x.iter().map(|x| x * 1e-30).collect() };
        for direct in [true, false] {
            let numbers = [q.clone(), k.clone(), v.clone()];
            let (out, _) = run(&shape, device(), Mode { direct }, Storage::F32, &numbers);
            let (out, twin) = (small(&out), small(&twin));
            report.compare(direct, Storage::F32, &out, &twin, &shape);
        }
    }
    report.finish(3);
}

/// A query, a key or a value that is not a number makes every row so that sees it; a
/// query and a key no other.
#[test]
fn what_is_not_a_number_stays_so() {
    for shape in [
        shape([1, 9, 77], [1, 64], false),
        fused([1, 40], [1, 64], true),
        fused([1, 21], [1, 16], true),
        shape([1, 9, 77], [1, 512], false),
    ] {
        let place = 7;
        for operand in 0..3 {
            let mut numbers = numbers(&shape, 0);
            numbers[operand][place * shape.d] = f32::NAN;
            for direct in [true, false] {
                let (out, _) = run(&shape, device(), Mode { direct }, Storage::F32, &numbers);
                for (row, values) in out.chunks(shape.d).enumerate() {
                    let sees = match operand {
                        0 => row == place,
                        _ => !shape.causal || row >= place,
                    };
                    // A value is in one column only, and a masked one may count: no
                    // weight times NaN is nothing.
                    let found = match operand {
                        2 => values[0].is_nan() || !sees,
                        _ => values.iter().all(|x| x.is_nan()) == sees,
                    };
                    assert!(found, "{shape:?} {operand} direct {direct}: row {row}");
                }
            }
        }
    }
}

/// The variants that this adapter has for `call`.
fn variants(call: &Call) -> Vec<Variant> {
    let context = device().context(Mode { direct: false });
    context.attention_candidates(call)
}

#[test]
fn every_variant_of_blocks() {
    sweep("sweep attention blocks", blocks, 30);
}

/// The most queries and keys there are at 1024x1024, by whatever is chosen.
#[test]
fn thousands_of_queries_and_keys() {
    let mut report = Report::new("long attention");
    for shape in [
        shape([1, 4096, 77], [1, 64], false),
        shape([1, 65, 1024], [24, 64], false),
    ] {
        check(&shape, &mut report, 1);
    }
    report.finish(2);
}

/// As [`what_is_not_a_number_stays_so`] of what is chosen; and what is infinite is no
/// number either once it was weighed.
#[test]
fn what_is_not_a_number_stays_so_in_every_variant() {
    for shape in [
        shape([1, 9, 25], [1, 64], false),
        shape([1, 9, 77], [1, 64], false),
        fused([1, 40], [1, 64], false),
        fused([1, 40], [1, 64], true),
    ] {
        for storage in storages() {
            for variant in variants(&even_call(&shape, storage)) {
                for broken in [f32::NAN, f32::INFINITY] {
                    spoil(&shape, variant, storage, broken);
                }
            }
        }
    }
}

/// Puts `broken` into one query, key and value after another.
fn spoil(shape: &Attend, variant: Variant, storage: Storage, broken: f32) {
    let place = 7;
    for operand in 0..3 {
        let mut numbers = numbers(shape, 0);
        numbers[operand][place * shape.d] = broken;
        let out = run_by(shape, variant, storage, &numbers);
        for (row, values) in out.chunks(shape.d).enumerate() {
            let none = values.iter().all(|x| x.is_nan());
            let sound = |values: &[f32]| values.iter().all(|x| x.is_finite());
            let sees = !shape.causal || row >= place;
            let found = match operand {
                0 => none == (row == place) && (none || sound(values)),
                // A score of -infinity weighs nothing.
                1 if sees => none || broken.is_infinite() && sound(values),
                1 => sound(values),
                // No weight times NaN is nothing, so that a masked value may count.
                _ => (!values[0].is_finite() || !sees) && sound(&values[1..]),
            };
            let what = format!("{variant} {storage:?} {shape:?} {operand} {broken}");
            assert!(found, "{what}: row {row}");
        }
    }
}

/// What no variant may do: fail its own test on a device that works.
#[test]
fn every_variant_of_attention_passes_its_self_test() {
    let context = device().context(Mode { direct: false });
    for storage in storages() {
        for keys in [30, 32, 77, 80, 96, 97] {
            let call = even_call(&shape([1, 9, keys], [1, 64], false), storage);
            for variant in variants(&call) {
                let trusted = context.trusts_attention(variant, &call).unwrap();
                assert!(trusted, "{:?}", context.trust().failures());
            }
        }
    }
    assert!(context.trust().passed() > 0);
}

/// Matrices where the adapter has them and rows lie as they are loaded, in one block where
/// keys are few; the kernel without them elsewhere, and where it is asked for.
#[test]
fn the_first_variant_that_serves_is_chosen() {
    if !device().gpu.capabilities().shader_f16 {
        return;
    }
    let any = device().context(Mode { direct: false });
    let of = |family| Context::of_family(&device().gpu, Some(family)).unwrap();
    let (scalar16, scalar32) = (of(Family::Scalar16), of(Family::Scalar32));
    let matrices = !device().gpu.capabilities().matrices.is_empty();
    let coop: &[&str] = match matrices {
        true => &["COOP"],
        false => &["HALF"],
    };
    let single: &[&str] = match matrices {
        true => &["COOP", "SINGLE"],
        false => &["HALF"],
    };
    let (even, plain) = ([EVEN; 2], Storage::F16);
    for (context, storage, keys, causal, margins, wanted) in [
        (&any, plain, 32, false, even, single),
        (&any, plain, 81, false, even, coop),
        (&any, plain, 5, false, [BELOW; 2], single),
        (&any, plain, 5, false, [WIDE, EVEN], &["HALF"][..]),
        (&any, plain, 5, false, [EVEN, WIDE], &["HALF"]),
        (&any, plain, 5, true, even, &["HALF"]),
        (&any, Storage::F32, 5, false, even, &[]),
        (&scalar16, plain, 5, false, even, &["HALF"]),
        (&scalar32, plain, 5, false, even, &[]),
    ] {
        let [dispatch] = chosen(context, storage, keys, causal, margins);
        let kinds = ["COOP", "SINGLE", "HALF"];
        let defines = dispatch.key().defines.iter().map(|(name, _)| name.as_str());
        let mut found: Vec<&str> = defines.filter(|name| kinds.contains(name)).collect();
        found.sort_unstable();
        assert_eq!(found, wanted, "{storage:?} {keys} keys, causal {causal}");
    }
}

/// The dispatch of 9 queries.
fn chosen(
    context: &Context,
    storage: Storage,
    keys: usize,
    causal: bool,
    margins: [Margin; 2],
) -> [Dispatch; 1] {
    let [q_margin, v_margin] = margins;
    let shape = shape([1, 9, keys], [1, 64], causal);
    let [q, k, v] = numbers(&shape, 0);
    let tensor = |rows: usize, values: &[f32], margin: Margin| {
        device().tensor(storage, [1, rows, 1, 64], values, margin)
    };
    let q = tensor(9, &q, q_margin);
    let (k, v) = (tensor(keys, &k, EVEN), tensor(keys, &v, v_margin));
    let out = device().blank(storage, [1, 9, 1, 64], EVEN);
    let attention = Attention {
        q: &q,
        k: &k,
        v: &v,
        out: &out,
        heads: 1,
        causal,
        scratch: &[],
    };
    let all = attention.dispatches(context).unwrap();
    all.try_into().ok().expect("one dispatch")
}

/// A table's variant is taken where it serves, and nowhere else.
#[test]
fn a_table_names_the_variant_of_attention() {
    for storage in storages() {
        let any = device().context(Mode { direct: false });
        for keys in [30, 90] {
            let call = even_call(&shape([1, 9, keys], [1, 64], false), storage);
            for variant in variants(&call) {
                let mut table = Tuning::default();
                let entry = Entry {
                    variant: variant.to_string(),
                    microseconds: None,
                };
                table.entries.insert(call.class(), entry.clone());
                let first = chosen(&any, storage, keys, false, [EVEN; 2]);
                let context = any.clone().with_tuning(table);
                let made = chosen(&context, storage, keys, false, [EVEN; 2]);
                let is_first = variants(&call)[0] == variant;
                assert_eq!(made[0].key() == first[0].key(), is_first, "{variant}");
            }
        }
    }
}

/// Scores that take several chunks of queries.
#[test]
fn more_queries_than_a_chunk() {
    let mut report = Report::new("attention chunks");
    for causal in [false, true] {
        let shape = shape([2, 1400, 1500], [2, 8], causal);
        let bytes = scratch_bytes(
            Mode { direct: true },
            Storage::F32,
            [shape.n, shape.queries, shape.keys],
            [shape.heads, shape.d],
        );
        let whole = (4 * shape.queries * shape.keys * 4) as u64;
        assert!(2 * bytes[1] < whole, "one chunk only");
        check(&shape, &mut report, 5);
    }
    report.finish(2);
}

#[test]
fn attention_without_room_for_its_scores_is_an_error() {
    let storage = Storage::F32;
    let tensor = device().blank(storage, [1, 3, 1, 16], BELOW);
    let out = device().blank(storage, [1, 3, 1, 16], BELOW);
    let attention = Attention {
        q: &tensor,
        k: &tensor,
        v: &tensor,
        out: &out,
        heads: 1,
        causal: false,
        scratch: &[],
    };
    for direct in [true, false] {
        assert!(
            attention
                .dispatches(&device().context(Mode { direct }))
                .is_err()
        );
    }
}

/// To the bit.
#[test]
fn keys_are_turned() {
    sweep("sweep transpose", modes, 30);
}
