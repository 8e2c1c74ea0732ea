//! Products of activations by activations.

use super::Uploaded;
use crate::Result;
use crate::bench::kernels::bed::Ground;
use crate::bench::kernels::{
    Bed, EVEN, Fill, Kernel, Numbers, Placed, Problem, Random, Run, Work, compare, margin,
};
use crate::kernel::product::{Epilogue, Weight, WeightStorage, twin_linear};
use crate::kernel::{Mode, Storage};
use std::sync::Arc;

/// A product of activations by activations: `x [m, k]` by `w [k, n]`, whose columns are
/// rows of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct Both {
    pub m: usize,
    /// A multiple of 8, as is `k`.
    pub n: usize,
    pub k: usize,
    pub seed: u64,
}

impl Both {
    fn numbers(&self) -> [Numbers; 2] {
        let mut random = Random::new(self.seed);
        [self.m * self.k, self.n * self.k].map(|count| random.numbers(count))
    }

    fn twin(&self, storage: Storage) -> Vec<f32> {
        let [x, columns] = self.numbers().map(|numbers| numbers.rounded(storage));
        let Self { m, n, k, .. } = *self;
        let w = (0..k).flat_map(|i| (0..n).map(move |j| j * k + i));
        let w: Vec<f32> = w.map(|at| columns.at(at)).collect();
        twin_linear(&x.all(), &w, [m, k, n])
    }
}

impl Problem for Both {
    fn op(&self) -> &'static str {
        "linear"
    }

    fn shape(&self) -> String {
        format!("{}x{}->{} of activations", self.m, self.k, self.n)
    }

    fn work(&self, run: &Run) -> Work {
        let Self { m, n, k, .. } = *self;
        Work {
            flops: (2 * m * n * k) as u64,
            bytes: ((m * k + k * n + m * n) * run.a.bytes()) as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        let sets = bed.storages().into_iter().map(|storage| {
            let weights = match storage {
                Storage::F32 => WeightStorage::F32,
                Storage::F16 => WeightStorage::F16,
            };
            (storage, weights).into()
        });
        // What is measured of products are weights; these take what is chosen.
        sets.flat_map(|storages| {
            [true, false].map(|direct| Run::product(Kernel::Mode(Mode { direct }), storages))
        })
        .collect()
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let Self { m, n, k, seed } = *self;
        let (ground, turn, storage) = (Ground { bed, fill }, seed as usize, run.a);
        let [x, columns] = self.numbers();
        let right = ground.tensor(storage, [1, n, 1, k], &columns, EVEN)?;
        let uploaded = Uploaded {
            a: ground.tensor(storage, [1, m, 1, k], &x, margin(turn))?,
            weight: Weight::of(&right)?,
            out: ground.blank(storage, [1, m, 1, n], margin(turn + 1))?,
            conv: None,
            epilogue: Epilogue::default(),
        };
        let dispatches = uploaded.dispatches(bed, run)?;
        let (both, out) = (*self, uploaded.out);
        Ok(Placed::new(self, run, dispatches, move |bed| {
            let name = format!("{both:?} {storage:?}");
            let twin: Arc<Vec<f32>> = bed.twin(name, || both.twin(storage));
            compare(bed, storage, &bed.read(&out)?, &twin)
        }))
    }

    fn shrunk(&self, _: usize) -> Box<dyn Problem> {
        Box::new(*self)
    }
}
