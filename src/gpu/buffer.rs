//! Device memory that is counted, uploaded in pieces and read back.

use super::{Counters, Gpu, block_on};
use crate::{Error, Remedy, Result};
use std::sync::Arc;

/// Bytes that may wait in the staging area before an upload is flushed, so
/// that host memory never holds a second copy of a model.
const UPLOAD_CHUNK: usize = 16 << 20;

/// A storage buffer. Its bytes are counted while it lives.
pub struct Buffer {
    raw: wgpu::Buffer,
    counters: Arc<Counters>,
}

impl Buffer {
    pub fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.raw.size()
    }

    /// Fails unless a copy of `bytes` from `offset` on stays inside.
    pub(super) fn holds(&self, what: &str, offset: u64, bytes: u64) -> Result<()> {
        let inside = offset
            .checked_add(bytes)
            .is_some_and(|end| end <= self.size());
        if !inside || !offset.is_multiple_of(4) || !bytes.is_multiple_of(4) {
            let size = self.size();
            let problem = format!("{bytes} bytes from {offset} on in a buffer of {size}");
            return Err(Error::internal(what, problem));
        }
        Ok(())
    }

    /// A binding of `size` bytes from `offset` on.
    pub fn window(&self, offset: u64, size: u64) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.raw,
            offset,
            size: wgpu::BufferSize::new(size),
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.counters.release(self.raw.size());
    }
}

impl Gpu {
    /// A zeroed buffer of at least `bytes` for kernels, copies and uniforms.
    ///
    /// # Errors
    /// When it exceeds the adapter's largest buffer, or memory is short.
    pub fn buffer(&self, label: &str, bytes: u64) -> Result<Buffer> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        self.buffer_for(label, bytes, usage)
    }

    pub(super) fn buffer_for(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Buffer> {
        let raw = self.raw_buffer(label, bytes, usage, false)?;
        self.counters.allocate(raw.size());
        Ok(Buffer {
            raw,
            counters: self.counters.clone(),
        })
    }

    /// A buffer that is not counted.
    pub(super) fn raw_buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        mapped_at_creation: bool,
    ) -> Result<wgpu::Buffer> {
        let size = bytes.max(16).next_multiple_of(16);
        if size > self.capabilities.max_buffer {
            return Err(self.error(
                format!(
                    "a buffer of {size} bytes for {label} exceeds its limit of {} bytes",
                    self.capabilities.max_buffer
                ),
                [Remedy::SmallerPicture, Remedy::HALF_PRECISION],
            ));
        }
        let short = |what: &str| Error::OutOfMemory {
            adapter: self.info.name.clone(),
            what: what.into(),
            bytes: size,
            remedy: [
                Remedy::SmallerPicture,
                Remedy::HALF_PRECISION,
                Remedy::OTHER_ADAPTER,
            ]
            .into(),
        };
        if self.counters.is_short_of(size) {
            return Err(short(label));
        }
        let descriptor = wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation,
        };
        let make = || self.device.create_buffer(&descriptor);
        match self.caught(&[wgpu::ErrorFilter::OutOfMemory], make) {
            (raw, None) => Ok(raw),
            (_, Some(_)) => Err(short(label)),
        }
    }

    /// Copies `bytes` (a multiple of 4) to the start of `buffer`, piece by piece.
    ///
    /// # Errors
    /// [`Error::Internal`] where the buffer is smaller; device errors.
    pub fn upload(&self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        buffer.holds("an upload", 0, bytes.len() as u64)?;
        for (i, piece) in bytes.chunks(UPLOAD_CHUNK).enumerate() {
            let offset = (i * UPLOAD_CHUNK) as u64;
            self.queue.write_buffer(&buffer.raw, offset, piece);
            if piece.len() == UPLOAD_CHUNK {
                self.queue.submit([]);
                self.wait()?;
            }
        }
        Ok(())
    }

    /// Reads `bytes` (a multiple of 4) from `offset` on, once all that was
    /// submitted has run.
    ///
    /// # Errors
    /// [`Error::Internal`] where the buffer ends before; device errors.
    pub fn download(&self, buffer: &Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        block_on(self.download_async(buffer, offset, bytes))
    }

    /// As [`Self::download`], without blocking.
    ///
    /// # Errors
    /// As [`Self::download`].
    pub async fn download_async(
        &self,
        buffer: &Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<Vec<u8>> {
        buffer.holds("a download", offset, bytes)?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.buffer_for("download", bytes, usage)?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&buffer.raw, offset, &staging.raw, 0, bytes);
        self.queue.submit([encoder.finish()]);
        self.mapped(&staging.raw, bytes).await
    }
}
