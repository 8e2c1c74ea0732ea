//! Every op at SDXL's own shapes (a picture of 1024x1024), timed on the device.
//!
//!     cargo bench --bench kernels -- [FILTER...] [--quick] [--list]
//!     cargo bench --bench kernels -- --compile
//!
//! Times come from timestamps around one pass a repetition, or from the wall
//! clock where the adapter has none. A row counts the arithmetic or the bytes of
//! the op itself, not what a variant adds to it. `--quick` shortens the sides of
//! pictures, for adapters that are CPUs. `--compile` times the making and first
//! run of each pipeline instead; set MESA_SHADER_CACHE_DISABLE=1 for cold ones.

use calotype::Result;
use calotype::gpu::{Access, AdapterChoice, Buffer, Gpu, PipelineKey, Timestamps};
use calotype::kernel::attention::Attention;
use calotype::kernel::norm::{GroupNorm, Mask};
use calotype::kernel::product::{Conv, Epilogue, Product, Weight, WeightStorage, packed_bytes};
use calotype::kernel::sinusoid::Sinusoid;
use calotype::kernel::{
    Activation, Dispatch, Program, Storage, Tensor, Tuning, View, attention, latent, layout, map,
    norm, permutations, product, sinusoid,
};
use clap::Parser;
use std::sync::Arc;
use std::time::Instant;

#[derive(Parser)]
struct Options {
    /// Only rows whose name or shape contains one of these.
    filter: Vec<String>,
    /// Names the rows and stops.
    #[arg(long)]
    list: bool,
    /// Shorter sides.
    #[arg(long)]
    quick: bool,
    /// An adapter's index, or a part of its name.
    #[arg(long)]
    adapter: Option<String>,
    /// `direct`, `tiled` or `both`; the adapter's own if left out.
    #[arg(long)]
    variant: Option<String>,
    /// Times the making of pipelines.
    #[arg(long)]
    compile: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy)]
enum Op {
    Conv {
        c: usize,
        co: usize,
        taps: usize,
        stride: usize,
        upsample: bool,
    },
    Linear {
        k: usize,
        n: usize,
        geglu: bool,
    },
    /// Against `keys` tokens, or against itself.
    Attention {
        heads: usize,
        d: usize,
        keys: Option<usize>,
        causal: bool,
    },
    GroupNorm {
        c: usize,
    },
    LayerNorm {
        c: usize,
    },
    Softmax {
        columns: usize,
    },
    Map {
        c: usize,
    },
    ToPlanes {
        c: usize,
    },
    Guidance,
    Update,
    Sinusoid {
        dim: usize,
    },
}

/// An op over `n` pictures of `side` x `side` pixels, or as many tokens.
struct Case {
    name: &'static str,
    op: Op,
    n: usize,
    side: usize,
}

fn conv3(name: &'static str, side: usize, c: usize, co: usize) -> Case {
    conv(name, side, [c, co, 9, 1], false)
}

fn conv(
    name: &'static str,
    side: usize,
    [c, co, taps, stride]: [usize; 4],
    upsample: bool,
) -> Case {
    let op = Op::Conv {
        c,
        co,
        taps,
        stride,
        upsample,
    };
    case(name, op, side)
}

fn linear(name: &'static str, side: usize, k: usize, n: usize) -> Case {
    case(name, Op::Linear { k, n, geglu: false }, side)
}

fn attend(name: &'static str, side: usize, heads: usize, keys: Option<usize>) -> Case {
    let op = Op::Attention {
        heads,
        d: 64,
        keys,
        causal: false,
    };
    case(name, op, side)
}

fn case(name: &'static str, op: Op, side: usize) -> Case {
    Case {
        name,
        op,
        n: if name.starts_with("unet") { 2 } else { 1 },
        side,
    }
}

