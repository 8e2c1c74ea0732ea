//! Activations on the device: where they lie and how they are shaped.

use crate::gpu::Buffer;
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

    /// The first `bytes` of it.
    pub fn first(&self, bytes: u64) -> Self {
        Self {
            size: bytes.next_multiple_of(16).min(self.size),
            ..self.clone()
        }
    }

    /// The smallest aligned window that holds `bytes` from `start` on, and how
    /// far into it `start` lies.
    pub fn around(&self, start: u64, bytes: u64, alignment: u64) -> (Self, u64) {
        let start = self.offset + start;
        let offset = start / alignment * alignment;
        let end = (start + bytes).next_multiple_of(16);
        let window = Self {
            buffer: self.buffer.clone(),
            offset,
            size: end.min(self.buffer.size()) - offset,
        };
        (window, start - offset)
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

    /// The columns `first .. first + count`; both multiples of 4 unless the range
    /// reaches to the end.
    pub fn columns(&self, first: usize, count: usize) -> Self {
        Self {
            offset: self.offset + first / 4,
            c: count,
            ..self.clone()
        }
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
    pub fn picture(&self, i: usize, alignment: u64) -> Self {
        let rows = self.rows_per_batch();
        let (view, offset) = self.row_window(i * rows, rows, alignment);
        Self {
            view,
            n: 1,
            offset: offset as usize,
            ..self.clone()
        }
    }

    /// The window that holds rows `first .. first + count`, and the offset of
    /// row `first`'s first column in it, in vec4s.
    pub fn row_window(&self, first: usize, count: usize, alignment: u64) -> (View, u32) {
        let start = first as u64 * self.row_bytes();
        let (window, skip) = self
            .view
            .around(start, count as u64 * self.row_bytes(), alignment);
        let offset = skip / self.storage.bytes4() + self.offset as u64;
        (window, offset as u32)
    }
}
