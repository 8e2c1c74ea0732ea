//! Group norm, layer norm and softmax.

use crate::common::{Device, Random, Report, device, kinds, margin, rounded};
use calotype::kernel::norm::{
    GroupNorm, Mask, layer_norm, scratch_bytes, softmax, twin_group_norm, twin_layer_norm,
    twin_softmax,
};
use calotype::kernel::{Activation, Storage, Tuning};

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
    pub fn run(&self, device: &Device, tuning: Tuning, storage: Storage) -> (Vec<f32>, usize) {
        let [x, gamma, beta] = self.numbers();
        let (shape, turn) = (self.shape(), self.seed as usize);
        let x = device.tensor(storage, shape, &x, margin(turn));
        let y = device.blank(storage, shape, margin(turn + 1));
        let [stats, affine] = scratch_bytes(shape).map(|bytes| device.scratch(bytes));
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
        let all = norm.dispatches(&device.gpu, tuning).unwrap();
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
        for (tuning, storage) in kinds() {
            let (out, _) = problem.run(device(), tuning, storage);
            report.compare(tuning, storage, &out, &problem.twin(storage), &problem);
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
    ];
    let mut random = Random::new(2);
    let drawn = (0..24).map(|_| [random.size(1, 100), random.size(2, 700)]);
    for (i, [rows, c]) in fixed.into_iter().chain(drawn).enumerate() {
        let mut random = Random::new(i as u64);
        let shift = 3.0 * (i % 3) as f32;
        let x: Vec<f32> = random.values(rows * c).iter().map(|v| v + shift).collect();
        let (gamma, beta) = (random.values(c), random.values(c));
        for (tuning, storage) in kinds() {
            let shape = [1, rows, 1, c];
            let tensor = device().tensor(storage, shape, &x, margin(i));
            let y = device().blank(storage, shape, margin(i + 1));
            let (g, b) = (device().floats(&gamma, 4), device().floats(&beta, 4));
            let gpu = &device().gpu;
            device().run(layer_norm(gpu, tuning, &tensor, [&g, &b], &y, EPS).unwrap());
            let twin = twin_layer_norm(&rounded(storage, &x), c, &gamma, &beta, EPS);
            report.compare(tuning, storage, &device().read(&y), &twin, &[rows, c]);
        }
    }
    report.finish(30);
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
        for (tuning, storage) in kinds() {
            let tensor = device().tensor(storage, [1, rows, 1, c], &x, margin(i));
            device().run(vec![softmax(tuning, &tensor, mask).unwrap()]);
            let twin = twin_softmax(&rounded(storage, &x), c, mask);
            let out = device().read(&tensor);
            report.compare(tuning, storage, &out, &twin, &([rows, c], mask));
            let masked = out.iter().zip(&twin).all(|(a, b)| *b != 0.0 || *a == 0.0);
            assert!(masked, "a masked column is not zero: {mask:?}");
        }
    }
    report.finish(30);
}