fn cases() -> Vec<Case> {
    let geglu = |k, n| Op::Linear { k, n, geglu: true };
    let clip = |heads| Op::Attention {
        heads,
        d: 64,
        keys: None,
        causal: true,
    };
    let middle = Op::Attention {
        heads: 1,
        d: 512,
        keys: None,
        causal: false,
    };
    vec![
        conv3("unet conv in", 128, 4, 320),
        conv3("unet conv", 128, 320, 320),
        conv3("unet conv", 128, 640, 320),
        conv3("unet conv", 128, 960, 320),
        conv("unet conv down", 128, [320, 320, 9, 2], false),
        conv3("unet conv", 64, 320, 640),
        conv3("unet conv", 64, 640, 640),
        conv3("unet conv", 64, 960, 640),
        conv3("unet conv", 64, 1280, 640),
        conv3("unet conv", 64, 1920, 640),
        conv("unet conv down", 64, [640, 640, 9, 2], false),
        conv("unet conv up", 64, [640, 640, 9, 1], true),
        conv3("unet conv", 32, 640, 1280),
        conv3("unet conv", 32, 1280, 1280),
        conv3("unet conv", 32, 1920, 1280),
        conv3("unet conv", 32, 2560, 1280),
        conv("unet conv up", 32, [1280, 1280, 9, 1], true),
        conv("unet shortcut", 128, [960, 320, 1, 1], false),
        conv3("unet conv out", 128, 320, 4),
        linear("unet q, out", 64, 640, 640),
        linear("unet qkv", 64, 640, 1920),
        case("unet ff geglu", geglu(640, 2560), 64),
        linear("unet ff out", 64, 2560, 640),
        linear("unet q, out", 32, 1280, 1280),
        linear("unet qkv", 32, 1280, 3840),
        case("unet ff geglu", geglu(1280, 5120), 32),
        linear("unet ff out", 32, 5120, 1280),
        linear("unet k, v of text", 9, 2048, 1280),
        linear("unet time", 1, 1280, 1280),
        attend("unet self attention", 64, 10, None),
        attend("unet self attention", 32, 20, None),
        attend("unet cross attention", 64, 10, Some(77)),
        attend("unet cross attention", 32, 20, Some(77)),
        case("clip attention", clip(12), 9),
        case("clip attention", clip(20), 9),
        case("unet group norm", Op::GroupNorm { c: 320 }, 128),
        case("unet group norm", Op::GroupNorm { c: 960 }, 128),
        case("unet group norm", Op::GroupNorm { c: 640 }, 64),
        case("unet group norm", Op::GroupNorm { c: 1280 }, 32),
        case("unet layer norm", Op::LayerNorm { c: 640 }, 64),
        case("unet layer norm", Op::LayerNorm { c: 1280 }, 32),
        case("unet softmax", Op::Softmax { columns: 1024 }, 64),
        case("unet silu + b", Op::Map { c: 320 }, 128),
        case("unet guidance", Op::Guidance, 128),
        case("unet update", Op::Update, 128),
        case("unet sinusoid", Op::Sinusoid { dim: 320 }, 1),
        conv3("vae conv", 128, 512, 512),
        case("vae attention", middle, 128),
        conv("vae conv up", 128, [512, 512, 9, 1], true),
        conv3("vae conv", 256, 512, 512),
        conv3("vae conv", 512, 512, 256),
        conv3("vae conv", 512, 256, 256),
        conv3("vae conv", 1024, 256, 128),
        conv3("vae conv", 1024, 128, 128),
        conv3("vae conv out", 1024, 128, 3),
        case("vae group norm", Op::GroupNorm { c: 512 }, 256),
        case("vae group norm", Op::GroupNorm { c: 256 }, 512),
        case("vae group norm", Op::GroupNorm { c: 128 }, 1024),
        case("vae to planes", Op::ToPlanes { c: 3 }, 1024),
    ]
}

/// What a row is measured in.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Flops(u64),
    Bytes(u64),
}

impl Case {
    /// Pictures get an eighth of their side, attention a quarter.
    fn quick(mut self) -> Self {
        let divisor = match self.op {
            _ if self.side < 10 => 1,
            Op::Attention { .. } => 4,
            Op::Conv { .. } | Op::Linear { .. } => 8,
            _ => 2,
        };
        self.side /= divisor;
        self.n = 1;
        self
    }

    fn rows(&self) -> usize {
        self.n * self.side * self.side
    }

