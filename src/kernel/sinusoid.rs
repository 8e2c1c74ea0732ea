//! Sinusoidal embeddings of timesteps, sizes and scores.

use super::{Dispatch, Storage, Tensor, View, key};
use crate::gpu::{Access, PipelineKey};

const BINDINGS: &[Access] = &[Access::Read, Access::Write, Access::Uniform];

pub(super) fn pipeline_key(storage: Storage) -> PipelineKey {
    key("sinusoid", storage.defines(), vec![], BINDINGS)
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

/// Embeds `count` values of `values` (f32), `per_row` in each row of `y`. With
/// `broadcast` all of them are the first.
pub fn dispatch(
    values: &View,
    y: &Tensor,
    sinusoid: Sinusoid,
    count: usize,
    broadcast: bool,
) -> Dispatch {
    assert!(sinusoid.dim <= MAX_DIM, "{sinusoid:?}");
    let per_row = y.c / sinusoid.dim;
    let mut params = vec![
        count as u32,
        per_row as u32,
        (sinusoid.dim / 4) as u32,
        y.pitch as u32,
        u32::from(sinusoid.cos_first),
        u32::from(broadcast),
        0,
        0,
    ];
    params.extend(sinusoid.frequencies().map(f32::to_bits));
    params.resize(8 + MAX_DIM / 2, 0);
    Dispatch {
        key: pipeline_key(y.storage),
        views: vec![values.clone(), y.view.clone()],
        params,
        grid: [(sinusoid.dim / 8).div_ceil(8) as u32, count as u32, 1],
        flops: (count * sinusoid.dim * 30) as u64,
        bytes: (count * sinusoid.dim * y.storage.bytes()) as u64,
    }
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
