//! Tensors that exceed a binding are worked on in bands: the bits must be those
//! of one dispatch.

use crate::attention;
use crate::common::{
    CAP, Device, Fill, Random, by_mode, capped, device, kinds, margin, relative_error, rounded,
};
use crate::forms::is_long;
use crate::product::{Layer, Parts, SAME, on, uniform_sets};
use calotype::bench::kernels::norm::{ACTIVATIONS, Groups};
use calotype::bench::kernels::rows::{Added, Map};
use calotype::kernel::norm::{layer_norm, twin_layer_norm};
use calotype::kernel::product::{Conv, Storages, WeightStorage};
use calotype::kernel::{Activation, Dispatch, Mode, Storage, Tensor};
use std::fmt::Debug;

fn assert_same(banded: &[f32], whole: &[f32], twin: &[f32], storage: Storage, what: &dyn Debug) {
    let different = banded
        .iter()
        .zip(whole)
        .position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(different, None, "{what:?} {storage:?}: bits differ");
    let limit = if storage == Storage::F32 { 1e-5 } else { 5e-3 };
    let error = relative_error(banded, twin);
    assert!(error <= limit, "{what:?} {storage:?}: error {error:e}");
}

/// In every storage, or on a CPU in one, by the problem's seed.
fn check_in_turn(problem: &Layer) {
    let mut sets = uniform_sets();
    if !is_long() {
        sets = vec![sets[problem.seed as usize % sets.len()]];
    }
    check_in(problem, sets);
}

fn check_in(problem: &Layer, sets: Vec<Storages>) {
    for storages in sets {
        let twin = problem.twin(storages);
        for direct in [true, false] {
            let mode = Mode { direct };
            let whole = on(problem, device(), storages);
            assert_eq!(whole.run(mode, None), 1);
            let banded = on(problem, capped(), storages);
            let bands = banded.run(mode, None);
            assert!(bands > 1, "{problem:?} {storages:?}: one band");
            assert_same(&banded.read(), &whole.read(), &twin, storages.out, problem);
        }
    }
}

#[test]
fn the_cap_is_the_devices_limit() {
    assert_eq!(capped().gpu.capabilities().max_binding, CAP);
    let limits = capped().gpu.device().limits();
    assert_eq!(limits.max_storage_buffer_binding_size, CAP);
}

/// More rows than a binding holds, and weights wider than one.
#[test]
fn linear_layers() {
    let mut random = Random::new(1);
    for (i, parts) in Parts::all().into_iter().enumerate() {
        let rows = random.size(200, 300);
        let tall = Layer::linear([1 + i % 3, rows, 17, 77], parts, i as u64);
        check_in_turn(&tall);
        // Three panels of 6 KB in f32, six of 3 KB in f16.
        let columns = 500 + random.size(0, 40);
        let wide = Layer::linear([2, 9, 20, columns], parts, 1 + i as u64);
        check_in_turn(&wide);
    }
}

#[test]
fn a_range_of_rows() {
    let problem = Layer::linear([1, 300, 20, 70], Parts::default(), 7);
    for (mode, storage) in kinds() {
        let banded = on(&problem, capped(), (storage, WeightStorage::F16));
        assert!(banded.run(mode, Some(13..277)) > 1);
        let values = banded.read_rows(13..277);
        let twin = problem.twin((storage, WeightStorage::F16));
        let twin = &twin[13 * 70..277 * 70];
        assert_same(&values, &values, twin, storage, &problem);
    }
}

fn convolutions(taps: usize, conv: Conv) {
    let mut random = Random::new(taps as u64 + conv.stride as u64);
    let parts: Vec<Parts> = Parts::all().into_iter().filter(|p| !p.geglu).collect();
    for (i, parts) in parts.into_iter().enumerate() {
        let shape = [
            1 + i % 2,
            random.size(50, 60) * conv.stride,
            random.size(20, 30),
            random.size(2, 4),
        ];
        let problem = Layer {
            shape,
            co: random.size(21, 30),
            taps,
            conv: Some(conv),
            parts,
            // Other storages in turn for each kind of convolution.
            seed: (i + taps + conv.stride + conv.pad + 2 * usize::from(conv.upsample)) as u64,
        };
        check_in_turn(&problem);
    }
}

#[test]
fn convolutions_3x3() {
    convolutions(9, SAME);
}

#[test]
fn convolutions_3x3_of_stride_2() {
    convolutions(9, Conv { stride: 2, ..SAME });
}

#[test]
fn convolutions_3x3_of_stride_2_with_zeros_after_only() {
    let conv = Conv {
        stride: 2,
        pad: 0,
        upsample: false,
    };
    convolutions(9, conv);
}

#[test]
fn convolutions_3x3_of_an_enlarged_picture() {
    convolutions(
        9,
        Conv {
            upsample: true,
            ..SAME
        },
    );
}

#[test]
fn convolutions_1x1() {
    convolutions(1, Conv { pad: 0, ..SAME });
}

/// Bands of columns and of lines at once.
#[test]
fn convolutions_with_wide_weights() {
    let parts = Parts {
        bias: true,
        channel: true,
        residual: true,
        activation: Activation::Silu,
        ..Default::default()
    };
    for (i, conv) in [SAME, Conv { stride: 2, ..SAME }].into_iter().enumerate() {
        let problem = Layer {
            shape: [2, 22, 12, 4],
            co: 241,
            taps: 9,
            conv: Some(conv),
            parts,
            seed: i as u64,
        };
        check_in(&problem, uniform_sets());
    }
}