    fn shape(&self) -> String {
        let (n, s, rows) = (self.n, self.side, self.rows());
        match self.op {
            Op::Conv {
                c,
                co,
                taps,
                stride,
                upsample,
            } => {
                let side = if taps == 9 { 3 } else { 1 };
                let stride = if stride == 2 { " /2" } else { "" };
                let up = if upsample { " x2" } else { "" };
                format!("{n}x{s}x{s}x{c}->{co} {side}x{side}{stride}{up}")
            }
            Op::Linear { k, n, geglu } => {
                let n = if geglu { 2 * n } else { n };
                format!("{rows}x{k}->{n}")
            }
            Op::Attention { heads, d, keys, .. } => {
                let queries = rows / n;
                format!("{n}x{heads}x{queries}x{}, d {d}", keys.unwrap_or(queries))
            }
            Op::GroupNorm { c } => format!("{n}x{s}x{s}x{c}"),
            Op::LayerNorm { c } | Op::Map { c } => format!("{rows}x{c}"),
            Op::Softmax { columns } => format!("{rows}x{columns}"),
            Op::ToPlanes { c } => format!("{n}x{c}x{s}x{s}"),
            Op::Guidance | Op::Update => format!("{s}x{s}x4"),
            Op::Sinusoid { dim } => format!("{rows}x{dim}"),
        }
    }

    fn work(&self, storage: Storage) -> Work {
        let (rows, bytes) = (self.rows() as u64, storage.bytes() as u64);
        let through = |c: usize, times: u64| Work::Bytes(rows * c as u64 * bytes * times);
        match self.op {
            Op::Conv {
                c,
                co,
                taps,
                stride,
                upsample,
            } => {
                let pixels = rows * if upsample { 4 } else { 1 } / (stride * stride) as u64;
                Work::Flops(2 * pixels * (taps * c * co) as u64)
            }
            Op::Linear { k, n, geglu } => {
                Work::Flops((rows * (k * n) as u64) << (1 + u32::from(geglu)))
            }
            Op::Attention { heads, d, keys, .. } => {
                let keys = keys.unwrap_or(self.rows() / self.n);
                Work::Flops(4 * rows * (keys * heads * d) as u64)
            }
            Op::GroupNorm { c } => through(c, 3),
            Op::LayerNorm { c } => through(c, 2),
            Op::Softmax { columns } => through(columns, 2),
            Op::Map { c } => through(c, 3),
            Op::ToPlanes { c } => Work::Bytes(rows * c as u64 * (bytes + 4)),
            Op::Guidance => Work::Bytes(rows / self.n as u64 * 4 * (2 * bytes + 4)),
            Op::Update => Work::Bytes(rows / self.n as u64 * 48),
            Op::Sinusoid { dim } => through(dim, 1),
        }
    }

    /// Whether the op has weights, and so a row for each way to store them.
    fn has_weights(&self) -> bool {
        matches!(self.op, Op::Conv { .. } | Op::Linear { .. })
    }
}

struct Bench {
    gpu: Arc<Gpu>,
    none: Arc<Buffer>,
    tuning: Tuning,
    storage: Storage,
    weights: WeightStorage,
}

