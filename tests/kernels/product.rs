//! Linear layers and convolutions with every epilogue.

use crate::common::{
    BELOW, Device, EVEN, Random, Report, assert_close, device, extremes, kinds, margin, rounded,
    storages,
};
use crate::norm::ACTIVATIONS;
use calotype::kernel::product::{
    Call, Conv, Epilogue, Layout, Product, Scale, Storages, TwinEpilogue, Variant, Weight,
    WeightStorage, dispatches, dispatches_by, twin_conv, twin_epilogue, twin_linear,
};
use calotype::kernel::{Activation, Mode, Storage, Tensor};
use half::f16;

/// An epilogue by its parts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    pub scale: Option<f32>,
    pub bias: bool,
    pub channel: bool,
    pub geglu: bool,
    pub activation: Activation,
    pub residual: bool,
}

/// Every part alone, and the combinations that the models use.
pub fn all_parts() -> Vec<Parts> {
    let none = Parts::default();
    let bias = Parts { bias: true, ..none };
    vec![
        none,
        bias,
        Parts {
            scale: Some(0.37),
            ..none
        },
        Parts {
            channel: true,
            ..none
        },
        Parts {
            residual: true,
            ..none
        },
        Parts {
            geglu: true,
            ..none
        },
        Parts {
            activation: Activation::Silu,
            ..none
        },
        Parts {
            activation: Activation::Gelu,
            ..bias
        },
        Parts {
            activation: Activation::QuickGelu,
            ..bias
        },
        Parts {
            activation: Activation::Relu,
            ..bias
        },
        Parts {
            activation: Activation::SoftClamp,
            ..none
        },
        Parts {
            geglu: true,
            ..bias
        },
        Parts {
            geglu: true,
            scale: Some(-1.5),
            ..bias
        },
        Parts {
            channel: true,
            ..bias
        },
        Parts {
            residual: true,
            ..bias
        },
        Parts {
            scale: Some(0.37),
            bias: true,
            channel: true,
            geglu: false,
            activation: Activation::Silu,
            residual: true,
        },
    ]
}

/// A linear layer (`conv` is `None`) or a convolution.
#[derive(Debug, Clone, Copy)]
pub struct Problem {
    pub shape: [usize; 4],
    /// Columns of the result.
    pub co: usize,
    pub taps: usize,
    pub conv: Option<Conv>,
    pub parts: Parts,
    pub seed: u64,
}

impl Problem {
    pub fn linear([n, rows, k, co]: [usize; 4], parts: Parts, seed: u64) -> Self {
        Self {
            shape: [n, rows, 1, k],
            co,
            taps: 1,
            conv: None,
            parts,
            seed,
        }
    }

    fn layout(&self) -> Layout {
        Layout {
            taps: self.taps,
            k: self.shape[3],
            n: self.co << u32::from(self.parts.geglu),
            geglu: self.parts.geglu,
        }
    }

    pub fn out_shape(&self) -> [usize; 4] {
        let [n, h, w, _] = self.shape;
        let Some(conv) = self.conv else {
            return [n, h, w, self.co];
        };
        let side = if self.taps == 9 { 3 } else { 1 };
        // Without padding before, stride 2 sees one more line of zeros after.
        let zeros = if side == 1 {
            0
        } else {
            2 * conv.pad + usize::from(conv.pad == 0)
        };
        // An enlarged picture may lose its last line, by turns.
        let lost = |turn: u64| usize::from(conv.upsample && self.seed % turn == 1);
        let seen = |x: usize, lost: usize| (x << usize::from(conv.upsample)) - lost;
        let size = |x: usize| (x + zeros - side) / conv.stride + 1;
        let (h, w) = (seen(h, lost(2)), seen(w, lost(3)));
        [n, size(h), size(w), self.co]
    }

    fn numbers(&self) -> Numbers {
        let mut random = Random::new(self.seed);
        let out = self.out_shape();
        let (batch, Layout { taps, k, n, .. }) = (self.shape[0], self.layout());
        Numbers {
            w: random.values(taps * k * n),
            bias: random.values(n),
            x: random.values(self.shape.iter().product()),
            channel: random.values(batch * self.co),
            residual: random.values(out.iter().product()),
        }
    }

