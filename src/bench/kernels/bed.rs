//! Where kernels are tried: a device, operands on it with a guard around them, and the
//! comparison with what a twin says.

use super::Numbers;
use crate::gpu::{Gpu, PipelineKey};
use crate::kernel::product::Storages;
use crate::kernel::{
    Context, Dispatch, Mode, Program, Storage, Tensor, Tuning, View, permutations,
};
use crate::{Error, Result};
use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What fills everything that a kernel should neither use nor touch.
pub const GUARD: f32 = 1234.0;

/// Bytes that are written to a buffer at a time.
const PIECE: usize = 4 << 20;

/// Results of twins that are kept: several runs of a problem share one.
const KEPT: usize = 6;

/// A device on which kernels are tried.
pub struct Bed {
    pub gpu: Arc<Gpu>,
    contexts: [Context; 2],
    twins: Mutex<VecDeque<(String, Arc<Vec<f32>>)>>,
    ran: Mutex<HashSet<PipelineKey>>,
    noise: OnceLock<[Vec<u8>; 2]>,
}

/// Room around a tensor: columns before and after it, in vec4s, and rows below.
#[derive(Debug, Clone, Copy)]
pub struct Margin {
    pub left: usize,
    pub right: usize,
    pub after: usize,
}

/// None at all.
pub const NONE: Margin = Margin {
    left: 0,
    right: 0,
    after: 0,
};

/// Only rows below, for kernels whose tensors have no pitch.
pub const BELOW: Margin = Margin {
    left: 0,
    right: 0,
    after: 2,
};

/// A range of the columns of a wider tensor.
pub const WIDE: Margin = Margin {
    left: 1,
    right: 2,
    after: 1,
};

/// As [`WIDE`], columns in groups of 8 for tensors of an even number of vec4s.
pub const EVEN: Margin = Margin {
    left: 2,
    right: 4,
    after: 1,
};

/// One of the margins, by turns.
pub fn margin(turn: usize) -> Margin {
    [BELOW, WIDE, EVEN][turn % 3]
}

