//! Whether a variant attends as it should on this device: compared with the CPU twin,
//! odd numbers of queries and keys, NaN around everything, several times in a row.

use super::{Attention, Call, Variant, twin};
use crate::Result;
use crate::kernel::trust::{mixed, upload};
use crate::kernel::{Context, Program, Storage, Tensor};

/// Dispatches in one submission, each with its output: a race shows in one of them.
const REPEATS: usize = 8;

/// Vec4s around the rows of every operand, an even number for matrices; they hold NaN.
const MARGIN: usize = 2;

/// Columns of a head.
const D: usize = super::WIDTH;

/// How far a result may lie from the twin's; values reach from -1 to 1.
fn tolerance(storage: Storage) -> f32 {
    match storage {
        Storage::F16 => 5e-3,
        Storage::F32 => 1e-4,
    }
}

struct Case {
    pictures: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    storage: Storage,
    causal: bool,
}

/// What is wrong with `variant` in the storage of `call`, with or without keys to mask as
/// that has it.
///
/// # Errors
/// What goes wrong on the device.
pub(super) fn self_test(
    context: &Context,
    variant: Variant,
    call: &Call,
) -> Result<Option<String>> {
    let (block, single) = variant.keys();
    let keys = match (single, variant.masks(call)) {
        (true, masked) => block - 3 * usize::from(masked),
        (false, masked) => 4 * block + 5 * usize::from(masked),
    };
    // What masks may be asked for causal attention as well.
    let masks = variant.masks(call) && matches!(variant, Variant::Tiled(_));
    for causal in [false, true].into_iter().take(1 + usize::from(masks)) {
        let case = Case {
            pictures: 2,
            heads: 2,
            queries: variant.rows() + 5,
            keys,
            storage: call.storage,
            causal,
        };
        if let Some(problem) = case.run(context, variant)? {
            return Ok(Some(problem));
        }
    }
    Ok(None)
}

/// From -1 to 1, exact in f16, and none like its neighbours.
fn number(i: usize, seed: usize) -> f32 {
    let mixed = mixed(i, seed);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed >> 40) % 257) as f32 / 128.0 - 1.0
}

impl Case {
    fn width(&self) -> usize {
        self.heads * D
    }

    /// Queries, keys and values. A head's first column makes scores that grow along the
    /// keys by more than sums bear without a rescale, that fall, and that do little.
    fn numbers(&self) -> [Vec<f32>; 3] {
        let rows = |rows: usize, seed: usize, first: &dyn Fn(usize) -> Option<f32>| -> Vec<f32> {
            let c = self.width();
            let value = |i: usize| match first(i / c) {
                Some(x) if i.is_multiple_of(D) => x,
                _ => number(i, seed),
            };
            (0..self.pictures * rows * c).map(value).collect()
        };
        let slope = |row: usize| Some([8.0, -8.0, 2.0, 0.0][row % 4]);
        let height = |row: usize| {
            let key = row % self.keys;
            Some((80 * key / self.keys) as f32 * 0.5 - 20.0)
        };
        [
            rows(self.queries, 1, &slope),
            rows(self.keys, 2, &height),
            rows(self.keys, 3, &|_| None),
        ]
    }

    fn run(&self, context: &Context, variant: Variant) -> Result<Option<String>> {
        let [q, k, v] = self.numbers();
        let tensor = |rows: usize, values: &[f32]| {
            let [tensor] = self.tensors(context, rows, &[values])?;
            Ok(tensor)
        };
        let operands: [Result<Tensor>; 3] = [
            tensor(self.queries, &q),
            tensor(self.keys, &k),
            tensor(self.keys, &v),
        ];
        let [q_on, k_on, v_on] = operands;
        let (q_on, k_on, v_on) = (q_on?, k_on?, v_on?);
        let blank = vec![f32::NAN; q.len()];
        let outs: [Tensor; REPEATS] = self.tensors(context, self.queries, &[&blank; REPEATS])?;
        let dispatch = |out| {
            let attention = Attention {
                q: &q_on,
                k: &k_on,
                v: &v_on,
                out,
                heads: self.heads,
                causal: self.causal,
                scratch: &[],
            };
            attention.dispatch_by(variant)
        };
        let all: Result<Vec<_>> = outs.iter().map(dispatch).collect();
        Program::new(&context.gpu, all?)?.run(&context.gpu)?;
        let view = &outs[0].view;
        let bytes = context.gpu.download(&view.buffer, view.offset, view.size)?;
        let sizes = [self.pictures, self.queries, self.keys];
        let exact = twin([&q, &k, &v], sizes, [self.heads, D], self.causal);
        Ok(self.compare(&self.storage.decode(&bytes), &exact))
    }

    /// Tensors of `rows` rows a picture below one another in one buffer, with NaN beside
    /// every row and a row of NaN behind the last.
    fn tensors<const N: usize>(
        &self,
        context: &Context,
        rows: usize,
        values: &[&[f32]; N],
    ) -> Result<[Tensor; N]> {
        let c = self.width();
        let (pitch, all) = (c / 4 + 2 * MARGIN, self.pictures * rows);
        let mut cells = vec![f32::NAN; 4 * pitch * (N * all + 1)];
        let sources = values.iter().flat_map(|values| values.chunks(c));
        for (row, values) in cells.chunks_mut(4 * pitch).zip(sources) {
            row[4 * MARGIN..][..c].copy_from_slice(values);
        }
        let storage = self.storage;
        let view = upload(context, &storage.encode(&cells))?;
        Ok(std::array::from_fn(|i| Tensor {
            pitch,
            offset: MARGIN + i * all * pitch,
            ..Tensor::new(view.clone(), storage, [self.pictures, rows, 1, c])
        }))
    }

    /// What of `got`, rows of all outputs with their margins, is far from the twin's.
    fn compare(&self, got: &[f32], exact: &[f32]) -> Option<String> {
        let c = self.width();
        let rows = self.pictures * self.queries;
        let (mut wrong, mut example) = (0, None);
        for (row, values) in got.chunks(c + 8 * MARGIN).enumerate() {
            for (at, value) in values.iter().enumerate() {
                let column = at.checked_sub(4 * MARGIN).filter(|n| *n < c);
                let wanted = column.filter(|_| row < REPEATS * rows);
                let wanted = wanted.map(|n| exact[row % rows * c + n]);
                let right = match wanted {
                    Some(wanted) => (*value - wanted).abs() <= tolerance(self.storage),
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
        let of = REPEATS * rows * c;
        let shape = format!("{} queries of {} keys", self.queries, self.keys);
        let causal = if self.causal { ", causal," } else { "" };
        example.map(|e| format!("{wrong} of {of} values of {shape}{causal} are wrong, such as {e}"))
    }
}
