//! Shapes with every kind of tail: fixed odd ones and drawn ones.

use super::attention::{Attend, Scores, Transpose};
use super::latent::{Latent, Op, SubgroupSize, Watch};
use super::norm::{ACTIVATIONS, Groups, LayerNorm, Softmax};
use super::product::{Both, Layer, Parts};
use super::rows::{Added, Embed, Map, Narrow, Planes};
use super::{Case, Problem, Random};
use crate::kernel::latent::{SLOTS, STORES};
use crate::kernel::norm::Mask;
use crate::kernel::product::Conv;
use crate::kernel::sinusoid::{MAX_DIM, Sinusoid};

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    products(&mut all);
    attentions(&mut all);
    norms(&mut all);
    by_value(&mut all);
    latents(&mut all);
    all
}

fn add<P: Problem + 'static>(
    all: &mut Vec<Case>,
    name: &'static str,
    problems: impl IntoIterator<Item = P>,
) {
    all.extend(problems.into_iter().map(|problem| Case {
        name,
        problem: Box::new(problem),
        of_sdxl: false,
    }));
}

pub const SAME: Conv = Conv {
    stride: 1,
    pad: 1,
    upsample: false,
};

/// The convolutions that there are, by their sweeps' names, and their taps.
pub const CONVOLUTIONS: [(&str, usize, Conv); 6] = [
    ("sweep conv 3x3", 9, SAME),
    ("sweep conv 3x3 /2", 9, Conv { stride: 2, ..SAME }),
    (
        "sweep conv 3x3 /2 end",
        9,
        Conv {
            stride: 2,
            pad: 0,
            upsample: false,
        },
    ),
    (
        "sweep conv 3x3 x2",
        9,
        Conv {
            upsample: true,
            ..SAME
        },
    ),
    ("sweep conv 1x1", 1, Conv { pad: 0, ..SAME }),
    (
        "sweep conv 1x1 /2",
        1,
        Conv {
            stride: 2,
            pad: 0,
            upsample: false,
        },
    ),
];