#[test]
fn a_line_wider_than_a_binding_is_an_error() {
    use calotype::kernel::product::{Epilogue, Layout, Product, Weight, dispatches};
    let device = capped();
    let layout = Layout {
        taps: 9,
        k: 4,
        n: 8,
        geglu: false,
    };
    let storage = WeightStorage::F32;
    let weight = Weight::packed(device.scratch(layout.bytes(storage)), storage, layout);
    let margin = crate::common::BELOW;
    let a = device.blank(Storage::F32, [1, 4, 2000, 4], margin);
    let out = device.blank(Storage::F32, [1, 4, 2000, 8], margin);
    let product = Product {
        a: &a,
        weight: &weight,
        out: &out,
        conv: Some(SAME),
        blocks: None,
        epilogue: Epilogue::default(),
        rows: None,
    };
    let result = dispatches(&device.context(Mode { direct: true }), &product);
    let message = result.err().expect("should not fit").to_string();
    assert!(message.contains("line"), "{message}");
}

/// The result of dispatches, and their number.
fn ran(device: &Device, (all, y): (Vec<Dispatch>, Tensor)) -> (Vec<f32>, usize) {
    let count = all.len();
    device.run(all);
    (device.read(&y), count)
}

fn group_normed(
    groups: &Groups,
    device: &Device,
    mode: Mode,
    storage: Storage,
) -> (Vec<f32>, usize) {
    let made = groups.on(&device.bed, &by_mode(mode, storage), Fill::Exact);
    ran(device, made.unwrap())
}

fn mapped(map: &Map, device: &Device, mode: Mode, storage: Storage) -> (Vec<f32>, usize) {
    let made = map.on(&device.bed, &by_mode(mode, storage), Fill::Exact);
    ran(device, made.unwrap())
}

#[test]
fn group_norms() {
    let sizes = [
        ([2, 40, 24], 2, 4),
        ([3, 12, 12], 4, 5),
        ([1, 70, 31], 3, 3),
        ([4, 9, 20], 8, 2),
        ([2, 33, 65], 1, 6),
    ];
    for (i, (size, groups, per)) in sizes.into_iter().enumerate() {
        let problem = Groups {
            size,
            groups,
            per,
            activation: ACTIVATIONS[i % ACTIVATIONS.len()],
            seed: i as u64,
        };
        for (mode, storage) in kinds() {
            let (whole, three) = group_normed(&problem, device(), mode, storage);
            assert_eq!(three, 3);
            let (banded, bands) = group_normed(&problem, capped(), mode, storage);
            assert!(bands > 3 || storage == Storage::F16, "{problem:?}: {bands}");
            assert_same(&banded, &whole, &problem.twin(storage), storage, &problem);
        }
    }
}

/// Also where the rows that share a row of what is added exceed a binding.
#[test]
fn maps() {
    for (i, activation) in ACTIVATIONS.into_iter().enumerate() {
        for added in [Added::Nothing, Added::Rows, Added::OneAPicture] {
            for shape in [[2, 50, 31, 9], [3, 1, 601, 5], [5, 13, 21, 24]] {
                let map = Map {
                    shape,
                    activation,
                    added,
                    seed: i as u64,
                };
                for (mode, storage) in kinds() {
                    let (whole, one) = mapped(&map, device(), mode, storage);
                    assert_eq!(one, 1);
                    let (banded, bands) = mapped(&map, capped(), mode, storage);
                    assert!(bands > 1, "{map:?}");
                    assert_same(&banded, &whole, &map.twin(storage), storage, &map);
                }
            }
        }
    }
}

/// A batch that exceeds a binding: one picture after another.
#[test]
fn attentions() {
    let shapes = [
        attention::shape([4, 10, 7], [2, 64], false),
        attention::shape([5, 9, 9], [2, 64], true),
        attention::fused([6, 9], [1, 64], false),
        attention::shape([7, 12, 12], [3, 24], false),
    ];
    for (seed, shape) in shapes.into_iter().enumerate() {
        let numbers = attention::numbers(&shape, seed as u64);
        for mode in [true, false].map(|direct| Mode { direct }) {
            let storage = Storage::F32;
            let (whole, few) = attention::run(&shape, device(), mode, storage, &numbers);
            let (banded, many) = attention::run(&shape, capped(), mode, storage, &numbers);
            assert!(many > few, "{shape:?}: {many} dispatches");
            assert!(banded == whole, "{shape:?}: values differ");
        }
    }
}

#[test]
fn layer_norms() {
    let (rows, c) = (300, 77);
    let mut random = Random::new(3);
    let (x, gamma, beta) = (random.values(rows * c), random.values(c), random.values(c));
    for (mode, storage) in kinds() {
        let run = |device: &Device| {
            let shape = [1, rows, 1, c];
            let tensor = device.tensor(storage, shape, &x, margin(0));
            let y = device.blank(storage, shape, margin(1));
            let affine = [device.floats(&gamma, 4), device.floats(&beta, 4)];
            let affine = [&affine[0], &affine[1]];
            let all = layer_norm(&device.gpu, mode, &tensor, affine, &y, 1e-5).unwrap();
            let count = all.len();
            device.run(all);
            (device.read(&y), count)
        };
        let ((whole, one), (banded, bands)) = (run(device()), run(capped()));
        assert!(one == 1 && bands > 1);
        let twin = twin_layer_norm(&rounded(storage, &x), c, &gamma, &beta, 1e-5);
        assert_same(&banded, &whole, &twin, storage, &"layer norm");
    }
}
