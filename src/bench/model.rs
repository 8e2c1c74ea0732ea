//! SDXL's stages on a device: the workload that everybody is asked to compare with, and
//! every combination of sizes, batches and steps.

use super::measure::{Manner, Plan, Timed, measure};
use super::report::{Row, Subject, Suite, TimedBy, Work};
use super::statistics::median;
use crate::kernel::Sample;
use crate::pipeline::{Forward, KernelTime, Observer, Pipeline, RawRequest, Request};
use crate::text::Styles;
use crate::{Error, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The workload that is published, so that other engines can run the same: prompt, seed,
/// guidance and scheduler. `tools/peers/workload.json` says it to other programs.
pub const PROMPT: &str = "a photograph of an astronaut riding a horse";
pub const SEED: i64 = 42;
pub const GUIDANCE: f64 = 7.0;
pub const SCHEDULER: &str = "Euler";

/// Pictures that are drawn for a row, after one that warms up; a long run has many steps
/// to average over.
const PICTURES: usize = 5;

/// What is measured of a model.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Width and height of pictures, in pixels.
    pub sizes: Vec<[usize; 2]>,
    /// Pictures at a time.
    pub batches: Vec<usize>,
    /// Denoising steps of whole pictures; empty for none.
    pub steps: Vec<usize>,
    /// Whether the kernels of a forward are timed one by one.
    pub profile: bool,
}

/// A guided forward of the UNet as something to time.
struct Step<'a> {
    forward: Forward<'a>,
    cancelled: &'a dyn Fn() -> bool,
    bytes: u64,
}

impl Timed for Step<'_> {
    fn sample(&mut self) -> Result<Sample> {
        self.forward.run(self.cancelled)
    }

    fn timed_by(&self) -> TimedBy {
        TimedBy::Wall
    }

    fn device_bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }
}

/// The model as a row names it: of a path, its end.
fn model_name(pipeline: &Pipeline) -> String {
    crate::pipeline::model_name(&pipeline.options().model).to_string()
}

fn subject(pipeline: &Pipeline, name: &str, [width, height]: [usize; 2]) -> Subject {
    Subject {
        shape: Some(format!("{width}x{height}")),
        storage: Some(pipeline.storage_name()),
        model: Some(model_name(pipeline)),
        ..Subject::new(Suite::Model, name)
    }
}

fn peak(pipeline: &Pipeline) -> u64 {
    let counters = pipeline.gpu().counters();
    counters.peak_device_bytes.load(Ordering::Relaxed)
}

/// A guided UNet step of `batch` pictures: both halves in one forward.
///
/// # Errors
/// What goes wrong on the device; [`Error::Cancelled`].
pub fn step_plan<'a>(
    pipeline: &'a Pipeline,
    size: [usize; 2],
    batch: usize,
    observer: &'a Observer<'_>,
    cancelled: &'a dyn Fn() -> bool,
) -> Result<Plan<'a>> {
    let first = pipeline.forward(size, 2 * batch, observer)?;
    let work = Work {
        operations: Some(first.operations() as f64),
        bytes: Some(first.bytes() as f64),
    };
    let dispatches = first.dispatches() as f64;
    // The first that is asked for is there already.
    let made = RefCell::new(Some(first));
    let mut subject = subject(pipeline, "UNet step", size);
    subject.batch = Some(batch);
    Ok(Plan {
        subject,
        work,
        figures: BTreeMap::from([("dispatches".into(), dispatches)]),
        note: None,
        prepare: Box::new(move || {
            let forward = match made.take() {
                Some(first) => first,
                None => pipeline.forward(size, 2 * batch, observer)?,
            };
            Ok(Box::new(Step {
                forward,
                cancelled,
                bytes: peak(pipeline),
            }))
        }),
    })
}

/// The op of a kernel by its shader and what it was made with.
fn op(label: &str) -> &str {
    let shader = label.split(' ').next().unwrap_or(label);
    match shader.starts_with("product") {
        true if label.contains(" GATHER") => "conv",
        true => "linear",
        false if shader.starts_with("attention") => "attention",
        false => shader,
    }
}

/// The kernels of one forward or decoding, each with the time of all its dispatches.
fn profile(
    pipeline: &Pipeline,
    (suite, size, batch): (Suite, [usize; 2], usize),
    manner: Manner,
    times: &dyn Fn() -> Result<Vec<KernelTime>>,
) -> Result<Vec<Row>> {
    times()?;
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut last = Vec::new();
    for _ in 0..manner.repetitions {
        last = times()?;
        for kernel in &last {
            let of = samples.entry(kernel.kernel.clone()).or_default();
            of.push(kernel.seconds);
        }
    }
    let total: f64 = samples.values().map(|of| median(of)).sum();
    let row = |kernel: KernelTime| {
        let mut subject = subject(pipeline, &kernel.kernel, size);
        subject.suite = suite;
        subject.op = Some(op(&kernel.kernel).into());
        subject.batch = Some(batch);
        let samples = samples.remove(&kernel.kernel)?;
        let share = median(&samples) / total;
        let some = |n: u64| Some(n as f64).filter(|n| *n > 0.0);
        Some(Row {
            warm_up: 1,
            work: Work {
                operations: some(kernel.operations),
                bytes: some(kernel.bytes),
            },
            figures: BTreeMap::from([
                ("dispatches".into(), kernel.dispatches as f64),
                ("share".into(), share),
            ]),
            ..Row::new(subject, TimedBy::Device, samples)?
        })
    };
    let mut rows: Vec<Row> = last.into_iter().filter_map(row).collect();
    rows.sort_by(|a, b| b.summary.median.total_cmp(&a.summary.median));
    Ok(rows)
}

