//! Group norm, layer norm and softmax.

use crate::common::{BELOW, Device, GUARD, Random, Report, device, kinds, margin, rounded};
use calotype::kernel::norm::{
    GroupNorm, Mask, layer_norm, scratch_bytes, softmax, twin_group_norm, twin_layer_norm,
    twin_softmax,
};
use calotype::kernel::{Activation, Mode, Storage, Tensor};

/// A group norm over `[n, h, w, groups * per]`.
#[derive(Debug, Clone, Copy)]
pub struct Groups {
    pub size: [usize; 3],
    pub groups: usize,
    pub per: usize,
    pub activation: Activation,
    pub seed: u64,
}

const EPS: f32 = 1e-5;

impl Groups {
    fn shape(&self) -> [usize; 4] {
        let [n, h, w] = self.size;
        [n, h, w, self.groups * self.per]
    }

    /// Values with a mean and a spread of their own for each channel, in some
    /// problems far from zero. Spreads have a floor: f32 cannot hold the mean of
    /// values that hardly differ well enough for any kernel to meet the limit.
    fn numbers(&self) -> [Vec<f32>; 3] {
        let mut random = Random::new(self.seed);
        let [n, h, w, c] = self.shape();
        let far = 10.0 * (self.seed % 3) as f32;
        let (means, spreads) = (random.values(c), random.values(c));
        let x = random.values(n * h * w * c).into_iter().enumerate();
        let x = x.map(|(i, v)| v * (1.5 + spreads[i % c]) + 2.0 * means[i % c] + far);
        [x.collect(), random.values(c), random.values(c)]
    }

    pub fn twin(&self, storage: Storage) -> Vec<f32> {
        let [x, gamma, beta] = self.numbers();
        let [n, h, w, c] = self.shape();
        twin_group_norm(
            &rounded(storage, &x),
            [n, h * w, c],
            &gamma,
            &beta,
            self.groups,
            EPS,
            self.activation,
        )
    }

    /// The result on `device`, and the number of dispatches.
    pub fn run(&self, device: &Device, mode: Mode, storage: Storage) -> (Vec<f32>, usize) {
        let [x, gamma, beta] = self.numbers();
        let (shape, turn) = (self.shape(), self.seed as usize);
        let x = device.tensor(storage, shape, &x, margin(turn));
        let y = device.blank(storage, shape, margin(turn + 1));
        let [stats, affine] = scratch_bytes(mode, shape).map(|bytes| device.scratch(bytes));
        let norm = GroupNorm {
            x: &x,
            y: &y,
            gamma: &device.floats(&gamma, 4),
            beta: &device.floats(&beta, 4),
            groups: self.groups,
            eps: EPS,
            activation: self.activation,
            stats: &stats,
            affine: &affine,
        };
        let all = norm.dispatches(&device.gpu, mode).unwrap();
        let count = all.len();
        device.run(all);
        (device.read(&y), count)
    }
}

#[test]
fn group_norms() {
    let mut report = Report::new("group norm");
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
    for (i, (size, groups, per)) in fixed.into_iter().chain(drawn).enumerate() {
        let problem = Groups {
            size,
            groups,
            per,
            activation: ACTIVATIONS[i % ACTIVATIONS.len()],
            seed: i as u64,
        };
        for (mode, storage) in kinds() {
            let (out, _) = problem.run(device(), mode, storage);
            report.compare(mode, storage, &out, &problem.twin(storage), &problem);
        }
    }
    report.finish(30);
}

pub const ACTIVATIONS: [Activation; 6] = [
    Activation::None,
    Activation::Silu,
    Activation::Gelu,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::SoftClamp,
];

#[test]
fn layer_norms() {
    let mut report = Report::new("layer norm");
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
    for (i, [rows, c]) in fixed.into_iter().chain(drawn).enumerate() {
        let mut random = Random::new(i as u64);
        let shift = 3.0 * (i % 3) as f32;
        let x: Vec<f32> = random.values(rows * c).iter().map(|v| v + shift).collect();
        let (gamma, beta) = (random.values(c), random.values(c));
        for (mode, storage) in kinds() {
            let shape = [1, rows, 1, c];
            let tensor = device().tensor(storage, shape, &x, margin(i));
            let y = device().blank(storage, shape, margin(i + 1));
            let (g, b) = (device().floats(&gamma, 4), device().floats(&beta, 4));
            let gpu = &device().gpu;
            device().run(layer_norm(gpu, mode, &tensor, [&g, &b], &y, EPS).unwrap());
            let twin = twin_layer_norm(&rounded(storage, &x), c, &gamma, &beta, EPS);
            report.compare(mode, storage, &device().read(&y), &twin, &[rows, c]);
        }
    }
    report.finish(30);
}

