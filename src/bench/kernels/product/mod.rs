//! Linear layers and convolutions with every epilogue.

mod blocks;
mod both;
mod parts;
mod upload;

pub use blocks::Expand;
pub use both::Both;
pub use parts::Parts;
pub use upload::{Uploaded, packed};

use super::bed::Ground;
use super::{
    Bed, Checked, Fill, Kernel, Numbers, Placed, Problem, Random, Run, Work, compare, margin,
};
use crate::Result;
use crate::kernel::product::{
    Call, Conv, Epilogue, Layout, Scale, Storages, TwinEpilogue, UNIT, Variant, Weight,
    WeightStorage, twin_conv, twin_epilogue, twin_linear,
};
use crate::kernel::{Mode, Storage, Tensor};

/// Multiplications up to which a twin computes the whole result; of more, a sample.
const WHOLE: usize = 1 << 24;

/// Rows and columns of a sample.
const SAMPLE: [usize; 2] = [48, 48];

/// Tokens of a prompt, which are as many whatever the picture.
pub(super) const PROMPT: usize = 77;

/// A linear layer (`conv` is `None`) or a convolution.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// `[n, h, w, c]` of the input.
    pub shape: [usize; 4],
    /// Columns of the result.
    pub co: usize,
    pub taps: usize,
    pub conv: Option<Conv>,
    pub parts: Parts,
    /// Of the numbers; of the margins, by turns; and of whether an enlarged picture is odd.
    pub seed: u64,
}

struct Operands {
    /// `[n, k, taps]`, as layouts pack them.
    w: Numbers,
    x: Numbers,
    bias: Numbers,
    channel: Numbers,
    residual: Numbers,
}

