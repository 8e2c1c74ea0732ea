//! From something that can be timed to a row of samples.

use super::report::{Row, Subject, TimedBy, Work};
use crate::gpu::Gpu;
use crate::kernel::{Clock, Program, Sample};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Samples of a row where nobody says how many.
pub const REPETITIONS: usize = 9;

/// Samples of a row at the least.
pub const LEAST: usize = 5;

/// Something that can be timed again and again, with all that it needs on the device.
pub trait Timed {
    /// Seconds of one call.
    ///
    /// # Errors
    /// What goes wrong on the device.
    fn sample(&mut self) -> Result<Sample>;

    /// Whose time [`Sample::seconds`] is.
    fn timed_by(&self) -> TimedBy;

    /// The relative error of the result, where it is known.
    fn error(&self) -> Option<f64> {
        None
    }

    /// Bytes that it holds on the device, where they are known.
    fn device_bytes(&self) -> Option<u64> {
        None
    }
}

type Prepare<'a> = Box<dyn Fn() -> Result<Box<dyn Timed + 'a>> + 'a>;

/// What will be timed: nothing of it is on the device yet.
pub struct Plan<'a> {
    pub subject: Subject,
    pub work: Work,
    pub figures: BTreeMap<String, f64>,
    pub note: Option<String>,
    /// Puts it on the device, each time in other buffers.
    pub prepare: Prepare<'a>,
}

/// How samples are taken.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Samples of a row.
    pub repetitions: usize,
    /// Processor time in place of the device's.
    pub by_processor: bool,
}

impl Manner {
    /// The time that counts.
    pub fn of(self, sample: Sample) -> f64 {
        match sample.processor {
            Some(seconds) if self.by_processor => seconds,
            _ => sample.seconds,
        }
    }
}

/// Times a plan: one call to warm up, then the samples.
///
/// # Errors
/// What goes wrong on the device; [`Error::Cancelled`].
pub fn measure(plan: &Plan<'_>, manner: Manner, cancelled: &dyn Fn() -> bool) -> Result<Row> {
    let mut timed = (plan.prepare)()?;
    let warm_up = timed.sample()?;
    let mut samples = Vec::new();
    for _ in 0..manner.repetitions {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        samples.push(manner.of(timed.sample()?));
    }
    // Not every system tells a process's time.
    let timed_by = match manner.by_processor && warm_up.processor.is_some() {
        true => TimedBy::Processor,
        false => timed.timed_by(),
    };
    let row = Row::new(plan.subject.clone(), timed_by, samples);
    let row = row.ok_or_else(|| Error::internal("bench", "no samples"))?;
    Ok(Row {
        warm_up: 1,
        work: plan.work,
        error: timed.error(),
        device_bytes: timed.device_bytes(),
        figures: plan.figures.clone(),
        note: plan.note.clone(),
        ..row
    })
}

/// Programs that are run in turn, so that none finds its operands in a cache.
pub struct Programs {
    clock: Clock,
    programs: Vec<Program>,
    /// Calls that a program stands for.
    calls: usize,
    /// Runs of a sample; found at the first.
    count: Option<usize>,
    /// The program that comes next.
    next: usize,
}

impl Programs {
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Arc<Gpu>, programs: Vec<Program>, calls: usize) -> Result<Self> {
        Ok(Self {
            clock: Clock::new(gpu)?,
            programs,
            calls: calls.max(1),
            count: None,
            next: 0,
        })
    }
}

impl Timed for Programs {
    fn sample(&mut self) -> Result<Sample> {
        let (first, rest) = self.programs.split_at(self.next);
        let programs: Vec<&Program> = rest.iter().chain(first).collect();
        if let Some(first) = programs.first() {
            self.clock.warm(first)?;
        }
        let count = match self.count {
            Some(count) => count,
            None => *self.count.insert(self.clock.count(&programs)?),
        };
        let all = self.clock.pass(&programs, count)?;
        self.next = (self.next + count) % self.programs.len().max(1);
        let each = |seconds: f64| seconds / self.calls as f64;
        Ok(Sample {
            seconds: each(all.seconds),
            processor: all.processor.map(each),
        })
    }

    fn timed_by(&self) -> TimedBy {
        match self.clock.is_the_devices() {
            true => TimedBy::Device,
            false => TimedBy::Wall,
        }
    }
}
