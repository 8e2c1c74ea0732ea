//! The kernels of the denoising loop around the UNet: input scaling, guidance,
//! and the scheduler's update. The step's numbers come from a small buffer (see
//! [`StepValues`]), so that every step runs the same recorded dispatches.
//!
//! All state tensors are f32 `[pictures, pixels, c]`, the channels padded to vec4s.

use super::program::Operand;
use super::{Dispatch, Mode, Storage, Tensor, View, Work, fold, key, require};
use crate::Result;
use crate::gpu::{Access, PipelineKey, host_shareable};

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

host_shareable! {
    /// One linear combination of the state tensors (`Row` of `step.wgsl`).
    #[derive(Default)]
    pub struct Row {
        /// Which history tensor it becomes; a whole number.
        slot: f32,
        /// Clipped to `-clip..clip` where it is not 0.
        clip: f32,
        sample: f32,
        output: f32,
        noise: f32,
        history: [f32; SLOTS],
    }
}

host_shareable! {
    /// What changes from step to step, as the kernels read it (`Step` of `step.wgsl`).
    #[derive(Default)]
    pub struct StepValues {
        /// Factor of the UNet's input.
        input_scale: f32,
        guidance_scale: f32,
        /// Phi of the guidance rescale; 0 leaves the prediction as it is.
        guidance_rescale: f32,
        /// Where a mask keeps the picture: its factor and the noise's.
        kept_original: f32,
        kept_noise: f32,
        /// How many of `store` there are; a whole number.
        stores: f32,
        /// Dynamic thresholding's quantile and largest level.
        threshold_ratio: f32,
        threshold_most: f32,
        /// Of the step, counted from 1; a whole number.
        number: f32,
        update: Row,
        store: [Row; STORES],
    }
}

/// Bytes of the step's numbers.
const STEP_BYTES: u64 = size_of::<StepValues>() as u64;

impl StepValues {
    /// Fails where a row reads or writes what a loop with `slots` history tensors, and
    /// noise or none, does not have: the kernels would leave it out.
    ///
    /// # Errors
    /// [`crate::Error::Internal`].
    pub fn check(&self, slots: usize, noise: bool) -> Result<()> {
        let stores = self.stores as usize;
        require("step", stores <= STORES, || format!("{stores} stores"))?;
        let stored = self.store.iter().take(stores);
        for row in stored.clone().chain([&self.update]) {
            let has_noise = noise || row.noise == 0.0;
            require("step", has_noise, || "noise that is not drawn".into())?;
            let mut beyond = row.history.iter().skip(slots);
            require("step", beyond.all(|factor| *factor == 0.0), || {
                format!("history of more than {slots} tensors: {:?}", row.history)
            })?;
        }
        for row in stored {
            require("step", (row.slot as usize) < slots, || {
                format!("slot {} of {slots}", row.slot)
            })?;
        }
        Ok(())
    }
}

host_shareable! {
    /// `Params` of `latent_input.wgsl`.
    struct InputParams {
        rows: u32,
        copies: u32,
        x_c4: u32,
        y_c4: u32,
    }
}

host_shareable! {
    /// `Params` of `guidance.wgsl`.
    struct GuidanceParams {
        count: u32,
        guided: u32,
        u_offset: u32,
        t_offset: u32,
        weight: f32,
        unused: u32,
        unused_2: u32,
        unused_3: u32,
    }
}

host_shareable! {
    /// `Params` of `guidance_rescale.wgsl`.
    struct RescaleParams {
        pictures: u32,
        count: u32,
        t_offset: u32,
    }
}

host_shareable! {
    /// `Params` of `latent_update.wgsl`.
    struct UpdateParams {
        count: u32,
        first: u32,
        last: u32,
        finish: u32,
        noise: u32,
        slots: u32,
    }
}

host_shareable! {
    /// `Params` of `latent_threshold.wgsl`.
    struct ThresholdParams {
        pictures: u32,
        count: u32,
        slots: u32,
    }
}