impl Bed {
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        let context = |direct| Context::new(gpu, Mode { direct });
        Ok(Self {
            gpu: gpu.clone(),
            contexts: [context(false)?, context(true)?],
            twins: Mutex::default(),
            ran: Mutex::default(),
            noise: OnceLock::new(),
        })
    }

    /// With what was measured on the adapter, as a model is run.
    ///
    /// # Errors
    /// Out of memory.
    pub fn tuned(gpu: &Arc<Gpu>) -> Result<Self> {
        let bed = Self::new(gpu)?;
        let [tiled, direct] = bed.contexts;
        Ok(Self {
            contexts: [tiled.with_tuning(Tuning::known(gpu, None)), direct],
            ..bed
        })
    }

    /// With all kernels of a mode, whatever the adapter suggests.
    pub fn context(&self, mode: Mode) -> &Context {
        &self.contexts[usize::from(mode.direct)]
    }

    /// The storages of activations that the adapter has.
    pub fn storages(&self) -> Vec<Storage> {
        match self.gpu.capabilities().shader_f16 {
            true => vec![Storage::F32, Storage::F16],
            false => vec![Storage::F32],
        }
    }

    /// Every combination of storages of products that it has.
    pub fn storage_sets(&self) -> Vec<Storages> {
        let there = self.storages();
        Storages::all().filter(|s| there.contains(&s.a)).collect()
    }

    /// Runs them; each must be one of the kernels' permutations.
    ///
    /// # Errors
    /// What the device says; [`Error::Internal`] where one is not.
    pub fn run(&self, dispatches: Vec<Dispatch>) -> Result<()> {
        static KNOWN: OnceLock<HashSet<PipelineKey>> = OnceLock::new();
        let known = KNOWN.get_or_init(|| permutations().into_iter().collect());
        let keys: Vec<PipelineKey> = dispatches.iter().map(|d| d.key().clone()).collect();
        if let Some(key) = keys.iter().find(|key| !known.contains(key)) {
            return Err(Error::internal(key.label(), "it is no permutation"));
        }
        Program::new(&self.gpu, dispatches)?.run(&self.gpu)?;
        let mut ran = self.ran.lock().unwrap_or_else(PoisonError::into_inner);
        ran.extend(keys);
        Ok(())
    }

    /// The permutations that [`Self::run`] ran so far.
    pub fn ran(&self) -> HashSet<PipelineKey> {
        let ran = self.ran.lock().unwrap_or_else(PoisonError::into_inner);
        ran.clone()
    }

    /// What `make` makes, or made lately under the same name.
    pub(super) fn twin(&self, name: String, make: impl FnOnce() -> Vec<f32>) -> Arc<Vec<f32>> {
        let kept = || self.twins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, twin)) = kept().iter().find(|(known, _)| *known == name) {
            return twin.clone();
        }
        let twin = Arc::new(make());
        let mut kept = kept();
        kept.truncate(KEPT - 1);
        kept.push_front((name, twin.clone()));
        twin
    }

    /// A buffer that holds `bytes` after 256 others.
    ///
    /// # Errors
    /// Out of memory.
    pub fn view(&self, bytes: &[u8]) -> Result<View> {
        let view = self.guarded(bytes.len() as u64)?;
        let mut padded = vec![0xffu8; view.buffer.size() as usize];
        padded[256..][..bytes.len()].copy_from_slice(bytes);
        self.gpu.upload(&view.buffer, &padded)?;
        Ok(view)
    }

    /// Room for `size` bytes after 256 others.
    fn guarded(&self, size: u64) -> Result<View> {
        let whole = (256 + size).next_multiple_of(16);
        Ok(View {
            buffer: Arc::new(self.gpu.buffer("test", whole)?),
            offset: 256,
            size,
        })
    }

    /// f32 values, with zeros up to a multiple of `unit`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn floats(&self, values: &[f32], unit: usize) -> Result<View> {
        let mut padded = values.to_vec();
        padded.resize(values.len().next_multiple_of(unit), 0.0);
        self.view(bytemuck::cast_slice(&padded))
    }

    /// A copy of `values` that a kernel may change, a vec4 of the guard after it.
    ///
    /// # Errors
    /// Out of memory.
    pub fn changed(&self, values: &[f32]) -> Result<View> {
        self.view(bytemuck::cast_slice(&[values, &[GUARD; 4]].concat()))
    }

    /// Room for f32 values, filled with the guard, one vec4 more than asked for.
    ///
    /// # Errors
    /// Out of memory.
    pub fn room(&self, count: usize) -> Result<View> {
        self.view(bytemuck::cast_slice(&vec![GUARD; count + 4]))
    }

    /// # Errors
    /// Out of memory.
    pub fn scratch(&self, bytes: u64) -> Result<View> {
        let buffer = Arc::new(self.gpu.buffer("scratch", bytes)?);
        Ok(View::whole(&buffer))
    }

    /// The f32 values of `view`; those from `count` on must be untouched.
    ///
    /// # Errors
    /// What the device says, and where they are not.
    pub fn read_floats(&self, view: &View, count: usize) -> Result<Vec<f32>> {
        let bytes = self.gpu.download(&view.buffer, view.offset, view.size)?;
        let mut values = Storage::F32.decode(&bytes);
        let rest = values.split_off(count);
        match rest.iter().position(|v| *v != GUARD) {
            None => Ok(values),
            Some(i) => Err(self.wrong(format!("value {i} after the last of {count} was touched"))),
        }
    }

    fn tensor_at(
        &self,
        storage: Storage,
        shape: [usize; 4],
        margin: Margin,
        make: impl FnOnce(u64) -> Result<View>,
    ) -> Result<Tensor> {
        let [n, h, w, c] = shape;
        let pitch = margin.left + c.div_ceil(4) + margin.right;
        let bytes = (n * h * w + margin.after) as u64 * pitch as u64 * storage.bytes4();
        Ok(Tensor {
            pitch,
            offset: margin.left,
            ..Tensor::new(make(bytes)?, storage, shape)
        })
    }

    /// A tensor whose value `i` is `value(i)`, its padding zero, its surroundings the
    /// guard.
    ///
    /// # Errors
    /// Out of memory.
    pub fn tensor_of(
        &self,
        storage: Storage,
        shape: [usize; 4],
        margin: Margin,
        value: impl Fn(usize) -> f32,
    ) -> Result<Tensor> {
        let tensor = self.tensor_at(storage, shape, margin, |bytes| self.guarded(bytes))?;
        let (c, rows) = (shape[3], tensor.rows());
        let together = (PIECE / tensor.row_bytes() as usize).max(1);
        for first in (0..rows + margin.after).step_by(together) {
            let count = together.min(rows + margin.after - first);
            let mut values = vec![GUARD; count * tensor.pitch * 4];
            let cells = values.chunks_exact_mut(tensor.pitch * 4).enumerate();
            for (row, cells) in cells.map(|(i, cells)| (first + i, cells)) {
                if row < rows {
                    let cells = &mut cells[margin.left * 4..][..c.next_multiple_of(4)];
                    for (i, cell) in cells.iter_mut().enumerate() {
                        *cell = if i < c { value(row * c + i) } else { 0.0 };
                    }
                }
            }
            let at = first as u64 * tensor.row_bytes();
            self.write(&tensor.view, at, &storage.encode(&values))?;
        }
        Ok(tensor)
    }

    /// A tensor of `values`, its padding zero, its surroundings the guard.
    ///
    /// # Errors
    /// Out of memory.
    pub fn tensor(
        &self,
        storage: Storage,
        shape: [usize; 4],
        values: &[f32],
        margin: Margin,
    ) -> Result<Tensor> {
        self.tensor_of(storage, shape, margin, |i| values[i])
    }

    /// A tensor to write to, full of the guard.
    ///
    /// # Errors
    /// Out of memory.
    pub fn blank(&self, storage: Storage, shape: [usize; 4], margin: Margin) -> Result<Tensor> {
        let tensor = self.tensor_at(storage, shape, margin, |bytes| self.guarded(bytes))?;
        let most = (tensor.view.size as usize).min(PIECE);
        let piece = storage.encode(&vec![GUARD; most / storage.bytes()]);
        self.repeat(&tensor.view, &piece)?;
        Ok(tensor)
    }

    /// Writes `bytes` at byte `at` of `view`, and waits, so that no memory piles up.
    fn write(&self, view: &View, at: u64, bytes: &[u8]) -> Result<()> {
        let queue = self.gpu.queue();
        let mut bytes = std::borrow::Cow::Borrowed(bytes);
        if !bytes.len().is_multiple_of(4) {
            bytes.to_mut().extend([0xff; 2]);
        }
        queue.write_buffer(view.buffer.raw(), view.offset + at, &bytes);
        if bytes.len() >= PIECE / 2 {
            queue.submit([]);
            self.gpu.wait()?;
        }
        Ok(())
    }

    /// Fills `view` with `piece` again and again.
    fn repeat(&self, view: &View, piece: &[u8]) -> Result<()> {
        for at in (0..view.size).step_by(piece.len()) {
            let count = (view.size - at).min(piece.len() as u64) as usize;
            self.write(view, at, &piece[..count])?;
        }
        Ok(())
    }

    /// `bytes` of random numbers between -1 and 1, which repeat: as good as any where
    /// nobody looks at the results, and made fast.
    ///
    /// # Errors
    /// Out of memory.
    pub fn noise(&self, storage: Storage, bytes: u64) -> Result<View> {
        let blocks = self.noise.get_or_init(|| {
            let values = super::Random::new(1).values(PIECE / 4);
            [Storage::F32, Storage::F16].map(|storage| storage.encode(&values))
        });
        let view = self.scratch(bytes.next_multiple_of(16))?;
        self.repeat(&view, &blocks[usize::from(storage == Storage::F16)])?;
        Ok(view)
    }

    /// The values of a tensor. Padding must be zero, the surroundings untouched.
    ///
    /// # Errors
    /// What the device says, and where they are not.
    pub fn read(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        self.read_rows(tensor, 0..tensor.rows())
    }

    /// As [`Self::read`], where only `rows` were written.
    ///
    /// # Errors
    /// As there.
    pub fn read_rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<f32>> {
        let view = &tensor.view;
        let bytes = self.gpu.download(&view.buffer, view.offset, view.size)?;
        let width = tensor.pitch * 4;
        let mut values = Vec::with_capacity(rows.len() * tensor.c);
        let pieces = bytes.chunks(width * tensor.storage.bytes());
        for (row, piece) in pieces.enumerate() {
            for (column, cell) in tensor.storage.decode(piece).into_iter().enumerate() {
                let at = column.wrapping_sub(tensor.offset * 4);
                if !rows.contains(&row) || at >= tensor.c4() * 4 {
                    if cell != GUARD {
                        let place = format!("row {row}, column {at}", at = at as isize);
                        return Err(self.wrong(format!("{place} was touched: {cell}")));
                    }
                } else if at < tensor.c {
                    values.push(cell);
                } else if cell != 0.0 {
                    let problem = format!("row {row}: padding column {at} is {cell}");
                    return Err(self.wrong(problem));
                }
            }
        }
        Ok(values)
    }

    /// What a kernel did that it should not.
    pub(super) fn wrong(&self, problem: String) -> Error {
        let remedy = "update the driver, and report it if that does not help";
        self.gpu.error(problem, remedy)
    }
}