impl Bench {
    /// A buffer of numbers that are neither zero nor special in `storage`.
    fn view(&self, storage: Storage, bytes: u64) -> Result<View> {
        let buffer = Arc::new(self.gpu.buffer("bench", bytes)?);
        let values: Vec<f32> = (0..1 << 20)
            .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32 - 0.5)
            .collect();
        let piece = storage.encode(&values);
        let mut at = 0;
        while at < buffer.size() {
            let count = (buffer.size() - at).min(piece.len() as u64);
            let queue = self.gpu.queue();
            queue.write_buffer(buffer.raw(), at, &piece[..count as usize]);
            queue.submit([]);
            self.gpu.wait()?;
            at += count;
        }
        Ok(View::whole(&buffer))
    }

    fn floats(&self, count: usize) -> Result<View> {
        self.view(Storage::F32, count as u64 * 4)
    }

    fn tensor(&self, shape: [usize; 4]) -> Result<Tensor> {
        let bytes = Tensor::bytes_of(self.storage, shape);
        let view = self.view(self.storage, bytes)?;
        Ok(Tensor::new(view, self.storage, shape))
    }

    fn weight(&self, taps: usize, k: usize, n: usize) -> Result<Weight> {
        let storage = match self.weights {
            WeightStorage::F32 => Storage::F32,
            WeightStorage::F16 => Storage::F16,
        };
        let view = self.view(storage, packed_bytes(self.weights, taps, k, n))?;
        Ok(Weight::packed(view, self.weights, taps, k, n))
    }

    fn product(
        &self,
        a: [usize; 4],
        out: [usize; 4],
        taps: usize,
        conv: Option<Conv>,
        geglu: bool,
    ) -> Result<Vec<Dispatch>> {
        let columns = if geglu { 2 * out[3] } else { out[3] };
        let product = Product {
            a: &self.tensor(a)?,
            weight: &self.weight(taps, a[3], columns)?,
            out: &self.tensor(out)?,
            conv,
            blocks: None,
            epilogue: Epilogue {
                bias: Some(self.floats(columns.next_multiple_of(8))?),
                geglu,
                ..Default::default()
            },
            rows: None,
        };
        product::dispatches(&self.gpu, self.tuning, &self.none, &product)
    }

    fn attention(
        &self,
        [n, queries, keys]: [usize; 3],
        [heads, d]: [usize; 2],
        causal: bool,
    ) -> Result<Vec<Dispatch>> {
        let (tuning, storage, c) = (self.tuning, self.storage, heads * d);
        let sizes = attention::scratch_bytes(tuning, storage, [n, queries, keys], [heads, d]);
        let scratch = match sizes {
            Some([a, b]) => Some([self.view(storage, a)?, self.view(storage, b)?]),
            None => None,
        };
        let attention = Attention {
            q: &self.tensor([n, queries, 1, c])?,
            k: &self.tensor([n, keys, 1, c])?,
            v: &self.tensor([n, keys, 1, c])?,
            out: &self.tensor([n, queries, 1, c])?,
            heads,
            causal,
            scratch: scratch.as_ref().map(|[a, b]| [a, b]),
        };
        attention.dispatches(&self.gpu, tuning, &self.none)
    }

    fn group_norm(&self, shape: [usize; 4]) -> Result<Vec<Dispatch>> {
        let [stats, affine] = norm::scratch_bytes(shape);
        let norm = GroupNorm {
            x: &self.tensor(shape)?,
            y: &self.tensor(shape)?,
            gamma: &self.floats(shape[3])?,
            beta: &self.floats(shape[3])?,
            groups: 32,
            eps: 1e-5,
            activation: Activation::Silu,
            stats: &self.view(Storage::F32, stats)?,
            affine: &self.view(Storage::F32, affine)?,
        };
        norm.dispatches(&self.gpu, self.tuning)
    }

    fn dispatches(&self, case: &Case) -> Result<Vec<Dispatch>> {
        let (n, side, rows) = (case.n, case.side, case.rows());
        let tuning = self.tuning;
        let tokens = |c: usize| self.tensor([n, rows / n, 1, c]);
        match case.op {
            Op::Conv {
                c,
                co,
                taps,
                stride,
                upsample,
            } => {
                let conv = Conv {
                    stride,
                    pad: usize::from(taps == 9),
                    upsample,
                };
                let out = (side << usize::from(upsample)) / stride;
                let (a, out) = ([n, side, side, c], [n, out, out, co]);
                self.product(a, out, taps, Some(conv), false)
            }
            Op::Linear { k, n: co, geglu } => {
                let shape = |c: usize| [n, rows / n, 1, c];
                self.product(shape(k), shape(co), 1, None, geglu)
            }
            Op::Attention {
                heads,
                d,
                keys,
                causal,
            } => {
                let queries = rows / n;
                let sizes = [n, queries, keys.unwrap_or(queries)];
                self.attention(sizes, [heads, d], causal)
            }
            Op::GroupNorm { c } => self.group_norm([n, side, side, c]),
            Op::LayerNorm { c } => {
                let (gamma, beta) = (self.floats(c)?, self.floats(c)?);
                let (x, y) = (tokens(c)?, tokens(c)?);
                let affine = [&gamma, &beta];
                Ok(norm::layer_norm(&self.gpu, tuning, &x, affine, &y, 1e-5))
            }
            Op::Softmax { columns } => {
                let mask = Mask {
                    count: columns,
                    rows_per_head: rows,
                    first: 0,
                    causal: false,
                };
                Ok(vec![norm::softmax(tuning, &tokens(columns)?, mask)])
            }
            Op::Map { c } => {
                let (x, b, y) = (tokens(c)?, tokens(c)?, tokens(c)?);
                let act = Activation::Silu;
                let (gpu, none) = (&self.gpu, &self.none);
                Ok(map::dispatches(gpu, tuning, none, &x, act, Some(&b), &y))
            }
            Op::ToPlanes { c } => {
                let pixels = self.tensor([n, side, side, c])?;
                let planes = self.floats(rows * c)?;
                Ok(vec![layout::to_planes(
                    tuning,
                    &pixels,
                    &planes,
                    [0.5, 0.5],
                )])
            }
            Op::Guidance => {
                let u = self.tensor([1, side, side, 4])?;
                let t = self.tensor([1, side, side, 4])?;
                let (step, y) = (self.floats(8)?, self.floats(side * side * 4)?);
                let u = Some((&u, 0));
                Ok(vec![latent::guidance(tuning, u, (&t, 0), &step, &y)])
            }
            Op::Update => {
                let count = side * side;
                let (x, e) = (self.floats(count * 4)?, self.floats(count * 4)?);
                Ok(vec![latent::update(
                    tuning,
                    &x,
                    &e,
                    &self.floats(8)?,
                    count,
                )])
            }
            Op::Sinusoid { dim } => {
                let how = Sinusoid {
                    dim,
                    cos_first: true,
                    shift: 0.0,
                };
                let y = self.tensor([1, rows, 1, dim])?;
                let values = self.floats(rows)?;
                Ok(vec![sinusoid::dispatch(&values, &y, how, rows, false)])
            }
        }
    }

    /// Seconds of a run: the median of several, after one that warms up.
    fn seconds(&self, program: &Program, quick: bool) -> Result<f64> {
        let gpu = &self.gpu;
        let started = Instant::now();
        program.run(gpu)?;
        let first = started.elapsed().as_secs_f64();
        let enough = if quick { 0.15 } else { 0.5 };
        let count = ((enough / first.max(1e-6)) as usize).clamp(3, 30);
        let mut times = match Timestamps::new(gpu, count as u32)? {
            Some(mut stamps) => {
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                while let Some(writes) = stamps.next() {
                    let descriptor = wgpu::ComputePassDescriptor {
                        timestamp_writes: Some(writes),
                        ..Default::default()
                    };
                    let mut pass = encoder.begin_compute_pass(&descriptor);
                    program.record(&mut pass, 0..program.len());
                }
                gpu.queue().submit([encoder.finish()]);
                gpu.wait()?;
                stamps.seconds(gpu)?
            }
            None => {
                let mut times = Vec::new();
                for _ in 0..count {
                    let started = Instant::now();
                    program.run(gpu)?;
                    times.push(started.elapsed().as_secs_f64());
                }
                times
            }
        };
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}

