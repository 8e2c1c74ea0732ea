//! Activations on the device: where they lie and how they are shaped.

use super::program::Operand;
use crate::gpu::Buffer;
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// How activations are stored. Arithmetic is f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    F32,
    /// Needs the adapter's SHADER_F16.
    F16,
}

impl Storage {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::F16 => 2,
        }
    }

    /// Bytes of a vec4, the unit of offsets and pitches in the kernels.
    pub fn bytes4(self) -> u64 {
        4 * self.bytes() as u64
    }

    pub(crate) fn defines(self) -> Vec<(String, String)> {
        match self {
            Storage::F32 => Vec::new(),
            Storage::F16 => vec![("F16".into(), String::new())],
        }
    }

    /// The defines of a kernel that reads this and writes `out`.
    pub(crate) fn defines_to(self, out: Storage) -> Vec<(String, String)> {
        let mut defines = self.defines();
        match (self, out) {
            (Storage::F32, Storage::F16) => defines.push(("OUT16".into(), String::new())),
            (Storage::F16, Storage::F32) => defines.push(("OUT32".into(), String::new())),
            _ => {}
        }
        defines
    }

    /// Values as this storage holds them, little-endian.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Storage::F32 => bytemuck::cast_slice(values).to_vec(),
            Storage::F16 => values
                .iter()
                .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
                .collect(),
        }
    }

    /// The reverse of [`Self::encode`].
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Storage::F32 => bytemuck::pod_collect_to_vec(bytes),
            Storage::F16 => bytes
                .chunks_exact(2)
                .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
        }
    }
}

/// A window into a buffer, in bytes.
#[derive(Clone)]
pub struct View {
    pub buffer: Arc<Buffer>,
    pub offset: u64,
    pub size: u64,
}

impl View {
    /// The whole of `buffer`.
    pub fn whole(buffer: &Arc<Buffer>) -> Self {
        Self {
            buffer: buffer.clone(),
            offset: 0,
            size: buffer.size(),
        }
    }

    /// The first `bytes` of it, rounded up to 16 where there is as much.
    ///
    /// # Errors
    /// [`Error::Internal`] where it is shorter.
    pub fn first(&self, bytes: u64) -> Result<Self> {
        let rounded = bytes.saturating_add(15) / 16 * 16;
        self.part(0..rounded.min(self.size).max(bytes))
    }

    /// The bytes `range` of it.
    ///
    /// # Errors
    /// [`Error::Internal`] where it does not reach as far.
    pub fn part(&self, range: Range<u64>) -> Result<Self> {
        if range.start > range.end || range.end > self.size {
            let problem = format!("bytes {range:?} of {} were asked for", self.size);
            return Err(Error::internal("a view", problem));
        }
        Ok(Self {
            buffer: self.buffer.clone(),
            offset: self.offset + range.start,
            size: range.end - range.start,
        })
    }

    /// The smallest window at a multiple of `alignment` that holds `bytes` from `start`
    /// on, and how far into it `start` lies.
    ///
    /// # Errors
    /// [`Error::Internal`] where the view does not reach as far, or its buffer does not.
    pub fn around(&self, start: u64, bytes: u64, alignment: u64) -> Result<(Self, u64)> {
        let end = start.saturating_add(bytes);
        if end > self.size || !self.lies_in_its_buffer() || alignment == 0 {
            let problem = format!(
                "{bytes} bytes from {start} on were asked for, at a multiple of {alignment}: it \
                 has {} bytes, from {} on of a buffer of {}",
                self.size,
                self.offset,
                self.buffer.size()
            );
            return Err(Error::internal("a view", problem));
        }
        let (start, end) = (self.offset + start, self.offset + end);
        let offset = start / alignment * alignment;
        let window = Self {
            buffer: self.buffer.clone(),
            offset,
            size: end.next_multiple_of(16).min(self.buffer.size()) - offset,
        };
        Ok((window, start - offset))
    }

    fn lies_in_its_buffer(&self) -> bool {
        let end = self.offset.checked_add(self.size);
        end.is_some_and(|end| end <= self.buffer.size())
    }

