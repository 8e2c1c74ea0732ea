//! The kernels of the denoising loop around the UNet: input scaling, guidance,
//! and the scheduler's update. The step's numbers come from a small buffer (see
//! [`StepValues`]), so that every step runs the same recorded dispatches.
//!
//! All state tensors are f32 `[pictures, pixels, c]`, the channels padded to vec4s.

use super::{Dispatch, Storage, Tensor, Tuning, View, fold, key};
use crate::gpu::{Access, PipelineKey};

const INPUT: &[Access] = &[
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Write,
    Access::Uniform,
];
const GUIDANCE: &[Access] = &[
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Write,
    Access::Uniform,
];
const RESCALE: &[Access] = &[Access::Read, Access::Write, Access::Read, Access::Uniform];
const UPDATE: &[Access] = &[
    Access::Write,
    Access::Read,
    Access::Read,
    Access::Write,
    Access::Read,
    Access::Uniform,
];
const THRESHOLD: &[Access] = &[Access::Write, Access::Read, Access::Uniform];
const MASK: &[Access] = &[
    Access::Write,
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Uniform,
];

/// History tensors of the update kernel.
pub const SLOTS: usize = 7;
/// History tensors that one step may write.
pub const STORES: usize = 4;

/// One linear combination of the state tensors (`latent_update.wgsl`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Row {
    /// Which history tensor it becomes; a whole number.
    pub slot: f32,
    /// Clipped to `-clip..clip` where it is not 0.
    pub clip: f32,
    pub sample: f32,
    pub output: f32,
    pub noise: f32,
    pub history: [f32; SLOTS],
}

/// What changes from step to step, as the kernels read it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct StepValues {
    pub timestep: f32,
    /// Factor of the UNet's input.
    pub input_scale: f32,
    pub guidance_scale: f32,
    /// Phi of the guidance rescale; 0 leaves the prediction as it is.
    pub guidance_rescale: f32,
    /// Where a mask keeps the picture: its factor and the noise's.
    pub kept_original: f32,
    pub kept_noise: f32,
    /// How many of `store` there are; a whole number.
    pub stores: f32,
    /// Dynamic thresholding's quantile and largest level.
    pub threshold_ratio: f32,
    pub threshold_most: f32,
    /// Of the step, counted from 1; a whole number.
    pub number: f32,
    pub unused: [f32; 2],
    pub update: Row,
    pub store: [Row; STORES],
}

fn workgroup(tuning: Tuning) -> Vec<(&'static str, u32)> {
    vec![("WG", tuning.workgroup())]
}

pub(super) fn input_key(tuning: Tuning, storage: Storage) -> PipelineKey {
    key("latent_input", storage.defines(), workgroup(tuning), INPUT)
}

pub(super) fn guidance_key(tuning: Tuning, storage: Storage) -> PipelineKey {
    key("guidance", storage.defines(), workgroup(tuning), GUIDANCE)
}

/// Kernels that go over a whole picture give it a workgroup on every adapter: Mesa's
/// CPU driver ends an invocation's loops after 65,535 rounds in all.
fn by_picture(storage: Storage) -> Vec<(String, String)> {
    Tuning { direct: false }.row_defines(storage)
}

pub(super) fn rescale_key(storage: Storage) -> PipelineKey {
    key("guidance_rescale", by_picture(storage), vec![], RESCALE)
}

pub(super) fn update_key(tuning: Tuning) -> PipelineKey {
    key("latent_update", vec![], workgroup(tuning), UPDATE)
}

pub(super) fn threshold_key() -> PipelineKey {
    key(
        "latent_threshold",
        by_picture(Storage::F32),
        vec![],
        THRESHOLD,
    )
}

pub(super) fn mask_key(tuning: Tuning) -> PipelineKey {
    key("latent_mask", vec![], workgroup(tuning), MASK)
}

/// `y[b] = x * input_scale` for every copy `b` of the pictures of `x` that `y` has
/// room for. Where `y` has more channels than `x` they are those of `extra`, f32
/// `[pictures, pixels, y.c - x.c]`.
pub fn input(tuning: Tuning, x: &Tensor, extra: &View, step: &View, y: &Tensor) -> Dispatch {
    let rows = x.rows();
    let copies = y.rows() / rows.max(1);
    Dispatch {
        key: input_key(tuning, y.storage),
        views: vec![x.view.clone(), extra.clone(), step.clone(), y.view.clone()],
        params: vec![rows as u32, copies as u32, x.c4() as u32, y.c4() as u32],
        grid: tuning.item_grid(rows * y.c4()),
        flops: (4 * rows * y.c4()) as u64,
        bytes: (rows * y.c4() * (16 + copies * 4 * y.storage.bytes())) as u64,
    }
}

/// `y = u + s (t - u)`, or `y = t` without `u`, for `pictures` pictures. `u` and
/// `t` are a tensor and the place of the first picture in its batch; `y` is f32.
pub fn guidance(
    tuning: Tuning,
    u: Option<(&Tensor, usize)>,
    (t, place): (&Tensor, usize),
    pictures: usize,
    step: &View,
    y: &View,
) -> Dispatch {
    let each = t.rows_per_batch() * t.c4();
    let count = pictures * each;
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
            (u_place * each) as u32,
            (place * each) as u32,
        ],
        grid: tuning.item_grid(count),
        flops: (12 * count) as u64,
        bytes: (count * (16 + 8 * t.storage.bytes())) as u64,
    }
}

