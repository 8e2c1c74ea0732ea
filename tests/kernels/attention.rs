//! Attention, in one pass and by products, and the turning of keys.

use crate::common::{
    BELOW, Device, EVEN, Margin, Random, Report, WIDE, device, kinds, margin, relative_error,
    rounded, storages,
};
use calotype::kernel::attention::{
    Attention, Call, Variant, scratch_bytes, transpose, twin, twin_transpose,
};
use calotype::kernel::product::Family;
use calotype::kernel::{Context, Dispatch, Entry, Mode, Storage, Tensor, Tuning, View};

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    n: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    d: usize,
    causal: bool,
    /// Queries, keys and values are columns of one tensor.
    fused: bool,
}

impl Shape {
    fn width(&self) -> usize {
        self.heads * self.d
    }

    /// Queries, keys, values. Queries are enlarged, by turns more, so that a few
    /// keys get most of the weight.
    pub fn numbers(&self, seed: u64) -> [Vec<f32>; 3] {
        let mut random = Random::new(seed);
        let c = self.width();
        let scale = [3.0, 12.0][seed as usize % 2];
        let q = random.values(self.n * self.queries * c);
        [
            q.iter().map(|x| scale * x).collect(),
            random.values(self.n * self.keys * c),
            random.values(self.n * self.keys * c),
        ]
    }

    fn upload(
        &self,
        device: &Device,
        storage: Storage,
        [q, k, v]: &[Vec<f32>; 3],
        [q_margin, v_margin]: [Margin; 2],
    ) -> [Tensor; 3] {
        let (n, c) = (self.n, self.width());
        let shape = |rows: usize| [n, rows, 1, c];
        if !self.fused {
            return [
                device.tensor(storage, shape(self.queries), q, q_margin),
                device.tensor(storage, shape(self.keys), k, EVEN),
                device.tensor(storage, shape(self.keys), v, v_margin),
            ];
        }
        let rows = q.chunks(c).zip(k.chunks(c)).zip(v.chunks(c));
        let panel: Vec<f32> = rows.flat_map(|((q, k), v)| [q, k, v].concat()).collect();
        let panel = device.tensor(storage, [n, self.keys, 1, 3 * c], &panel, EVEN);
        [0, 1, 2].map(|i| panel.columns(i * c, c).unwrap())
    }

    /// The result and the number of dispatches.
    pub fn run(
        &self,
        device: &Device,
        mode: Mode,
        storage: Storage,
        numbers: &[Vec<f32>; 3],
    ) -> (Vec<f32>, usize) {
        let turn = self.queries + self.keys;
        let margins = [margin(turn), margin(turn + 1)];
        let [q, k, v] = self.upload(device, storage, numbers, margins);
        let out = device.blank(
            storage,
            [self.n, self.queries, 1, self.width()],
            margin(turn),
        );
        let sizes = [self.n, self.queries, self.keys];
        let scratch = scratch_bytes(mode, storage, sizes, [self.heads, self.d])
            .into_iter()
            .map(|bytes| device.scratch(bytes));
        let scratch: Vec<View> = scratch.collect();
        let attention = Attention {
            q: &q,
            k: &k,
            v: &v,
            out: &out,
            heads: self.heads,
            causal: self.causal,
            scratch: &scratch,
        };
        let dispatches = attention.dispatches(&device.context(mode)).unwrap();
        let count = dispatches.len();
        device.run(dispatches);
        (device.read(&out), count)
    }

    /// What a variant is chosen for, where rows lie at even vec4s.
    fn call(&self, storage: Storage) -> Call {
        Call {
            queries: self.queries,
            keys: self.keys,
            heads: self.n * self.heads,
            storage,
            causal: self.causal,
            even: true,
        }
    }

