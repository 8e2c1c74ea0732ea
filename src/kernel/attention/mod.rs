//! Attention: in one pass on GPUs for heads 64 wide, with cooperative matrices where
//! there are some (`attention_coop.wgsl`, `attention.wgsl`), else by products over
//! chunks of queries. Neither holds the whole score matrix.

mod coop;
mod measure;
mod selftest;
mod tiled;
mod twin;
mod variant;

pub use coop::CoopBlock;
pub use measure::Shape;
pub(super) use tiled::LEAST_SHARED;
pub use tiled::TiledBlock;
pub use twin::{twin, twin_transpose};
pub(super) use variant::CLASS;
pub use variant::{Call, Variant};

use super::norm::{Mask, softmax};
use super::product::{self, Blocks, Epilogue, Product, Scale, Weight};
use super::{Context, Dispatch, Mode, Storage, Tensor, View, Work, key, require};
use crate::gpu::{Access, PipelineKey, host_shareable};
use crate::{Error, Result};

const FLASH: &[Access] = &[
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Write,
    Access::Uniform,
];
const TRANSPOSE: &[Access] = &[Access::Read, Access::Write, Access::Uniform];

/// Columns of a head that the kernels in one pass have.
const WIDTH: usize = 64;

/// Bytes of scores that a chunk of queries may take: what a CPU's cache holds part of, or
/// enough rows of the VAE's (16,384 keys of f32: 2048) to fill a GPU with workgroups.
fn chunk_bytes(mode: Mode) -> u64 {
    if mode.direct { 16 << 20 } else { 128 << 20 }
}

host_shareable! {
    /// `Params` of `attention_params.wgsl`.
    struct FlashParams {
        queries: u32,
        keys: u32,
        q_offset: u32,
        q_pitch: u32,
        q_batch: u32,
        k_offset: u32,
        k_pitch: u32,
        k_batch: u32,
        v_offset: u32,
        v_pitch: u32,
        v_batch: u32,
        o_offset: u32,
        o_pitch: u32,
        o_batch: u32,
        causal: u32,
        scale: f32,
    }
}

host_shareable! {
    /// `Params` of `transpose.wgsl`.
    struct TransposeParams {
        rows: u32,
        d4: u32,
        pitch: u32,
        offset: u32,
        batch: u32,
        heads: u32,
        y_pitch: u32,
    }
}

pub(super) fn transpose_key(storage: Storage) -> PipelineKey {
    key::<TransposeParams>("transpose", storage.defines(), vec![], TRANSPOSE)
}

/// `softmax(scale q k^T) v`, head by head: q and out `[n, queries, 1, heads * d]`,
/// k and v `[n, keys, 1, heads * d]`; each may be a range of columns of a wider
/// tensor. `d` is a multiple of 8.
pub struct Attention<'a> {
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub out: &'a Tensor,
    pub heads: usize,
    pub causal: bool,
    /// Room for [`scratch_bytes`].
    pub scratch: &'a [View],
}

/// Queries of a chunk, so that the scores of all heads stay below [`chunk_bytes`].
fn chunk(mode: Mode, blocks: usize, queries: usize, keys: usize) -> usize {
    let row = (blocks * keys.next_multiple_of(8) * 4) as u64;
    ((chunk_bytes(mode) / row.max(1)) as usize)
        .max(8)
        .min(queries)
}

/// Whether [`Attention`] runs in one pass.
fn flash(mode: Mode, d: usize) -> bool {
    !mode.direct && d == WIDTH
}

/// Bytes of the turned values, of a chunk's scores in f32, and of the weights made of them
/// where those are f16; nothing where attention runs in one pass.
pub fn scratch_bytes(
    mode: Mode,
    storage: Storage,
    [n, queries, keys]: [usize; 3],
    [heads, d]: [usize; 2],
) -> Vec<u64> {
    if flash(mode, d) {
        return Vec::new();
    }
    let columns = keys.next_multiple_of(8);
    let scores = n * heads * chunk(mode, n * heads, queries, keys) * columns;
    let mut bytes = vec![n * heads * d * columns * storage.bytes(), 4 * scores];
    if storage == Storage::F16 {
        bytes.push(2 * scores);
    }
    bytes.into_iter().map(|bytes| bytes as u64).collect()
}

