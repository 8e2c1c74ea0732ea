//! Attention, in one pass and by products, and the turning of keys.

use super::bed::Ground;
use super::product::{PROMPT, written};
use super::{
    BELOW, Bed, Checked, EVEN, Fill, Kernel, Margin, Numbers, Placed, Problem, Random, Run, Work,
    compare, compare_within, margin,
};
use crate::Result;
use crate::kernel::attention::{Attention, Call, scratch_bytes, transpose, twin, twin_transpose};
use crate::kernel::{Mode, Storage, Tensor, View};

/// Multiplications up to which a twin computes the whole result; of more, some queries.
const WHOLE: usize = 1 << 25;

/// Queries of a sample.
const SAMPLE: usize = 32;

/// What queries and keys are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scores {
    /// Queries are enlarged, by turns more, so that a few keys get most of the weight.
    Usual,
    /// Whole scores from -520 to 520; every other query has none above -100, so that
    /// padding and masked keys lie far above them.
    Sharp,
}

/// `softmax(q k^T / sqrt(d)) v` of `heads` heads.
#[derive(Debug, Clone, Copy)]
pub struct Attend {
    pub n: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub d: usize,
    pub causal: bool,
    /// Queries, keys and values are columns of one tensor.
    pub fused: bool,
    /// Rows lie at even vec4s, as matrices ask for.
    pub even: bool,
    pub scores: Scores,
    pub seed: u64,
}

impl Attend {
    pub fn new([n, queries, keys]: [usize; 3], [heads, d]: [usize; 2], causal: bool) -> Self {
        Self {
            n,
            queries,
            keys,
            heads,
            d,
            causal,
            fused: false,
            even: false,
            scores: Scores::Usual,
            seed: 0,
        }
    }

    /// Of one tensor to itself.
    pub fn fused([n, tokens]: [usize; 2], heads: [usize; 2], causal: bool) -> Self {
        Self {
            fused: true,
            ..Self::new([n, tokens, tokens], heads, causal)
        }
    }

    pub fn width(&self) -> usize {
        self.heads * self.d
    }

    /// Queries, keys, values.
    pub fn numbers(&self) -> [Numbers; 3] {
        match self.scores {
            Scores::Usual => {
                let mut random = Random::new(self.seed);
                let c = self.width();
                let scale = [3.0, 12.0][self.seed as usize % 2];
                let mut of = |rows: usize| random.numbers(self.n * rows * c);
                let q = of(self.queries).times(scale);
                [q, of(self.keys), of(self.keys)]
            }
            Scores::Sharp => self.sharp(),
        }
    }

    fn sharp(&self) -> [Numbers; 3] {
        let mut random = Random::new(self.seed);
        let (c, d) = (self.width(), self.d);
        let root = (d as f32).sqrt();
        let mut rows = |count: usize, unit: f32, first: &dyn Fn(usize) -> f32| -> Numbers {
            let mut values: Vec<f32> = random.values(count * c);
            for (i, x) in values.iter_mut().enumerate() {
                *x = unit
                    * match i % d {
                        0 => first(i / c),
                        // A few more, so that neighbours compete.
                        j if j < 8 => x.round(),
                        _ => 0.0,
                    };
            }
            values.into()
        };
        let q = rows(self.n * self.queries, root, &|i| {
            [25.0, -25.0, 1.0, -10.0][i % 4]
        });
        let k = rows(self.n * self.keys, 1.0, &|j| 10.0 + (j * 7 % 11) as f32);
        [q, k, random.numbers(self.n * self.keys * c)]
    }

    /// The twin's whole result.
    pub fn twin(&self, numbers: &[Numbers; 3]) -> Vec<f32> {
        let [q, k, v] = numbers.each_ref().map(Numbers::all);
        let sizes = [self.n, self.queries, self.keys];
        twin([&q, &k, &v], sizes, [self.heads, self.d], self.causal)
    }

    /// The twin's result for some rows of queries, counted over all pictures.
    pub fn twin_at(&self, numbers: &[Numbers; 3], rows: &[usize]) -> Vec<f32> {
        let (c, keys) = (self.width(), self.keys);
        let [q, k, v] = numbers;
        let [k, v] = [k, v].map(Numbers::all);
        let mut all = Vec::with_capacity(rows.len() * c);
        for row in rows {
            let (picture, query) = (row / self.queries, row % self.queries);
            let q: Vec<f32> = (row * c..(row + 1) * c).map(|i| q.at(i)).collect();
            let seen = if self.causal {
                keys.min(query + 1)
            } else {
                keys
            };
            let [k, v] = [&k, &v].map(|x| &x[picture * keys * c..][..seen * c]);
            all.extend(twin([&q, k, v], [1, 1, seen], [self.heads, self.d], false));
        }
        all
    }