    /// The view as the operand `name` of a kernel that reads or writes its first `bytes`.
    ///
    /// # Errors
    /// [`Error::Internal`] where it holds fewer, or exceeds its buffer.
    pub(super) fn operand(&self, name: &'static str, bytes: u64) -> Result<Operand> {
        if !self.lies_in_its_buffer() {
            let problem = format!(
                "{} bytes from {} on exceed its buffer of {}",
                self.size,
                self.offset,
                self.buffer.size()
            );
            return Err(Error::internal(name, problem));
        }
        // Kernels count with 32 bits, their smallest unit being an f32.
        if bytes > self.size || bytes / 4 > u64::from(u32::MAX) {
            let problem = format!("a kernel asks for {bytes} bytes of {}", self.size);
            return Err(Error::internal(name, problem));
        }
        Ok(Operand {
            name,
            view: self.clone(),
        })
    }
}

/// Activations `[n, h, w, c]`, channels last; tokens are `[n, tokens, 1, c]`.
/// A tensor may be a range of the columns of a wider one.
#[derive(Clone)]
pub struct Tensor {
    pub view: View,
    pub storage: Storage,
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    /// vec4s from row to row.
    pub pitch: usize,
    /// vec4s before the first column.
    pub offset: usize,
}

impl Tensor {
    /// A tensor of its own in `view`.
    pub fn new(view: View, storage: Storage, shape: [usize; 4]) -> Self {
        let [n, h, w, c] = shape;
        Self {
            view,
            storage,
            n,
            h,
            w,
            c,
            pitch: c.div_ceil(4),
            offset: 0,
        }
    }

    /// Bytes of a tensor of `shape`.
    pub fn bytes_of(storage: Storage, shape: [usize; 4]) -> u64 {
        let [n, h, w, c] = shape;
        (n * h * w * c.div_ceil(4)) as u64 * storage.bytes4()
    }