    /// The result by `variant`, rows at even vec4s.
    fn run_by(&self, variant: Variant, storage: Storage, numbers: &[Vec<f32>; 3]) -> Vec<f32> {
        let device = device();
        let margins = match self.keys % 2 {
            0 => [EVEN, BELOW],
            _ => [BELOW, EVEN],
        };
        let [q, k, v] = self.upload(device, storage, numbers, margins);
        let shape = [self.n, self.queries, 1, self.width()];
        let out = device.blank(storage, shape, margins[1]);
        let attention = Attention {
            q: &q,
            k: &k,
            v: &v,
            out: &out,
            heads: self.heads,
            causal: self.causal,
            scratch: &[],
        };
        device.run(vec![attention.dispatch_by(variant).unwrap()]);
        device.read(&out)
    }

    fn twin(&self, [q, k, v]: &[Vec<f32>; 3]) -> Vec<f32> {
        let sizes = [self.n, self.queries, self.keys];
        twin([q, k, v], sizes, [self.heads, self.d], self.causal)
    }

    /// Numbers whose scores are whole and reach from -520 to 520; every other query
    /// has none above -100, so that padding and masked keys lie far above them.
    fn sharp(&self, seed: u64) -> [Vec<f32>; 3] {
        let mut random = Random::new(seed);
        let (c, d) = (self.width(), self.d);
        let root = (d as f32).sqrt();
        let mut rows = |count: usize, unit: f32, first: &dyn Fn(usize) -> f32| -> Vec<f32> {
            let mut values: Vec<f32> = random.values(count * c);
            for (i, x) in values.iter_mut().enumerate() {
                *x = unit
                    * match i % d {
                        0 => first(i / c),
                        // A few more, so that neighbours compete.
                        j if j < 8 => x.round(),
                        _ => 0.0,
                    };
            }
            values
        };
        let q = rows(self.n * self.queries, root, &|i| {
            [25.0, -25.0, 1.0, -10.0][i % 4]
        });
        let k = rows(self.n * self.keys, 1.0, &|j| 10.0 + (j * 7 % 11) as f32);
        [q, k, random.values(self.n * self.keys * c)]
    }

    fn check(&self, report: &mut Report, seed: u64) {
        self.check_numbers(report, &self.numbers(seed));
    }

    fn check_numbers(&self, report: &mut Report, numbers: &[Vec<f32>; 3]) {
        for storage in storages() {
            let seen = numbers.clone().map(|x| rounded(storage, &x));
            let twin = self.twin(&seen);
            for direct in [true, false] {
                let (out, _) = self.run(device(), Mode { direct }, storage, numbers);
                let variant = if direct { "direct" } else { "tiled" };
                report.compare(variant, storage, &out, &twin, self);
            }
        }
    }
}

pub fn shape([n, queries, keys]: [usize; 3], [heads, d]: [usize; 2], causal: bool) -> Shape {
    Shape {
        n,
        queries,
        keys,
        heads,
        d,
        causal,
        fused: false,
    }
}

pub fn fused([n, tokens]: [usize; 2], [heads, d]: [usize; 2], causal: bool) -> Shape {
    Shape {
        fused: true,
        ..shape([n, tokens, tokens], [heads, d], causal)
    }
}

#[test]
fn heads_64_wide() {
    let mut report = Report::new("attention 64");
    let fixed = [
        shape([1, 1, 1], [1, 64], false),
        shape([1, 1, 1], [1, 64], true),
        shape([1, 1, 77], [2, 64], false),
        shape([2, 77, 1], [1, 64], false),
        shape([1, 32, 32], [1, 64], true),
        shape([1, 33, 33], [1, 64], true),
        shape([2, 100, 77], [3, 64], false),
        shape([1, 31, 65], [2, 64], false),
        shape([1, 40, 20], [2, 64], true),
        shape([1, 20, 70], [2, 64], true),
        fused([2, 77], [2, 64], true),
        fused([1, 64], [5, 64], false),
        fused([3, 1], [2, 64], false),
        fused([1, 257], [1, 64], false),
        fused([2, 129], [2, 64], true),
    ];
    let mut random = Random::new(1);
    let drawn = (0..18).map(|_| {
        let [n, queries, keys] = [random.size(1, 3), random.size(1, 150), random.size(1, 150)];
        let (heads, causal) = (random.size(1, 4), random.coin());
        if random.coin() {
            fused([n, keys], [heads, 64], causal)
        } else {
            shape([n, queries, keys], [heads, 64], causal)
        }
    });
    for (i, shape) in fixed.into_iter().chain(drawn).enumerate() {
        shape.check(&mut report, i as u64);
    }
    report.finish(30);
}