    /// Queries that are looked at; `None` where all are.
    fn sample(&self) -> Option<Vec<usize>> {
        let rows = self.n * self.queries;
        if 2 * rows * self.keys * self.width() <= WHOLE || rows <= SAMPLE {
            return None;
        }
        let place = |i: usize| i * (rows - 1) / (SAMPLE - 1);
        let mut random = Random::new(self.seed + 1);
        let mut some: Vec<usize> = (0..SAMPLE - 1)
            .map(|i| place(i) + random.size(0, place(i + 1) - place(i) - 1))
            .collect();
        some.push(rows - 1);
        Some(some)
    }

    /// Those of queries, values and the result.
    fn margins(&self) -> [Margin; 3] {
        let turn = self.queries + self.keys;
        match (self.even, self.keys % 2) {
            (false, _) => [margin(turn), margin(turn + 1), margin(turn)],
            (true, 0) => [EVEN, BELOW, BELOW],
            (true, _) => [BELOW, EVEN, EVEN],
        }
    }

    fn operands(
        &self,
        ground: Ground<'_>,
        storage: Storage,
        numbers: &[Numbers; 3],
    ) -> Result<[Tensor; 3]> {
        let (n, c) = (self.n, self.width());
        let [q_margin, v_margin, _] = self.margins();
        let shape = |rows: usize| [n, rows, 1, c];
        let [q, k, v] = numbers;
        if !self.fused {
            return Ok([
                ground.tensor(storage, shape(self.queries), q, q_margin)?,
                ground.tensor(storage, shape(self.keys), k, EVEN)?,
                ground.tensor(storage, shape(self.keys), v, v_margin)?,
            ]);
        }
        let value = |i: usize| {
            let (row, column) = (i / (3 * c), i % (3 * c));
            numbers[column / c].at(row * c + column % c)
        };
        let panel = ground.tensor_of(storage, [n, self.keys, 1, 3 * c], EVEN, value)?;
        Ok([
            panel.columns(0, c)?,
            panel.columns(c, c)?,
            panel.columns(2 * c, c)?,
        ])
    }

    /// Uploads `numbers`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn on(
        &self,
        bed: &Bed,
        mode: Mode,
        storage: Storage,
        numbers: &[Numbers; 3],
    ) -> Result<Attending> {
        let fill = Fill::Exact;
        self.filled(Ground { bed, fill }, mode, storage, numbers)
    }

    fn filled(
        &self,
        ground: Ground<'_>,
        mode: Mode,
        storage: Storage,
        numbers: &[Numbers; 3],
    ) -> Result<Attending> {
        let [q, k, v] = self.operands(ground, storage, numbers)?;
        let [_, _, margin] = self.margins();
        let sizes = [self.n, self.queries, self.keys];
        let scratch = scratch_bytes(mode, storage, sizes, [self.heads, self.d]);
        let scratch = scratch.into_iter().map(|bytes| ground.bed.scratch(bytes));
        Ok(Attending {
            q,
            k,
            v,
            out: ground.blank(storage, [self.n, self.queries, 1, self.width()], margin)?,
            heads: self.heads,
            causal: self.causal,
            scratch: scratch.collect::<Result<_>>()?,
        })
    }

    /// What a variant is chosen for.
    pub fn call(&self, storage: Storage) -> Call {
        Call {
            queries: self.queries,
            keys: self.keys,
            heads: self.n * self.heads,
            storage,
            causal: self.causal,
            even: self.even,
        }
    }

    fn check(&self, bed: &Bed, storage: Storage, out: &Tensor) -> Result<Checked> {
        let found = bed.read(out)?;
        let numbers = || self.numbers().map(|x| x.rounded(storage));
        let name = format!("{self:?} {storage:?}");
        let Some(rows) = self.sample() else {
            let twin = bed.twin(name, || self.twin(&numbers()));
            return compare(bed, storage, &found, &twin);
        };
        let c = self.width();
        written(bed, &found, c)?;
        let twin = bed.twin(name, || self.twin_at(&numbers(), &rows));
        let some: Vec<f32> = rows
            .iter()
            .flat_map(|row| &found[row * c..][..c])
            .copied()
            .collect();
        compare(bed, storage, &some, &twin)
    }
}

/// Attention on a device.
pub struct Attending {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub out: Tensor,
    heads: usize,
    causal: bool,
    scratch: Vec<View>,
}

