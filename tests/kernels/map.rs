//! Activations, sums and copies.

use crate::common::{
    BELOW, Device, Random, Report, assert_close, device, extremes, kinds, margin, rounded,
};
use crate::norm::ACTIVATIONS;
use calotype::kernel::map::{dispatches, twin};
use calotype::kernel::{Activation, Mode, Storage};

/// What is added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Added {
    Nothing,
    Rows,
    OneAPicture,
}

#[derive(Debug, Clone, Copy)]
pub struct Map {
    pub shape: [usize; 4],
    pub activation: Activation,
    pub added: Added,
    pub seed: u64,
}

impl Map {
    fn b_shape(&self) -> [usize; 4] {
        let [n, h, w, c] = self.shape;
        match self.added {
            Added::OneAPicture => [n, 1, 1, c],
            _ => [n, h, w, c],
        }
    }

    fn numbers(&self) -> [Vec<f32>; 2] {
        let mut random = Random::new(self.seed);
        let x = random.values(self.shape.iter().product());
        let b = random.values(self.b_shape().iter().product());
        [x.iter().map(|x| 4.0 * x).collect(), b]
    }

    pub fn twin(&self, storage: Storage) -> Vec<f32> {
        let [x, b] = self.numbers().map(|v| rounded(storage, &v));
        let [_, h, w, c] = self.shape;
        let b = match self.added {
            Added::Nothing => None,
            Added::Rows => Some((&b[..], 1)),
            Added::OneAPicture => Some((&b[..], h * w)),
        };
        twin(&x, c, self.activation, b)
    }

    pub fn run(&self, device: &Device, mode: Mode, storage: Storage) -> (Vec<f32>, usize) {
        let [x, b] = self.numbers();
        let turn = self.seed as usize;
        let x = device.tensor(storage, self.shape, &x, margin(turn));
        let b = device.tensor(storage, self.b_shape(), &b, margin(turn + 1));
        let b = (self.added != Added::Nothing).then_some(&b);
        let y = device.blank(storage, self.shape, margin(turn + 2));
        let all = dispatches(&device.context(mode), &x, self.activation, b, &y).unwrap();
        let count = all.len();
        device.run(all);
        (device.read(&y), count)
    }
}

#[test]
fn maps() {
    let mut report = Report::new("map");
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
    for (i, shape) in fixed.into_iter().chain(drawn).enumerate() {
        let map = Map {
            shape,
            activation: ACTIVATIONS[i / 3 % ACTIVATIONS.len()],
            added: [Added::Nothing, Added::Rows, Added::OneAPicture][i % 3],
            seed: i as u64,
        };
        for (mode, storage) in kinds() {
            let (out, _) = map.run(device(), mode, storage);
            report.compare(mode, storage, &out, &map.twin(storage), &map);
        }
    }
    report.finish(30);
}

/// The result of an activation over a row of values.
fn activated(mode: Mode, storage: Storage, activation: Activation, x: &[f32]) -> Vec<f32> {
    let (device, shape) = (device(), [1, 1, 1, x.len()]);
    let x = device.tensor(storage, shape, x, BELOW);
    let y = device.blank(storage, shape, BELOW);
    device.run(dispatches(&device.context(mode), &x, activation, None, &y).unwrap());
    device.read(&y)
}

#[test]
fn activations_at_extremes() {
    for (mode, storage) in kinds() {
        let x = extremes(storage);
        for activation in ACTIVATIONS {
            let y = activated(mode, storage, activation, &x);
            let seen = twin(&rounded(storage, &x), x.len(), activation, None);
            assert_close(&y, &seen, storage, &activation);
        }
    }
}

/// Nothing that is not a number becomes one.
#[test]
fn what_is_not_a_number_stays_so() {
    for (mode, storage) in kinds() {
        for activation in ACTIVATIONS {
            let x = [f32::NAN, 1.0, -f32::NAN, -1.0];
            let y = activated(mode, storage, activation, &x);
            let found: Vec<bool> = y.iter().map(|y| y.is_nan()).collect();
            assert_eq!(found, [true, false, true, false], "{activation:?}: {y:?}");
        }
    }
}