host_shareable! {
    /// `Params` of `latent_mask.wgsl`.
    struct MaskParams {
        count: u32,
        c4: u32,
        pixels: u32,
    }
}

fn workgroup(mode: Mode) -> Vec<(&'static str, u32)> {
    vec![("WG", mode.workgroup())]
}

pub(super) fn input_key(mode: Mode, storage: Storage) -> PipelineKey {
    key::<InputParams>("latent_input", storage.defines(), workgroup(mode), INPUT)
}

pub(super) fn guidance_key(mode: Mode, storage: Storage) -> PipelineKey {
    key::<GuidanceParams>("guidance", storage.defines(), workgroup(mode), GUIDANCE)
}

/// Kernels that go over a whole picture give it a workgroup on every adapter: Mesa's
/// CPU driver ends an invocation's loops after 65,535 rounds in all.
fn by_picture(storage: Storage) -> Vec<(String, String)> {
    Mode { direct: false }.row_defines(storage)
}

pub(super) fn rescale_key(storage: Storage) -> PipelineKey {
    key::<RescaleParams>("guidance_rescale", by_picture(storage), vec![], RESCALE)
}

pub(super) fn update_key(mode: Mode) -> PipelineKey {
    key::<UpdateParams>("latent_update", vec![], workgroup(mode), UPDATE)
}

pub(super) fn threshold_key() -> PipelineKey {
    let defines = by_picture(Storage::F32);
    key::<ThresholdParams>("latent_threshold", defines, vec![], THRESHOLD)
}

pub(super) fn mask_key(mode: Mode) -> PipelineKey {
    key::<MaskParams>("latent_mask", vec![], workgroup(mode), MASK)
}

/// Bytes of `count` vec4s of f32.
fn vec4s(count: usize) -> u64 {
    (count as u64).saturating_mul(16)
}

/// `y[b] = x * input_scale` for every copy `b` of the pictures of `x` that `y` has
/// room for. Where `y` has more channels than `x` they are those of `extra`, f32
/// `[pictures, pixels, y.c - x.c]`.
///
/// # Errors
/// [`crate::Error::Internal`] where the shapes do not fit together.
pub fn input(mode: Mode, x: &Tensor, extra: &View, step: &View, y: &Tensor) -> Result<Dispatch> {
    x.expect_dense("x")?;
    x.expect("x", x.shape(), Storage::F32)?;
    y.expect_dense("y")?;
    let (rows, x_c4, y_c4) = (x.rows(), x.c4(), y.c4());
    let channels = y.c == x.c || y.c > x.c && x.c.is_multiple_of(4);
    require("y", channels && y.rows().is_multiple_of(rows), || {
        format!("{:?} of {:?}", y.shape(), x.shape())
    })?;
    let copies = y.rows() / rows;
    let y_operand = y.operand("y")?;
    let operands = [
        x.operand("x")?,
        extra.operand("extra", vec4s(rows * (y_c4 - x_c4)))?,
        step.operand("step", STEP_BYTES)?,
        y_operand,
    ];
    Dispatch::new(
        input_key(mode, y.storage),
        operands,
        InputParams {
            rows: rows as u32,
            copies: copies as u32,
            x_c4: x_c4 as u32,
            y_c4: y_c4 as u32,
        },
        mode.item_grid(rows * y_c4),
        Work {
            flops: 4 * rows * y_c4,
            bytes: rows * y_c4 * (16 + copies * 4 * y.storage.bytes()),
        },
    )
}

/// The operand `t`, which has `pictures` pictures from `place` on, and vec4s of each.
fn pictures_of(
    name: &'static str,
    (t, place): (&Tensor, usize),
    pictures: usize,
) -> Result<(Operand, usize)> {
    t.expect_dense(name)?;
    let enough = pictures > 0 && place.saturating_add(pictures) <= t.n;
    require(name, enough, || {
        format!("{pictures} pictures from {place} on of {}", t.n)
    })?;
    Ok((t.operand(name)?, t.rows_per_batch() * t.c4()))
}

