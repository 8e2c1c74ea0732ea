//! Uploads and downloads: between PyTorch's planes `[n, c, h, w]` of f32 and
//! activations.

use super::{Dispatch, Mode, Storage, Tensor, View, Work, fold, key};
use crate::Result;
use crate::gpu::{Access, PipelineKey, host_shareable};

const BINDINGS: &[Access] = &[Access::Read, Access::Write, Access::Uniform];

host_shareable! {
    /// `Params` of `layout.wgsl`.
    struct Params {
        /// Pixels of one picture.
        count: u32,
        channels: u32,
        c4: u32,
        pictures: u32,
        scale: f32,
        shift: f32,
    }
}

pub(super) fn pipeline_key(mode: Mode, storage: Storage, to_planes: bool) -> PipelineKey {
    let mut defines = storage.defines();
    if to_planes {
        defines.push(("TO_PLANES".into(), String::new()));
    }
    let wg = vec![("WG", mode.workgroup())];
    key::<Params>("layout", defines, wg, BINDINGS)
}

fn dispatch(
    mode: Mode,
    planes: &View,
    pixels: &Tensor,
    [scale, shift]: [f32; 2],
    to_planes: bool,
) -> Result<Dispatch> {
    pixels.expect_dense("pixels")?;
    let pixel_operand = pixels.operand("pixels")?;
    let count = pixels.rows_per_batch();
    let bytes = (pixels.rows() as u64).saturating_mul(4 * pixels.c as u64);
    let plane_operand = planes.operand("planes", bytes)?;
    let [x, y, _] = fold(count.div_ceil(mode.workgroup() as usize));
    Dispatch::new(
        pipeline_key(mode, pixels.storage, to_planes),
        match to_planes {
            true => [pixel_operand, plane_operand],
            false => [plane_operand, pixel_operand],
        },
        Params {
            count: count as u32,
            channels: pixels.c as u32,
            c4: pixels.c4() as u32,
            pictures: pixels.n as u32,
            scale,
            shift,
        },
        [x, y, (pixels.n * pixels.c4()) as u32],
        Work {
            flops: 2 * pixels.n * count * pixels.c,
            bytes: pixels.n * count * pixels.c * (4 + pixels.storage.bytes()),
        },
    )
}

/// `pixels = planes * scale + shift`, channels last.
///
/// # Errors
/// [`crate::Error::Internal`] where the planes hold fewer values, or the pixels are part
/// of a wider tensor.
pub fn to_pixels(mode: Mode, planes: &View, pixels: &Tensor, affine: [f32; 2]) -> Result<Dispatch> {
    dispatch(mode, planes, pixels, affine, false)
}

/// `planes = pixels * scale + shift`, planes of f32.
///
/// # Errors
/// As [`to_pixels`].
pub fn to_planes(mode: Mode, pixels: &Tensor, planes: &View, affine: [f32; 2]) -> Result<Dispatch> {
    dispatch(mode, planes, pixels, affine, true)
}

/// The CPU twin of [`to_pixels`]: `[n, c, count]` to `[n, count, c]`.
pub fn twin_to_pixels(planes: &[f32], [n, c, count]: [usize; 3], affine: [f32; 2]) -> Vec<f32> {
    let mut pixels = vec![0f32; planes.len()];
    for b in 0..n {
        for i in 0..c {
            for j in 0..count {
                pixels[(b * count + j) * c + i] =
                    planes[(b * c + i) * count + j] * affine[0] + affine[1];
            }
        }
    }
    pixels
}

/// The CPU twin of [`to_planes`]: `[n, count, c]` to `[n, c, count]`.
pub fn twin_to_planes(pixels: &[f32], [n, c, count]: [usize; 3], affine: [f32; 2]) -> Vec<f32> {
    twin_to_pixels(pixels, [n, count, c], affine)
}