/// Rescales the guided prediction `e` (f32) of `pictures` pictures to the spread of
/// the prompt's prediction `t`, picture `place` of its batch and those after it.
pub fn rescale((t, place): (&Tensor, usize), pictures: usize, step: &View, e: &View) -> Dispatch {
    let each = t.rows_per_batch() * t.c4();
    Dispatch {
        key: rescale_key(t.storage),
        views: vec![t.view.clone(), e.clone(), step.clone()],
        params: vec![pictures as u32, each as u32, (place * each) as u32, 0],
        grid: fold(pictures),
        flops: (40 * pictures * each) as u64,
        bytes: (pictures * each * (64 + 8 * t.storage.bytes())) as u64,
    }
}

/// The state tensors of a step.
pub struct State<'a> {
    /// The latents, changed in place.
    pub sample: &'a View,
    /// The guided prediction.
    pub output: &'a View,
    pub noise: &'a View,
    /// One after another, as many as the scheduler uses.
    pub history: &'a View,
}

/// Which part of a step's update to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Whole,
    /// The first store alone, before [`threshold`].
    First,
    /// All but the first store.
    Rest,
}

/// The step's stores and its update, `count` vec4s of f32.
pub fn update(
    tuning: Tuning,
    state: &State<'_>,
    step: &View,
    count: usize,
    share: Share,
) -> Dispatch {
    let (first, last, finish) = match share {
        Share::Whole => (0, STORES, 1),
        Share::First => (0, 1, 0),
        Share::Rest => (1, STORES, 1),
    };
    Dispatch {
        key: update_key(tuning),
        views: vec![
            state.sample.clone(),
            state.output.clone(),
            state.noise.clone(),
            state.history.clone(),
            step.clone(),
        ],
        params: vec![count as u32, first, last as u32, finish],
        grid: tuning.item_grid(count),
        flops: (60 * count) as u64,
        bytes: (96 * count) as u64,
    }
}

/// Dynamic thresholding of what the step's first store wrote to `history`, for
/// each of `pictures` tensors of `each` vec4s.
pub fn threshold(history: &View, step: &View, pictures: usize, each: usize) -> Dispatch {
    Dispatch {
        key: threshold_key(),
        views: vec![history.clone(), step.clone()],
        params: vec![pictures as u32, each as u32, 0, 0],
        grid: fold(pictures),
        flops: (35 * 8 * pictures * each) as u64,
        bytes: (35 * 16 * pictures * each) as u64,
    }
}

/// Puts back what the mask keeps: `x = (1 - m) (original a + noise b) + m x`; `m`
/// is f32 `[pixels]`, the same for every picture and channel of `x`.
pub fn mask(tuning: Tuning, x: &Tensor, [original, noise, m]: [&View; 3], step: &View) -> Dispatch {
    let count = x.rows() * x.c4();
    let views = [&x.view, original, noise, m, step];
    Dispatch {
        key: mask_key(tuning),
        views: views.into_iter().cloned().collect(),
        params: vec![count as u32, x.c4() as u32, x.rows_per_batch() as u32, 0],
        grid: tuning.item_grid(count),
        flops: (24 * count) as u64,
        bytes: (68 * count) as u64,
    }
}

/// The CPU twin of [`input`]: rows of `c` latents beside rows of `extra`.
pub fn twin_input(x: &[f32], c: usize, extra: &[f32], scale: f32, copies: usize) -> Vec<f32> {
    let rows = x.len() / c;
    let wide = extra.len() / rows.max(1);
    let one: Vec<f32> = (0..rows)
        .flat_map(|row| {
            let own = x[row * c..(row + 1) * c].iter().map(|x| x * scale);
            own.chain(extra[row * wide..(row + 1) * wide].iter().copied())
        })
        .collect();
    one.repeat(copies)
}

/// The CPU twin of [`guidance`].
pub fn twin_guidance(u: &[f32], t: &[f32], s: f32) -> Vec<f32> {
    u.iter().zip(t).map(|(u, t)| u + s * (t - u)).collect()
}

/// The CPU twin of [`rescale`], for one picture.
pub fn twin_rescale(t: &[f32], e: &[f32], phi: f32) -> Vec<f32> {
    let spread = |values: &[f32]| {
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
        let squares = values.iter().map(|x| (f64::from(*x) - mean).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let phi = f64::from(phi);
    let factor = phi * spread(t) / spread(e) + 1.0 - phi;
    e.iter().map(|e| (f64::from(*e) * factor) as f32).collect()
}

/// The CPU twin of [`update`] for the whole step: the latents and the history
/// tensors after it.
pub fn twin_update(
    step: &StepValues,
    [x, e, n]: [&[f32]; 3],
    history: &[Vec<f32>],
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut history = history.to_vec();
    let sum = |row: &Row, history: &[Vec<f32>]| -> Vec<f32> {
        let value = |i: usize| {
            let kept = history.iter().zip(row.history);
            let kept: f32 = kept.map(|(h, factor)| factor * h[i]).sum();
            let value = row.sample * x[i] + row.output * e[i] + row.noise * n[i] + kept;
            match row.clip > 0.0 {
                true => value.clamp(-row.clip, row.clip),
                false => value,
            }
        };
        (0..x.len()).map(value).collect()
    };
    for row in &step.store[..step.stores as usize] {
        history[row.slot as usize] = sum(row, &history);
    }
    (sum(&step.update, &history), history)
}

/// The CPU twin of [`mask`].
pub fn twin_mask(
    [x, original, noise]: [&[f32]; 3],
    m: &[f32],
    c: usize,
    [a, b]: [f32; 2],
) -> Vec<f32> {
    (0..x.len())
        .map(|i| {
            let m = m[i / c % m.len()];
            (1.0 - m) * (original[i] * a + noise[i] * b) + m * x[i]
        })
        .collect()
}
