//! How long programs take on a device.

use super::Program;
use crate::Result;
use crate::gpu::{Gpu, Timestamps, processor_seconds};
use std::sync::Arc;
use std::time::Duration;
use web_time::Instant;

/// Seconds that a sample's calls should take together.
const SPAN: f64 = 2e-3;

/// Calls of a sample at the most.
const MOST: usize = 64;

/// How long the device is kept busy before it is timed, where it was idle for longer than
/// [`IDLE`]: an idle one runs at a fraction of its clock (an H200 at a sixth, which it
/// falls to while kernels are compiled; 200 ms were too few there).
const WARM_UP: Duration = Duration::from_millis(700);

/// Less than the time in which a device lowers its clock.
const IDLE: Duration = Duration::from_millis(50);

/// Seconds of one call.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// By the device's timestamps where it has some, else by the wall clock around
    /// submission and wait.
    pub seconds: f64,
    /// Processor time of this process meanwhile, where the system tells.
    pub processor: Option<f64>,
}

/// Times programs on a device.
pub struct Clock {
    gpu: Arc<Gpu>,
    timestamps: Option<Timestamps>,
    /// When the device was last busy.
    busy: Option<Instant>,
}

impl Clock {
    /// # Errors
    /// Out of memory.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        Ok(Self {
            gpu: gpu.clone(),
            timestamps: Timestamps::new(gpu, 1)?,
            busy: None,
        })
    }

    /// Whether [`Sample::seconds`] are the device's own.
    pub fn is_the_devices(&self) -> bool {
        self.timestamps.is_some()
    }

    /// Keeps a GPU busy until its clock is up; a CPU's is.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub fn warm(&mut self, program: &Program) -> Result<()> {
        let is_warm = self.busy.is_some_and(|at| at.elapsed() < IDLE);
        if is_warm || self.gpu.capabilities().is_cpu {
            return Ok(());
        }
        let start = Instant::now();
        let count = self.count(&[program])?;
        while start.elapsed() < WARM_UP {
            self.pass(&[program], count)?;
        }
        Ok(())
    }

    /// How many calls a sample should have, so that it takes milliseconds.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub fn count(&mut self, programs: &[&Program]) -> Result<usize> {
        let once = self.pass(programs, 1)?.seconds;
        Ok(((SPAN / once.max(1e-7)) as usize).clamp(1, MOST))
    }

    /// The time of a call, `count` of them in one pass, the programs in turn.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub fn pass(&mut self, programs: &[&Program], count: usize) -> Result<Sample> {
        let gpu = &self.gpu;
        let (start, before) = (Instant::now(), processor_seconds());
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        if let Some(timestamps) = &mut self.timestamps {
            timestamps.reset();
        }
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: self.timestamps.as_mut().and_then(Timestamps::next),
            });
            for program in programs.iter().cycle().take(count) {
                program.record(&mut pass, 0..program.len());
            }
        }
        gpu.queue().submit([encoder.finish()]);
        gpu.wait()?;
        let wall = start.elapsed().as_secs_f64();
        let processor = before.zip(processor_seconds()).map(|(a, b)| b - a);
        self.busy = Some(Instant::now());
        let seconds = match &self.timestamps {
            Some(timestamps) => timestamps.seconds(gpu)?.first().copied().unwrap_or(wall),
            None => wall,
        };
        let each = |seconds: f64| seconds / count as f64;
        Ok(Sample {
            seconds: each(seconds),
            processor: processor.map(each),
        })
    }
}
