//! Reads, writes and copies of more than caches hold, and uploads.

use super::{STREAM, Way, dispatch, key, row};
use crate::Result;
use crate::bench::measure::{Manner, Plan, Timed, measure};
use crate::bench::report::{Row, Subject, Suite, TimedBy, Work};
use crate::gpu::{Buffer, Gpu, PipelineKey, processor_seconds};
use crate::kernel::{Clock, Program, Sample, Storage, View, noise};
use std::sync::Arc;
use std::time::Instant;

/// vec4s of an invocation.
const PIECES: u32 = 8;

/// Invocations of a workgroup that are tried.
const LANES: [u32; 3] = [8, 64, 256];

/// The largest workgroup's bytes, the least of a buffer.
const UNIT: u64 = 16 * PIECES as u64 * 256;

/// Bytes of each buffer at the most.
const MOST: u64 = 512 << 20;

/// Bytes that are read before one of them is read again: twice what the largest caches of
/// today hold.
const AROUND: u64 = 512 << 20;

/// Bytes of an upload.
const UPLOAD: usize = 64 << 20;

/// Name, define, and how often the bytes of a buffer move.
const KINDS: [(&str, &str, u64); 3] = [
    ("memory, read", "READ", 1),
    ("memory, write", "WRITE", 1),
    ("memory, copy", "COPY", 2),
];

fn ways(flag: &str) -> Vec<Way> {
    let way = |lanes: u32| {
        let values = [("LANES", lanes.to_string()), ("PIECES", PIECES.to_string())];
        Way {
            key: key("peak_memory", &[flag], &values, STREAM),
            work: Work {
                operations: None,
                bytes: Some(f64::from(16 * PIECES * lanes)),
            },
            name: format!("{lanes} lanes"),
        }
    };
    LANES.map(way).into()
}

pub(super) fn permutations() -> Vec<PipelineKey> {
    let ways = KINDS.into_iter().flat_map(|(_, flag, _)| ways(flag));
    ways.map(|way| way.key).collect()
}

/// Pairs of buffers, as large as the device lets them be, as many as [`AROUND`] asks for.
fn pairs(gpu: &Arc<Gpu>) -> Result<Vec<[View; 2]>> {
    let largest = gpu.capabilities().max_binding.clamp(UNIT, MOST);
    // A power of two, which `fold` cuts without a rest.
    let mut bytes = 1 << largest.ilog2();
    let make = |bytes: u64| -> Result<Vec<[View; 2]>> {
        let pair = |_| {
            let y = View::whole(&Arc::new(gpu.buffer("peak", bytes)?));
            Ok([noise(gpu, Storage::F32, bytes)?, y])
        };
        (0..AROUND.div_ceil(bytes).min(4)).map(pair).collect()
    };
    loop {
        match make(bytes) {
            Err(e) if e.is_out_of_memory() && bytes > UNIT => {
                bytes /= 2;
            }
            made => return made,
        }
    }
}

/// A program for each pair.
fn programs(gpu: &Arc<Gpu>, way: &Way, pairs: &[[View; 2]]) -> Result<Vec<Program>> {
    let one = |views: &[View; 2]| {
        let per_group = way.work.bytes.unwrap_or(UNIT as f64) as u64;
        let groups = (views[0].size / per_group) as usize;
        // SAFETY: the workgroups are as many as the views have pieces for: a power of two,
        // which `fold` does not round up.
        let dispatch = unsafe { dispatch(&way.key, views, groups, 1) };
        Program::new(gpu, vec![dispatch])
    };
    pairs.iter().map(one).collect()
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

fn upload(gpu: &Arc<Gpu>) -> Plan<'_> {
    Plan {
        subject: Subject {
            shape: Some(format!("{} MiB", UPLOAD >> 20)),
            ..Subject::new(Suite::Peaks, "upload")
        },
        work: Work {
            operations: None,
            bytes: Some(UPLOAD as f64),
        },
        figures: Default::default(),
        note: None,
        prepare: Box::new(|| {
            Ok(Box::new(Upload {
                gpu: gpu.clone(),
                buffer: gpu.buffer("upload", UPLOAD as u64)?,
                bytes: vec![0x3c; UPLOAD],
            }))
        }),
    }
}

pub(super) fn run(
    gpu: &Arc<Gpu>,
    manner: Manner,
    cancelled: &dyn Fn() -> bool,
    keep: &mut dyn FnMut(Row),
) -> Result<()> {
    let pairs = pairs(gpu)?;
    let bytes = pairs.first().map_or(UNIT, |pair| pair[0].size);
    for (name, flag, times) in KINDS {
        let mut best: Option<(f64, Way)> = None;
        let mut clock = Clock::new(gpu)?;
        for way in ways(flag) {
            let programs = programs(gpu, &way, &pairs)?;
            let all: Vec<&Program> = programs.iter().collect();
            clock.warm(all[0])?;
            clock.pass(&all, all.len())?;
            let seconds = clock.pass(&all, all.len())?.seconds;
            if best.as_ref().is_none_or(|(least, _)| seconds < *least) {
                best = Some((seconds, way));
            }
        }
        let Some((_, way)) = best else { continue };
        let work = Work {
            operations: None,
            bytes: Some((times * bytes) as f64),
        };
        let subject = Subject {
            shape: Some(format!("{} MiB", bytes >> 20)),
            ..Subject::new(Suite::Peaks, name)
        };
        let make = || Ok((programs(gpu, &way, &pairs)?, 1));
        let made = row(gpu, subject, work, manner, cancelled, make)?;
        keep(Row {
            note: Some(way.name),
            ..made
        });
    }
    keep(measure(&upload(gpu), manner, cancelled)?);
    Ok(())
}
