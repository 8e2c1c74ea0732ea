//! Whether a variant computes what it should on this device: exact integers, operands
//! that do not commute, NaN around everything, one product after another.

use super::dispatches_by;
use super::{Call, Conv, Epilogue, Layout, Product, Storages, Variant, Weight, WeightStorage};
use crate::Result;
use crate::kernel::trust::{mixed, upload};
use crate::kernel::{Context, Program, Storage, Tensor};
use half::f16;

/// Products in a row, each adding to the one before: one race shows in the last. So few
/// that f16 holds every sum exactly.
const REPEATS: usize = 8;

/// Vec4s around the rows of both operands and of the results, an even number for
/// matrices; they hold NaN.
const MARGIN: usize = 2;

/// One product of a self-test.
struct Case {
    m: usize,
    n: usize,
    k: usize,
    /// The picture's width, where it is a convolution.
    width: Option<usize>,
    seed: usize,
}

/// Small integers, so that every sum is exact, and none like its neighbours.
fn integer(i: usize, seed: usize) -> i32 {
    ((mixed(i, seed) >> 29) % 3) as i32 - 1
}

/// What is wrong with `variant`, as the call's storages and kind have it.
///
/// # Errors
/// What goes wrong on the device.
pub(super) fn self_test(
    context: &Context,
    variant: Variant,
    call: &Call,
) -> Result<Option<String>> {
    let [bm, bn] = variant.tile();
    let width = call.gather.then_some(13);
    let m = match width {
        Some(width) => (2 * bm + 5).div_ceil(width) * width,
        None => 2 * bm + 5,
    };
    let depths = match variant {
        // What is cut is long, and so that its parts are not alike.
        _ if variant.parts() > 1 => [1024, 1280].map(|k| match width {
            Some(_) => 128,
            None => k,
        }),
        Variant::Coop(tile) => [1, 3].map(|slices| slices * tile.bk as usize),
        _ => [24, 72],
    };
    for (seed, k) in (1..).zip(depths) {
        let case = Case {
            m,
            n: 2 * bn + 16,
            k,
            width,
            seed,
        };
        if let Some(problem) = case.run(context, variant, call)? {
            return Ok(Some(problem));
        }
    }
    Ok(None)
}

impl Case {
    fn taps(&self) -> usize {
        if self.width.is_some() { 9 } else { 1 }
    }

    fn layout(&self) -> Layout {
        Layout {
            taps: self.taps(),
            k: self.k,
            n: self.n,
            geglu: false,
        }
    }

    fn a(&self, row: usize, k: usize) -> i32 {
        integer(row * self.k + k, self.seed)
    }

    fn w(&self, n: usize, k: usize, tap: usize) -> i32 {
        integer((n * self.k + k) * self.taps() + tap, self.seed + 77)
    }

    fn bias(&self, n: usize) -> i32 {
        integer(n, self.seed + 99)
    }

    /// The row of A that output row `row` multiplies with tap `tap`.
    fn source(&self, row: usize, tap: usize) -> Option<usize> {
        let Some(width) = self.width else {
            return Some(row);
        };
        let (y, x) = (row / width + tap / 3, row % width + tap % 3);
        let inside = (1..=self.m / width).contains(&y) && (1..=width).contains(&x);
        inside.then(|| (y - 1) * width + x - 1)
    }