#[test]
fn heads_of_other_widths() {
    let mut report = Report::new("attention");
    let fixed = [
        shape([1, 1, 1], [1, 8], false),
        shape([1, 5, 3], [1, 8], true),
        shape([2, 20, 20], [2, 32], false),
        shape([1, 50, 50], [1, 512], false),
        shape([1, 9, 77], [2, 160], false),
        fused([2, 33], [1, 512], false),
        fused([2, 77], [4, 16], true),
        fused([1, 7], [3, 40], true),
        fused([2, 1], [2, 24], false),
        shape([2, 130, 77], [2, 80], false),
    ];
    let mut random = Random::new(2);
    let drawn = (0..22).map(|_| {
        let [n, queries, keys] = [random.size(1, 3), random.size(1, 120), random.size(1, 120)];
        let (heads, d, causal) = (random.size(1, 4), 8 * random.size(1, 20), random.coin());
        if random.coin() {
            fused([n, keys], [heads, d], causal)
        } else {
            shape([n, queries, keys], [heads, d], causal)
        }
    });
    for (i, shape) in fixed.into_iter().chain(drawn).enumerate() {
        shape.check(&mut report, i as u64);
    }
    report.finish(30);
}

/// Scores of hundreds: weights from one to nothing, rows far below zero, a single key.
#[test]
fn scores_of_hundreds() {
    let mut report = Report::new("sharp attention");
    for d in [64, 16] {
        let shapes = [
            shape([1, 5, 1], [1, d], false),
            shape([1, 5, 1], [1, d], true),
            shape([2, 33, 77], [2, d], false),
            shape([1, 40, 81], [1, d], false),
            shape([1, 9, 80], [2, d], false),
            shape([1, 20, 70], [2, d], true),
            fused([1, 81], [1, d], false),
            fused([2, 77], [2, d], true),
            fused([1, 130], [1, d], true),
        ];
        for (i, shape) in shapes.into_iter().enumerate() {
            shape.check_numbers(&mut report, &shape.sharp(i as u64));
        }
    }
    report.finish(18);
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
        let numbers = shape.sharp(i as u64);
        let [q, k, v] = &numbers;
        let sizes = [shape.n, shape.queries, shape.keys];
        let twin = twin([q, k, v], sizes, [shape.heads, shape.d], shape.causal);
        for direct in [true, false] {
            let (out, _) = shape.run(device(), Mode { direct }, Storage::F32, &numbers);
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
        let [q, k, v] = shape.numbers(2 * i as u64);
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
            let (out, _) = shape.run(device(), Mode { direct }, Storage::F32, &numbers);
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
            let mut numbers = shape.numbers(0);
            numbers[operand][place * shape.d] = f32::NAN;
            for direct in [true, false] {
                let (out, _) = shape.run(device(), Mode { direct }, Storage::F32, &numbers);
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

/// Numbers of queries and keys with every kind of tail, those of the UNet's fused panels
/// and its prompts, each with and without logits of hundreds; few keys for the kernels
/// that take no more.
fn shapes_of_blocks() -> Vec<(Shape, [Vec<f32>; 3])> {
    let fixed = [
        shape([1, 1, 1], [1, 64], false),
        shape([2, 77, 1], [1, 64], false),
        shape([1, 1, 77], [2, 64], false),
        shape([2, 100, 77], [3, 64], false),
        shape([1, 31, 80], [2, 64], false),
        shape([1, 31, 81], [2, 64], false),
        shape([1, 16, 16], [1, 64], false),
        shape([1, 17, 31], [24, 64], false),
        shape([1, 64, 154], [2, 64], false),
        shape([1, 9, 1024], [1, 64], false),
        fused([1, 64], [5, 64], false),
        fused([2, 128], [2, 64], false),
        fused([3, 1], [2, 64], false),
        fused([2, 81], [2, 64], false),
        fused([1, 257], [1, 64], false),
        fused([2, 77], [2, 64], true),
        fused([1, 129], [1, 64], true),
        shape([1, 40, 20], [2, 64], true),
        shape([1, 20, 70], [2, 64], true),
    ];
    let mut random = Random::new(4);
    let drawn = (0..45).map(|i| {
        let most = [32, 32, 150][i % 3];
        let [n, queries, keys] = [random.size(1, 3), random.size(1, 150), random.size(1, most)];
        let heads = random.size(1, 4);
        match random.coin() {
            true => fused([n, keys], [heads, 64], i % 5 == 4),
            false => shape([n, queries, keys], [heads, 64], i % 5 == 4),
        }
    });
    let sharp = [
        shape([1, 5, 1], [1, 64], false),
        shape([2, 33, 77], [2, 64], false),
        shape([1, 40, 81], [1, 64], false),
        fused([1, 80], [2, 64], false),
        fused([1, 130], [1, 64], false),
        fused([1, 77], [1, 64], true),
    ];
    let calm = fixed.into_iter().chain(drawn).enumerate();
    let calm = calm.map(|(i, shape)| (shape, shape.numbers(i as u64)));
    let sharp = sharp.into_iter().enumerate();
    let sharp = sharp.map(|(i, shape)| (shape, shape.sharp(i as u64)));
    calm.chain(sharp).collect()
}

#[test]
fn every_variant_of_blocks() {
    let mut report = Report::new("attention blocks");
    for (shape, numbers) in shapes_of_blocks() {
        for storage in storages() {
            let seen = numbers.clone().map(|x| rounded(storage, &x));
            let twin = shape.twin(&seen);
            for variant in variants(&shape.call(storage)) {
                let out = shape.run_by(variant, storage, &seen);
                report.compare(variant.to_string(), storage, &out, &twin, &shape);
            }
        }
    }
    report.finish(30);
}

/// The most queries and keys there are at 1024x1024, by whatever is chosen.
#[test]
fn thousands_of_queries_and_keys() {
    let mut report = Report::new("long attention");
    for shape in [
        shape([1, 4096, 77], [1, 64], false),
        shape([1, 65, 1024], [24, 64], false),
    ] {
        shape.check(&mut report, 1);
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
            for variant in variants(&shape.call(storage)) {
                for broken in [f32::NAN, f32::INFINITY] {
                    spoil(&shape, variant, storage, broken);
                }
            }
        }
    }
}

/// Puts `broken` into one query, key and value after another.
fn spoil(shape: &Shape, variant: Variant, storage: Storage, broken: f32) {
    let place = 7;
    for operand in 0..3 {
        let mut numbers = shape.numbers(0);
        numbers[operand][place * shape.d] = broken;
        let out = shape.run_by(variant, storage, &numbers);
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
            let call = shape([1, 9, keys], [1, 64], false).call(storage);
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
    let shape = shape([1, 9, keys], [1, 64], causal);
    let [q, k, v] = shape.upload(device(), storage, &shape.numbers(0), margins);
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
            let call = shape([1, 9, keys], [1, 64], false).call(storage);
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
        shape.check(&mut report, 5);
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

#[test]
fn keys_are_turned() {
    let mut report = Report::new("transpose");
    let mut random = Random::new(3);
    for i in 0..32 {
        let [n, keys] = [random.size(1, 3), random.size(1, 90)];
        let [heads, d] = [random.size(1, 4), 4 * random.size(1, 40)];
        let values = random.values(n * keys * heads * d);
        for (mode, storage) in kinds() {
            let k = device().tensor(storage, [n, keys, 1, heads * d], &values, margin(i));
            let shape = [n * heads, d, 1, keys.next_multiple_of(8)];
            let turned = device().blank(storage, shape, BELOW);
            device().run(vec![transpose(&k, heads, &turned.view).unwrap()]);
            let twin = twin_transpose(&rounded(storage, &values), [n, keys], [heads, d]);
            let out = device().read(&turned);
            report.compare(mode, storage, &out, &twin, &(shape, heads));
            assert_eq!(out, twin);
        }
    }
    report.finish(30);
}
