//! The kernels of the denoising loop around the UNet: input scaling, guidance,
//! and the scheduler's update. The step's numbers come from a small buffer (see
//! [`StepValues`]), so that every step runs the same recorded dispatches.

use super::{Dispatch, Storage, Tensor, Tuning, View, key};
use crate::gpu::{Access, PipelineKey};

const INPUT: &[Access] = &[Access::Read, Access::Read, Access::Write, Access::Uniform];
const GUIDANCE: &[Access] = &[
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Write,
    Access::Uniform,
];
const UPDATE: &[Access] = &[Access::Write, Access::Read, Access::Read, Access::Uniform];

/// What changes from step to step, as the kernels read it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct StepValues {
    pub timestep: f32,
    /// Factor of the UNet's input.
    pub input_scale: f32,
    pub guidance_scale: f32,
    /// `x = a x + b e`.
    pub a: f32,
    pub b: f32,
    pub unused: [f32; 3],
}

pub(super) fn input_key(tuning: Tuning, storage: Storage) -> PipelineKey {
    let wg = vec![("WG", tuning.workgroup())];
    key("latent_input", storage.defines(), wg, INPUT)
}

pub(super) fn guidance_key(tuning: Tuning, storage: Storage) -> PipelineKey {
    let wg = vec![("WG", tuning.workgroup())];
    key("guidance", storage.defines(), wg, GUIDANCE)
}

pub(super) fn update_key(tuning: Tuning) -> PipelineKey {
    let wg = vec![("WG", tuning.workgroup())];
    key("latent_update", vec![], wg, UPDATE)
}

/// `y[b] = x * input_scale` for every picture `b` of `y`; `x` is f32 `[pixels, 4]`.
pub fn input(tuning: Tuning, x: &View, step: &View, y: &Tensor) -> Dispatch {
    let count = y.rows_per_batch() * y.c4();
    Dispatch {
        key: input_key(tuning, y.storage),
        views: vec![x.clone(), step.clone(), y.view.clone()],
        params: vec![count as u32, y.n as u32, 0, 0],
        grid: tuning.item_grid(count),
        flops: (4 * count) as u64,
        bytes: (count * (16 + y.n * 4 * y.storage.bytes())) as u64,
    }
}

/// `y = u + s (t - u)`, or `y = t` without `u`. `u` and `t` are one picture each
/// (a tensor and the place of the picture in its batch); `y` is f32.
pub fn guidance(
    tuning: Tuning,
    u: Option<(&Tensor, usize)>,
    (t, place): (&Tensor, usize),
    step: &View,
    y: &View,
) -> Dispatch {
    let count = t.rows_per_batch() * t.c4();
    let (u_tensor, u_place) = u.unwrap_or((t, place));
    Dispatch {
        key: guidance_key(tuning, t.storage),
        views: vec![
            u_tensor.view.clone(),
            t.view.clone(),
            step.clone(),
            y.clone(),
        ],
        params: vec![
            count as u32,
            u32::from(u.is_some()),
            (u_place * count) as u32,
            (place * count) as u32,
        ],
        grid: tuning.item_grid(count),
        flops: (12 * count) as u64,
        bytes: (count * (16 + 8 * t.storage.bytes())) as u64,
    }
}

/// `x = a x + b e`, `count` vec4s of f32.
pub fn update(tuning: Tuning, x: &View, e: &View, step: &View, count: usize) -> Dispatch {
    Dispatch {
        key: update_key(tuning),
        views: vec![x.clone(), e.clone(), step.clone()],
        params: vec![count as u32, 0, 0, 0],
        grid: tuning.item_grid(count),
        flops: (12 * count) as u64,
        bytes: (48 * count) as u64,
    }
}

/// The CPU twin of [`input`].
pub fn twin_input(x: &[f32], scale: f32, copies: usize) -> Vec<f32> {
    let one: Vec<f32> = x.iter().map(|x| x * scale).collect();
    one.repeat(copies)
}

/// The CPU twin of [`guidance`].
pub fn twin_guidance(u: &[f32], t: &[f32], s: f32) -> Vec<f32> {
    u.iter().zip(t).map(|(u, t)| u + s * (t - u)).collect()
}

/// The CPU twin of [`update`].
pub fn twin_update(x: &[f32], e: &[f32], [a, b]: [f32; 2]) -> Vec<f32> {
    x.iter().zip(e).map(|(x, e)| a * x + b * e).collect()
}
