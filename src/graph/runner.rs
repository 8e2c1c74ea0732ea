//! Submits programs in pieces that are bounded in time: operating systems reset a
//! GPU that is busy for about two seconds, and a cancelled run should stop soon.

use crate::gpu::{Gpu, Submission, Timestamps, block_on};
use crate::kernel::Program;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use web_time::Instant;

/// How long a submission should take.
const TARGET: Duration = Duration::from_millis(150);
/// Submissions that may be under way while the next is recorded.
const IN_FLIGHT: usize = 2;
/// Operations that a dispatch costs at the least, so that many small ones count.
const LEAST: u64 = 1 << 20;

/// What is brought to the device while a program runs: pieces that take turns in the same
/// memory.
pub trait Stream {
    /// Brings a piece, for what is submitted from now on. What was submitted before still
    /// finds what was there then.
    ///
    /// # Errors
    /// What goes wrong on reading or on the device.
    fn bring(&self, piece: usize) -> Result<()>;
}

/// Runs programs one after another.
pub struct Runner<'a> {
    gpu: Arc<Gpu>,
    stream: Option<Rc<dyn Stream + 'a>>,
    timestamps: Option<Timestamps>,
    /// A pass had no timestamps left, so their sum says nothing.
    untimed: bool,
    /// Operations of a submission; follows the measured speed.
    budget: u64,
    flying: VecDeque<(Submission, u64)>,
    last_done: Instant,
    busy: f64,
}

impl<'a> Runner<'a> {
    /// `timed` asks for [`Self::busy_seconds`], where the adapter has timestamps.
    pub fn new(gpu: &Arc<Gpu>, timed: bool) -> Result<Self> {
        let timestamps = if timed {
            Timestamps::new(gpu, 2048)?
        } else {
            None
        };
        let cpu = gpu.capabilities().is_cpu;
        Ok(Self {
            gpu: gpu.clone(),
            stream: None,
            timestamps,
            untimed: false,
            budget: if cpu { 1 << 30 } else { 1 << 36 },
            flying: VecDeque::new(),
            last_done: Instant::now(),
            busy: 0.0,
        })
    }

    /// With the stream that programs take their pieces from.
    pub fn with_stream(self, stream: Rc<dyn Stream + 'a>) -> Self {
        let stream = Some(stream);
        Self { stream, ..self }
    }

    /// Runs `programs` in their order after `before` (copies). Returns once all
    /// but the last submissions are done; see [`Self::finish`].
    ///
    /// # Errors
    /// [`Error::Cancelled`] soon after `cancelled` says so; device errors.
    pub fn run(
        &mut self,
        before: impl FnOnce(&mut wgpu::CommandEncoder),
        programs: &[&Program],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        block_on(self.run_async(before, programs, cancelled))
    }

    /// As [`Self::run`], without blocking.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_async(
        &mut self,
        before: impl FnOnce(&mut wgpu::CommandEncoder),
        programs: &[&Program],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let mut encoder = self.encoder();
        before(&mut encoder);
        // Ranges of dispatches that make up one submission.
        let mut pending: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
        let mut cost = 0;
        for (which, program) in programs.iter().enumerate() {
            let mut start = 0;
            for i in 0..program.len() {
                if program.pieces_at(i).next().is_some() {
                    // What still reads the memory goes first.
                    pending.push((which, start..i));
                    start = i;
                    let full = std::mem::replace(&mut encoder, self.encoder());
                    self.submit(full, programs, &std::mem::take(&mut pending), cost)
                        .await?;
                    cost = 0;
                    self.bring(program.pieces_at(i))?;
                }
                cost += program.flops(i).max(LEAST);
                if cost >= self.budget {
                    pending.push((which, start..i + 1));
                    start = i + 1;
                    let full = std::mem::replace(&mut encoder, self.encoder());
                    self.submit(full, programs, &std::mem::take(&mut pending), cost)
                        .await?;
                    cost = 0;
                    if cancelled() {
                        self.finish_async().await?;
                        return Err(Error::Cancelled);
                    }
                }
            }
            pending.push((which, start..program.len()));
        }
        self.submit(encoder, programs, &pending, cost).await?;
        if cancelled() {
            self.finish_async().await?;
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    fn bring(&self, mut pieces: impl Iterator<Item = usize>) -> Result<()> {
        let none = || Error::internal("a stream", "weights that nobody brings");
        let stream = self.stream.as_ref().ok_or_else(none)?;
        pieces.try_for_each(|piece| stream.bring(piece))
    }

    /// Waits for everything that was submitted.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn finish(&mut self) -> Result<()> {
        block_on(self.finish_async())
    }

    /// As [`Self::finish`], without blocking.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn finish_async(&mut self) -> Result<()> {
        while let Some((submission, _)) = self.flying.pop_front() {
            self.gpu.done(submission).await?;
        }
        Ok(())
    }

    /// Seconds inside compute passes since the last call, by the device's clock;
    /// `None` where some pass could not be timed. Waits for what is under way.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn busy_seconds(&mut self) -> Result<Option<f64>> {
        block_on(self.busy_seconds_async())
    }

    /// As [`Self::busy_seconds`], without blocking.
    ///
    /// # Errors
    /// As [`Self::busy_seconds`].
    pub async fn busy_seconds_async(&mut self) -> Result<Option<f64>> {
        self.finish_async().await?;
        self.collect().await?;
        let busy = std::mem::take(&mut self.busy);
        Ok((!std::mem::take(&mut self.untimed)).then_some(busy))
    }

    async fn collect(&mut self) -> Result<()> {
        if let Some(timestamps) = &mut self.timestamps {
            let seconds = timestamps.seconds_async(&self.gpu).await?;
            self.busy += seconds.iter().sum::<f64>();
            timestamps.reset();
        }
        Ok(())
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        let descriptor = wgpu::CommandEncoderDescriptor { label: None };
        self.gpu.device().create_command_encoder(&descriptor)
    }

    async fn submit(
        &mut self,
        mut encoder: wgpu::CommandEncoder,
        programs: &[&Program],
        pieces: &[(usize, std::ops::Range<usize>)],
        cost: u64,
    ) -> Result<()> {
        {
            let timestamp_writes = self.timestamps.as_mut().and_then(Timestamps::next);
            self.untimed |= timestamp_writes.is_none();
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes,
            });
            for (which, range) in pieces {
                programs[*which].record(&mut pass, range.clone());
            }
        }
        if self.flying.is_empty() {
            self.last_done = Instant::now();
        }
        let submission = self.gpu.submit(encoder);
        self.flying.push_back((submission, cost));
        while self.flying.len() >= IN_FLIGHT {
            self.wait_for_oldest().await?;
        }
        Ok(())
    }

    /// Waits for the oldest submission and learns from how long it took.
    async fn wait_for_oldest(&mut self) -> Result<()> {
        let Some((submission, cost)) = self.flying.pop_front() else {
            return Ok(());
        };
        self.gpu.done(submission).await?;
        let took = self.last_done.elapsed().as_secs_f64().max(1e-4);
        self.last_done = Instant::now();
        if cost * 4 >= self.budget {
            let fitting = (cost as f64 / took * TARGET.as_secs_f64()) as u64;
            self.budget = fitting.clamp(self.budget / 4, self.budget * 2).max(1 << 28);
        }
        Ok(())
    }
}
