//! Linear layers and convolutions with every epilogue.

use crate::common::{
    BELOW, Device, Numbers, Report, assert_close, device, extremes, kinds, modes, rounded,
    storage_sets, sweep,
};
use calotype::bench::kernels::norm::ACTIVATIONS;
pub use calotype::bench::kernels::product::{Layer, Parts};
use calotype::bench::kernels::product::{Uploaded as OnBed, packed};
pub use calotype::bench::kernels::sweeps::SAME;
use calotype::kernel::product::{
    Call, Epilogue, Layout, Product, Storages, TwinEpilogue, WeightStorage, twin_epilogue,
};
use calotype::kernel::{Activation, Mode, Storage};
use std::ops::Range;

/// A layer on a device.
pub struct Uploaded<'a> {
    device: &'a Device,
    on_bed: OnBed,
}

/// Uploads everything.
pub fn on<'a>(layer: &Layer, device: &'a Device, storages: impl Into<Storages>) -> Uploaded<'a> {
    Uploaded {
        device,
        on_bed: layer.on(&device.bed, storages).unwrap(),
    }
}

impl Uploaded<'_> {
    /// Runs it (over `rows`, where given) and says how many dispatches it took.
    pub fn run(&self, mode: Mode, rows: Option<Range<usize>>) -> usize {
        self.on_bed.run(&self.device.bed, mode, rows).unwrap()
    }

    pub fn product(&self, rows: Option<Range<usize>>) -> Product<'_> {
        self.on_bed.product(rows)
    }

    /// What a variant is chosen for, all rows and columns together.
    pub fn call(&self) -> Call {
        let product = self.product(None);
        product.call(product.out.rows(), product.weight.n8)
    }

    pub fn read(&self) -> Vec<f32> {
        self.device.read(&self.on_bed.out)
    }

    pub fn read_rows(&self, rows: Range<usize>) -> Vec<f32> {
        self.device.read_rows(&self.on_bed.out, rows)
    }
}

/// Combinations of storages whose activations are all alike.
pub fn uniform_sets() -> Vec<Storages> {
    let all = storage_sets().into_iter();
    all.filter(|s| s.a == s.out).collect()
}

#[test]
fn linear_layers() {
    sweep("sweep linear", modes, 30);
}

/// 30 shapes by every combination of parts.
#[test]
fn epilogues() {
    sweep("sweep epilogues", modes, 30 * Parts::all().len());
}

#[test]
fn convolutions_3x3() {
    sweep("sweep conv 3x3", modes, 30);
}

#[test]
fn convolutions_3x3_of_stride_2() {
    sweep("sweep conv 3x3 /2", modes, 30);
}

#[test]
fn convolutions_3x3_of_stride_2_with_zeros_after_only() {
    sweep("sweep conv 3x3 /2 end", modes, 30);
}

#[test]
fn convolutions_3x3_of_an_enlarged_picture() {
    sweep("sweep conv 3x3 x2", modes, 30);
}

#[test]
fn convolutions_1x1() {
    sweep("sweep conv 1x1", modes, 30);
}

#[test]
fn convolutions_1x1_of_stride_2() {
    sweep("sweep conv 1x1 /2", modes, 30);
}

#[test]
fn activations_as_the_right_operand() {
    sweep("sweep product of activations", modes, 30);
}

/// What a large layer is compared by, some rows and columns, is what the twin of the
/// whole says.
#[test]
fn a_sample_of_the_twin_is_the_twin() {
    let convolutions = calotype::bench::kernels::sweeps::CONVOLUTIONS;
    let parts = Parts::all();
    for (i, parts) in parts.into_iter().enumerate() {
        let seed = i as u64;
        let linear = Layer::linear([2, 9, 13, 21], parts, seed);
        let conv = |(_, taps, conv)| Layer {
            shape: [2, 5, 7, 6],
            co: 11,
            taps,
            conv: Some(conv),
            parts,
            seed,
        };
        let convs = convolutions.into_iter().filter(|_| !parts.geglu).map(conv);
        for layer in convs.chain([linear]) {
            let [n, h, w, co] = layer.out_shape();
            let rows: Vec<usize> = (0..n * h * w).rev().collect();
            let columns: Vec<usize> = (0..co).rev().collect();
            for storages in Storages::all() {
                let mut some = layer.twin_at(storages, &rows, &columns);
                some.reverse();
                assert_eq!(some, layer.twin(storages), "{layer:?} {storages:?}");
            }
        }
    }
}

