//! What it takes from the start of the program to the first dispatch of the UNet: time,
//! processor time and host memory.
//!
//!     cargo bench --bench start -- --model FILE --dtype f16
//!
//! The picture is the smallest, of one step, and ends before that step. Lines are given
//! as events come, so that each is what went before it. Anonymous memory is the
//! process's, as Linux counts it: where the adapter is the processor, its buffers are
//! part of it. The heap is the program's without its libraries in C, so without the
//! driver: neither device buffers nor staging buffers (20 MiB) are in it.

use anyhow::{Context, Result, bail};
use calotype::gpu::Gpu;
use calotype::pipeline::{
    Cancel, Dtype, Event, LoadOptions, Observer, Pipeline, RawRequest, TuningSource,
};
use calotype::text::Styles;
use clap::Parser;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Options {
    /// As `calotype generate` takes it; nothing is loaded without one.
    #[arg(long)]
    model: Option<String>,
    /// Of the weights: f16 or f32.
    #[arg(long, default_value = "f16")]
    dtype: String,
    /// A part of an adapter's name.
    #[arg(long)]
    adapter: Option<String>,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The program's heap, counted.
struct Counted;

static HEAP: AtomicI64 = AtomicI64::new(0);
static HEAP_PEAK: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = layout.size() as i64;
        let now = HEAP.fetch_add(size, Ordering::Relaxed) + size;
        HEAP_PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let size = layout.size() as i64;
        let now = HEAP.fetch_add(size, Ordering::Relaxed) + size;
        HEAP_PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HEAP.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// Time between two looks at the memory.
const PERIOD: Duration = Duration::from_millis(2);

/// Seconds of all threads so far, in the program and in the kernel.
fn processor_seconds() -> [f64; 2] {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is writable, of the type asked for, and valid as all zeros.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    [usage.ru_utime, usage.ru_stime].map(|t| t.tv_sec as f64 + t.tv_usec as f64 / 1e6)
}

/// Bytes of anonymous memory that are resident.
fn anonymous() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    let kib: i64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// The most memory since it was last asked.
#[derive(Default)]
struct Peak {
    anonymous: AtomicI64,
    device: AtomicI64,
}

impl Peak {
    fn look(&self, gpu: &Gpu) {
        let device = gpu.counters().device_bytes.load(Ordering::Relaxed);
        self.device.fetch_max(device as i64, Ordering::Relaxed);
        if let Some(anonymous) = anonymous() {
            self.anonymous.fetch_max(anonymous, Ordering::Relaxed);
        }
    }
}

struct Lines {
    start: Instant,
    wall: f64,
    cpu: [f64; 2],
    peak: Arc<Peak>,
}

impl Lines {
    /// Reports what was done since the last line.
    fn add(&mut self, what: &str) {
        let (wall, cpu) = (self.start.elapsed().as_secs_f64(), processor_seconds());
        let gb = |peak: &AtomicI64| peak.swap(0, Ordering::Relaxed) as f64 / 1e9;
        println!(
            "{what:16} {:6.2} s, processor {:6.2} + {:5.2} s; at most: device {:5.2} GB, anonymous {:5.2} GB, heap {:5.3} GB",
            wall - self.wall,
            cpu[0] - self.cpu[0],
            cpu[1] - self.cpu[1],
            gb(&self.peak.device),
            gb(&self.peak.anonymous),
            gb(&HEAP_PEAK),
        );
        (self.wall, self.cpu) = (wall, cpu);
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let _ = options.bench;
    let Some(model) = options.model else {
        println!("--model says what to load");
        return Ok(());
    };
    let dtype = match &*options.dtype {
        "f16" => Dtype::F16,
        "f32" => Dtype::F32,
        other => bail!("--dtype is f16 or f32, not {other}"),
    };
    let peak = Arc::new(Peak::default());
    let mut lines = Lines {
        start: Instant::now(),
        wall: 0.0,
        cpu: [0.0; 2],
        peak: peak.clone(),
    };
    let cancel = Cancel::default();
    let load = LoadOptions {
        model,
        adapter: options.adapter,
        dtype,
        tuning: TuningSource::Off,
        ..Default::default()
    };
    let mut pipeline = Pipeline::load(
        &load,
        &mut Observer {
            events: &mut |_| {},
            cancel: &cancel,
            trace: None,
            preview_every: 0,
        },
    )?;
    let gpu = pipeline.gpu().clone();
    println!("{}", gpu.info().name);
    peak.look(&gpu);
    lines.add("opened");
    let raw = RawRequest {
        prompt: Some("a red circle".into()),
        width: Some(64),
        height: Some(64),
        steps: Some(1),
        seed: Some(1),
        ..Default::default()
    };
    let request = pipeline.resolve(raw, &Styles::builtin())?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.look(&gpu);
                std::thread::sleep(PERIOD);
            }
        });
        let mut what: Option<String> = None;
        let ended = pipeline.generate(
            &request,
            &mut Observer {
                events: &mut |event| {
                    let next = match &event {
                        Event::Loading { part } => part.clone(),
                        Event::Step { index: 0, .. } => {
                            cancel.cancel();
                            "the end".into()
                        }
                        _ => return,
                    };
                    if let Some(what) = what.replace(next) {
                        lines.add(&what);
                    }
                },
                cancel: &cancel,
                trace: None,
                preview_every: 0,
            },
        );
        done.store(true, Ordering::Relaxed);
        match ended {
            Err(calotype::Error::Cancelled) => Ok(()),
            Err(e) => Err(e),
            Ok(_) => Ok(()),
        }
    })
    .context("the run")?;
    let [user, system] = lines.cpu;
    println!(
        "in all {:.2} s, processor {user:.2} + {system:.2} s",
        lines.wall
    );
    Ok(())
}