impl Attending {
    pub fn attention(&self) -> Attention<'_> {
        Attention {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            out: &self.out,
            heads: self.heads,
            causal: self.causal,
            scratch: &self.scratch,
        }
    }
}

impl Problem for Attend {
    fn op(&self) -> &'static str {
        "attention"
    }

    fn shape(&self) -> String {
        let Self {
            n,
            heads,
            queries,
            keys,
            d,
            ..
        } = self;
        let causal = if self.causal { " causal" } else { "" };
        format!("{n}x{heads}x{queries}x{keys}, d {d}{causal}")
    }

    fn work(&self, run: &Run) -> Work {
        let seen: usize = match self.causal {
            true => (0..self.queries).map(|i| self.keys.min(i + 1)).sum(),
            false => self.queries * self.keys,
        };
        let c = self.width();
        Work {
            flops: (4 * self.n * seen * c) as u64,
            bytes: (2 * self.n * (self.queries + self.keys) * c * run.a.bytes()) as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        let mut all = Vec::new();
        for storage in bed.storages() {
            let modes = [true, false].map(|direct| Kernel::Mode(Mode { direct }));
            let call = self.call(storage);
            let variants = match self.d {
                64 => bed
                    .context(Mode { direct: false })
                    .attention_candidates(&call),
                _ => Vec::new(),
            };
            let variants = variants
                .into_iter()
                .map(|v| Kernel::Attention(v, v.masks(&call)));
            let kernels = modes.into_iter().chain(variants);
            all.extend(kernels.map(|kernel| Run::of(kernel, storage)));
        }
        all
    }

    fn chosen(&self, bed: &Bed, run: &Run) -> Result<Option<String>> {
        match run.kernel {
            Kernel::Mode(mode @ Mode { direct: false }) if self.d == 64 => {
                let variant = bed.context(mode).choose_attention(&self.call(run.a))?;
                Ok(Some(variant.to_string()))
            }
            _ => Ok(None),
        }
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let numbers = self.numbers();
        let (mode, storage) = (run.mode(), run.a);
        let placed = self.filled(Ground { bed, fill }, mode, storage, &numbers)?;
        let attention = placed.attention();
        let dispatches = match run.kernel {
            Kernel::Attention(variant, _) => vec![attention.dispatch_by(variant)?],
            _ => attention.dispatches(bed.context(mode))?,
        };
        let (attend, out) = (*self, placed.out);
        Ok(Placed::new(self, run, dispatches, move |bed| {
            attend.check(bed, storage, &out)
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        let fewer = |tokens: usize| match tokens > PROMPT {
            true => tokens.div_ceil(divisor * divisor),
            false => tokens,
        };
        Box::new(Self {
            n: 1,
            queries: fewer(self.queries),
            keys: fewer(self.keys),
            ..*self
        })
    }
}

/// Keys `[n, keys, 1, heads * d]` that are turned.
#[derive(Debug, Clone, Copy)]
pub struct Transpose {
    pub n: usize,
    pub keys: usize,
    pub heads: usize,
    pub d: usize,
    pub seed: u64,
}

impl Transpose {
    fn columns(&self) -> usize {
        self.keys.next_multiple_of(8)
    }
}

impl Problem for Transpose {
    fn op(&self) -> &'static str {
        "transpose"
    }

    fn shape(&self) -> String {
        let Self {
            n, keys, heads, d, ..
        } = self;
        format!("{n}x{keys}x{heads}x{d}")
    }

    fn work(&self, run: &Run) -> Work {
        let c = self.heads * self.d;
        Work {
            flops: 0,
            bytes: (self.n * (self.keys + self.columns()) * c * run.a.bytes()) as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        let all = bed.storages().into_iter();
        all.map(|storage| Run::of(Kernel::Only, storage)).collect()
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let Self {
            n,
            keys,
            heads,
            d,
            seed,
        } = *self;
        let (ground, storage) = (Ground { bed, fill }, run.a);
        let numbers = Random::new(seed).numbers(n * keys * heads * d);
        let shape = [n, keys, 1, heads * d];
        let k = ground.tensor(storage, shape, &numbers, margin(seed as usize))?;
        let turned = ground.blank(storage, [n * heads, d, 1, self.columns()], BELOW)?;
        let dispatches = vec![transpose(&k, heads, &turned.view)?];
        Ok(Placed::new(self, run, dispatches, move |bed| {
            let values = numbers.rounded(storage).all();
            let twin = twin_transpose(&values, [n, keys], [heads, d]);
            compare_within(bed, 0.0, &bed.read(&turned)?, &twin)
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        Box::new(Self {
            n: 1,
            keys: self.keys.div_ceil(divisor * divisor),
            ..*self
        })
    }
}
