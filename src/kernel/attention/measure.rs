//! Attention in one pass as it is measured: its shapes, random operands, a program of
//! each candidate.

use super::{Attention, Call, WIDTH};
use crate::gpu::Gpu;
use crate::kernel::noise;
use crate::kernel::product::Family;
use crate::kernel::{Context, Program, Storage, Tensor};
use crate::{Error, Result};

/// Attention of heads of 64 by its shapes.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pictures: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    causal: bool,
    storage: Storage,
}

impl Shape {
    /// That of queries `[n, queries, 1, c]`; `None` where heads are not 64 wide, which
    /// leaves nothing to choose.
    pub fn new(
        [pictures, queries, _, c]: [usize; 4],
        keys: usize,
        heads: usize,
        causal: bool,
        storage: Storage,
    ) -> Option<Self> {
        (c == WIDTH * heads).then_some(Self {
            pictures,
            queries,
            keys,
            heads,
            causal,
            storage,
        })
    }

    /// What a variant is chosen for.
    pub fn call(&self) -> Call {
        Call {
            queries: self.queries,
            keys: self.keys,
            heads: self.pictures * self.heads,
            storage: self.storage,
            causal: self.causal,
            even: true,
        }
    }

    /// The program of every candidate that passes its self-test, by its variant's name;
    /// none where only one serves.
    ///
    /// # Errors
    /// What goes wrong on the device; [`Error::Cancelled`].
    pub(in crate::kernel) fn programs(
        &self,
        context: &Context,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<(String, Program)>> {
        let call = self.call();
        let mut candidates = context.attention_candidates(&call);
        // What is left where no other passes.
        candidates.retain(|v| v.family() < Family::Scalar32);
        if candidates.len() < 2 {
            return Ok(Vec::new());
        }
        let gpu = &context.gpu;
        let [q, k, v, out] =
            [self.queries, self.keys, self.keys, self.queries].map(|rows| self.operand(gpu, rows));
        let (q, k, v, out) = (&q?, &k?, &v?, &out?);
        let attention = Attention {
            q,
            k,
            v,
            out,
            heads: self.heads,
            causal: self.causal,
            scratch: &[],
        };
        let mut programs = Vec::new();
        for variant in candidates {
            if !context.trusts_attention(variant, &call)? {
                continue;
            }
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let program = Program::new(gpu, vec![attention.dispatch_by(variant)?])?;
            programs.push((variant.to_string(), program));
        }
        Ok(programs)
    }

    fn operand(&self, gpu: &Gpu, rows: usize) -> Result<Tensor> {
        let shape = [self.pictures, rows, 1, WIDTH * self.heads];
        let view = noise(gpu, self.storage, Tensor::bytes_of(self.storage, shape))?;
        Ok(Tensor::new(view, self.storage, shape))
    }
}
