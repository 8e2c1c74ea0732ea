//! Sinusoidal embeddings of timesteps, sizes and scores.

use super::{Dispatch, Storage, Tensor, View, Work, key, require};
use crate::Result;
use crate::gpu::{Access, PipelineKey, host_shareable};

const BINDINGS: &[Access] = &[Access::Read, Access::Write, Access::Uniform];

/// Frequencies that a value may have, in vec4s.
const FREQUENCIES: usize = MAX_DIM / 8;

host_shareable! {
    /// `Params` of `sinusoid.wgsl`.
    struct Params {
        frequencies: [[f32; 4]; FREQUENCIES],
        count: u32,
        per_row: u32,
        dim4: u32,
        y_pitch: u32,
        cos_first: u32,
    }
}

pub(super) fn pipeline_key(storage: Storage) -> PipelineKey {
    key::<Params>("sinusoid", storage.defines(), vec![], BINDINGS)
}

/// How scalars become columns (diffusers' `get_timestep_embedding`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sinusoid {
    /// Columns a value takes, a multiple of 8 up to [`MAX_DIM`].
    pub dim: usize,
    /// Cosines before sines (`flip_sin_to_cos`).
    pub cos_first: bool,
    /// `downscale_freq_shift`.
    pub shift: f32,
}

/// The most columns that a value may take: room of the kernel's parameters.
pub const MAX_DIM: usize = 4096;

impl Sinusoid {
    /// `10000^(-i / (half - shift))`, in the f32 steps of diffusers.
    fn frequencies(self) -> impl Iterator<Item = f32> {
        let half = self.dim / 2;
        let span = (half as f64 - f64::from(self.shift)) as f32;
        (0..half).map(move |i| {
            let exponent = -(10000f64.ln() as f32) * i as f32 / span;
            f64::from(exponent).exp() as f32
        })
    }
}

/// Embeds `count` values of `values` (f32), as many in each row of `y` as it has
/// columns for.
///
/// # Errors
/// [`crate::Error::Internal`] where `y` has no whole number of values in a row or fewer
/// than `count` in all, or `values` has fewer.
pub fn dispatch(values: &View, y: &Tensor, sinusoid: Sinusoid, count: usize) -> Result<Dispatch> {
    let dim = sinusoid.dim;
    let fits = dim > 0 && dim <= MAX_DIM && dim.is_multiple_of(8) && y.c.is_multiple_of(dim);
    require("sinusoid", fits, || {
        format!("{dim} columns a value in rows of {}", y.c)
    })?;
    y.check("y")?;
    let per_row = y.c / dim;
    require("sinusoid", y.offset == 0, || {
        format!("y begins at column {}", 4 * y.offset)
    })?;
    require("sinusoid", count.div_ceil(per_row) <= y.rows(), || {
        format!("{count} values for {} rows of {per_row}", y.rows())
    })?;
    let mut params = Params {
        frequencies: [[0.0; 4]; FREQUENCIES],
        count: count as u32,
        per_row: per_row as u32,
        dim4: (dim / 4) as u32,
        y_pitch: y.pitch as u32,
        cos_first: u32::from(sinusoid.cos_first),
    };
    let places = params.frequencies.as_flattened_mut();
    for (place, frequency) in places.iter_mut().zip(sinusoid.frequencies()) {
        *place = frequency;
    }
    Dispatch::new(
        pipeline_key(y.storage),
        [values.operand("values", 4 * count as u64)?, y.operand("y")?],
        params,
        [(dim / 8).div_ceil(8) as u32, count as u32, 1],
        Work {
            flops: count * dim * 30,
            bytes: count * dim * y.storage.bytes(),
        },
    )
}

/// The CPU twin: the angle in f32, as diffusers has it, its sine and cosine in f64.
pub fn twin(values: &[f32], sinusoid: Sinusoid) -> Vec<f32> {
    values
        .iter()
        .flat_map(|value| {
            let angles = || sinusoid.frequencies().map(|f| f64::from(value * f));
            let sines: Vec<f32> = angles().map(|x| x.sin() as f32).collect();
            let cosines: Vec<f32> = angles().map(|x| x.cos() as f32).collect();
            if sinusoid.cos_first {
                [cosines, sines].concat()
            } else {
                [sines, cosines].concat()
            }
        })
        .collect()
}
