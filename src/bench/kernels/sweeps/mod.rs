//! Shapes with every kind of tail: fixed odd ones and drawn ones.

mod attention;
mod latent;
mod norm;
mod products;
mod rows;

use super::{Case, Problem};
use crate::kernel::product::Conv;

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    products::products(&mut all);
    attention::attentions(&mut all);
    norm::norms(&mut all);
    rows::by_value(&mut all);
    latent::latents(&mut all);
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