/// A product large enough for the tile of 16x16 gives the bits that its rows
/// give one range at a time, which the small tile makes.
#[test]
fn results_do_not_depend_on_the_tile() {
    let mut report = Report::new("large tile");
    let parts = Parts {
        bias: true,
        residual: true,
        activation: Activation::Silu,
        ..Default::default()
    };
    let problem = Layer::linear([1, 1793, 21, 1799], parts, 5);
    let rows = problem.shape[1];
    for storages in uniform_sets() {
        let mode = Mode { direct: false };
        let whole = on(&problem, device(), storages);
        whole.run(mode, None);
        let pieces = on(&problem, device(), storages);
        for first in (0..rows).step_by(300) {
            pieces.run(mode, Some(first..(first + 300).min(rows)));
        }
        let (whole, pieces) = (whole.read(), pieces.read());
        let same = whole
            .iter()
            .zip(&pieces)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{storages:?}");
        let twin = problem.twin(storages);
        report.compare(storages, storages.out, &whole, &twin, &problem);
    }
    let picture = Layer {
        shape: [1, 47, 49, 7],
        co: 1401,
        taps: 9,
        conv: Some(SAME),
        parts,
        seed: 6,
    };
    for storages in uniform_sets() {
        let uploaded = on(&picture, device(), storages);
        uploaded.run(Mode { direct: false }, None);
        let twin = picture.twin(storages);
        report.compare(storages, storages.out, &uploaded.read(), &twin, &picture);
    }
    report.finish(2);
}

/// Sums at the ends of f32 go through every activation and the gate; what is not a
/// number stays so.
#[test]
fn epilogues_at_extremes() {
    for (mode, storage) in kinds() {
        let x = extremes(storage);
        // Values and gates: every pair of an extreme and something usual.
        let usual = [0.0, 1.0, -0.3, 5.0, -11.0];
        let pairs = || x.iter().flat_map(|x| usual.map(|y| (*x, y)));
        let both = pairs().chain(pairs().map(|(x, y)| (y, x)));
        let (values, gates): (Vec<f32>, Vec<f32>) = both.unzip();
        let gated = (
            [values, gates].concat(),
            Parts {
                geglu: true,
                ..Default::default()
            },
        );
        let activated = ACTIVATIONS.map(|activation| {
            let parts = Parts {
                activation,
                ..Default::default()
            };
            (x.clone(), parts)
        });
        for (bias, parts) in activated.into_iter().chain([gated]) {
            let (out, twin) = biases_through(mode, storage, &bias, parts);
            assert_close(&out, &twin, storage, &parts);
            let mut broken = bias.clone();
            broken[3] = f32::NAN;
            let (out, _) = biases_through(mode, storage, &broken, parts);
            let found = out.iter().enumerate().all(|(i, x)| x.is_nan() == (i == 3));
            assert!(found, "{parts:?}: {out:?}");
        }
    }
}

/// A product of zeros whose bias goes through the epilogue, and its twin.
fn biases_through(
    mode: Mode,
    storage: Storage,
    bias: &[f32],
    parts: Parts,
) -> (Vec<f32>, Vec<f32>) {
    let (device, n) = (device(), bias.len());
    let layout = Layout {
        taps: 1,
        k: 4,
        n,
        geglu: parts.geglu,
    };
    let co = n >> u32::from(parts.geglu);
    let zeros = Numbers::from(vec![0.0; 4 * n]);
    let on_bed = OnBed {
        a: device.tensor(storage, [1, 1, 1, 4], &[1.0; 4], BELOW),
        weight: packed(&device.bed, WeightStorage::F32, layout, &zeros).unwrap(),
        out: device.blank(storage, [1, 1, 1, co], BELOW),
        conv: None,
        epilogue: Epilogue {
            bias: Some(device.floats(&layout.pack_bias(bias), 1)),
            geglu: parts.geglu,
            activation: parts.activation,
            ..Default::default()
        },
    };
    let uploaded = Uploaded { device, on_bed };
    uploaded.run(mode, None);
    let epilogue = TwinEpilogue {
        bias: Some(bias),
        geglu: parts.geglu,
        activation: parts.activation,
        ..Default::default()
    };
    let twin = twin_epilogue(&vec![0.0; n], n, &epilogue);
    (uploaded.read(), rounded(storage, &twin))
}

/// Rows outside the range keep what they had.
#[test]
fn a_range_of_rows_leaves_the_others_alone() {
    let problem = Layer::linear([1, 90, 20, 30], Parts::default(), 7);
    for (mode, storage) in kinds() {
        let weights = WeightStorage::F32;
        let uploaded = on(&problem, device(), (storage, weights));
        uploaded.run(mode, Some(13..77));
        let values = uploaded.read_rows(13..77);
        let twin = problem.twin((storage, weights));
        let mut report = Report::new("rows");
        report.compare(mode, storage, &values, &twin[13 * 30..77 * 30], &problem);
    }
}

/// One vec4 of K, one row, one column: nothing is read beyond the tensor.
#[test]
fn the_smallest_product_is_exact() {
    let problem = Layer::linear([1, 1, 1, 1], Parts::default(), 9);
    for direct in [true, false] {
        let uploaded = on(&problem, device(), (Storage::F32, WeightStorage::F32));
        uploaded.run(Mode { direct }, None);
        let twin = problem.twin((Storage::F32, WeightStorage::F32));
        assert_eq!(uploaded.read(), twin);
    }
}