/// A part of a prompt, for [`guidance`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weighed {
    pub weight: f32,
    /// It is the first; the others are added to it.
    pub first: bool,
}

impl Weighed {
    /// A prompt of one part.
    pub const ALONE: Self = Self {
        weight: 1.0,
        first: true,
    };
}

/// `y = u + s w (t - u)`, or `y = t` without `u`, for `pictures` pictures; further
/// parts of the prompt are added, `y += s w (t - u)`. `u` and `t` are a tensor and
/// the place of the first picture in its batch; `y` is f32.
///
/// # Errors
/// [`crate::Error::Internal`] where the shapes do not fit together.
pub fn guidance(
    mode: Mode,
    u: Option<(&Tensor, usize)>,
    (t, place): (&Tensor, usize),
    part: Weighed,
    pictures: usize,
    step: &View,
    y: &View,
) -> Result<Dispatch> {
    let (t_operand, each) = pictures_of("t", (t, place), pictures)?;
    let (u_tensor, u_place) = u.unwrap_or((t, place));
    let (u_operand, _) = pictures_of("u", (u_tensor, u_place), pictures)?;
    u_tensor.expect("u", [u_tensor.n, t.h, t.w, t.c], t.storage)?;
    let count = pictures * each;
    let operands = [
        u_operand,
        t_operand,
        step.operand("step", STEP_BYTES)?,
        y.operand("y", vec4s(count))?,
    ];
    Dispatch::new(
        guidance_key(mode, t.storage),
        operands,
        GuidanceParams {
            count: count as u32,
            guided: match (u.is_some(), part.first) {
                (false, _) => 0,
                (true, true) => 1,
                (true, false) => 2,
            },
            u_offset: (u_place * each) as u32,
            t_offset: (place * each) as u32,
            weight: part.weight,
            unused: 0,
            unused_2: 0,
            unused_3: 0,
        },
        mode.item_grid(count),
        Work {
            flops: 12 * count,
            bytes: count * (16 + 8 * t.storage.bytes()),
        },
    )
}

/// Rescales the guided prediction `e` (f32) of `pictures` pictures to the spread of
/// the prompt's prediction `t`, picture `place` of its batch and those after it.
///
/// # Errors
/// [`crate::Error::Internal`] where the shapes do not fit together.
pub fn rescale(
    (t, place): (&Tensor, usize),
    pictures: usize,
    step: &View,
    e: &View,
) -> Result<Dispatch> {
    let (t_operand, each) = pictures_of("t", (t, place), pictures)?;
    require("t", t.c.is_multiple_of(4), || format!("{} channels", t.c))?;
    let operands = [
        t_operand,
        e.operand("e", vec4s(pictures * each))?,
        step.operand("step", STEP_BYTES)?,
    ];
    Dispatch::new(
        rescale_key(t.storage),
        operands,
        RescaleParams {
            pictures: pictures as u32,
            count: each as u32,
            t_offset: (place * each) as u32,
        },
        fold(pictures),
        Work {
            flops: 40 * pictures * each,
            bytes: pictures * each * (64 + 8 * t.storage.bytes()),
        },
    )
}

/// The state tensors of a step.
pub struct State<'a> {
    /// The latents, changed in place.
    pub sample: &'a View,
    /// The guided prediction.
    pub output: &'a View,
    /// As the latents, or shorter where no step draws noise.
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