impl Layer {
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
        let side = self.side();
        // Without padding before, stride 2 sees one more line of zeros after.
        let zeros = if side == 1 {
            0
        } else {
            2 * conv.pad + usize::from(conv.pad == 0)
        };
        let size = |x: usize| (x + zeros - side) / conv.stride + 1;
        let [h, w] = self.seen(conv);
        [n, size(h), size(w), self.co]
    }

    fn side(&self) -> usize {
        if self.taps == 9 { 3 } else { 1 }
    }

    /// The size of the picture that the taps see. An enlarged one may lose its last line,
    /// by turns.
    fn seen(&self, conv: Conv) -> [usize; 2] {
        let [_, h, w, _] = self.shape;
        let lost = |turn: u64| usize::from(conv.upsample && self.seed % turn == 1);
        let seen = |x: usize, lost: usize| (x << usize::from(conv.upsample)) - lost;
        [seen(h, lost(2)), seen(w, lost(3))]
    }

    fn numbers(&self) -> Operands {
        let mut random = Random::new(self.seed);
        let out = self.out_shape();
        let (batch, Layout { taps, k, n, .. }) = (self.shape[0], self.layout());
        Operands {
            w: random.numbers(taps * k * n),
            bias: random.numbers(n),
            x: random.numbers(self.shape.iter().product()),
            channel: random.numbers(batch * self.co),
            residual: random.numbers(out.iter().product()),
        }
    }

    /// As the storages round them.
    fn rounded(&self, storages: Storages) -> Operands {
        let numbers = self.numbers();
        Operands {
            w: match storages.weights {
                WeightStorage::F32 => numbers.w,
                WeightStorage::F16 => numbers.w.rounded(Storage::F16),
            },
            x: numbers.x.rounded(storages.a),
            bias: numbers.bias,
            channel: numbers.channel.rounded(storages.out),
            residual: numbers.residual.rounded(storages.out),
        }
    }

    /// The twin's whole result over values as the storages round them.
    pub fn twin(&self, storages: impl Into<Storages>) -> Vec<f32> {
        let numbers = self.rounded(storages.into());
        let out = self.out_shape();
        let [n, h, w, k] = self.shape;
        let x = numbers.x.all();
        let columns = self.layout().n;
        let all: Vec<usize> = (0..columns).collect();
        let weight = self.weights(&numbers.w, &all);
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
        let [bias, channel, residual] =
            [numbers.bias, numbers.channel, numbers.residual].map(|x| x.all());
        let parts = self.parts;
        let epilogue = TwinEpilogue {
            bias: parts.bias.then_some(&bias),
            channel: parts.channel.then_some((&channel[..], out[1] * out[2])),
            residual: parts.residual.then_some(&residual),
            ..self.twin_of_parts()
        };
        twin_epilogue(&sums, columns, &epilogue)
    }

    /// What of a twin's epilogue there are no operands of.
    fn twin_of_parts(&self) -> TwinEpilogue<'static> {
        TwinEpilogue {
            scale: self.parts.scale,
            geglu: self.parts.geglu,
            activation: self.parts.activation,
            ..Default::default()
        }
    }

    /// `[taps, k, columns]` of some columns.
    fn weights(&self, w: &Numbers, columns: &[usize]) -> Vec<f32> {
        let (taps, k) = (self.taps, self.shape[3]);
        let rows = (0..taps).flat_map(|tap| (0..k).map(move |i| i * taps + tap));
        rows.flat_map(|row| columns.iter().map(move |j| w.at(j * k * taps + row)))
            .collect()
    }

    /// The twin's result in some rows (of all pictures) and columns, which see of the input
    /// only their patches.
    pub fn twin_at(
        &self,
        storages: impl Into<Storages>,
        rows: &[usize],
        columns: &[usize],
    ) -> Vec<f32> {
        let numbers = self.rounded(storages.into());
        let [_, oh, ow, co] = self.out_shape();
        // Gates lie behind all values.
        let gates = columns.iter().map(|j| co + j);
        let summed: Vec<usize> = match self.parts.geglu {
            true => columns.iter().copied().chain(gates).collect(),
            false => columns.to_vec(),
        };
        let weight = self.weights(&numbers.w, &summed);
        let (k, n, side) = (self.shape[3], summed.len(), self.side());
        let patches = self.patches(&numbers.x, rows);
        let sums = match self.conv {
            None => twin_linear(&patches, &weight, [rows.len(), k, n]),
            Some(_) => {
                let once = Conv {
                    stride: 1,
                    pad: 0,
                    upsample: false,
                };
                let shape = [rows.len(), side, side, k];
                twin_conv(&patches, shape, &weight, [self.taps, n], once, [1, 1])
            }
        };
        let bias: Vec<f32> = summed.iter().map(|j| numbers.bias.at(*j)).collect();
        let pick = |from: &Numbers, row: &dyn Fn(usize) -> usize| -> Vec<f32> {
            let cells = rows.iter().flat_map(|r| columns.iter().map(|j| (*r, *j)));
            cells.map(|(r, j)| from.at(row(r) * co + j)).collect()
        };
        let channel = pick(&numbers.channel, &|row| row / (oh * ow));
        let residual = pick(&numbers.residual, &|row| row);
        let epilogue = TwinEpilogue {
            bias: self.parts.bias.then_some(&bias),
            channel: self.parts.channel.then_some((&channel[..], 1)),
            residual: self.parts.residual.then_some(&residual),
            ..self.twin_of_parts()
        };
        twin_epilogue(&sums, n, &epilogue)
    }

    /// What output rows see of the input, `[rows, side, side, k]`, zeros outside it.
    fn patches(&self, x: &Numbers, rows: &[usize]) -> Vec<f32> {
        let [_, h, w, k] = self.shape;
        let Some(conv) = self.conv else {
            let cells = rows.iter().flat_map(|row| row * k..(row + 1) * k);
            return cells.map(|i| x.at(i)).collect();
        };
        let [_, oh, ow, _] = self.out_shape();
        let [seen_h, seen_w] = self.seen(conv);
        let (side, up) = (self.side(), usize::from(conv.upsample));
        let mut patches = Vec::with_capacity(rows.len() * side * side * k);
        for row in rows {
            let (b, y, x0) = (row / (oh * ow), row / ow % oh, row % ow);
            for tap in 0..side * side {
                let iy = (y * conv.stride + tap / side).wrapping_sub(conv.pad);
                let ix = (x0 * conv.stride + tap % side).wrapping_sub(conv.pad);
                let inside = iy < seen_h && ix < seen_w;
                let at = || ((b * h + (iy >> up)) * w + (ix >> up)) * k;
                match inside {
                    true => patches.extend((at()..at() + k).map(|i| x.at(i))),
                    false => patches.extend(std::iter::repeat_n(0.0, k)),
                }
            }
        }
        patches
    }

    /// Multiplications of the whole.
    fn multiplications(&self) -> usize {
        let rows: usize = self.out_shape()[..3].iter().product();
        rows * self.layout().n * self.taps * self.shape[3]
    }

    /// The rows and columns that are looked at: all of them, or the edges and some between.
    fn sample(&self) -> Option<[Vec<usize>; 2]> {
        if self.multiplications() <= WHOLE {
            return None;
        }
        let mut random = Random::new(self.seed + 1);
        let rows: usize = self.out_shape()[..3].iter().product();
        let mut some = |of: usize, most: usize| -> Vec<usize> {
            if of <= most {
                return (0..of).collect();
            }
            // Evenly spread, each at any place of its share.
            let place = |i: usize| i * (of - 1) / (most - 1);
            let mut spread = |i: usize| match i {
                0 => 0,
                _ if i + 1 == most => of - 1,
                _ => place(i) + random.size(0, place(i + 1) - place(i) - 1),
            };
            (0..most).map(&mut spread).collect()
        };
        Some([some(rows, SAMPLE[0]), some(self.co, SAMPLE[1])])
    }

    /// What a variant is chosen for, all rows and columns together.
    pub fn call(&self, storages: Storages) -> Call {
        let layout = self.layout();
        let k = self.shape[3];
        let Margins { a, .. } = self.margins();
        let pitch = a.left + k.div_ceil(4) + a.right;
        let even = pitch.is_multiple_of(2) && a.left.is_multiple_of(2);
        Call {
            m: self.out_shape()[..3].iter().product(),
            n8: layout.columns().div_ceil(8),
            k8: layout.rows() / UNIT,
            taps: self.taps,
            gather: self.conv.is_some(),
            storages,
            plain: even && k == layout.rows(),
        }
    }

    fn margins(&self) -> Margins {
        let turn = self.seed as usize;
        Margins {
            a: margin(turn),
            out: margin(turn + 1),
            residual: margin(turn + 2),
        }
    }

    /// Uploads everything.
    ///
    /// # Errors
    /// Out of memory.
    pub fn on(&self, bed: &Bed, storages: impl Into<Storages>) -> Result<Uploaded> {
        let fill = Fill::Exact;
        self.filled(Ground { bed, fill }, storages.into())
    }

    fn filled(&self, ground: Ground<'_>, storages: Storages) -> Result<Uploaded> {
        let Storages {
            a,
            weights,
            out: to,
        } = storages;
        let numbers = self.numbers();
        let (layout, parts, out) = (self.layout(), self.parts, self.out_shape());
        let margins = self.margins();
        let channel = [self.shape[0], 1, 1, self.co];
        let when = |there: bool, shape, numbers, margin| -> Result<Option<Tensor>> {
            there
                .then(|| ground.tensor(to, shape, numbers, margin))
                .transpose()
        };
        let bias = || {
            let packed = layout.pack_bias(&numbers.bias.all());
            ground.bed.floats(&packed, 1)
        };
        Ok(Uploaded {
            a: ground.tensor(a, self.shape, &numbers.x, margins.a)?,
            weight: match ground.fill {
                Fill::Exact => packed(ground.bed, weights, layout, &numbers.w)?,
                Fill::Rotating => {
                    let stored = match weights {
                        WeightStorage::F32 => Storage::F32,
                        WeightStorage::F16 => Storage::F16,
                    };
                    let view = ground.bed.noise(stored, layout.bytes(weights))?;
                    Weight::packed(view, weights, layout)
                }
            },
            out: ground.blank(to, out, margins.out)?,
            conv: self.conv,
            epilogue: Epilogue {
                scale: parts.scale.map(Scale::Given),
                bias: parts.bias.then(bias).transpose()?,
                channel: when(parts.channel, channel, &numbers.channel, margins.a)?,
                geglu: parts.geglu,
                activation: parts.activation,
                residual: when(parts.residual, out, &numbers.residual, margins.residual)?,
            },
        })
    }

    /// Whether what is in `out` is what the twin says.
    fn check(&self, bed: &Bed, run: &Run, out: &Tensor) -> Result<Checked> {
        let storages = run.storages();
        let found = bed.read(out)?;
        let name = format!("{self:?} {storages:?}");
        let Some([rows, columns]) = self.sample() else {
            let twin = bed.twin(name, || self.twin(storages));
            return compare(bed, storages.out, &found, &twin);
        };
        written(bed, &found, self.co)?;
        let twin = bed.twin(name, || self.twin_at(storages, &rows, &columns));
        let cells = rows
            .iter()
            .flat_map(|r| columns.iter().map(move |j| r * self.co + *j));
        let found: Vec<f32> = cells.map(|at| found[at]).collect();
        compare(bed, storages.out, &found, &twin)
    }
}