struct Row {
    name: &'static str,
    shape: String,
    variant: &'static str,
    storage: String,
    result: Result<(f64, Work)>,
}

fn print_rows(rows: &[Row]) {
    let rate = |row: &Row| match row.result {
        Ok((seconds, Work::Flops(n))) => (n as f64 / seconds * 1e-9, "GFLOP/s"),
        Ok((seconds, Work::Bytes(n))) => (n as f64 / seconds * 1e-9, "GB/s"),
        Err(_) => (0.0, ""),
    };
    println!(
        "{:<21} {:<30} {:<7} {:<12} {:>10} {:>17} {:>6}",
        "op", "shape", "variant", "storage", "ms", "rate", "best"
    );
    for row in rows {
        let Row {
            name,
            shape,
            variant,
            storage,
            result,
        } = row;
        print!("{name:<21} {shape:<30} {variant:<7} {storage:<12} ");
        match result {
            Ok((seconds, _)) => {
                let (value, unit) = rate(row);
                let same_unit = rows.iter().map(rate).filter(|(_, u)| *u == unit);
                let best = same_unit.map(|(v, _)| v).fold(0.0, f64::max);
                let percent = 100.0 * value / best;
                println!(
                    "{:>10.3} {value:>9.2} {unit:<7} {percent:>5.0}%",
                    seconds * 1e3
                );
            }
            Err(e) => println!("{e}"),
        }
    }
}

fn name_of(storage: Storage) -> &'static str {
    match storage {
        Storage::F32 => "f32",
        Storage::F16 => "f16",
    }
}

