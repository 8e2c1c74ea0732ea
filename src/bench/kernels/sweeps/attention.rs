//! Attention and the turning of keys.

use super::add;
use crate::bench::kernels::attention::{Attend, Scores, Transpose};
use crate::bench::kernels::{Case, Random};

pub(super) fn attentions(all: &mut Vec<Case>) {
    let seeded = |attends: Vec<Attend>| {
        let numbered = attends.into_iter().enumerate();
        numbered.map(|(i, attend)| Attend {
            seed: i as u64,
            ..attend
        })
    };
    add(all, "sweep attention of 64", seeded(heads_of_64()));
    add(all, "sweep attention", seeded(other_heads()));
    add(all, "sweep sharp attention", sharp());
    let blocks = seeded(blocks()).chain(seeded(sharp_blocks()));
    let even = blocks.map(|attend| Attend {
        even: true,
        ..attend
    });
    add(all, "sweep attention blocks", even);
    add(all, "sweep transpose", transposes());
}

fn own(sizes: [usize; 2], heads: [usize; 2], causal: bool) -> Attend {
    Attend::fused(sizes, heads, causal)
}

fn other(sizes: [usize; 3], heads: [usize; 2], causal: bool) -> Attend {
    Attend::new(sizes, heads, causal)
}

fn heads_of_64() -> Vec<Attend> {
    let fixed = [
        other([1, 1, 1], [1, 64], false),
        other([1, 1, 1], [1, 64], true),
        other([1, 1, 77], [2, 64], false),
        other([2, 77, 1], [1, 64], false),
        other([1, 32, 32], [1, 64], true),
        other([1, 33, 33], [1, 64], true),
        other([2, 100, 77], [3, 64], false),
        other([1, 31, 65], [2, 64], false),
        other([1, 40, 20], [2, 64], true),
        other([1, 20, 70], [2, 64], true),
        own([2, 77], [2, 64], true),
        own([1, 64], [5, 64], false),
        own([3, 1], [2, 64], false),
        own([1, 257], [1, 64], false),
        own([2, 129], [2, 64], true),
    ];
    let mut random = Random::new(1);
    let drawn = (0..18).map(|_| {
        let [n, queries, keys] = [random.size(1, 3), random.size(1, 150), random.size(1, 150)];
        let (heads, causal) = (random.size(1, 4), random.coin());
        match random.coin() {
            true => own([n, keys], [heads, 64], causal),
            false => other([n, queries, keys], [heads, 64], causal),
        }
    });
    fixed.into_iter().chain(drawn).collect()
}

fn other_heads() -> Vec<Attend> {
    let fixed = [
        other([1, 1, 1], [1, 8], false),
        other([1, 5, 3], [1, 8], true),
        other([2, 20, 20], [2, 32], false),
        other([1, 50, 50], [1, 512], false),
        other([1, 9, 77], [2, 160], false),
        own([2, 33], [1, 512], false),
        own([2, 77], [4, 16], true),
        own([1, 7], [3, 40], true),
        own([2, 1], [2, 24], false),
        other([2, 130, 77], [2, 80], false),
    ];
    let mut random = Random::new(2);
    let drawn = (0..22).map(|_| {
        let [n, queries, keys] = [random.size(1, 3), random.size(1, 120), random.size(1, 120)];
        let (heads, d, causal) = (random.size(1, 4), 8 * random.size(1, 20), random.coin());
        match random.coin() {
            true => own([n, keys], [heads, d], causal),
            false => other([n, queries, keys], [heads, d], causal),
        }
    });
    fixed.into_iter().chain(drawn).collect()
}

/// Scores of hundreds: weights from one to nothing, rows far below zero, a single key.
fn sharp() -> Vec<Attend> {
    let of = |d| {
        [
            other([1, 5, 1], [1, d], false),
            other([1, 5, 1], [1, d], true),
            other([2, 33, 77], [2, d], false),
            other([1, 40, 81], [1, d], false),
            other([1, 9, 80], [2, d], false),
            other([1, 20, 70], [2, d], true),
            own([1, 81], [1, d], false),
            own([2, 77], [2, d], true),
            own([1, 130], [1, d], true),
        ]
    };
    let numbered = [64, 16]
        .into_iter()
        .flat_map(|d| of(d).into_iter().enumerate());
    numbered
        .map(|(i, attend)| Attend {
            scores: Scores::Sharp,
            seed: i as u64,
            ..attend
        })
        .collect()
}

/// Numbers of queries and keys with every kind of tail, those of the UNet's fused panels
/// and its prompts; few keys for the kernels that take no more.
fn blocks() -> Vec<Attend> {
    let fixed = [
        other([1, 1, 1], [1, 64], false),
        other([2, 77, 1], [1, 64], false),
        other([1, 1, 77], [2, 64], false),
        other([2, 100, 77], [3, 64], false),
        other([1, 31, 80], [2, 64], false),
        other([1, 31, 81], [2, 64], false),
        other([1, 16, 16], [1, 64], false),
        other([1, 17, 31], [24, 64], false),
        other([1, 64, 154], [2, 64], false),
        other([1, 9, 1024], [1, 64], false),
        own([1, 64], [5, 64], false),
        own([2, 128], [2, 64], false),
        own([3, 1], [2, 64], false),
        own([2, 81], [2, 64], false),
        own([1, 257], [1, 64], false),
        own([2, 77], [2, 64], true),
        own([1, 129], [1, 64], true),
        other([1, 40, 20], [2, 64], true),
        other([1, 20, 70], [2, 64], true),
    ];
    let mut random = Random::new(4);
    let drawn = (0..45).map(|i| {
        let most = [32, 32, 150][i % 3];
        let [n, queries, keys] = [random.size(1, 3), random.size(1, 150), random.size(1, most)];
        let heads = random.size(1, 4);
        match random.coin() {
            true => own([n, keys], [heads, 64], i % 5 == 4),
            false => other([n, queries, keys], [heads, 64], i % 5 == 4),
        }
    });
    fixed.into_iter().chain(drawn).collect()
}

fn sharp_blocks() -> Vec<Attend> {
    let all = [
        other([1, 5, 1], [1, 64], false),
        other([2, 33, 77], [2, 64], false),
        other([1, 40, 81], [1, 64], false),
        own([1, 80], [2, 64], false),
        own([1, 130], [1, 64], false),
        own([1, 77], [1, 64], true),
    ];
    all.map(|attend| Attend {
        scores: Scores::Sharp,
        ..attend
    })
    .to_vec()
}

fn transposes() -> Vec<Transpose> {
    let mut random = Random::new(3);
    let one = |seed| Transpose {
        n: random.size(1, 3),
        keys: random.size(1, 90),
        heads: random.size(1, 4),
        d: 4 * random.size(1, 40),
        seed,
    };
    (0..32).map(one).collect()
}
