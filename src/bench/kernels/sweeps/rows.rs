//! What goes value by value or row by row.

use super::add;
use crate::bench::kernels::norm::ACTIVATIONS;
use crate::bench::kernels::rows::{Added, Embed, Map, Narrow, Planes};
use crate::bench::kernels::{Case, Random};
use crate::kernel::sinusoid::{MAX_DIM, Sinusoid};

pub(super) fn by_value(all: &mut Vec<Case>) {
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