impl Attention<'_> {
    /// Fails where the shapes do not fit together. Returns the width of a head.
    fn check(&self) -> Result<usize> {
        let Self { q, k, v, out, .. } = *self;
        q.check("q")?;
        k.expect("k", [q.n, k.h, k.w, q.c], q.storage)?;
        v.expect("v", k.shape(), q.storage)?;
        out.expect("out", q.shape(), q.storage)?;
        let heads = self.heads;
        let whole = heads > 0 && q.c.is_multiple_of(heads) && (q.c / heads).is_multiple_of(8);
        require("attention", whole, || {
            format!("{heads} heads of {} columns", q.c)
        })?;
        Ok(q.c / heads)
    }

    /// One dispatch, or several: one picture after another where a binding cannot hold
    /// them all, and one chunk of queries after another where products make the scores.
    ///
    /// # Errors
    /// [`Error::Internal`] where the shapes do not fit together or there is no room for
    /// [`scratch_bytes`]; what exceeds the adapter's limits.
    pub fn dispatches(&self, context: &Context) -> Result<Vec<Dispatch>> {
        self.check()?;
        let gpu = &context.gpu;
        let sizes = [
            self.q.n * self.heads,
            self.q.rows_per_batch(),
            self.k.rows_per_batch(),
        ];
        let step = chunk(context.mode, sizes[0], sizes[1], sizes[2]);
        let largest = [self.q, self.k, self.v, self.out].map(|t| t.view.size);
        let limit = gpu.capabilities().max_binding;
        if self.q.n > 1 && largest.iter().any(|size| *size > limit) {
            let alignment = gpu.capabilities().alignment;
            let mut all = Vec::new();
            for i in 0..self.q.n {
                let one = Attention {
                    q: &self.q.picture(i, alignment)?,
                    k: &self.k.picture(i, alignment)?,
                    v: &self.v.picture(i, alignment)?,
                    out: &self.out.picture(i, alignment)?,
                    ..*self
                };
                all.extend(one.whole(context, step)?);
            }
            return Ok(all);
        }
        self.whole(context, step)
    }

    /// The dispatches of a batch that bindings can hold, `step` queries at a time.
    fn whole(&self, context: &Context, step: usize) -> Result<Vec<Dispatch>> {
        let d = self.check()?;
        match self.scratch {
            _ if flash(context.mode, d) => {
                let variant = context.choose_attention(&self.call())?;
                Ok(vec![self.one_pass(variant, d)?])
            }
            [turned, scores, weights @ ..] if weights.len() < 2 => {
                self.by_products(context, step, [turned, scores], weights.first())
            }
            _ => {
                let problem = format!("{d} wide heads were given no room for their scores");
                Err(Error::internal("attention", problem))
            }
        }
    }

    fn scale(&self, d: usize) -> f32 {
        1.0 / (d as f32).sqrt()
    }

    /// What a variant is chosen for.
    fn call(&self) -> Call {
        let Self { q, k, v, out, .. } = *self;
        let even = |t: &Tensor| t.offset.is_multiple_of(2) && t.pitch.is_multiple_of(2);
        Call {
            queries: q.rows_per_batch(),
            keys: k.rows_per_batch(),
            heads: q.n * self.heads,
            storage: q.storage,
            causal: self.causal,
            even: [q, k, v, out].into_iter().all(even),
        }
    }

    /// The dispatch of a batch that bindings can hold by `variant`, for tests and
    /// measurements.
    ///
    /// # Errors
    /// As [`Self::dispatches`], and where `variant` does not serve it.
    pub fn dispatch_by(&self, variant: Variant) -> Result<Dispatch> {
        let d = self.check()?;
        let serves = d == WIDTH && variant.serves(&self.call());
        require("attention", serves, || {
            format!("{variant} does not serve it")
        })?;
        self.one_pass(variant, d)
    }

    fn one_pass(&self, variant: Variant, d: usize) -> Result<Dispatch> {
        let Self { q, k, v, out, .. } = *self;
        let (queries, keys) = (q.rows_per_batch(), k.rows_per_batch());
        let batch = |t: &Tensor| (t.rows_per_batch() * t.pitch) as u32;
        let scores = q.n * self.heads * queries * keys;
        let key = variant.key(q.storage, variant.masks(&self.call()));
        let problem = || Error::internal("attention", format!("{variant} of {:?}", q.storage));
        Dispatch::new(
            key.ok_or_else(problem)?,
            [
                q.operand("q")?,
                k.operand("k")?,
                v.operand("v")?,
                out.operand("out")?,
            ],
            FlashParams {
                queries: queries as u32,
                keys: keys as u32,
                q_offset: q.offset as u32,
                q_pitch: q.pitch as u32,
                q_batch: batch(q),
                k_offset: k.offset as u32,
                k_pitch: k.pitch as u32,
                k_batch: batch(k),
                v_offset: v.offset as u32,
                v_pitch: v.pitch as u32,
                v_batch: batch(v),
                o_offset: out.offset as u32,
                o_pitch: out.pitch as u32,
                o_batch: batch(out),
                causal: u32::from(self.causal),
                scale: self.scale(d),
            },
            [queries.div_ceil(variant.rows()), self.heads, q.n].map(|x| x as u32),
            Work {
                flops: 4 * scores * d,
                bytes: 2 * (q.rows() + k.rows()) * q.c * q.storage.bytes(),
            },
        )
    }

    fn by_products(
        &self,
        context: &Context,
        step: usize,
        [turned, scores]: [&View; 2],
        weights: Option<&View>,
    ) -> Result<Vec<Dispatch>> {
        let (q, k, v, out) = (self.q, self.k, self.v, self.out);
        let d = q.c / self.heads;
        let (queries, keys) = (q.rows_per_batch(), k.rows_per_batch());
        let z = q.n * self.heads;
        let columns = keys.next_multiple_of(8);
        let storage = q.storage;
        let turned = &turned.first((z * d * columns * storage.bytes()) as u64)?;
        let scores = &scores.first((z * step * columns * 4) as u64)?;
        let weights = match (storage, weights) {
            (Storage::F32, _) => None,
            (Storage::F16, Some(view)) => Some(view.first((z * step * columns * 2) as u64)?),
            (Storage::F16, None) => {
                return Err(Error::internal("attention", "no room for weights in f16"));
            }
        };
        let mut all = vec![transpose(v, self.heads, turned)?];
        let turned = Tensor::new(turned.clone(), storage, [z, d, 1, columns]);
        let values = Weight::of(&turned)?;
        let head_of_keys = Weight {
            k_rows: d,
            ..Weight::of(k)?
        };
        for first in (0..queries).step_by(step) {
            let rows = step.min(queries - first);
            let shape = [z, rows, 1, columns];
            let chunk_scores = Tensor::new(scores.clone(), Storage::F32, shape);
            let weights = weights.as_ref();
            let weights = weights.map(|w| Tensor::new(w.clone(), Storage::F16, shape));
            let block = |t: &Tensor| [t.rows_per_batch() * t.pitch, d / 4];
            let score_block = [self.heads * rows * columns / 4, rows * columns / 4];
            let q_rows = Tensor {
                offset: q.offset + first * q.pitch,
                c: d,
                ..q.clone()
            };
            let product = Product {
                a: &q_rows,
                weight: &head_of_keys,
                out: &chunk_scores,
                conv: None,
                blocks: Some(Blocks {
                    batches: q.n,
                    heads: self.heads,
                    a: block(q),
                    w: [keys * k.pitch / 2, d / 8],
                    out: score_block,
                }),
                epilogue: Epilogue {
                    scale: Some(Scale::Given(self.scale(d))),
                    ..Default::default()
                },
                rows: Some(0..rows),
            };
            all.extend(product::dispatches(context, &product)?);
            let mask = Mask {
                count: keys,
                rows_per_head: rows,
                first,
                causal: self.causal,
            };
            all.push(softmax(
                context.mode,
                &chunk_scores,
                weights.as_ref(),
                mask,
            )?);
            let out_rows = Tensor {
                offset: out.offset + first * out.pitch,
                c: d,
                ..out.clone()
            };
            let product = Product {
                a: weights.as_ref().unwrap_or(&chunk_scores),
                weight: &values,
                out: &out_rows,
                conv: None,
                blocks: Some(Blocks {
                    batches: q.n,
                    heads: self.heads,
                    a: score_block,
                    w: [self.heads * d * columns / 8, d * columns / 8],
                    out: block(out),
                }),
                epilogue: Epilogue::default(),
                rows: Some(0..rows),
            };
            all.extend(product::dispatches(context, &product)?);
        }
        Ok(all)
    }
}