    /// The twin's result over values as the storages round them.
    pub fn twin(&self, storages: impl Into<Storages>) -> Vec<f32> {
        let Storages {
            a,
            weights,
            out: to,
        } = storages.into();
        let numbers = self.numbers();
        let out = self.out_shape();
        let [n, h, w, k] = self.shape;
        let x = rounded(a, &numbers.x);
        let weight = match weights {
            WeightStorage::F32 => numbers.w,
            WeightStorage::F16 => rounded(Storage::F16, &numbers.w),
        };
        let columns = self.layout().n;
        let sums = match self.conv {
            None => twin_linear(&x, &weight, [n * h * w, k, columns]),
            Some(conv) => twin_conv(
                &x,
                self.shape,
                &weight,
                [self.taps, columns],
                conv,
                [out[1], out[2]],
            ),
        };
        let channel = rounded(to, &numbers.channel);
        let residual = rounded(to, &numbers.residual);
        let parts = self.parts;
        twin_epilogue(
            &sums,
            columns,
            &TwinEpilogue {
                scale: parts.scale,
                bias: parts.bias.then_some(&numbers.bias),
                channel: parts.channel.then_some((&channel[..], out[1] * out[2])),
                geglu: parts.geglu,
                activation: parts.activation,
                residual: parts.residual.then_some(&residual),
            },
        )
    }

    /// Uploads everything.
    pub fn on<'a>(&self, device: &'a Device, storages: impl Into<Storages>) -> Uploaded<'a> {
        let Storages {
            a,
            weights,
            out: to,
        } = storages.into();
        let numbers = self.numbers();
        let out = self.out_shape();
        let (layout, turn) = (self.layout(), self.seed as usize);
        let weight = packed(device, weights, layout, &numbers.w);
        let parts = self.parts;
        let channel_shape = [self.shape[0], 1, 1, self.co];
        Uploaded {
            device,
            a: device.tensor(a, self.shape, &numbers.x, margin(turn)),
            weight,
            out: device.blank(to, out, margin(turn + 1)),
            conv: self.conv,
            epilogue: Epilogue {
                scale: parts.scale.map(Scale::Given),
                bias: parts
                    .bias
                    .then(|| device.floats(&layout.pack_bias(&numbers.bias), 1)),
                channel: parts
                    .channel
                    .then(|| device.tensor(to, channel_shape, &numbers.channel, margin(turn))),
                geglu: parts.geglu,
                activation: parts.activation,
                residual: parts
                    .residual
                    .then(|| device.tensor(to, out, &numbers.residual, margin(turn + 2))),
            },
        }
    }
}

/// Weights `[taps, k, n]` as the kernels read them.
fn packed(device: &Device, storage: WeightStorage, layout: Layout, w: &[f32]) -> Weight {
    let Layout { taps, k, n, .. } = layout;
    let column = |j: usize| -> Vec<f32> {
        let rows = (0..k).flat_map(|i| (0..taps).map(move |t| t * k + i));
        rows.map(|row| w[row * n + j]).collect()
    };
    let columns: Vec<Vec<f32>> = (0..n).map(column).collect();
    let view = match storage {
        WeightStorage::F32 => {
            let columns: Vec<&[f32]> = columns.iter().map(|c| &c[..]).collect();
            device.view(bytemuck::cast_slice(&layout.pack(&columns)))
        }
        WeightStorage::F16 => {
            let half = |c: &Vec<f32>| c.iter().map(|x| f16::from_f32(*x)).collect();
            let columns: Vec<Vec<f16>> = columns.iter().map(half).collect();
            let columns: Vec<&[f16]> = columns.iter().map(|c| &c[..]).collect();
            device.view(bytemuck::cast_slice(&layout.pack(&columns)))
        }
    };
    assert_eq!(view.size, layout.bytes(storage));
    Weight::packed(view, storage, layout)
}

struct Numbers {
    /// `[taps, k, n]`.
    w: Vec<f32>,
    x: Vec<f32>,
    bias: Vec<f32>,
    channel: Vec<f32>,
    residual: Vec<f32>,
}

/// A problem on a device.
pub struct Uploaded<'a> {
    device: &'a Device,
    a: Tensor,
    weight: Weight,
    pub out: Tensor,
    conv: Option<Conv>,
    epilogue: Epilogue,
}

impl Uploaded<'_> {
    /// Runs it (over `rows`, where given) and says how many dispatches it took.
    pub fn run(&self, mode: Mode, rows: Option<std::ops::Range<usize>>) -> usize {
        let device = self.device;
        let all = dispatches(&device.context(mode), &self.product(rows)).unwrap();
        let count = all.len();
        device.run(all);
        count
    }

    pub fn product(&self, rows: Option<std::ops::Range<usize>>) -> Product<'_> {
        Product {
            a: &self.a,
            weight: &self.weight,
            out: &self.out,
            conv: self.conv,
            blocks: None,
            epilogue: self.epilogue.clone(),
            rows,
        }
    }

    /// What a variant is chosen for, all rows and columns together.
    pub fn call(&self) -> Call {
        self.product(None).call(self.out.rows(), self.weight.n8)
    }

    pub fn run_by(&self, variant: Variant) {
        let context = self.device.context(Mode { direct: false });
        let made = dispatches_by(&context, &self.product(None), variant);
        self.device.run(made.unwrap());
    }

    pub fn read(&self) -> Vec<f32> {
        self.device.read(&self.out)
    }
}

