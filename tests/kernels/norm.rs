//! Group norm, layer norm and softmax.

use crate::common::{
    BELOW, Random, Report, Run, by_mode, device, kinds, margin, modes, rounded, sweep,
};
use calotype::bench::kernels::norm::{EPS, softmax_on};
use calotype::kernel::norm::{
    GroupNorm, Mask, layer_norm, scratch_bytes, twin_group_norm, twin_layer_norm, twin_softmax,
};
use calotype::kernel::{Activation, Mode, Storage, Tensor};

/// The softmax of `scores`: in place, or beside them in f16.
fn soft(mode: Mode, storage: Storage, scores: &Tensor, mask: Mask) -> Tensor {
    let run = Run {
        out: storage,
        ..by_mode(mode, Storage::F32)
    };
    let (dispatch, result) = softmax_on(&device().bed, &run, scores, mask).unwrap();
    device().run(vec![dispatch]);
    result
}

#[test]
fn group_norms() {
    sweep("sweep group norm", modes, 30);
}

#[test]
fn layer_norms() {
    sweep("sweep layer norm", modes, 30);
}

#[test]
fn softmaxes() {
    sweep("sweep softmax", modes, 30);
}

#[test]
fn softmaxes_far_from_zero() {
    sweep("sweep sharp softmax", modes, 60);
}

#[test]
fn softmaxes_at_the_ends_of_f32() {
    let rows = [
        [3e38, -3e38, 3e38, 0.0, -3e38, 3e38],
        [-3e38, -3.0001e38, -3e38, -3e38, 3e38, 3e38],
        [-1e30, -1e30, -2e30, -1e30, 0.0, 1e30],
        [f32::MIN, f32::MIN, f32::MIN, f32::MIN, f32::MAX, 0.0],
    ];
    let mask = Mask {
        count: 4,
        rows_per_head: 4,
        first: 0,
        causal: false,
    };
    for (mode, storage) in kinds().into_iter().filter(|kind| kind.1 == Storage::F32) {
        let scores = device().tensor(Storage::F32, [1, 4, 1, 6], &rows.concat(), BELOW);
        let tensor = soft(mode, storage, &scores, mask);
        let twin = twin_softmax(&rows.concat(), 6, mask);
        assert_eq!(device().read(&tensor), twin, "{mode:?}");
    }
}

#[test]
fn a_score_that_is_not_a_number_stays_so() {
    let mask = Mask {
        count: 9,
        rows_per_head: 2,
        first: 8,
        causal: false,
    };
    for (mode, storage) in kinds() {
        for place in [0, 4, 8, 9] {
            let mut x: Vec<f32> = Random::new(1).values(2 * 12);
            x[place] = f32::NAN;
            let scores = device().tensor(Storage::F32, [1, 2, 1, 12], &x, BELOW);
            let tensor = soft(mode, storage, &scores, mask);
            let out = device().read(&tensor);
            // Column 9 is dropped; the second row has nothing to do with it.
            let found = out[..9].iter().any(|x| x.is_nan());
            assert_eq!(found, place < 9, "{mode:?} {storage:?} {place}: {out:?}");
            assert!(out[12..].iter().all(|x| x.is_finite()));
        }
    }
}

/// The result of a group norm over `[1, rows, 1, c]`, `gamma` and `beta` given.
fn group_normed(
    mode: Mode,
    storage: Storage,
    x: &[f32],
    [gamma, beta]: [&[f32]; 2],
    groups: usize,
) -> Vec<f32> {
    let device = device();
    let shape = [1, x.len() / gamma.len(), 1, gamma.len()];
    let x = device.tensor(storage, shape, x, margin(1));
    let y = device.blank(storage, shape, margin(2));
    let [stats, affine] = scratch_bytes(mode, shape).map(|bytes| device.scratch(bytes));
    let norm = GroupNorm {
        x: &x,
        y: &y,
        gamma: &device.floats(gamma, 4),
        beta: &device.floats(beta, 4),
        groups,
        eps: EPS,
        activation: Activation::None,
        stats: &stats,
        affine: &affine,
    };
    device.run(norm.dispatches(&device.gpu, mode).unwrap());
    device.read(&y)
}

/// Groups all of whose values are one: the result is beta, but for what f32 loses
/// in `x * factor + (beta - mean * factor)`, which is how PyTorch writes it, too.
#[test]
fn group_norms_of_constant_groups() {
    let mut random = Random::new(5);
    for level in [0.0f32, 1.0, -3.0, 0.1, 100.7, 1e4, -1e10, 1e20, 3e38] {
        for (rows, groups, per) in [
            (1, 1, 1),
            (1, 3, 1),
            (50, 3, 5),
            (200, 8, 4),
            (7, 2, 40),
            (5003, 2, 4),
            (900, 3, 87),
        ] {
            let c = groups * per;
            let (gamma, beta) = (random.values(c), random.values(c));
            for (mode, storage) in kinds() {
                if storage == Storage::F16 && level.abs() > 6e4 {
                    continue;
                }
                let level = rounded(storage, &[level])[0];
                let x = vec![level; rows * c];
                let y = group_normed(mode, storage, &x, [&gamma, &beta], groups);
                let factor = 1.0 / EPS.sqrt();
                for (i, y) in y.iter().enumerate() {
                    let lost = 2e-7 * level.abs().min(1e27) * factor * gamma[i % c].abs();
                    let rounding = if storage == Storage::F16 { 1e-3 } else { 1e-6 };
                    let off = (y - beta[i % c]).abs();
                    assert!(
                        off <= lost + rounding,
                        "{level} {groups}x{per} {mode:?} {storage:?}: {y} is not {}",
                        beta[i % c]
                    );
                }
            }
        }
    }
}