fn run(options: &Options, gpu: &Arc<Gpu>, cases: &[Case]) -> Result<Vec<Row>> {
    let own = Tuning::of(gpu.capabilities());
    let tunings = match options.variant.as_deref() {
        None => vec![own],
        Some("direct") => vec![Tuning { direct: true }],
        Some("tiled") => vec![Tuning { direct: false }],
        Some(_) => vec![Tuning { direct: true }, Tuning { direct: false }],
    };
    let mut storages = vec![(Storage::F32, WeightStorage::F32)];
    storages.push((Storage::F32, WeightStorage::F16));
    if gpu.capabilities().shader_f16 {
        storages.push((Storage::F16, WeightStorage::F16));
    }
    let none = Arc::new(gpu.buffer("none", 256)?);
    let mut rows = Vec::new();
    for case in cases {
        for tuning in &tunings {
            for (storage, weights) in &storages {
                if !case.has_weights() && (*storage, *weights) == (Storage::F32, WeightStorage::F16)
                {
                    continue;
                }
                let bench = Bench {
                    gpu: gpu.clone(),
                    none: none.clone(),
                    tuning: *tuning,
                    storage: *storage,
                    weights: *weights,
                };
                let shape = case.shape();
                eprintln!("{} {shape}", case.name);
                let timed = || {
                    let program = Program::new(gpu, bench.dispatches(case)?)?;
                    let seconds = bench.seconds(&program, options.quick)?;
                    Ok((seconds, case.work(*storage)))
                };
                let weights = match weights {
                    _ if !case.has_weights() => "",
                    WeightStorage::F32 => " w f32",
                    WeightStorage::F16 => " w f16",
                };
                rows.push(Row {
                    name: case.name,
                    shape,
                    variant: if tuning.direct { "direct" } else { "tiled" },
                    storage: format!("{}{weights}", name_of(*storage)),
                    result: timed(),
                });
            }
        }
    }
    Ok(rows)
}

/// Seconds that this process has spent on CPUs, where the system says so.
fn cpu_seconds() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let wall = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return wall;
    };
    // After the name in brackets: user and system time are fields 12 and 13, in
    // hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or("");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// A dispatch of one workgroup whose parameters are all 1, which asks every
/// kernel for next to nothing.
fn tiny(gpu: &Arc<Gpu>, key: PipelineKey) -> Result<Dispatch> {
    let storage = key.bindings.iter().filter(|b| **b != Access::Uniform);
    let views: Result<Vec<View>> = storage
        .map(|_| Ok(View::whole(&Arc::new(gpu.buffer("tiny", 1 << 16)?))))
        .collect();
    Ok(Dispatch {
        key,
        views: views?,
        params: vec![1; 8 + sinusoid::MAX_DIM / 2],
        grid: [1, 1, 1],
        flops: 0,
        bytes: 0,
    })
}

fn compile(options: &Options, gpu: &Arc<Gpu>) -> Result<()> {
    let mut total = 0.0;
    println!("{:>12}  pipeline", "CPU seconds");
    for key in permutations() {
        let label = key.label();
        let f16 = key.defines.iter().any(|(name, _)| name == "F16");
        let wanted = options.filter.is_empty() || options.filter.iter().any(|f| label.contains(f));
        if !wanted || f16 && !gpu.capabilities().shader_f16 {
            continue;
        }
        let before = cpu_seconds();
        Program::new(gpu, vec![tiny(gpu, key)?])?.run(gpu)?;
        let seconds = cpu_seconds() - before;
        total += seconds;
        println!("{seconds:>12.2}  {label}");
    }
    println!("{total:>12.2}  in all");
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse();
    let wanted = |case: &Case| {
        let label = format!("{} {}", case.name, case.shape());
        options.filter.is_empty() || options.filter.iter().any(|f| label.contains(f.as_str()))
    };
    let cases: Vec<Case> = cases()
        .into_iter()
        .map(|c| if options.quick { c.quick() } else { c })
        .filter(wanted)
        .collect();
    if options.list {
        for case in &cases {
            println!("{:<21} {}", case.name, case.shape());
        }
        return Ok(());
    }
    let gpu = Gpu::open(&AdapterChoice {
        adapter: options.adapter.clone(),
        ..Default::default()
    })?;
    if options.compile {
        return compile(&options, &gpu);
    }
    println!("{}, {}", gpu.info().name, gpu.info().driver_info);
    print_rows(&run(&options, &gpu, &cases)?);
    Ok(())
}