/// Turns `v`, `[n, keys, 1, heads * d]`, into `[n * heads, d, keys rounded up to
/// 8]`, padding zero: the right operand of the weights of attention.
///
/// # Errors
/// [`Error::Internal`] where heads are not a multiple of 4 wide, or `turned` has no room.
pub fn transpose(v: &Tensor, heads: usize, turned: &View) -> Result<Dispatch> {
    let operand = v.operand("v")?;
    let whole = heads > 0 && v.c.is_multiple_of(4 * heads);
    require("transpose", whole, || {
        format!("{heads} heads of {} columns", v.c)
    })?;
    let keys = v.rows_per_batch();
    let (d, z) = (v.c / heads, v.n * heads);
    let columns = keys.next_multiple_of(8);
    let bytes = z * d * columns * v.storage.bytes();
    Dispatch::new(
        transpose_key(v.storage),
        [operand, turned.operand("turned values", bytes as u64)?],
        TransposeParams {
            rows: keys as u32,
            d4: (d / 4) as u32,
            pitch: v.pitch as u32,
            offset: v.offset as u32,
            batch: (keys * v.pitch) as u32,
            heads: heads as u32,
            y_pitch: (columns / 4) as u32,
        },
        [(columns / 4).div_ceil(8), d / 4, z].map(|x| x as u32),
        Work {
            flops: 0,
            bytes: 2 * bytes,
        },
    )
}
