//! What goes over values one by one: activations and sums, planes to pixels and back,
//! sinusoidal embeddings, and the operands that are made narrower.

use super::bed::Ground;
use super::norm::{alike, modes};
use super::product::packed;
use super::{
    BELOW, Bed, Checked, Fill, Kernel, Margin, Numbers, Placed, Problem, Random, Run, Work,
    compare, compare_within, margin,
};
use crate::Result;
use crate::kernel::layout::{to_pixels, to_planes, twin_to_pixels, twin_to_planes};
use crate::kernel::narrow::{self, Narrowed, twin_factor};
use crate::kernel::product::{
    Epilogue, Layout, Product, Scale, WeightStorage, dispatches, twin_linear,
};
use crate::kernel::sinusoid::{self, Sinusoid};
use crate::kernel::{Activation, Dispatch, Storage, Tensor, map};

/// What is added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Added {
    Nothing,
    Rows,
    OneAPicture,
}

/// `act(x) + b`.
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

    fn numbers(&self) -> [Numbers; 2] {
        let mut random = Random::new(self.seed);
        let x = random.numbers(self.shape.iter().product());
        let b = random.numbers(self.b_shape().iter().product());
        [x.times(4.0), b]
    }

    pub fn twin(&self, storage: Storage) -> Vec<f32> {
        let [x, b] = self.numbers().map(|v| v.rounded(storage).all());
        let [_, h, w, c] = self.shape;
        let b = match self.added {
            Added::Nothing => None,
            Added::Rows => Some((&b[..], 1)),
            Added::OneAPicture => Some((&b[..], h * w)),
        };
        map::twin(&x, c, self.activation, b)
    }

    /// The dispatches and what they write.
    ///
    /// # Errors
    /// What the device says.
    pub fn on(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<(Vec<Dispatch>, Tensor)> {
        let [x, b] = self.numbers();
        let (ground, turn, storage) = (Ground { bed, fill }, self.seed as usize, run.a);
        let x = ground.tensor(storage, self.shape, &x, margin(turn))?;
        let b = match self.added {
            Added::Nothing => None,
            _ => Some(ground.tensor(storage, self.b_shape(), &b, margin(turn + 1))?),
        };
        let y = ground.blank(storage, self.shape, margin(turn + 2))?;
        let context = bed.context(run.mode());
        let dispatches = map::dispatches(context, &x, self.activation, b.as_ref(), &y)?;
        Ok((dispatches, y))
    }
}

