//! f32 activations as f16 operands, whatever their size.

use crate::common::{Random, capped, device, kinds, margin, modes, storages, sweep};
use calotype::kernel::narrow::{Narrow, scratch_bytes};
use calotype::kernel::product::Layout;
use calotype::kernel::{Storage, View};

/// A linear layer over values of every size: the operand in f16 is what they are by a
/// power of two, and the result, bias included, as exact as f16 values are.
#[test]
fn products_of_values_that_f16_does_not_hold() {
    sweep("sweep narrow", modes, 30);
}

/// What is not finite stays so in the operand.
#[test]
fn what_is_not_finite_is_not_hidden() {
    if !storages().contains(&Storage::F16) {
        return;
    }
    let layout = Layout {
        taps: 1,
        k: 8,
        n: 8,
        geglu: false,
    };
    for (mode, _) in kinds().into_iter().filter(|kind| kind.1 == Storage::F32) {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = Random::new(2).values(40 * 8);
            x[123] = bad;
            let tensor = device().tensor(Storage::F32, [1, 40, 1, 8], &x, margin(1));
            let scratch: Vec<View> = scratch_bytes([1, 40, 1, 8], layout)
                .into_iter()
                .map(|bytes| device().scratch(bytes))
                .collect();
            let narrowed = Narrow {
                x: &tensor,
                bias: None,
                layout,
                scratch: &scratch,
            };
            let narrowed = narrowed.dispatches(&device().context(mode)).unwrap();
            device().run(narrowed.dispatches);
            let half = device().read(&narrowed.operand);
            assert!(!half[123].is_finite(), "{mode:?} {bad}: {}", half[123]);
        }
    }
}

/// Bands where a binding cannot hold the tensor: the same bits.
#[test]
fn narrowing_in_bands() {
    if !storages().contains(&Storage::F16) {
        return;
    }
    let (shape, layout) = (
        [1, 3000, 1, 60],
        Layout {
            taps: 1,
            k: 60,
            n: 8,
            geglu: false,
        },
    );
    let x: Vec<f32> = Random::new(7).values(3000 * 60);
    for (mode, _) in kinds().into_iter().filter(|kind| kind.1 == Storage::F32) {
        let [whole, banded] = [device(), capped()].map(|device| {
            let tensor = device.tensor(Storage::F32, shape, &x, margin(2));
            let scratch: Vec<View> = scratch_bytes(shape, layout)
                .into_iter()
                .map(|bytes| device.scratch(bytes))
                .collect();
            let narrowed = Narrow {
                x: &tensor,
                bias: None,
                layout,
                scratch: &scratch,
            };
            let narrowed = narrowed.dispatches(&device.context(mode)).unwrap();
            let count = narrowed.dispatches.len();
            device.run(narrowed.dispatches);
            (count, device.read(&narrowed.operand))
        });
        assert!(banded.0 > whole.0, "one band");
        assert_eq!(banded.1, whole.1, "{mode:?}");
    }
}