/// The step's stores and its update, `count` vec4s of f32. Noise and history tensors
/// that the views do not hold are left out (see [`StepValues::check`]).
///
/// # Errors
/// [`crate::Error::Internal`] where the latents or the prediction hold fewer.
pub fn update(
    mode: Mode,
    state: &State<'_>,
    step: &View,
    count: usize,
    share: Share,
) -> Result<Dispatch> {
    let (first, last, finish) = match share {
        Share::Whole => (0, STORES, 1),
        Share::First => (0, 1, 0),
        Share::Rest => (1, STORES, 1),
    };
    require("latents", count > 0, || "nothing to update".into())?;
    let each = vec4s(count);
    let noise = state.noise.size >= each;
    let slots = (state.history.size / each).min(SLOTS as u64);
    let operands = [
        state.sample.operand("latents", each)?,
        state.output.operand("prediction", each)?,
        state.noise.operand("noise", if noise { each } else { 0 })?,
        state.history.operand("history", slots * each)?,
        step.operand("step", STEP_BYTES)?,
    ];
    Dispatch::new(
        update_key(mode),
        operands,
        UpdateParams {
            count: count as u32,
            first,
            last: last as u32,
            finish,
            noise: u32::from(noise),
            slots: slots as u32,
        },
        mode.item_grid(count),
        Work {
            flops: 60 * count,
            bytes: 96 * count,
        },
    )
}

/// Dynamic thresholding of what the step's first store wrote to `history`, for
/// each of `pictures` tensors of `each` vec4s.
///
/// # Errors
/// [`crate::Error::Internal`] where `history` does not hold one such tensor.
pub fn threshold(history: &View, step: &View, pictures: usize, each: usize) -> Result<Dispatch> {
    let bytes = vec4s(pictures).saturating_mul(each as u64);
    let slots = history.size.checked_div(bytes).unwrap_or(0);
    require("history", slots > 0, || {
        format!("{} bytes for {pictures} x {each} vec4s", history.size)
    })?;
    let slots = slots.min(SLOTS as u64);
    Dispatch::new(
        threshold_key(),
        [
            history.operand("history", slots * bytes)?,
            step.operand("step", STEP_BYTES)?,
        ],
        ThresholdParams {
            pictures: pictures as u32,
            count: each as u32,
            slots: slots as u32,
        },
        fold(pictures),
        Work {
            flops: 35 * 8 * pictures * each,
            bytes: 35 * 16 * pictures * each,
        },
    )
}

/// Puts back what the mask keeps: `x = (1 - m) (original a + noise b) + m x`; `m`
/// is f32 `[pixels]`, the same for every picture and channel of `x`.
///
/// # Errors
/// [`crate::Error::Internal`] where the shapes do not fit together.
pub fn mask(
    mode: Mode,
    x: &Tensor,
    [original, noise, m]: [&View; 3],
    step: &View,
) -> Result<Dispatch> {
    x.expect_dense("x")?;
    x.expect("x", x.shape(), Storage::F32)?;
    let x_operand = x.operand("x")?;
    let count = x.rows() * x.c4();
    let operands = [
        x_operand,
        original.operand("original", vec4s(count))?,
        noise.operand("noise", vec4s(count))?,
        m.operand("mask", 4 * x.rows_per_batch() as u64)?,
        step.operand("step", STEP_BYTES)?,
    ];
    Dispatch::new(
        mask_key(mode),
        operands,
        MaskParams {
            count: count as u32,
            c4: x.c4() as u32,
            pixels: x.rows_per_batch() as u32,
        },
        mode.item_grid(count),
        Work {
            flops: 24 * count,
            bytes: 68 * count,
        },
    )
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

/// The CPU twin of [`guidance`] for the parts `t` of a prompt and their weights.
pub fn twin_guidance(u: &[f32], t: &[(&[f32], f32)], s: f32) -> Vec<f32> {
    let mut y = u.to_vec();
    for (t, w) in t {
        let pairs = u.iter().zip(*t);
        let parts = y.iter_mut().zip(pairs);
        parts.for_each(|(y, (u, t))| *y += s * w * (t - u));
    }
    y
}

/// The CPU twin of [`rescale`], for one picture. Without any spread there is nothing to
/// rescale.
pub fn twin_rescale(t: &[f32], e: &[f32], phi: f32) -> Vec<f32> {
    let spread = |values: &[f32]| {
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
        let squares = values.iter().map(|x| (f64::from(*x) - mean).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let phi = f64::from(phi);
    let ratio = match spread(e) {
        0.0 => 1.0,
        own => spread(t) / own,
    };
    let factor = phi * ratio + 1.0 - phi;
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