    /// The exact result, row after row.
    fn exact(&self) -> Vec<i32> {
        // [taps][k][n], so that the inner loop runs along n.
        let taps = self.taps();
        let mut w = Vec::with_capacity(taps * self.k * self.n);
        for tap in 0..taps {
            for k in 0..self.k {
                w.extend((0..self.n).map(|n| self.w(n, k, tap)));
            }
        }
        let bias: Vec<i32> = (0..self.n).map(|n| self.bias(n)).collect();
        let mut out = Vec::with_capacity(self.m * self.n);
        for row in 0..self.m {
            let mut sums = bias.clone();
            for tap in 0..taps {
                let Some(from) = self.source(row, tap) else {
                    continue;
                };
                for k in 0..self.k {
                    let x = self.a(from, k);
                    if x == 0 {
                        continue;
                    }
                    let w = &w[(tap * self.k + k) * self.n..][..self.n];
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum += x * w;
                    }
                }
            }
            out.extend(sums);
        }
        out
    }

    fn run(&self, context: &Context, variant: Variant, call: &Call) -> Result<Option<String>> {
        let Storages { a, weights, out } = call.storages;
        let a = self.tensor(context, a, self.k, |row, k| self.a(row, k) as f32)?;
        let weight = self.weight(context, weights)?;
        let bias: Vec<f32> = (0..self.n).map(|n| self.bias(n) as f32).collect();
        let bias = upload(
            context,
            bytemuck::cast_slice(&self.layout().pack_bias(&bias)),
        )?;
        let first = self.tensor(context, out, self.n, |_, _| 0.0)?;
        let second = self.tensor(context, out, self.n, |_, _| f32::NAN)?;
        let (mut from, mut to) = (&first, &second);
        let mut all = Vec::new();
        for _ in 0..REPEATS {
            let product = Product {
                a: &a,
                weight: &weight,
                out: to,
                conv: self.width.map(|_| Conv {
                    stride: 1,
                    pad: 1,
                    upsample: false,
                }),
                blocks: None,
                epilogue: Epilogue {
                    bias: Some(bias.clone()),
                    residual: Some(from.clone()),
                    ..Default::default()
                },
                rows: None,
            };
            all.extend(dispatches_by(context, &product, variant)?);
            (from, to) = (to, from);
        }
        Program::new(&context.gpu, all)?.run(&context.gpu)?;
        let view = &from.view;
        let bytes = context.gpu.download(&view.buffer, view.offset, view.size)?;
        Ok(self.compare(&out.decode(&bytes)))
    }

    /// What of `got`, rows with their margins, differs from the exact result.
    fn compare(&self, got: &[f32]) -> Option<String> {
        let exact = self.exact();
        let pitch = self.n + 8 * MARGIN;
        let (mut wrong, mut example) = (0, None);
        for (row, values) in got.chunks(pitch).enumerate() {
            for (at, value) in values.iter().enumerate() {
                let column = at.checked_sub(4 * MARGIN).filter(|n| *n < self.n);
                let wanted = column.filter(|_| row < self.m);
                let wanted = wanted.map(|n| (REPEATS as i32 * exact[row * self.n + n]) as f32);
                let right = match wanted {
                    Some(wanted) => *value == wanted,
                    None => value.is_nan(),
                };
                if !right {
                    wrong += 1;
                    let wanted = wanted.unwrap_or(f32::NAN);
                    example.get_or_insert_with(|| {
                        format!("{value} in place of {wanted} in row {row}, column {at}")
                    });
                }
            }
        }
        let of = self.m * self.n;
        let shape = format!("{}x{}x{}", self.m, self.n, self.k * self.taps());
        example.map(|e| format!("{wrong} of {of} values of {shape} are wrong, such as {e}"))
    }

    /// `[m, c]` with NaN beside every row and a row of NaN behind the last.
    fn tensor(
        &self,
        context: &Context,
        storage: Storage,
        c: usize,
        value: impl Fn(usize, usize) -> f32,
    ) -> Result<Tensor> {
        let pitch = c + 8 * MARGIN;
        let mut values = vec![f32::NAN; (self.m + 1) * pitch];
        for (row, values) in values.chunks_mut(pitch).take(self.m).enumerate() {
            for k in 0..c {
                values[4 * MARGIN + k] = value(row, k);
            }
        }
        let view = upload(context, &storage.encode(&values))?;
        let width = self.width.unwrap_or(1);
        let mut tensor = Tensor::new(view, storage, [1, self.m / width, width, c]);
        tensor.pitch = pitch / 4;
        tensor.offset = MARGIN;
        Ok(tensor)
    }

    fn weight(&self, context: &Context, storage: WeightStorage) -> Result<Weight> {
        let layout = self.layout();
        let column = |n: usize| -> Vec<f32> {
            let values = (0..self.k).flat_map(|k| (0..self.taps()).map(move |tap| (k, tap)));
            values.map(|(k, tap)| self.w(n, k, tap) as f32).collect()
        };
        let columns: Vec<Vec<f32>> = (0..self.n).map(column).collect();
        let columns: Vec<&[f32]> = columns.iter().map(|c| &c[..]).collect();
        let packed = layout.pack(&columns);
        let view = match storage {
            WeightStorage::F32 => upload(context, bytemuck::cast_slice(&packed))?,
            WeightStorage::F16 => {
                let half: Vec<f16> = packed.iter().map(|x| f16::from_f32(*x)).collect();
                upload(context, bytemuck::cast_slice(&half))?
            }
        };
        Ok(Weight::packed(view, storage, layout))
    }
}