    /// `[n, h, w, c]`.
    pub fn shape(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c]
    }

    /// The columns `first .. first + count`; both multiples of 4 unless the range
    /// reaches to the end.
    ///
    /// # Errors
    /// [`Error::Internal`] where there are no such columns.
    pub fn columns(&self, first: usize, count: usize) -> Result<Self> {
        let end = first.saturating_add(count);
        let whole = count.is_multiple_of(4) || end == self.c;
        if !first.is_multiple_of(4) || !whole || end > self.c {
            let problem = format!("no columns {first}..{end} of {}", self.c);
            return Err(Error::internal("a tensor", problem));
        }
        Ok(Self {
            offset: self.offset + first / 4,
            c: count,
            ..self.clone()
        })
    }

    /// Rows (pixels or tokens) of all pictures.
    pub fn rows(&self) -> usize {
        self.n * self.h * self.w
    }

    /// Rows of one picture.
    pub fn rows_per_batch(&self) -> usize {
        self.h * self.w
    }

    /// Columns in vec4s.
    pub fn c4(&self) -> usize {
        self.c.div_ceil(4)
    }

    /// Bytes from row to row.
    pub fn row_bytes(&self) -> u64 {
        self.pitch as u64 * self.storage.bytes4()
    }

    /// Picture `i` of the batch by itself.
    ///
    /// # Errors
    /// [`Error::Internal`] where there is no such picture.
    pub fn picture(&self, i: usize, alignment: u64) -> Result<Self> {
        let rows = self.rows_per_batch();
        let first = i.saturating_mul(rows);
        let (view, offset) = self.row_window(first..first.saturating_add(rows), alignment)?;
        Ok(Self {
            view,
            n: 1,
            offset: offset as usize,
            ..self.clone()
        })
    }

    /// The smallest window that holds the columns of `rows`, and the offset of the first
    /// row's first column in it, in vec4s.
    ///
    /// # Errors
    /// [`Error::Internal`] where there are no such rows, or the view does not hold them.
    pub fn row_window(&self, rows: Range<usize>, alignment: u64) -> Result<(View, u32)> {
        self.check("a tensor")?;
        if rows.is_empty() || rows.end > self.rows() {
            let problem = format!("no rows {rows:?} of {}", self.rows());
            return Err(Error::internal("a tensor", problem));
        }
        let bytes4 = self.storage.bytes4();
        let start = self.reach(rows.start, 0);
        let bytes = self.reach(rows.end - 1, self.c4()).saturating_sub(start);
        let (window, skip) = self.view.around(start, bytes, alignment)?;
        if !skip.is_multiple_of(bytes4) {
            let problem = format!("row {} lies {skip} bytes into its window", rows.start);
            return Err(Error::internal("a tensor", problem));
        }
        Ok((window, (skip / bytes4) as u32))
    }

    /// Bytes of the view before column `columns` (in vec4s) of `row`; `u64::MAX` where a
    /// u64 cannot hold them.
    fn reach(&self, row: usize, columns: usize) -> u64 {
        let [row, pitch, offset, columns] =
            [row, self.pitch, self.offset, columns].map(|x| x as u64);
        let vec4s = row.saturating_mul(pitch).saturating_add(offset);
        let vec4s = vec4s.saturating_add(columns);
        vec4s.saturating_mul(self.storage.bytes4())
    }

    /// Fails where a dimension is 0, rows overlap, their number exceeds 32 bits, or the
    /// view does not hold them.
    pub(super) fn check(&self, name: &'static str) -> Result<()> {
        let rows = self
            .n
            .checked_mul(self.h)
            .and_then(|x| x.checked_mul(self.w));
        let countable = [rows.unwrap_or(usize::MAX), self.pitch].map(u32::try_from);
        if self.shape().contains(&0)
            || self.c4() > self.pitch
            || countable.iter().any(|x| x.is_err())
        {
            let problem = format!("{:?} at a pitch of {} vec4s", self.shape(), self.pitch);
            return Err(Error::internal(name, problem));
        }
        let bytes = self.reach(self.rows() - 1, self.c4());
        if bytes > self.view.size {
            let (shape, size) = (self.shape(), self.view.size);
            let problem = format!("{shape:?} takes {bytes} bytes of a view of {size}");
            return Err(Error::internal(name, problem));
        }
        Ok(())
    }

    /// Fails unless the tensor has this shape and storage.
    pub(super) fn expect(
        &self,
        name: &'static str,
        shape: [usize; 4],
        storage: Storage,
    ) -> Result<()> {
        self.check(name)?;
        if self.shape() != shape || self.storage != storage {
            let (found, stored) = (self.shape(), self.storage);
            let problem = format!("{found:?} {stored:?} where {shape:?} {storage:?} is wanted");
            return Err(Error::internal(name, problem));
        }
        Ok(())
    }

    /// Fails unless rows follow one another without gaps from the start of the view, for
    /// kernels that know of no pitch.
    pub(super) fn expect_dense(&self, name: &'static str) -> Result<()> {
        self.check(name)?;
        if self.offset != 0 || self.pitch != self.c4() {
            let (offset, pitch) = (self.offset, self.pitch);
            let problem = format!("columns of a wider tensor ({offset} vec4s of {pitch})");
            return Err(Error::internal(name, problem));
        }
        Ok(())
    }

    /// The whole tensor as an operand, at its own offset.
    pub(super) fn operand(&self, name: &'static str) -> Result<Operand> {
        self.check(name)?;
        self.view
            .operand(name, self.reach(self.rows() - 1, self.c4()))
    }

    /// As an operand whose window [`Self::row_window`] makes, and the offset in it.
    pub(super) fn row_operand(
        &self,
        name: &'static str,
        rows: Range<usize>,
        alignment: u64,
    ) -> Result<(Operand, u32)> {
        let (view, offset) = self.row_window(rows.clone(), alignment)?;
        let window = Self {
            view,
            offset: offset as usize,
            ..self.clone()
        };
        let reach = window.reach(rows.len() - 1, self.c4());
        Ok((window.view.operand(name, reach)?, offset))
    }
}