fn request(pipeline: &Pipeline, [w, h]: [usize; 2], batch: usize, steps: usize) -> Result<Request> {
    let raw = RawRequest {
        prompt: Some(PROMPT.into()),
        negative_prompt: Some(String::new()),
        width: Some(w as i64),
        height: Some(h as i64),
        steps: Some(steps as i64),
        samples: Some(batch as i64),
        seed: Some(SEED.into()),
        guidance_scale: Some(GUIDANCE),
        scheduler: Some(SCHEDULER.into()),
        refiner: Some(false),
        ..Default::default()
    };
    pipeline.resolve(raw, &Styles::builtin())
}

/// Whole pictures, and the text encoders and the VAE within them.
fn pictures(
    pipeline: &mut Pipeline,
    size: [usize; 2],
    batch: usize,
    steps: usize,
    step_operations: f64,
    observer: &mut Observer<'_>,
) -> Result<Vec<Row>> {
    let request = request(pipeline, size, batch, steps)?;
    let mut seconds: [Vec<f64>; 3] = Default::default();
    // The first reads what is not on the device yet, and makes the pipelines.
    for turn in 0..=PICTURES {
        observer.cancel.check()?;
        let start = Instant::now();
        let output = pipeline.generate(&request, observer)?;
        let whole = start.elapsed().as_secs_f64();
        if turn > 0 {
            let stages = [output.seconds.encode, output.seconds.decode, whole];
            for (all, one) in seconds.iter_mut().zip(stages) {
                all.push(one);
            }
        }
    }
    let text = 2.0 * pipeline.text_operations() as f64;
    let decode = (batch as u64 * pipeline.decoder_operations(size)) as f64;
    let whole = text + decode + steps as f64 * step_operations;
    let names = ["text encoders", "VAE decode", "picture"];
    let stages = names.into_iter().zip([text, decode, whole]).zip(seconds);
    let row = |((name, operations), samples): ((&str, f64), Vec<f64>)| {
        let mut subject = subject(pipeline, name, size);
        subject.batch = Some(batch);
        subject.steps = (name == "picture").then_some(steps);
        Row::new(subject, TimedBy::Wall, samples).map(|row| Row {
            warm_up: 1,
            work: Work {
                operations: Some(operations),
                bytes: None,
            },
            device_bytes: Some(peak(pipeline)),
            ..row
        })
    };
    Ok(stages.filter_map(row).collect())
}

/// Every combination of what is wanted. `told` hears of each row.
///
/// # Errors
/// What goes wrong on the device; a size that the model does not have;
/// [`Error::Cancelled`].
pub fn run(
    pipeline: &mut Pipeline,
    wanted: &Wanted,
    manner: Manner,
    observer: &mut Observer<'_>,
    told: &mut dyn FnMut(&Row),
) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for size in &wanted.sizes {
        for batch in &wanted.batches {
            let (size, batch) = (*size, *batch);
            let cancel = observer.cancel.clone();
            let cancelled = || cancel.is_cancelled();
            let mut made = {
                let plan = step_plan(pipeline, size, batch, observer, &cancelled)?;
                vec![measure(&plan, manner, &cancelled)?]
            };
            let operations = made[0].work.operations.unwrap_or_default();
            told(&made[0]);
            if wanted.profile {
                let forward = pipeline.forward(size, 2 * batch, observer)?;
                let times = || forward.profile(&cancelled);
                made.extend(profile(
                    pipeline,
                    (Suite::Step, size, batch),
                    manner,
                    &times,
                )?);
                drop(forward);
                let times = pipeline.decoder_profile(size, &cancelled)?;
                made.extend(profile(pipeline, (Suite::Decode, size, 1), manner, &times)?);
            }
            for steps in &wanted.steps {
                let new = pictures(pipeline, size, batch, *steps, operations, observer)?;
                new.iter().for_each(&mut *told);
                // Text encoders and VAE do not depend on the steps.
                let known = |row: &Row| made.iter().any(|m| m.subject == row.subject);
                let new: Vec<Row> = new.into_iter().filter(|row| !known(row)).collect();
                made.extend(new);
            }
            rows.extend(made);
        }
    }
    match rows.is_empty() {
        true => Err(Error::internal("bench", "nothing was wanted")),
        false => Ok(rows),
    }
}

/// Seconds that [`run`] takes about, if the device does `rate` operations a second: whether
/// a size is worth trying. Without `steps` no pictures are drawn.
pub fn estimate(
    pipeline: &Pipeline,
    size: [usize; 2],
    steps: Option<usize>,
    manner: Manner,
    rate: f64,
) -> f64 {
    let forward = pipeline.step_operations(size, 2) as f64;
    let text = 2.0 * pipeline.text_operations() as f64;
    let decode = pipeline.decoder_operations(size) as f64;
    let forwards = (manner.repetitions + 2) as f64;
    let pictures = match steps {
        Some(steps) => (PICTURES + 1) as f64 * (text + decode + steps as f64 * forward),
        None => 0.0,
    };
    (forwards * forward + pictures) / rate
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other programs read the workload from a file.
    #[test]
    fn the_published_workload_is_this_one() {
        let text = include_str!("../../tools/peers/workload.json");
        let workload: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(workload["prompt"], PROMPT);
        assert_eq!(workload["negative_prompt"], "");
        assert_eq!(workload["seed"], SEED);
        assert_eq!(workload["guidance_scale"], GUIDANCE);
        assert_eq!(workload["scheduler"], SCHEDULER);
    }
}