/// Fails where a value is the guard still, or not finite.
pub(super) fn written(bed: &Bed, values: &[f32], columns: usize) -> Result<()> {
    let bad = |x: &f32| *x == super::GUARD || !x.is_finite();
    match values.iter().position(bad) {
        None => Ok(()),
        Some(at) => {
            let (row, column) = (at / columns, at % columns);
            let problem = format!("row {row}, column {column} is {}", values[at]);
            Err(bed.wrong(problem))
        }
    }
}

/// The runs of a product: as each mode chooses, and every kernel of the adapter that
/// serves `call`.
pub(super) fn runs(
    bed: &Bed,
    sets: impl IntoIterator<Item = Storages>,
    call: impl Fn(Storages) -> Call,
) -> Vec<Run> {
    let mut all = Vec::new();
    let context = bed.context(Mode { direct: false });
    for storages in sets {
        let modes = [true, false].map(|direct| Kernel::Mode(Mode { direct }));
        let call = call(storages);
        let whole = context.candidates(&call).into_iter();
        let variants: Vec<Variant> = whole.chain(context.cut_candidates(&call)).collect();
        let kernels = variants.into_iter().map(Kernel::Product);
        let kernels = modes.into_iter().chain(kernels);
        all.extend(kernels.map(|kernel| Run::product(kernel, storages)));
    }
    all
}