impl Problem for Map {
    fn op(&self) -> &'static str {
        "map"
    }

    fn shape(&self) -> String {
        let [n, h, w, c] = self.shape;
        let added = match self.added {
            Added::Nothing => "",
            Added::Rows => " + rows",
            Added::OneAPicture => " + channels",
        };
        format!("{}x{c}{added}", n * h * w)
    }

    fn work(&self, run: &Run) -> Work {
        let count = |shape: [usize; 4]| shape.iter().product::<usize>();
        let b = match self.added {
            Added::Nothing => 0,
            _ => count(self.b_shape()),
        };
        Work {
            flops: 0,
            bytes: ((2 * count(self.shape) + b) * run.a.bytes()) as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        modes(alike(bed))
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let (dispatches, y) = self.on(bed, run, fill)?;
        let (map, storage) = (*self, run.a);
        Ok(Placed::new(self, run, dispatches, move |bed| {
            let twin = bed.twin(format!("{map:?} {storage:?}"), || map.twin(storage));
            compare(bed, storage, &bed.read(&y)?, &twin)
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        let [_, h, w, c] = self.shape;
        let shape = [1, h.div_ceil(divisor), w.div_ceil(divisor), c];
        Box::new(Self { shape, ..*self })
    }
}

/// Planes `[n, c, h, w]` of f32 to pixels, or back.
#[derive(Debug, Clone, Copy)]
pub struct Planes {
    pub shape: [usize; 4],
    pub affine: [f32; 2],
    /// From pixels.
    pub back: bool,
    pub seed: u64,
}

impl Problem for Planes {
    fn op(&self) -> &'static str {
        "layout"
    }

    fn shape(&self) -> String {
        let [n, c, h, w] = self.shape;
        let to = if self.back { "planes" } else { "pixels" };
        format!("{n}x{c}x{h}x{w} to {to}")
    }

    fn work(&self, run: &Run) -> Work {
        let count: usize = self.shape.iter().product();
        Work {
            flops: 0,
            bytes: (count * (4 + run.a.bytes())) as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        modes(alike(bed))
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let Self {
            affine, back, seed, ..
        } = *self;
        let [n, c, h, w] = self.shape;
        let (shape, sizes) = ([n, h, w, c], [n, c, h * w]);
        let (ground, mode, storage) = (Ground { bed, fill }, run.mode(), run.a);
        let numbers = Random::new(seed).numbers(n * c * h * w);
        if back {
            let pixels = ground.tensor(storage, shape, &numbers, BELOW)?;
            let planes = ground.room(n * c * h * w)?;
            let dispatch = to_planes(mode, &pixels, &planes, affine)?;
            return Ok(Placed::new(self, run, vec![dispatch], move |bed| {
                let values = numbers.rounded(storage).all();
                let out = bed.read_floats(&planes, values.len())?;
                compare(bed, storage, &out, &twin_to_planes(&values, sizes, affine))
            }));
        }
        let pixels = ground.blank(storage, shape, BELOW)?;
        let planes = ground.floats(&numbers, 1)?;
        let dispatch = to_pixels(mode, &planes, &pixels, affine)?;
        Ok(Placed::new(self, run, vec![dispatch], move |bed| {
            let twin = twin_to_pixels(&numbers.all(), sizes, affine);
            compare(bed, storage, &bed.read(&pixels)?, &twin)
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        let [_, c, h, w] = self.shape;
        let shape = [1, c, h.div_ceil(divisor), w.div_ceil(divisor)];
        Box::new(Self { shape, ..*self })
    }
}

/// Sinusoidal embeddings of `per_row` values a row.
#[derive(Debug, Clone, Copy)]
pub struct Embed {
    pub rows: usize,
    pub per_row: usize,
    pub how: Sinusoid,
    pub seed: u64,
}

impl Embed {
    fn values(&self) -> Vec<f32> {
        let mut values = Random::new(self.seed).values(self.rows * self.per_row);
        let tops = [999.0, 8192.0, 1024.0, 1.0];
        for (v, top) in values.iter_mut().zip(tops.iter().cycle()) {
            *v = (*v * top).abs();
        }
        values[0] = [999.0, 8192.0, 8191.0, 0.25, 4096.5][self.seed as usize % 5];
        values
    }
}

impl Problem for Embed {
    fn op(&self) -> &'static str {
        "sinusoid"
    }

    fn shape(&self) -> String {
        format!("{}x{}x{}", self.rows, self.per_row, self.how.dim)
    }

    fn work(&self, run: &Run) -> Work {
        let count = self.rows * self.per_row;
        Work {
            flops: 0,
            bytes: (count * (4 + self.how.dim * run.a.bytes())) as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        let all = bed.storages().into_iter();
        all.map(|storage| Run::of(Kernel::Only, storage)).collect()
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let (values, how, storage) = (self.values(), self.how, run.a);
        let margin = Margin {
            left: 0,
            right: 3,
            after: 2,
        };
        let shape = [1, self.rows, 1, self.per_row * how.dim];
        let y = Ground { bed, fill }.blank(storage, shape, margin)?;
        let given = bed.floats(&values, 1)?;
        let dispatches = vec![sinusoid::dispatch(&given, &y, how, values.len())?];
        Ok(Placed::new(self, run, dispatches, move |bed| {
            let twin = sinusoid::twin(&values, how);
            let twin = storage.decode(&storage.encode(&twin));
            compare(bed, storage, &bed.read(&y)?, &twin)
        }))
    }

    fn shrunk(&self, _: usize) -> Box<dyn Problem> {
        Box::new(*self)
    }
}

/// f32 activations of any size as the f16 operand of a product, and perhaps that product.
#[derive(Debug, Clone, Copy)]
pub struct Narrow {
    pub shape: [usize; 4],
    pub co: usize,
    /// The largest magnitude.
    pub size: f32,
    pub bias: bool,
    /// The product itself follows.
    pub product: bool,
    pub seed: u64,
}

/// How far a value of f16 lies from what it stands for, and a sum of such products.
const OPERAND: f64 = 5e-4;
const PRODUCT: f64 = 1e-3;

impl Narrow {
    fn layout(&self) -> Layout {
        Layout {
            taps: 1,
            k: self.shape[3],
            n: self.co,
            geglu: false,
        }
    }

    /// The operand, weights `[n, k]`, the bias. The sums stay within f32.
    fn numbers(&self) -> [Numbers; 3] {
        let mut random = Random::new(self.seed);
        let (count, k) = (self.shape.iter().product(), self.shape[3]);
        let of_weights = if self.size > 1e35 { 1e-9 } else { 1.0 };
        [
            random.numbers(count).times(self.size / 8.0),
            random.numbers(k * self.co).times(of_weights),
            random.numbers(self.co).times(self.size * of_weights),
        ]
    }

    /// Whether the operand is what the values are by a power of two.
    fn check_operand(&self, bed: &Bed, operand: &Tensor) -> Result<Checked> {
        let [x, _, _] = self.numbers();
        let x = x.all();
        let factor = twin_factor(&x);
        let half = bed.read(operand)?;
        let most = half.iter().fold(0f32, |most, x| most.max(x.abs()));
        if most >= 32769.0 || (self.size != 0.0 && most < 16383.0) {
            return Err(bed.wrong(format!("the largest of the operand is {most}")));
        }
        let exact: Vec<f32> = x.iter().map(|x| x / factor).collect();
        compare_within(bed, OPERAND, &half, &exact)
    }

    fn check_product(&self, bed: &Bed, out: &Tensor) -> Result<Checked> {
        let [n, h, w, k] = self.shape;
        let [x, columns, bias] = self.numbers().map(|numbers| numbers.all());
        let weights = (0..k).flat_map(|i| (0..self.co).map(move |j| j * k + i));
        let weights: Vec<f32> = weights.map(|at| columns[at]).collect();
        let mut twin = twin_linear(&x, &weights, [n * h * w, k, self.co]);
        if self.bias {
            let places = twin.iter_mut().enumerate();
            places.for_each(|(i, sum)| *sum += bias[i % self.co]);
        }
        compare_within(bed, PRODUCT, &bed.read(out)?, &twin)
    }
}

impl Problem for Narrow {
    fn op(&self) -> &'static str {
        "narrow"
    }

    fn shape(&self) -> String {
        let [n, h, w, c] = self.shape;
        format!("{}x{c} up to {:e}", n * h * w, self.size)
    }

    /// The values are read twice: for the largest and to be stored.
    fn work(&self, _: &Run) -> Work {
        let count: usize = self.shape.iter().product();
        Work {
            flops: 0,
            bytes: (count * (4 + 4 + 2)) as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        match bed.storages().contains(&Storage::F16) {
            true => modes([[Storage::F32, Storage::F16]]),
            false => Vec::new(),
        }
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let (ground, turn, layout) = (Ground { bed, fill }, self.seed as usize, self.layout());
        let context = bed.context(run.mode());
        let [x, w, bias] = self.numbers();
        let tensor = ground.tensor(Storage::F32, self.shape, &x, margin(turn))?;
        let packed_bias = match self.bias {
            true => Some(bed.floats(&layout.pack_bias(&bias.all()), 1)?),
            false => None,
        };
        let scratch = narrow::scratch_bytes(self.shape, layout).map(|bytes| bed.scratch(bytes));
        let scratch = scratch.into_iter().collect::<Result<Vec<_>>>()?;
        let narrow = narrow::Narrow {
            x: &tensor,
            bias: packed_bias.as_ref(),
            layout,
            scratch: &scratch,
        };
        let Narrowed {
            operand,
            bias,
            dispatches: mut all,
        } = narrow.dispatches(context)?;
        let problem = *self;
        if !self.product {
            return Ok(Placed::new(self, run, all, move |bed| {
                problem.check_operand(bed, &operand)
            }));
        }
        let [n, h, w_, _] = self.shape;
        let out = bed.blank(Storage::F32, [n, h, w_, self.co], margin(turn + 1))?;
        let product = Product {
            a: &operand,
            weight: &packed(bed, WeightStorage::F32, layout, &w)?,
            out: &out,
            conv: None,
            blocks: None,
            epilogue: Epilogue {
                bias: Some(bias),
                scale: Some(Scale::BehindBias),
                ..Default::default()
            },
            rows: None,
        };
        all.extend(dispatches(context, &product)?);
        Ok(Placed::new(self, run, all, move |bed| {
            problem.check_operand(bed, &operand)?;
            problem.check_product(bed, &out)
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        let [_, h, w, c] = self.shape;
        let shape = [1, h.div_ceil(divisor), w.div_ceil(divisor), c];
        Box::new(Self { shape, ..*self })
    }
}
