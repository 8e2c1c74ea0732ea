//! The denoising loop, the look-out for values that are not finite, subgroups.

use super::add;
use crate::bench::kernels::latent::{Latent, Op, SubgroupSize, Watch};
use crate::bench::kernels::{Case, Random};
use crate::kernel::latent::{SLOTS, STORES};

pub(super) fn latents(all: &mut Vec<Case>) {
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
