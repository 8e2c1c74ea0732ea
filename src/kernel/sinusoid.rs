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
    /// Columns a value takes, a multiple of 8.
    pub dim: usize,
    /// Cosines before sines (`flip_sin_to_cos`).
    pub cos_first: bool,
    /// `downscale_freq_shift`.
    pub shift: f32,
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
    let per_row = y.c / sinusoid.dim;
    Dispatch {
        key: pipeline_key(y.storage),
        views: vec![values.clone(), y.view.clone()],
        params: vec![
            count as u32,
            per_row as u32,
            (sinusoid.dim / 4) as u32,
            y.pitch as u32,
            u32::from(sinusoid.cos_first),
            sinusoid.shift.to_bits(),
            u32::from(broadcast),
            0,
        ],
        grid: [(sinusoid.dim / 8).div_ceil(8) as u32, count as u32, 1],
        flops: (count * sinusoid.dim * 30) as u64,
        bytes: (count * sinusoid.dim * y.storage.bytes()) as u64,
    }
}

/// The CPU twin: the angle in f32, as diffusers has it, its sine and cosine in f64.
pub fn twin(values: &[f32], sinusoid: Sinusoid) -> Vec<f32> {
    let half = sinusoid.dim / 2;
    values
        .iter()
        .flat_map(|value| {
            let angle = |i: usize| {
                let exponent =
                    -(10000f64.ln()) * i as f64 / (half as f64 - f64::from(sinusoid.shift));
                f64::from(value * exponent.exp() as f32)
            };
            let sines: Vec<f32> = (0..half).map(|i| angle(i).sin() as f32).collect();
            let cosines: Vec<f32> = (0..half).map(|i| angle(i).cos() as f32).collect();
            if sinusoid.cos_first {
                [cosines, sines].concat()
            } else {
                [sines, cosines].concat()
            }
        })
        .collect()
}
