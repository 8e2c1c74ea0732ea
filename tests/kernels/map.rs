//! Activations, sums and copies.

use crate::common::{BELOW, assert_close, device, extremes, kinds, modes, rounded, sweep};
use calotype::bench::kernels::norm::ACTIVATIONS;
use calotype::kernel::map::{dispatches, twin};
use calotype::kernel::{Activation, Mode, Storage};

#[test]
fn maps() {
    sweep("sweep map", modes, 30);
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
