//! Reads, writes and copies of more than caches hold, and uploads.

use super::{LANES, STREAM, dispatch, key, row, subject};
use crate::Result;
use crate::bench::measure::{Manner, Plan, Timed, measure};
use crate::bench::report::{Row, Subject, Suite, TimedBy, Work};
use crate::gpu::{Buffer, Gpu, PipelineKey, processor_seconds};
use crate::kernel::{Program, Sample, Storage, View, noise};
use std::sync::Arc;
use std::time::Instant;

/// vec4s of an invocation.
const PIECES: u64 = 8;

/// Bytes of each buffer at the most: twice what the largest caches of today hold.
const MOST: u64 = 512 << 20;

/// Bytes of an upload.
const UPLOAD: usize = 64 << 20;

const WAYS: [(&str, &str, u64); 3] = [
    ("memory, read", "READ", 1),
    ("memory, write", "WRITE", 1),
    ("memory, copy", "COPY", 2),
];

fn pipeline_key(flag: &str) -> PipelineKey {
    let values = [("LANES", LANES.to_string()), ("PIECES", PIECES.to_string())];
    key("peak_memory", &[flag], &values, STREAM)
}

pub(super) fn permutations() -> Vec<PipelineKey> {
    WAYS.map(|(_, flag, _)| pipeline_key(flag)).into()
}

/// Two buffers, as large as the device lets them be up to [`MOST`].
fn pair(gpu: &Arc<Gpu>) -> Result<[View; 2]> {
    let per_group = u64::from(LANES) * PIECES * 16;
    let largest = gpu.capabilities().max_binding.min(MOST) / per_group * per_group;
    let mut bytes = largest.max(per_group);
    loop {
        let made = noise(gpu, Storage::F32, bytes)
            .and_then(|x| Ok([x, View::whole(&Arc::new(gpu.buffer("peak", bytes)?))]));
        match made {
            Err(e) if e.is_out_of_memory() && bytes > per_group => {
                bytes = (bytes / 2 / per_group * per_group).max(per_group);
            }
            made => return made,
        }
    }
}

struct Upload {
    gpu: Arc<Gpu>,
    buffer: Buffer,
    bytes: Vec<u8>,
}

impl Timed for Upload {
    fn sample(&mut self) -> Result<Sample> {
        let (start, before) = (Instant::now(), processor_seconds());
        self.gpu.upload(&self.buffer, &self.bytes)?;
        self.gpu.queue().submit([]);
        self.gpu.wait()?;
        Ok(Sample {
            seconds: start.elapsed().as_secs_f64(),
            processor: before.zip(processor_seconds()).map(|(a, b)| b - a),
        })
    }

    fn timed_by(&self) -> TimedBy {
        TimedBy::Wall
    }
}

pub(super) fn run(
    gpu: &Arc<Gpu>,
    manner: Manner,
    cancelled: &dyn Fn() -> bool,
    keep: &mut dyn FnMut(Row),
) -> Result<()> {
    let views = pair(gpu)?;
    let bytes = views[0].size;
    let groups = bytes / (u64::from(LANES) * PIECES * 16);
    for (name, flag, times) in WAYS {
        let work = Work {
            operations: None,
            bytes: Some((times * bytes) as f64),
        };
        let mut subject = subject(name, None);
        subject.shape = Some(format!("{} MiB", bytes >> 20));
        let key = pipeline_key(flag);
        keep(row(gpu, subject, work, manner, cancelled, || {
            // SAFETY: the workgroups are as many as the views have pieces for, and
            // `fold` leaves a power of two of them as they are.
            let one = unsafe { dispatch(&key, &views, groups as usize, 1) };
            Ok((vec![Program::new(gpu, vec![one])?], 1))
        })?);
    }
    let plan = Plan {
        subject: Subject {
            shape: Some(format!("{} MiB", UPLOAD >> 20)),
            ..Subject::new(Suite::Peaks, "upload")
        },
        work: Work {
            operations: None,
            bytes: Some(UPLOAD as f64),
        },
        figures: Default::default(),
        prepare: Box::new(|| {
            Ok(Box::new(Upload {
                gpu: gpu.clone(),
                buffer: gpu.buffer("upload", UPLOAD as u64)?,
                bytes: vec![0x3c; UPLOAD],
            }))
        }),
    };
    keep(measure(&plan, manner, cancelled)?);
    Ok(())
}
