//! Which variant is fastest on this device: every candidate over the shapes of a model,
//! random operands, by the device's clock where it has one.

use super::Entry;
use crate::Result;
use crate::gpu::Gpu;
use crate::kernel::{Clock, Context, Program, Storage, View, attention, product};
use std::sync::Arc;

/// The variants that were tried, fastest first, with the seconds of one call.
pub type Ranking = Vec<(String, f64)>;

/// What is measured, by its shapes.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    Product(product::Shape),
    Attention(attention::Shape),
}

impl Shape {
    /// The class of its calls, which a table has one entry for.
    pub fn class(&self) -> String {
        match self {
            Shape::Product(shape) => shape.call().class(),
            Shape::Attention(shape) => shape.call().class(),
        }
    }

    /// Floating-point operations of a call.
    pub fn flop(&self) -> f64 {
        match self {
            Shape::Product(shape) => shape.call().flop(),
            Shape::Attention(shape) => shape.call().flop(),
        }
    }

    fn programs(
        &self,
        context: &Context,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<(String, Program)>> {
        match self {
            Shape::Product(shape) => shape.programs(context, cancelled),
            Shape::Attention(shape) => shape.programs(context, cancelled),
        }
    }
}

/// Repetitions of a candidate, of which the median counts.
const REPETITIONS: usize = 3;

/// A candidate that takes this many times the best so far is not repeated.
const HOPELESS: f64 = 1.3;

/// `bytes` of random numbers between -0.5 and 0.5, stored as `storage`: zeros would run
/// faster than anything real.
///
/// # Errors
/// Out of memory.
pub fn noise(gpu: &Gpu, storage: Storage, bytes: u64) -> Result<View> {
    let buffer = Arc::new(gpu.buffer("measurement", bytes.next_multiple_of(16))?);
    let value = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 - 0.5;
    let values: Vec<f32> = (0..1 << 18).map(value).collect();
    let piece = storage.encode(&values);
    let (mut first, size) = (0, buffer.size());
    while first < size {
        let count = (size - first).min(piece.len() as u64);
        gpu.queue()
            .write_buffer(buffer.raw(), first, &piece[..count as usize]);
        first += count;
    }
    gpu.queue().submit([]);
    gpu.wait()?;
    Ok(View::whole(&buffer))
}

/// Measures shapes one after another.
pub struct Measurement {
    context: Context,
    clock: Clock,
}

/// Median seconds; fewer repetitions where it is far slower than `best`.
fn time(clock: &mut Clock, program: &Program, best: f64) -> Result<f64> {
    let programs = &[program];
    clock.pass(programs, 1)?;
    let count = clock.count(programs)?;
    let first = clock.pass(programs, count)?.seconds;
    if first > HOPELESS * best {
        return Ok(first);
    }
    let mut seconds = vec![first];
    for _ in 1..REPETITIONS {
        seconds.push(clock.pass(programs, count)?.seconds);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

impl Measurement {
    /// # Errors
    /// Out of memory.
    pub fn new(context: &Context) -> Result<Self> {
        Ok(Self {
            context: context.clone(),
            clock: Clock::new(&context.gpu)?,
        })
    }

    /// Every candidate that passes its self-test, over `shape`; empty where there is
    /// nothing to choose.
    ///
    /// # Errors
    /// What goes wrong on the device; [`crate::Error::Cancelled`].
    pub fn rank(&mut self, shape: &Shape, cancelled: &dyn Fn() -> bool) -> Result<Ranking> {
        // All is compiled and tested before anything is timed, since the device idles
        // meanwhile.
        let programs = shape.programs(&self.context, cancelled)?;
        let (mut ranking, mut best) = (Ranking::new(), f64::MAX);
        for (variant, program) in programs {
            self.clock.warm(&program)?;
            let seconds = time(&mut self.clock, &program, best)?;
            best = best.min(seconds);
            ranking.push((variant, seconds));
        }
        ranking.sort_by(|a, b| a.1.total_cmp(&b.1));
        Ok(ranking)
    }
}

impl From<&(String, f64)> for Entry {
    fn from((variant, seconds): &(String, f64)) -> Self {
        Self {
            variant: variant.clone(),
            microseconds: Some((seconds * 1e8).round() / 100.0),
        }
    }
}
