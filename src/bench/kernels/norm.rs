//! Group norm, layer norm and softmax.

use super::bed::Ground;
use super::{
    Bed, Fill, GUARD, Kernel, Numbers, Placed, Problem, Random, Run, Work, compare, margin,
};
use crate::Result;
use crate::kernel::norm::{
    GroupNorm, LAYER_ROWS, Mask, layer_norm, layer_norm_by, layer_rows, scratch_bytes, softmax,
    twin_group_norm, twin_layer_norm, twin_softmax,
};
use crate::kernel::{Activation, Dispatch, Mode, Storage, Tensor};

pub const ACTIVATIONS: [Activation; 6] = [
    Activation::None,
    Activation::Silu,
    Activation::Gelu,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::SoftClamp,
];

pub const EPS: f32 = 1e-5;

/// The runs of a kernel that each mode has one of.
pub(super) fn modes(storages: impl IntoIterator<Item = [Storage; 2]>) -> Vec<Run> {
    let both = |[a, out]: [Storage; 2]| {
        [true, false].map(|direct| Run {
            out,
            ..Run::of(Kernel::Mode(Mode { direct }), a)
        })
    };
    storages.into_iter().flat_map(both).collect()
}

/// The storages of what is read and written alike.
pub(super) fn alike(bed: &Bed) -> Vec<[Storage; 2]> {
    bed.storages().into_iter().map(|s| [s, s]).collect()
}

/// A group norm over `[n, h, w, groups * per]`.
#[derive(Debug, Clone, Copy)]
pub struct Groups {
    pub size: [usize; 3],
    pub groups: usize,
    pub per: usize,
    pub activation: Activation,
    pub seed: u64,
}

/// The operands of a group norm.
struct GroupNumbers {
    x: Numbers,
    means: Vec<f32>,
    spreads: Vec<f32>,
    far: f32,
    gamma: Numbers,
    beta: Numbers,
}

impl GroupNumbers {
    /// Values with a mean and a spread of their own for each channel, in some problems far
    /// from zero. Spreads have a floor: f32 cannot hold the mean of values that hardly
    /// differ well enough for any kernel to meet the limit.
    fn x(&self, i: usize) -> f32 {
        let channel = i % self.means.len();
        self.x.at(i) * (1.5 + self.spreads[channel]) + 2.0 * self.means[channel] + self.far
    }
}

impl Groups {
    pub fn shape4(&self) -> [usize; 4] {
        let [n, h, w] = self.size;
        [n, h, w, self.groups * self.per]
    }

    fn numbers(&self) -> GroupNumbers {
        let mut random = Random::new(self.seed);
        let [n, h, w, c] = self.shape4();
        GroupNumbers {
            means: random.values(c),
            spreads: random.values(c),
            far: 10.0 * (self.seed % 3) as f32,
            x: random.numbers(n * h * w * c),
            gamma: random.numbers(c),
            beta: random.numbers(c),
        }
    }

    pub fn twin(&self, storage: Storage) -> Vec<f32> {
        let numbers = self.numbers();
        let [n, h, w, c] = self.shape4();
        let x: Vec<f32> = (0..n * h * w * c).map(|i| numbers.x(i)).collect();
        twin_group_norm(
            &storage.decode(&storage.encode(&x)),
            [n, h * w, c],
            &numbers.gamma.all(),
            &numbers.beta.all(),
            self.groups,
            EPS,
            self.activation,
        )
    }

    /// The dispatches and what they write.
    ///
    /// # Errors
    /// What the device says.
    pub fn on(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<(Vec<Dispatch>, Tensor)> {
        let (numbers, shape, turn) = (self.numbers(), self.shape4(), self.seed as usize);
        let (ground, mode) = (Ground { bed, fill }, run.mode());
        let x = ground.tensor_of(run.a, shape, margin(turn), |i| numbers.x(i))?;
        let y = ground.blank(run.out, shape, margin(turn + 1))?;
        let [stats, affine] = scratch_bytes(mode, shape);
        let norm = GroupNorm {
            x: &x,
            y: &y,
            gamma: &ground.floats(&numbers.gamma, 4)?,
            beta: &ground.floats(&numbers.beta, 4)?,
            groups: self.groups,
            eps: EPS,
            activation: self.activation,
            stats: &bed.scratch(stats)?,
            affine: &bed.scratch(affine)?,
        };
        Ok((norm.dispatches(&bed.gpu, mode)?, y))
    }
}

impl Problem for Groups {
    fn op(&self) -> &'static str {
        "group_norm"
    }