/// Every combination of storages that the adapter has.
pub fn storage_sets() -> Vec<Storages> {
    let there = storages();
    let all = Storages::all().filter(|s| there.contains(&s.a));
    all.collect()
}

/// Those whose activations are all alike.
pub fn uniform_sets() -> Vec<Storages> {
    let all = storage_sets().into_iter();
    all.filter(|s| s.a == s.out).collect()
}

fn check(report: &mut Report, problem: &Problem) {
    for storages in storage_sets() {
        let twin = problem.twin(storages);
        for direct in [true, false] {
            let uploaded = problem.on(device(), storages);
            uploaded.run(Mode { direct }, None);
            let variant = (if direct { "direct" } else { "tiled" }, storages);
            report.compare(variant, storages.out, &uploaded.read(), &twin, problem);
        }
    }
}

#[test]
fn linear_layers() {
    let mut report = Report::new("linear");
    let fixed = [
        [1, 1, 1, 1],
        [1, 1, 1, 8],
        [1, 2, 3, 5],
        [3, 1, 1, 1],
        [1, 7, 4, 8],
        [1, 8, 8, 64],
        [1, 9, 5, 65],
        [1, 64, 16, 64],
        [1, 65, 17, 72],
        [1, 63, 15, 63],
        [2, 77, 130, 200],
        [1, 128, 64, 128],
        [1, 129, 20, 129],
        [2, 130, 36, 260],
        [1, 3, 320, 640],
        [1, 200, 9, 13],
        [1, 3, 5120, 16],
    ];
    let mut random = Random::new(1);
    let drawn = (0..24).map(|_| {
        [
            random.size(1, 3),
            random.size(1, 150),
            random.size(1, 200),
            random.size(1, 200),
        ]
    });
    let parts = all_parts();
    for (i, shape) in fixed.into_iter().chain(drawn).enumerate() {
        let parts = parts[i % parts.len()];
        check(&mut report, &Problem::linear(shape, parts, i as u64));
    }
    report.finish(30);
}

#[test]
fn epilogues() {
    let mut random = Random::new(2);
    for (i, parts) in all_parts().into_iter().enumerate() {
        let mut report = Report::new("epilogue");
        for j in 0..30 {
            let shape = [
                random.size(1, 3),
                random.size(1, 40),
                random.size(1, 12),
                random.size(1, 90),
            ];
            check(
                &mut report,
                &Problem::linear(shape, parts, 100 * i as u64 + j),
            );
        }
        report.finish(30);
    }
}

fn convolutions(name: &'static str, taps: usize, conv: Conv) {
    let mut report = Report::new(name);
    let least = if taps == 9 && conv.pad == 0 { 2 } else { 1 };
    let fixed = [
        ([1, 1, 1, 1], 1),
        ([1, 1, 9, 3], 5),
        ([2, 9, 1, 4], 8),
        ([1, 8, 8, 64], 64),
        ([1, 5, 7, 12], 20),
        ([2, 6, 9, 3], 70),
        ([1, 4, 3, 33], 5),
        ([3, 2, 2, 2], 9),
        ([1, 17, 13, 20], 130),
        ([2, 12, 12, 4], 4),
        ([1, 3, 2, 2560], 9),
    ];
    let mut random = Random::new(taps as u64 * 10 + conv.stride as u64);
    let drawn = (0..22).map(|_| {
        let shape = [
            random.size(1, 3),
            random.size(1, 20),
            random.size(1, 20),
            random.size(1, 40),
        ];
        (shape, random.size(1, 100))
    });
    let parts: Vec<Parts> = all_parts().into_iter().filter(|p| !p.geglu).collect();
    for (i, (mut shape, co)) in fixed.into_iter().chain(drawn).enumerate() {
        shape[1] = shape[1].max(least);
        shape[2] = shape[2].max(least);
        let problem = Problem {
            shape,
            co,
            taps,
            conv: Some(conv),
            parts: parts[i % parts.len()],
            seed: i as u64,
        };
        check(&mut report, &problem);
    }
    report.finish(30);
}