/// The softmax of `scores`: in place, or beside them in f16.
fn soft(mode: Mode, storage: Storage, scores: &Tensor, mask: Mask) -> Tensor {
    let weights = match storage {
        Storage::F32 => None,
        Storage::F16 => {
            let bytes = scores.view.size / 2;
            let guard = vec![GUARD; bytes as usize / 2];
            Some(Tensor {
                view: device().view(&storage.encode(&guard)),
                storage,
                ..scores.clone()
            })
        }
    };
    device().run(vec![softmax(mode, scores, weights.as_ref(), mask).unwrap()]);
    weights.unwrap_or(scores.clone())
}

#[test]
fn softmaxes() {
    let mut report = Report::new("softmax");
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
    let drawn = (0..24).map(|_| {
        let (heads, rows) = (random.size(1, 5), random.size(1, 50));
        let count = random.size(1, 300);
        ([heads * rows, count + random.size(0, 9)], rows, count)
    });
    for (i, ([rows, c], rows_per_head, count)) in fixed.into_iter().chain(drawn).enumerate() {
        let mut random = Random::new(i as u64);
        let x: Vec<f32> = random.values(rows * c).iter().map(|v| v * 12.0).collect();
        let mask = Mask {
            count,
            rows_per_head,
            first: random.size(0, 20),
            causal: i % 2 == 1,
        };
        for (mode, storage) in kinds() {
            let scores = device().tensor(Storage::F32, [1, rows, 1, c], &x, margin(i));
            let tensor = soft(mode, storage, &scores, mask);
            let twin = twin_softmax(&x, c, mask);
            let out = device().read(&tensor);
            report.compare(mode, storage, &out, &twin, &([rows, c], mask));
            let masked = out.iter().zip(&twin).all(|(a, b)| *b != 0.0 || *a == 0.0);
            assert!(masked, "a masked column is not zero: {mask:?}");
        }
    }
    report.finish(30);
}

/// Scores of hundreds beside dropped columns (padding, later keys) that lie as far
/// above them, and at the ends of f32.
#[test]
fn softmaxes_far_from_zero() {
    let mut report = Report::new("sharp softmax");
    let shapes = [
        ([4, 80], 4, 77),
        ([77, 80], 77, 77),
        ([6, 88], 3, 81),
        ([5, 1], 5, 1),
        ([5, 8], 5, 1),
        ([130, 136], 65, 130),
    ];
    for (i, ([rows, c], rows_per_head, count)) in shapes.into_iter().enumerate() {
        for (level, causal) in [-500.0, -200.0, 0.0, 200.0, 500.0]
            .into_iter()
            .flat_map(|level| [(level, false), (level, true)])
        {
            let mask = Mask {
                count,
                rows_per_head,
                first: 0,
                causal,
            };
            let mut random = Random::new(i as u64);
            let mut x: Vec<f32> = random.values(rows * c);
            for (at, x) in x.iter_mut().enumerate() {
                let (row, column) = (at / c, at % c);
                let seen = if causal {
                    row % rows_per_head + 1
                } else {
                    count
                };
                let dropped = [0.0, 500.0, -500.0][at % 3];
                *x = match column < count.min(seen) {
                    true => level + (*x * 16.0).round() / 4.0 * [1.0, 40.0][row % 2],
                    false => dropped,
                };
            }
            for (mode, storage) in kinds() {
                let scores = device().tensor(Storage::F32, [1, rows, 1, c], &x, margin(i));
                let tensor = soft(mode, storage, &scores, mask);
                let twin = twin_softmax(&x, c, mask);
                let out = device().read(&tensor);
                report.compare(mode, storage, &out, &twin, &(level, mask));
            }
        }
    }
    report.finish(60);
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
