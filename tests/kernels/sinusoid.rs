//! Sinusoidal embeddings.

use crate::common::{BELOW, device, modes, sweep};
use calotype::kernel::Storage;
use calotype::kernel::sinusoid::{Sinusoid, dispatch};

#[test]
fn sinusoids() {
    sweep("sweep sinusoid", modes, 30);
}

/// Beyond what a reduction in f32 can do the columns are still sines.
#[test]
fn sinusoids_of_large_values() {
    let sinusoid = Sinusoid {
        dim: 16,
        cos_first: true,
        shift: 0.0,
    };
    for value in [1e6, -1e7, 1e10, 1e20, 1e30, f32::MAX, f32::MIN] {
        let y = device().blank(Storage::F32, [1, 1, 1, 16], BELOW);
        let given = device().floats(&[value], 1);
        device().run(vec![dispatch(&given, &y, sinusoid, 1).unwrap()]);
        let out = device().read(&y);
        let within = out.iter().all(|x| (-1.001..=1.001).contains(x));
        assert!(within, "{value:e}: {out:?}");
    }
}