pub const SAME: Conv = Conv {
    stride: 1,
    pad: 1,
    upsample: false,
};

#[test]
fn convolutions_3x3() {
    convolutions("conv 3x3", 9, SAME);
}

#[test]
fn convolutions_3x3_of_stride_2() {
    convolutions("conv 3x3 /2", 9, Conv { stride: 2, ..SAME });
}

#[test]
fn convolutions_3x3_of_stride_2_with_zeros_after_only() {
    let conv = Conv {
        stride: 2,
        pad: 0,
        upsample: false,
    };
    convolutions("conv 3x3 /2 end", 9, conv);
}

#[test]
fn convolutions_3x3_of_an_enlarged_picture() {
    convolutions(
        "conv 3x3 x2",
        9,
        Conv {
            upsample: true,
            ..SAME
        },
    );
}

#[test]
fn convolutions_1x1() {
    convolutions("conv 1x1", 1, Conv { pad: 0, ..SAME });
}

#[test]
fn convolutions_1x1_of_stride_2() {
    let conv = Conv {
        stride: 2,
        pad: 0,
        upsample: false,
    };
    convolutions("conv 1x1 /2", 1, conv);
}

#[test]
fn activations_as_the_right_operand() {
    let mut report = Report::new("product a a");
    let mut random = Random::new(3);
    for i in 0..32 {
        let m = random.size(1, 90);
        let n = 8 * random.size(1, 20);
        let k = 8 * random.size(1, 12);
        let (x, w) = (random.values(m * k), random.values(k * n));
        let columns = (0..n).flat_map(|j| (0..k).map(move |i| i * n + j));
        let columns: Vec<f32> = columns.map(|at| w[at]).collect();
        for (mode, storage) in kinds() {
            let twin = twin_linear(&rounded(storage, &x), &rounded(storage, &w), [m, k, n]);
            let device = device();
            let right = device.tensor(storage, [1, n, 1, k], &columns, EVEN);
            let uploaded = Uploaded {
                device,
                a: device.tensor(storage, [1, m, 1, k], &x, margin(i)),
                weight: Weight::of(&right).unwrap(),
                out: device.blank(storage, [1, m, 1, n], margin(i + 1)),
                conv: None,
                epilogue: Epilogue::default(),
            };
            uploaded.run(mode, None);
            report.compare(mode, storage, &uploaded.read(), &twin, &[m, k, n]);
        }
    }
    report.finish(30);
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
    let problem = Problem::linear([1, 1793, 21, 1799], parts, 5);
    let rows = problem.shape[1];
    for storages in uniform_sets() {
        let mode = Mode { direct: false };
        let whole = problem.on(device(), storages);
        whole.run(mode, None);
        let pieces = problem.on(device(), storages);
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
    let picture = Problem {
        shape: [1, 47, 49, 7],
        co: 1401,
        taps: 9,
        conv: Some(SAME),
        parts,
        seed: 6,
    };
    for storages in uniform_sets() {
        let uploaded = picture.on(device(), storages);
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
    let uploaded = Uploaded {
        device,
        a: device.tensor(storage, [1, 1, 1, 4], &[1.0; 4], BELOW),
        weight: packed(device, WeightStorage::F32, layout, &vec![0.0; 4 * n]),
        out: device.blank(storage, [1, 1, 1, co], BELOW),
        conv: None,
        epilogue: Epilogue {
            bias: Some(device.floats(&layout.pack_bias(bias), 1)),
            geglu: parts.geglu,
            activation: parts.activation,
            ..Default::default()
        },
    };
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
    let problem = Problem::linear([1, 90, 20, 30], Parts::default(), 7);
    for (mode, storage) in kinds() {
        let weights = WeightStorage::F32;
        let uploaded = problem.on(device(), (storage, weights));
        uploaded.run(mode, Some(13..77));
        let values = device().read_rows(&uploaded.out, 13..77);
        let twin = problem.twin((storage, weights));
        let mut report = Report::new("rows");
        report.compare(mode, storage, &values, &twin[13 * 30..77 * 30], &problem);
    }
}

/// One vec4 of K, one row, one column: nothing is read beyond the tensor.
#[test]
fn the_smallest_product_is_exact() {
    let problem = Problem::linear([1, 1, 1, 1], Parts::default(), 9);
    for direct in [true, false] {
        let uploaded = problem.on(device(), (Storage::F32, WeightStorage::F32));
        uploaded.run(Mode { direct }, None);
        let twin = problem.twin((Storage::F32, WeightStorage::F32));
        assert_eq!(uploaded.read(), twin);
    }
}