impl Problem for Layer {
    fn op(&self) -> &'static str {
        match self.conv {
            None => "linear",
            Some(_) => "conv",
        }
    }

    fn shape(&self) -> String {
        let [n, h, w, c] = self.shape;
        let columns = self.layout().n;
        let Some(conv) = self.conv else {
            return format!("{}x{c}->{columns}", n * h * w);
        };
        let side = self.side();
        let stride = if conv.stride == 2 { " /2" } else { "" };
        let up = if conv.upsample { " x2" } else { "" };
        format!("{n}x{h}x{w}x{c}->{columns} {side}x{side}{stride}{up}")
    }

    fn work(&self, run: &Run) -> Work {
        let storages = run.storages();
        let count = |shape: [usize; 4]| shape.iter().product::<usize>();
        let out = count(self.out_shape());
        let layout = self.layout();
        let parts = self.parts;
        let written = out * (1 + usize::from(parts.residual))
            + usize::from(parts.channel) * self.shape[0] * self.co;
        let weights = layout.taps * layout.k * layout.n;
        let weight_bytes = match storages.weights {
            WeightStorage::F32 => 4,
            WeightStorage::F16 => 2,
        };
        let bytes = count(self.shape) * storages.a.bytes()
            + weights * weight_bytes
            + written * storages.out.bytes()
            + usize::from(parts.bias) * 4 * layout.n;
        Work {
            flops: 2 * self.multiplications() as u64,
            bytes: bytes as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        runs(bed, bed.storage_sets(), |storages| self.call(storages))
    }

    fn chosen(&self, bed: &Bed, run: &Run) -> Result<Option<String>> {
        let Kernel::Mode(mode @ Mode { direct: false }) = run.kernel else {
            return Ok(None);
        };
        let variant = bed.context(mode).choose(&self.call(run.storages()))?;
        Ok(Some(variant.to_string()))
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let uploaded = self.filled(Ground { bed, fill }, run.storages())?;
        let dispatches = uploaded.dispatches(bed, run)?;
        let (layer, run_copy, out) = (*self, *run, uploaded.out);
        Ok(Placed::new(self, run, dispatches, move |bed| {
            layer.check(bed, &run_copy, &out)
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        let [n, h, w, c] = self.shape;
        let shape = match self.conv {
            Some(_) => [1, h.div_ceil(divisor), w.div_ceil(divisor), c],
            None if h > PROMPT => [1, h.div_ceil(divisor * divisor), w, c],
            None => [n, h, w, c],
        };
        Box::new(Self { shape, ..*self })
    }
}

struct Margins {
    a: super::Margin,
    out: super::Margin,
    residual: super::Margin,
}