    fn shape(&self) -> String {
        let [n, h, w, c] = self.shape4();
        format!("{n}x{h}x{w}x{c}, {} groups", self.groups)
    }

    /// The input is read twice: for the statistics and to be normalised.
    fn work(&self, run: &Run) -> Work {
        let count: usize = self.shape4().iter().product();
        Work {
            flops: 0,
            bytes: (count * (2 * run.a.bytes() + run.out.bytes())) as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        let mut storages = alike(bed);
        if storages.len() > 1 {
            // For the products that read it.
            storages.push([Storage::F32, Storage::F16]);
        }
        modes(storages)
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let (dispatches, y) = self.on(bed, run, fill)?;
        let (groups, a, out) = (*self, run.a, run.out);
        Ok(Placed::new(self, run, dispatches, move |bed| {
            let twin = bed.twin(format!("{groups:?} {a:?}"), || groups.twin(a));
            compare(bed, out, &bed.read(&y)?, &twin)
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        let [_, h, w] = self.size;
        Box::new(Self {
            size: [1, h.div_ceil(divisor), w.div_ceil(divisor)],
            ..*self
        })
    }
}

/// A layer norm over rows of `c`.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    pub rows: usize,
    pub c: usize,
    pub seed: u64,
}

impl LayerNorm {
    fn shift(&self) -> f32 {
        3.0 * (self.seed % 3) as f32
    }

    /// Values before the shift, gamma, beta.
    fn numbers(&self) -> [Numbers; 3] {
        let mut random = Random::new(self.seed);
        [self.rows * self.c, self.c, self.c].map(|count| random.numbers(count))
    }

    pub fn twin(&self, storage: Storage) -> Vec<f32> {
        let [x, gamma, beta] = self.numbers();
        let x: Vec<f32> = x.all().iter().map(|x| x + self.shift()).collect();
        let x = storage.decode(&storage.encode(&x));
        twin_layer_norm(&x, self.c, &gamma.all(), &beta.all(), EPS)
    }

    /// The dispatches and what they write.
    ///
    /// # Errors
    /// What the device says.
    pub fn on(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<(Vec<Dispatch>, Tensor)> {
        let [x, gamma, beta] = self.numbers();
        let (ground, turn) = (Ground { bed, fill }, self.seed as usize);
        let (shape, shift) = ([1, self.rows, 1, self.c], self.shift());
        let x = ground.tensor_of(run.a, shape, margin(turn), |i| x.at(i) + shift)?;
        let y = ground.blank(run.a, shape, margin(turn + 1))?;
        let affine = [ground.floats(&gamma, 4)?, ground.floats(&beta, 4)?];
        let affine = [&affine[0], &affine[1]];
        let dispatches = match run.kernel {
            Kernel::LayerRows(rows) => layer_norm_by(&bed.gpu, rows, &x, affine, &y, EPS)?,
            _ => layer_norm(&bed.gpu, run.mode(), &x, affine, &y, EPS)?,
        };
        Ok((dispatches, y))
    }
}

impl Problem for LayerNorm {
    fn op(&self) -> &'static str {
        "layer_norm"
    }

    fn shape(&self) -> String {
        format!("{}x{}", self.rows, self.c)
    }

    fn work(&self, run: &Run) -> Work {
        Work {
            flops: 0,
            bytes: (2 * self.rows * self.c * run.a.bytes()) as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        let mut all = modes(alike(bed));
        let chosen = layer_rows(&bed.gpu);
        let others = LAYER_ROWS.into_iter().filter(|rows| *rows != chosen);
        for rows in others {
            let run = |storage| Run::of(Kernel::LayerRows(rows), storage);
            all.extend(bed.storages().into_iter().map(run));
        }
        all
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let (dispatches, y) = self.on(bed, run, fill)?;
        let (norm, storage) = (*self, run.a);
        Ok(Placed::new(self, run, dispatches, move |bed| {
            let twin = bed.twin(format!("{norm:?} {storage:?}"), || norm.twin(storage));
            compare(bed, storage, &bed.read(&y)?, &twin)
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        Box::new(Self {
            rows: self.rows.div_ceil(divisor * divisor),
            ..*self
        })
    }
}

/// A softmax over rows of `c` scores.
#[derive(Debug, Clone, Copy)]
pub struct Softmax {
    pub rows: usize,
    pub c: usize,
    pub mask: Mask,
    /// Scores around this value and of hundreds, beside dropped columns that lie as far
    /// above them.
    pub level: Option<f32>,
    pub seed: u64,
}

impl Softmax {
    fn numbers(&self) -> Numbers {
        let mut random = Random::new(self.seed);
        let count = self.rows * self.c;
        let Some(level) = self.level else {
            return random.numbers(count).times(12.0);
        };
        let (c, mask) = (self.c, self.mask);
        let mut x = random.values(count);
        for (at, x) in x.iter_mut().enumerate() {
            let (row, column) = (at / c, at % c);
            let seen = match mask.causal {
                true => row % mask.rows_per_head + 1,
                false => mask.count,
            };
            let dropped = [0.0, 500.0, -500.0][at % 3];
            *x = match column < mask.count.min(seen) {
                true => level + (*x * 16.0).round() / 4.0 * [1.0, 40.0][row % 2],
                false => dropped,
            };
        }
        x.into()
    }
}

/// The softmax of `scores`: in place, or beside them in f16.
///
/// # Errors
/// What the device says.
pub fn softmax_on(bed: &Bed, run: &Run, scores: &Tensor, mask: Mask) -> Result<(Dispatch, Tensor)> {
    let weights = match run.out {
        Storage::F32 => None,
        Storage::F16 => {
            let guard = vec![GUARD; scores.view.size as usize / 4];
            Some(Tensor {
                view: bed.view(&Storage::F16.encode(&guard))?,
                storage: Storage::F16,
                ..scores.clone()
            })
        }
    };
    let dispatch = softmax(run.mode(), scores, weights.as_ref(), mask)?;
    Ok((dispatch, weights.unwrap_or_else(|| scores.clone())))
}

impl Problem for Softmax {
    fn op(&self) -> &'static str {
        "softmax"
    }

    fn shape(&self) -> String {
        let causal = if self.mask.causal { " causal" } else { "" };
        format!("{}x{}{causal}", self.rows, self.mask.count)
    }

    fn work(&self, run: &Run) -> Work {
        Work {
            flops: 0,
            bytes: (self.rows * self.c * (4 + run.out.bytes())) as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        modes(bed.storages().into_iter().map(|out| [Storage::F32, out]))
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let Self {
            rows,
            c,
            mask,
            seed,
            ..
        } = *self;
        let (x, shape) = (self.numbers(), [1, rows, 1, c]);
        let ground = Ground { bed, fill };
        let scores = ground.tensor(Storage::F32, shape, &x, margin(seed as usize))?;
        let (dispatch, result) = softmax_on(bed, run, &scores, mask)?;
        let (soft, out) = (*self, run.out);
        Ok(Placed::new(self, run, vec![dispatch], move |bed| {
            let twin = bed.twin(format!("{soft:?}"), || twin_softmax(&x.all(), c, mask));
            let found = bed.read(&result)?;
            let mut pairs = found.iter().zip(twin.iter());
            match pairs.position(|(a, b)| *b == 0.0 && *a != 0.0) {
                Some(at) => Err(bed.wrong(format!(
                    "row {}, column {} was masked and is {}",
                    at / c,
                    at % c,
                    found[at]
                ))),
                None => compare(bed, out, &found, &twin),
            }
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        Box::new(Self {
            rows: self.rows.div_ceil(divisor * divisor),
            ..*self
        })
    }
}
