//! Uploads and downloads: between PyTorch's planes `[n, c, h, w]` of f32 and
//! activations.

use super::{Dispatch, Storage, Tensor, Tuning, View, fold, key};
use crate::gpu::{Access, PipelineKey};

const BINDINGS: &[Access] = &[Access::Read, Access::Write, Access::Uniform];

pub(super) fn pipeline_key(tuning: Tuning, storage: Storage, to_planes: bool) -> PipelineKey {
    let mut defines = storage.defines();
    if to_planes {
        defines.push(("TO_PLANES".into(), String::new()));
    }
    let wg = vec![("WG", tuning.workgroup())];
    key("layout", defines, wg, BINDINGS)
}

fn dispatch(
    tuning: Tuning,
    planes: &View,
    pixels: &Tensor,
    [scale, shift]: [f32; 2],
    to_planes: bool,
) -> Dispatch {
    let count = pixels.rows_per_batch();
    let [x, y, _] = fold(count.div_ceil(tuning.workgroup() as usize));
    let views = [planes.clone(), pixels.view.clone()];
    let [planes, pixels_view] = views;
    Dispatch {
        key: pipeline_key(tuning, pixels.storage, to_planes),
        views: if to_planes {
            vec![pixels_view, planes]
        } else {
            vec![planes, pixels_view]
        },
        params: vec![
            count as u32,
            pixels.c as u32,
            pixels.c4() as u32,
            pixels.n as u32,
            scale.to_bits(),
            shift.to_bits(),
            0,
            0,
        ],
        grid: [x, y, (pixels.n * pixels.c4()) as u32],
        flops: (2 * pixels.n * count * pixels.c) as u64,
        bytes: (pixels.n * count * pixels.c * (4 + pixels.storage.bytes())) as u64,
    }
}

/// `pixels = planes * scale + shift`, channels last.
pub fn to_pixels(tuning: Tuning, planes: &View, pixels: &Tensor, affine: [f32; 2]) -> Dispatch {
    dispatch(tuning, planes, pixels, affine, false)
}

/// `planes = pixels * scale + shift`, planes of f32.
pub fn to_planes(tuning: Tuning, pixels: &Tensor, planes: &View, affine: [f32; 2]) -> Dispatch {
    dispatch(tuning, planes, pixels, affine, true)
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