/// How operands are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// With what a twin is compared with, guards around it.
    Exact,
    /// With whatever random numbers are fast to write, and nothing around them.
    Rotating,
}

/// Makes operands on a bed.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub bed: &'a Bed,
    pub fill: Fill,
}

impl Ground<'_> {
    fn exact(self) -> bool {
        self.fill == Fill::Exact
    }

    /// A tensor to read from.
    pub fn tensor(
        self,
        storage: Storage,
        shape: [usize; 4],
        numbers: &Numbers,
        margin: Margin,
    ) -> Result<Tensor> {
        self.tensor_of(storage, shape, margin, |i| numbers.at(i))
    }

    /// A tensor to read from whose value `i` is `value(i)`.
    pub fn tensor_of(
        self,
        storage: Storage,
        shape: [usize; 4],
        margin: Margin,
        value: impl Fn(usize) -> f32,
    ) -> Result<Tensor> {
        match self.exact() {
            true => self.bed.tensor_of(storage, shape, margin, value),
            false => self.plain(storage, shape),
        }
    }

    /// A tensor to write to.
    pub fn blank(self, storage: Storage, shape: [usize; 4], margin: Margin) -> Result<Tensor> {
        match self.exact() {
            true => self.bed.blank(storage, shape, margin),
            false => self.plain(storage, shape),
        }
    }

    fn plain(self, storage: Storage, shape: [usize; 4]) -> Result<Tensor> {
        let make = |bytes| self.bed.noise(storage, bytes);
        self.bed.tensor_at(storage, shape, NONE, make)
    }

    /// f32 values to read from, zeros up to a multiple of `unit`.
    pub fn floats(self, numbers: &Numbers, unit: usize) -> Result<View> {
        self.bed.floats(&numbers.all(), unit)
    }

    /// f32 values that are changed.
    pub fn changed(self, numbers: &Numbers) -> Result<View> {
        match self.exact() {
            true => self.bed.changed(&numbers.all()),
            false => self.bed.noise(Storage::F32, 4 * numbers.all().len() as u64),
        }
    }

    /// Room for f32 values.
    pub fn room(self, count: usize) -> Result<View> {
        match self.exact() {
            true => self.bed.room(count),
            false => self.bed.noise(Storage::F32, 4 * count as u64),
        }
    }
}

/// `|out - reference| / |reference|`, of as many values.
pub fn relative_error(out: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(out.len(), reference.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let pairs = out.iter().zip(reference);
    let difference: f64 = pairs.map(|(a, b)| square(a - b)).sum();
    let norm: f64 = reference.iter().map(|b| square(*b)).sum();
    (difference / norm.max(1e-30)).sqrt()
}