/// Squares of these values exceed f32 where they are taken as they are.
#[test]
fn norms_of_large_values() {
    let mut report = Report::new("norms of large values");
    let mut random = Random::new(6);
    for level in [1e10, 1e18, 1e22, 1e26] {
        for (rows, groups, per) in [(1, 1, 8), (50, 3, 5), (200, 8, 4), (7, 2, 40)] {
            let c = groups * per;
            let x: Vec<f32> = random.values(rows * c).iter().map(|x| x * level).collect();
            let (gamma, beta) = (random.values(c), random.values(c));
            let none = Activation::None;
            let grouped = twin_group_norm(&x, [1, rows, c], &gamma, &beta, groups, EPS, none);
            let layered = twin_layer_norm(&x, c, &gamma, &beta, EPS);
            for (mode, storage) in kinds().into_iter().filter(|kind| kind.1 == Storage::F32) {
                let y = group_normed(mode, storage, &x, [&gamma, &beta], groups);
                report.compare(("group", mode), storage, &y, &grouped, &(level, rows, c));
                let y = layer_normed(mode, storage, &x, [&gamma, &beta]);
                report.compare(("layer", mode), storage, &y, &layered, &(level, rows, c));
            }
        }
    }
    report.finish(16);
}

#[test]
fn norms_at_the_ends_of_f32_are_finite() {
    let mut random = Random::new(7);
    for (rows, groups, per) in [(1, 1, 8), (50, 3, 5), (200, 8, 4), (7, 2, 40)] {
        let c = groups * per;
        let signs = random.values(rows * c);
        let x: Vec<f32> = signs.iter().map(|x| f32::MAX.copysign(*x)).collect();
        let (gamma, beta) = (random.values(c), random.values(c));
        for (mode, storage) in kinds().into_iter().filter(|kind| kind.1 == Storage::F32) {
            let grouped = group_normed(mode, storage, &x, [&gamma, &beta], groups);
            let layered = layer_normed(mode, storage, &x, [&gamma, &beta]);
            for y in [grouped, layered] {
                assert!(y.iter().all(|y| y.is_finite()), "{mode:?} {rows}x{c}");
            }
        }
    }
}

/// A value that is not a number, or infinite, makes its whole group or row so.
#[test]
fn norms_over_what_is_not_a_number_are_none() {
    let sizes = [(40, 12, 3), (3001, 12, 3), (9, 1300, 325)];
    for (rows, c, groups) in sizes {
        let (gamma, beta) = (vec![1.0; c], vec![0.5; c]);
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 5, (rows / 2) * c + 4, (rows - 1) * c + c - 1] {
                let mut x = Random::new(8).values(rows * c);
                x[place] = odd;
                for (mode, storage) in kinds() {
                    let y = group_normed(mode, storage, &x, [&gamma, &beta], groups);
                    for (i, y) in y.iter().enumerate() {
                        let same = i % c / 4 == place % c / 4;
                        assert_eq!(y.is_nan(), same, "{odd} {mode:?} {storage:?} {place}: {i}");
                    }
                    let y = layer_normed(mode, storage, &x, [&gamma, &beta]);
                    for (i, y) in y.iter().enumerate() {
                        let same = i / c == place / c;
                        assert_eq!(y.is_nan(), same, "{odd} {mode:?} {storage:?} {place}: {i}");
                    }
                }
            }
        }
    }
}

fn layer_normed(mode: Mode, storage: Storage, x: &[f32], [gamma, beta]: [&[f32]; 2]) -> Vec<f32> {
    let device = device();
    let shape = [1, x.len() / gamma.len(), 1, gamma.len()];
    let x = device.tensor(storage, shape, x, margin(1));
    let y = device.blank(storage, shape, margin(2));
    let (gamma, beta) = (device.floats(gamma, 4), device.floats(beta, 4));
    device.run(layer_norm(&device.gpu, mode, &x, [&gamma, &beta], &y, EPS).unwrap());
    device.read(&y)
}

/// Rows all of whose values are one: the result is beta.
#[test]
fn layer_norms_of_constant_rows() {
    let mut random = Random::new(9);
    for c in [1, 3, 64, 77, 640, 1280, 1303] {
        let (gamma, beta) = (random.values(c), random.values(c));
        for level in [0.0, 1.0, -0.1, 100.7, 54321.0, 1e10, -3e38] {
            for (mode, storage) in kinds() {
                if storage == Storage::F16 && f32::abs(level) > 6e4 {
                    continue;
                }
                let y = layer_normed(mode, storage, &vec![level; 3 * c], [&gamma, &beta]);
                let beta = rounded(storage, &beta);
                for (i, y) in y.iter().enumerate() {
                    assert_eq!(*y, beta[i % c], "{level} x {c} {mode:?} {storage:?}");
                }
            }
        }
    }
}
