//! Group norm, layer norm and softmax.

use super::add;
use crate::bench::kernels::norm::{ACTIVATIONS, Groups, LayerNorm, Softmax};
use crate::bench::kernels::{Case, Random};
use crate::kernel::norm::Mask;

pub(super) fn norms(all: &mut Vec<Case>) {
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
