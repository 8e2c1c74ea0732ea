//! Much data on its way to the device: written once, straight into memory that the
//! device copies from while the next is written.

use super::{Buffer, Gpu, Submission, block_on};
use crate::{Error, Result};
use std::collections::VecDeque;
use wgpu::{BufferUsages, MapMode, WriteOnly};

/// Bytes of a staging buffer: few enough to stay in a processor's cache between its
/// writing and a device that is the same processor, enough that a submission is cheap.
const STAGE: u64 = 4 << 20;

/// Staging buffers at the most: one is written while the others wait to be copied.
const STAGES: usize = 4;

/// Mapped ranges begin at multiples of this.
const ALIGNMENT: u64 = wgpu::MAP_ALIGNMENT;

/// Uploads through a few staging buffers that are used again and again, so that host
/// memory is bounded: 20 MiB, or five times the largest piece where that is more.
#[derive(Default)]
pub struct Uploads {
    /// The staging buffer that is being written.
    open: Option<Open>,
    /// Those that the device still copies from, the oldest first.
    flying: VecDeque<(Submission, wgpu::Buffer)>,
}

struct Open {
    stage: wgpu::Buffer,
    filled: u64,
    copies: wgpu::CommandEncoder,
}

impl Uploads {
    /// Bytes that are best written at a time, at the most.
    pub const AT_A_TIME: u64 = STAGE;

    /// Writes `bytes` bytes of `to` from `offset` on, both multiples of 4: `fill` gets
    /// their memory, which may be slow to write in any but the natural order. The
    /// device has them for what is submitted after [`Self::flush`].
    ///
    /// # Errors
    /// [`Error::Internal`] where the buffer ends before; out of memory; device errors.
    pub fn write(
        &mut self,
        gpu: &Gpu,
        to: &Buffer,
        offset: u64,
        bytes: u64,
        fill: impl FnOnce(WriteOnly<'_, [u8]>),
    ) -> Result<()> {
        to.holds("an upload", offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let open = self.room(gpu, bytes)?;
        let at = open.filled;
        match open.stage.get_mapped_range_mut(at..at + bytes) {
            Ok(mut view) => fill(view.slice(..)),
            Err(e) => return Err(gpu.error(format!("uploading failed: {e}"), "update the driver")),
        }
        let copies = &mut open.copies;
        copies.copy_buffer_to_buffer(&open.stage, at, to.raw(), offset, bytes);
        open.filled = (at + bytes).next_multiple_of(ALIGNMENT);
        Ok(())
    }

    /// Submits what was written.
    pub fn flush(&mut self, gpu: &Gpu) -> Result<()> {
        if let Some(Open { stage, copies, .. }) = self.open.take() {
            stage.unmap();
            let submission = gpu.submit(copies);
            if cfg!(target_family = "wasm") {
                // It cannot be waited for here; the next one is another.
                return gpu.check();
            }
            // Mapped again as soon as it was copied; a failure shows when it is written.
            stage.map_async(MapMode::Write, .., |_| {});
            self.flying.push_back((submission, stage));
        }
        gpu.check()
    }

    /// A staging buffer that is mapped and has room for `bytes`.
    fn room(&mut self, gpu: &Gpu, bytes: u64) -> Result<&mut Open> {
        let fits = |open: &Open| open.filled + bytes <= open.stage.size();
        if self.open.as_ref().is_some_and(|open| !fits(open)) {
            self.flush(gpu)?;
        }
        let stage = match &self.open {
            Some(_) => None,
            None => Some(self.stage(gpu, bytes)?),
        };
        if let Some(stage) = stage {
            let copies = gpu.device().create_command_encoder(&Default::default());
            self.open = Some(Open {
                stage,
                filled: 0,
                copies,
            });
        }
        let none = || Error::internal("an upload", "no staging buffer");
        self.open.as_mut().ok_or_else(none)
    }

    /// The oldest staging buffer once it was copied, or a new one.
    fn stage(&mut self, gpu: &Gpu, bytes: u64) -> Result<wgpu::Buffer> {
        if self.flying.len() >= STAGES
            && let Some((submission, stage)) = self.flying.pop_front()
        {
            block_on(gpu.done(submission))?;
            if stage.size() >= bytes {
                return Ok(stage);
            }
        }
        let usage = BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC;
        gpu.raw_buffer("staging", bytes.max(STAGE), usage, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of all sizes, larger than a stage among them, to buffers in turn.
    #[test]
    fn what_was_written_arrives_whatever_its_size() {
        let gpu = Gpu::open(&Default::default()).unwrap();
        let mut uploads = Uploads::default();
        let sizes = [4, 12, STAGE - 8, 16, STAGE, 2 * STAGE + 20, 0, 100, STAGE];
        let sizes = sizes.iter().cycle().take(40);
        let byte = |i: usize, at: u64| (at as usize * 7 + at as usize / 251 + i) as u8;
        let mut made = Vec::new();
        for (i, bytes) in sizes.enumerate() {
            let buffer = gpu.buffer("upload test", bytes + 8).unwrap();
            let values: Vec<u8> = (0..*bytes).map(|at| byte(i, at)).collect();
            let fill = |mut to: WriteOnly<'_, [u8]>| to.copy_from_slice(&values);
            uploads.write(&gpu, &buffer, 8, *bytes, fill).unwrap();
            assert!(uploads.flying.len() <= STAGES);
            made.push((buffer, values));
        }
        uploads.flush(&gpu).unwrap();
        for (i, (buffer, values)) in made.iter().enumerate() {
            let there = gpu.download(buffer, 0, values.len() as u64 + 8).unwrap();
            assert!(there[..8] == [0; 8] && there[8..] == values[..], "{i}");
        }
        let last = &made[0].0;
        let beyond = uploads.write(&gpu, last, last.size(), 4, |_| panic!("no such bytes"));
        assert!(matches!(beyond, Err(Error::Internal { .. })));
    }
}
