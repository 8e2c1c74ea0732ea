//! f32 activations as f16 operands, whatever their size.

use crate::common::{Random, capped, device, kinds, margin, relative_error, storages};
use calotype::kernel::narrow::{Narrow, scratch_bytes, twin_factor};
use calotype::kernel::product::{
    Epilogue, Layout, Product, Scale, Weight, WeightStorage, dispatches, twin_linear,
};
use calotype::kernel::{Storage, View};

/// A linear layer over values of every size: the operand in f16 is what they are by a
/// power of two, and the result, bias included, as exact as f16 values are.
#[test]
fn products_of_values_that_f16_does_not_hold() {
    if !storages().contains(&Storage::F16) {
        return;
    }
    let mut random = Random::new(5);
    for (i, size) in [1e-32, 1e-30, 3e-5, 1.0, 65519.0, 4e6, 1e30, 3e38, 0.0]
        .into_iter()
        .cycle()
        .take(36)
        .enumerate()
    {
        let [n, rows] = [random.size(1, 3), random.size(1, 40)];
        let (k, co) = (8 * random.size(1, 20), random.size(1, 90));
        let has_bias = i % 3 != 1;
        // The sums stay within f32.
        let of_weights = if size > 1e35 { 1e-9 } else { 1.0 };
        let scale = |values: Vec<f32>, by: f32| values.into_iter().map(|x| x * by).collect();
        let x: Vec<f32> = scale(random.values(n * rows * k), size / 8.0);
        let w: Vec<f32> = scale(random.values(k * co), of_weights);
        let bias: Vec<f32> = scale(random.values(co), size * of_weights);
        let layout = Layout {
            taps: 1,
            k,
            n: co,
            geglu: false,
        };
        let columns: Vec<Vec<f32>> = (0..co)
            .map(|j| (0..k).map(|i| w[i * co + j]).collect())
            .collect();
        let columns: Vec<&[f32]> = columns.iter().map(|c| &c[..]).collect();
        for (mode, _) in kinds().into_iter().filter(|kind| kind.1 == Storage::F32) {
            let shape = [n, rows, 1, k];
            let tensor = device().tensor(Storage::F32, shape, &x, margin(i));
            let weight = device().view(bytemuck::cast_slice(&layout.pack(&columns)));
            let scratch: Vec<View> = scratch_bytes(shape, layout)
                .into_iter()
                .map(|bytes| device().scratch(bytes))
                .collect();
            let packed = has_bias.then(|| device().floats(&layout.pack_bias(&bias), 1));
            let context = device().context(mode);
            let narrowed = Narrow {
                x: &tensor,
                bias: packed.as_ref(),
                layout,
                scratch: &scratch,
            };
            let narrowed = narrowed.dispatches(&context).unwrap();
            device().run(narrowed.dispatches);
            // The operand, by its own factor.
            let factor = twin_factor(&x);
            let half = device().read(&narrowed.operand);
            let exact: Vec<f32> = x.iter().map(|x| x / factor).collect();
            let most = half.iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!(most < 32769.0 && (size == 0.0 || most >= 16383.0), "{most}");
            let error = relative_error(&half, &exact);
            assert!(error < 5e-4, "{size} {mode:?}: {error:e}");
            let out = device().blank(Storage::F32, [n, rows, 1, co], margin(i + 1));
            let product = Product {
                a: &narrowed.operand,
                weight: &Weight::packed(weight, WeightStorage::F32, layout),
                out: &out,
                conv: None,
                blocks: None,
                epilogue: Epilogue {
                    bias: Some(narrowed.bias),
                    scale: Some(Scale::BehindBias),
                    ..Default::default()
                },
                rows: None,
            };
            device().run(dispatches(&context, &product).unwrap());
            let sums = twin_linear(&x, &w, [n * rows, k, co]);
            let add = |(i, sum): (usize, f32)| match has_bias {
                true => sum + bias[i % co],
                false => sum,
            };
            let twin: Vec<f32> = sums.into_iter().enumerate().map(add).collect();
            let error = relative_error(&device().read(&out), &twin);
            assert!(error < 1e-3, "{size} {mode:?}: {error:e}");
        }
    }
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
