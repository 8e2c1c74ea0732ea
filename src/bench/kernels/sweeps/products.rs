//! Linear layers, convolutions, and products of activations.

use super::{CONVOLUTIONS, SAME, add};
use crate::bench::kernels::product::{Both, Expand, Layer, Parts};
use crate::bench::kernels::{Case, Random};
use crate::kernel::product::{BlockFormat, Conv, Layout};

pub(super) fn products(all: &mut Vec<Case>) {
    add(all, "sweep linear", linear_layers());
    add(all, "sweep epilogues", epilogues());
    for (name, taps, conv) in CONVOLUTIONS {
        add(all, name, convolutions(taps, conv));
    }
    add(all, "sweep product of activations", both());
    add(all, "sweep variants", variants());
    add(all, "sweep cut along k", cut());
    add(all, "sweep blocks", expansions());
}

/// Weights in blocks: rows and columns of every remainder.
fn expansions() -> Vec<Expand> {
    let mut random = Random::new(7);
    let fixed = [
        [1, 1, 1],
        [9, 4, 320],
        [1, 32, 64],
        [1, 40, 65],
        [9, 31, 63],
    ];
    let drawn = (0..29).map(|i| {
        let taps = if i % 3 == 0 { 9 } else { 1 };
        [taps, random.size(1, 200), random.size(1, 200)]
    });
    let shapes = fixed.into_iter().chain(drawn).enumerate();
    shapes
        .map(|(i, [taps, k, n])| {
            let geglu = i % 4 == 1;
            let n = if geglu { 2 * n } else { n };
            Expand {
                layout: Layout { taps, k, n, geglu },
                // Apart from which kernel's turn it is.
                format: [BlockFormat::Q8, BlockFormat::Q4][i / 2 % 2],
                seed: i as u64,
            }
        })
        .collect()
}

fn linear_layers() -> Vec<Layer> {
    let fixed = [
        [1, 1, 1, 1],
        [1, 1, 1, 8],
        [1, 2, 3, 5],
        [3, 1, 1, 1],
        [1, 7, 4, 8],
        [1, 8, 8, 64],
        [1, 9, 5, 65],
        [1, 64, 16, 64],
        [1, 65, 17, 72],
        [1, 63, 15, 63],
        [2, 77, 130, 200],
        [1, 128, 64, 128],
        [1, 129, 20, 129],
        [2, 130, 36, 260],
        [1, 3, 320, 640],
        [1, 200, 9, 13],
        [1, 3, 5120, 16],
    ];
    let mut random = Random::new(1);
    let drawn = (0..24).map(|_| {
        [
            random.size(1, 3),
            random.size(1, 150),
            random.size(1, 200),
            random.size(1, 200),
        ]
    });
    let parts = Parts::all();
    let shapes = fixed.into_iter().chain(drawn).enumerate();
    shapes
        .map(|(i, shape)| Layer::linear(shape, parts[i % parts.len()], i as u64))
        .collect()
}

fn epilogues() -> Vec<Layer> {
    let mut random = Random::new(2);
    let parts = Parts::all().into_iter().enumerate();
    parts
        .flat_map(|(i, parts)| (0..30).map(move |j| (100 * i as u64 + j, parts)))
        .map(|(seed, parts)| {
            let shape = [
                random.size(1, 3),
                random.size(1, 40),
                random.size(1, 12),
                random.size(1, 90),
            ];
            Layer::linear(shape, parts, seed)
        })
        .collect()
}

fn convolutions(taps: usize, conv: Conv) -> Vec<Layer> {
    let least = if taps == 9 && conv.pad == 0 { 2 } else { 1 };
    let fixed = [
        ([1, 1, 1, 1], 1),
        ([1, 1, 9, 3], 5),
        ([2, 9, 1, 4], 8),
        ([1, 8, 8, 64], 64),
        ([1, 5, 7, 12], 20),
        ([2, 6, 9, 3], 70),
        ([1, 4, 3, 33], 5),
        ([3, 2, 2, 2], 9),
        ([1, 17, 13, 20], 130),
        ([2, 12, 12, 4], 4),
        ([1, 3, 2, 2560], 9),
    ];
    let mut random = Random::new(taps as u64 * 10 + conv.stride as u64);
    let drawn = (0..22).map(|_| {
        let shape = [
            random.size(1, 3),
            random.size(1, 20),
            random.size(1, 20),
            random.size(1, 40),
        ];
        (shape, random.size(1, 100))
    });
    let parts: Vec<Parts> = Parts::all().into_iter().filter(|p| !p.geglu).collect();
    let shapes = fixed.into_iter().chain(drawn).enumerate();
    shapes
        .map(|(i, ([n, h, w, c], co))| Layer {
            shape: [n, h.max(least), w.max(least), c],
            co,
            taps,
            conv: Some(conv),
            parts: parts[i % parts.len()],
            seed: i as u64,
        })
        .collect()
}

fn both() -> Vec<Both> {
    let mut random = Random::new(3);
    let one = |seed| Both {
        m: random.size(1, 90),
        n: 8 * random.size(1, 20),
        k: 8 * random.size(1, 12),
        seed,
    };
    (0..32).map(one).collect()
}

/// Rows, columns and slices of tiles that are full and that are not. K is a multiple of 32
/// and the margins are even, as matrices want them.
fn variants() -> Vec<Layer> {
    let mut random = Random::new(11);
    let mut all = Vec::new();
    for (i, parts) in Parts::all().into_iter().enumerate() {
        let parts = Parts {
            scale: None,
            ..parts
        };
        let [rows, k] = [random.size(1, 300), 32 * random.size(1, 5)];
        let columns = random.size(1, 400);
        let seed = 3 * i as u64 + 2;
        all.push(Layer::linear([1 + i % 2, rows, k, columns], parts, seed));
        if parts.geglu {
            continue;
        }
        let kinds = CONVOLUTIONS.into_iter().take(5).enumerate();
        for (turn, (_, taps, conv)) in kinds.filter(|(turn, _)| turn % 2 == i % 2) {
            all.push(Layer {
                shape: [
                    1 + turn % 2,
                    random.size(3, 12) * conv.stride,
                    random.size(3, 12) * conv.stride,
                    32 * random.size(1, 3),
                ],
                co: random.size(1, 170),
                taps,
                conv: Some(conv),
                parts,
                seed,
            });
        }
    }
    all
}

/// Long sums in a few tiles, in parts that follow one another along K.
fn cut() -> Vec<Layer> {
    let mut random = Random::new(12);
    let parts = Parts::all().into_iter().filter(|p| p.scale.is_none());
    let problems = parts.cycle().take(36).enumerate().map(|(i, parts)| {
        let seed = 3 * i as u64 + 2;
        if i % 3 == 2 && !parts.geglu {
            return Layer {
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
        Layer::linear([1, random.size(1, 90), k, random.size(1, 90)], parts, seed)
    });
    problems.collect()
}