fn products(all: &mut Vec<Case>) {
    add(all, "sweep linear", linear_layers());
    add(all, "sweep epilogues", epilogues());
    for (name, taps, conv) in CONVOLUTIONS {
        add(all, name, convolutions(taps, conv));
    }
    add(all, "sweep product of activations", both());
    add(all, "sweep variants", variants());
    add(all, "sweep cut along k", cut());
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

fn attentions(all: &mut Vec<Case>) {
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

fn norms(all: &mut Vec<Case>) {
    add(all, "sweep group norm", group_norms());
    add(all, "sweep layer norm", layer_norms());
    add(all, "sweep softmax", softmaxes());
    add(all, "sweep sharp softmax", sharp_softmaxes());
}

fn group_norms() -> Vec<Groups> {
    let fixed = [
        ([1, 1, 2], 1, 1),
        ([1, 1, 1], 1, 2),
        ([2, 5, 7], 8, 4),
        ([1, 40, 33], 3, 10),
        ([2, 16, 16], 32, 10),
        ([1, 64, 64], 2, 3),
        ([3, 3, 5], 5, 1),
        ([1, 1, 17], 32, 2),
        ([2, 31, 33], 1, 30),
        ([1, 4, 4], 32, 40),
        // Few channels and many rows, several of which a workgroup takes at once.
        ([1, 130, 129], 1, 4),
        ([2, 97, 151], 3, 1),
        ([1, 256, 256], 8, 4),
        ([1, 99, 101], 5, 9),
        // More vec4s of a row than a workgroup takes, tiles that do not fill it.
        ([1, 33, 31], 4, 65),
        ([2, 20, 19], 3, 172),
        ([1, 24, 25], 32, 10),
        ([1, 17, 16], 2, 257),
    ];
    let mut random = Random::new(1);
    let drawn = (0..24).map(|_| {
        let size = [random.size(1, 3), random.size(1, 30), random.size(2, 30)];
        (size, random.size(1, 32), random.size(1, 12))
    });
    let sizes = fixed.into_iter().chain(drawn).enumerate();
    sizes
        .map(|(i, (size, groups, per))| Groups {
            size,
            groups,
            per,
            activation: ACTIVATIONS[i % ACTIVATIONS.len()],
            seed: i as u64,
        })
        .collect()
}

fn layer_norms() -> Vec<LayerNorm> {
    let fixed = [
        [1, 2],
        [1, 3],
        [7, 4],
        [8, 63],
        [9, 64],
        [65, 65],
        [77, 768],
        [3, 1280],
        [100, 5],
        [2, 2048],
        // Around what the lanes of a row keep.
        [5, 256],
        [5, 257],
        [3, 1279],
        [3, 1281],
        [2, 1285],
        [2, 5003],
    ];
    let mut random = Random::new(2);
    let drawn = (0..24).map(|_| [random.size(1, 100), random.size(2, 700)]);
    let sizes = fixed.into_iter().chain(drawn).enumerate();
    sizes
        .map(|(i, [rows, c])| LayerNorm {
            rows,
            c,
            seed: i as u64,
        })
        .collect()
}

fn softmaxes() -> Vec<Softmax> {
    let fixed = [
        ([1, 1], 1, 1),
        ([1, 8], 1, 3),
        ([3, 8], 3, 8),
        ([77, 80], 77, 77),
        ([154, 80], 77, 77),
        ([9, 64], 3, 63),
        ([10, 264], 5, 257),
        ([64, 5], 8, 5),
        ([2, 4096], 2, 4095),
        ([6, 9], 2, 2),
    ];
    let mut random = Random::new(3);
    let drawn: Vec<_> = (0..24)
        .map(|_| {
            let (heads, rows) = (random.size(1, 5), random.size(1, 50));
            let count = random.size(1, 300);
            ([heads * rows, count + random.size(0, 9)], rows, count)
        })
        .collect();
    let sizes = fixed.into_iter().chain(drawn).enumerate();
    sizes
        .map(|(i, ([rows, c], rows_per_head, count))| Softmax {
            rows,
            c,
            mask: Mask {
                count,
                rows_per_head,
                first: random.size(0, 20),
                causal: i % 2 == 1,
            },
            level: None,
            seed: i as u64,
        })
        .collect()
}

/// Scores of hundreds beside dropped columns (padding, later keys) that lie as far above
/// them.
fn sharp_softmaxes() -> Vec<Softmax> {
    let shapes = [
        ([4, 80], 4, 77),
        ([77, 80], 77, 77),
        ([6, 88], 3, 81),
        ([5, 1], 5, 1),
        ([5, 8], 5, 1),
        ([130, 136], 65, 130),
    ];
    let levels = [-500.0, -200.0, 0.0, 200.0, 500.0];
    let mut all = Vec::new();
    for (i, ([rows, c], rows_per_head, count)) in shapes.into_iter().enumerate() {
        for level in levels {
            all.extend([false, true].map(|causal| Softmax {
                rows,
                c,
                mask: Mask {
                    count,
                    rows_per_head,
                    first: 0,
                    causal,
                },
                level: Some(level),
                seed: i as u64,
            }));
        }
    }
    all
}

fn by_value(all: &mut Vec<Case>) {
    add(all, "sweep map", maps());
    add(all, "sweep layout", layouts());
    add(all, "sweep sinusoid", sinusoids());
    add(all, "sweep narrow", narrows());
}

fn maps() -> Vec<Map> {
    let fixed = [
        [1, 1, 1, 1],
        [2, 1, 1, 3],
        [1, 8, 8, 64],
        [3, 7, 5, 9],
        [1, 77, 1, 130],
        [2, 33, 31, 5],
    ];
    let mut random = Random::new(1);
    let drawn = (0..30).map(|_| {
        [
            random.size(1, 3),
            random.size(1, 30),
            random.size(1, 30),
            random.size(1, 60),
        ]
    });
    let shapes = fixed.into_iter().chain(drawn).enumerate();
    shapes
        .map(|(i, shape)| Map {
            shape,
            activation: ACTIVATIONS[i / 3 % ACTIVATIONS.len()],
            added: [Added::Nothing, Added::Rows, Added::OneAPicture][i % 3],
            seed: i as u64,
        })
        .collect()
}

fn layouts() -> Vec<Planes> {
    let fixed = [
        [1, 1, 1, 1],
        [1, 3, 8, 8],
        [2, 3, 7, 9],
        [1, 4, 65, 1],
        [3, 5, 1, 63],
        [1, 320, 3, 3],
        [2, 8, 64, 64],
    ];
    let mut random = Random::new(1);
    let drawn = (0..25).map(|_| {
        [
            random.size(1, 3),
            random.size(1, 40),
            random.size(1, 40),
            random.size(1, 40),
        ]
    });
    let shapes = fixed.into_iter().chain(drawn).enumerate();
    shapes
        .flat_map(|(i, shape)| {
            [false, true].map(|back| Planes {
                shape,
                affine: [[1.0, 0.0], [2.0, -1.0], [0.13025, 0.25]][i % 3],
                back,
                seed: i as u64,
            })
        })
        .collect()
}

fn sinusoids() -> Vec<Embed> {
    let mut random = Random::new(1);
    let fixed = [
        ([1, 1], 8),
        ([1, 1], 320),
        ([2, 6], 256),
        ([1, 5], 256),
        ([3, 1], 384),
        ([1, 2], MAX_DIM),
        ([7, 3], 16),
    ];
    let drawn = (0..26).map(|_| {
        let rows = [random.size(1, 5), random.size(1, 7)];
        (rows, 8 * random.size(1, 60))
    });
    let sizes = fixed.into_iter().chain(drawn).enumerate();
    sizes
        .map(|(i, ([rows, per_row], dim))| Embed {
            rows,
            per_row,
            how: Sinusoid {
                dim,
                cos_first: i % 2 == 0,
                shift: (i / 2 % 2) as f32,
            },
            seed: i as u64,
        })
        .collect()
}

/// Values of every size, those included that f16 does not hold.
fn narrows() -> Vec<Narrow> {
    let mut random = Random::new(5);
    let sizes = [1e-32, 1e-30, 3e-5, 1.0, 65519.0, 4e6, 1e30, 3e38, 0.0];
    let turns = sizes.into_iter().cycle().take(36).enumerate();
    turns
        .map(|(i, size)| Narrow {
            shape: [
                random.size(1, 3),
                random.size(1, 40),
                1,
                8 * random.size(1, 20),
            ],
            co: random.size(1, 90),
            size,
            bias: i % 3 != 1,
            product: true,
            seed: i as u64,
        })
        .collect()
}

fn latents(all: &mut Vec<Case>) {
    let mut of = |name, op: &dyn Fn(usize) -> Vec<Op>| {
        let shapes = latent_shapes().into_iter().enumerate();
        let problems = shapes.flat_map(|(i, [n, pixels, c])| {
            let ops = op(i).into_iter();
            ops.map(move |op| Latent {
                op,
                n,
                pixels,
                c,
                seed: i as u64,
            })
        });
        add(all, name, problems.collect::<Vec<_>>());
    };
    of("sweep latent input", &|i| {
        vec![Op::Input {
            copies: 1 + i % 3,
            wide: 4 * (i % 2),
        }]
    });
    of("sweep guidance", &|_| {
        [1, 0].map(|parts| Op::Guidance { parts }).to_vec()
    });
    of("sweep guidance of parts", &|_| {
        vec![Op::Guidance { parts: 3 }]
    });
    of("sweep rescale", &|_| {
        [false, true].map(|off| Op::Rescale { off }).to_vec()
    });
    of("sweep update", &|i| {
        let (slots, stores) = (i % (SLOTS + 1), i % (STORES + 1));
        let stores = if slots == 0 { 0 } else { stores };
        let update = |split| Op::Update {
            slots,
            stores,
            split,
        };
        [false, true].map(update).to_vec()
    });
    of("sweep threshold", &|_| vec![Op::Threshold]);
    of("sweep mask", &|_| vec![Op::Mask]);
    add(all, "sweep watch", watches());
    add(all, "sweep subgroup size", [SubgroupSize]);
}

/// Pictures, pixels and channels.
fn latent_shapes() -> Vec<[usize; 3]> {
    let mut random = Random::new(1);
    let drawn = (0..25).map(|_| {
        [
            random.size(1, 4),
            random.size(1, 3000),
            4 * random.size(1, 3),
        ]
    });
    let fixed = [
        [1, 1, 4],
        [2, 64, 4],
        [3, 65, 8],
        [1, 4097, 4],
        [1, 20000, 4],
    ];
    fixed.into_iter().chain(drawn).collect()
}

fn watches() -> Vec<Watch> {
    let mut random = Random::new(1);
    let fixed = [1, 2, 3, 4, 5, 63, 64, 65, 4096, 65536 + 3];
    let drawn: Vec<usize> = (0..25).map(|_| random.size(1, 9000)).collect();
    let counts = fixed.into_iter().chain(drawn).enumerate();
    counts
        .flat_map(|(i, count)| {
            [false, true].map(|spoilt| Watch {
                count,
                spoilt,
                seed: i as u64,
            })
        })
        .collect()
}
