//! Attention, in one pass and by products, and the turning of keys.

use crate::common::{
    BELOW, Device, EVEN, Random, Report, device, kinds, margin, rounded, storages,
};
use calotype::kernel::attention::{Attention, scratch_bytes, transpose, twin, twin_transpose};
use calotype::kernel::{Storage, Tensor, Tuning};

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
        turn: usize,
    ) -> [Tensor; 3] {
        let (n, c) = (self.n, self.width());
        let shape = |rows: usize| [n, rows, 1, c];
        if !self.fused {
            return [
                device.tensor(storage, shape(self.queries), q, margin(turn)),
                device.tensor(storage, shape(self.keys), k, margin(turn + 1)),
                device.tensor(storage, shape(self.keys), v, EVEN),
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
        tuning: Tuning,
        storage: Storage,
        numbers: &[Vec<f32>; 3],
    ) -> (Vec<f32>, usize) {
        let turn = self.queries + self.keys;
        let [q, k, v] = self.upload(device, storage, numbers, turn);
        let out = device.blank(
            storage,
            [self.n, self.queries, 1, self.width()],
            margin(turn),
        );
        let sizes = [self.n, self.queries, self.keys];
        let scratch = scratch_bytes(tuning, storage, sizes, [self.heads, self.d])
            .map(|bytes| bytes.map(|b| device.scratch(b)));
        let attention = Attention {
            q: &q,
            k: &k,
            v: &v,
            out: &out,
            heads: self.heads,
            causal: self.causal,
            scratch: scratch.as_ref().map(|[turned, scores]| [turned, scores]),
        };
        let (gpu, none) = (&device.gpu, &device.none);
        let dispatches = attention.dispatches(gpu, tuning, none).unwrap();
        let count = dispatches.len();
        device.run(dispatches);
        (device.read(&out), count)
    }

    fn check(&self, report: &mut Report, seed: u64) {
        let numbers = self.numbers(seed);
        for storage in storages() {
            let seen = numbers.clone().map(|x| rounded(storage, &x));
            let twin = twin(
                [&seen[0], &seen[1], &seen[2]],
                [self.n, self.queries, self.keys],
                [self.heads, self.d],
                self.causal,
            );
            for direct in [true, false] {
                let (out, _) = self.run(device(), Tuning { direct }, storage, &numbers);
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

/// Scores that take several chunks of queries.
#[test]
fn more_queries_than_a_chunk() {
    let mut report = Report::new("attention chunks");
    for causal in [false, true] {
        let shape = shape([2, 1400, 1500], [2, 8], causal);
        let bytes = scratch_bytes(
            Tuning { direct: true },
            Storage::F32,
            [shape.n, shape.queries, shape.keys],
            [shape.heads, shape.d],
        );
        let [_, scores] = bytes.unwrap();
        let whole = (4 * shape.queries * shape.keys * 4) as u64;
        assert!(2 * scores < whole, "one chunk only");
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
        scratch: None,
    };
    let (gpu, none) = (&device().gpu, &device().none);
    for direct in [true, false] {
        assert!(attention.dispatches(gpu, Tuning { direct }, none).is_err());
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
        for (tuning, storage) in kinds() {
            let k = device().tensor(storage, [n, keys, 1, heads * d], &values, margin(i));
            let shape = [n * heads, d, 1, keys.next_multiple_of(8)];
            let turned = device().blank(storage, shape, BELOW);
            device().run(vec![transpose(&k, heads, &turned.view).unwrap()]);
            let twin = twin_transpose(&rounded(storage, &values), [n, keys], [heads, d]);
            let out = device().read(&turned);
            report.compare(tuning, storage, &out, &twin, &(shape, heads));
            assert_eq!(out, twin);
        }
    }
    report.finish(30);
}
