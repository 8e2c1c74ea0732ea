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

mod cases;

use calotype::Result;
use calotype::gpu::processor_seconds;
use calotype::gpu::{Access, AdapterChoice, Gpu, PipelineKey, Timestamps};
use calotype::kernel::attention::Attention;
use calotype::kernel::finite::Mark;
use calotype::kernel::latent::StepValues;
use calotype::kernel::norm::{GroupNorm, Mask};
use calotype::kernel::product::{Conv, Epilogue, Layout, PANEL, Product, Weight, WeightStorage};
use calotype::kernel::sinusoid::Sinusoid;
use calotype::kernel::{
    Activation, Context, Dispatch, Mode, Program, Storage, Tensor, View, attention, latent, layout,
    map, norm, permutations, product, sinusoid,
};
use cases::{Case, Op, Work, cases};
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

struct Bench {
    gpu: Arc<Gpu>,
    context: Context,
    mode: Mode,
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
        self.of(self.storage, shape)
    }

    fn of(&self, storage: Storage, shape: [usize; 4]) -> Result<Tensor> {
        let view = self.view(storage, Tensor::bytes_of(storage, shape))?;
        Ok(Tensor::new(view, storage, shape))
    }

    fn weight(&self, layout: Layout) -> Result<Weight> {
        let storage = match self.weights {
            WeightStorage::F32 => Storage::F32,
            WeightStorage::F16 => Storage::F16,
        };
        let view = self.view(storage, layout.bytes(self.weights))?;
        Ok(Weight::packed(view, self.weights, layout))
    }

    fn product(
        &self,
        a: [usize; 4],
        out: [usize; 4],
        taps: usize,
        conv: Option<Conv>,
        geglu: bool,
    ) -> Result<Vec<Dispatch>> {
        let layout = Layout {
            taps,
            k: a[3],
            n: if geglu { 2 * out[3] } else { out[3] },
            geglu,
        };
        let bias = layout.columns().next_multiple_of(PANEL);
        let product = Product {
            a: &self.tensor(a)?,
            weight: &self.weight(layout)?,
            out: &self.tensor(out)?,
            conv,
            blocks: None,
            epilogue: Epilogue {
                bias: Some(self.floats(bias)?),
                geglu,
                ..Default::default()
            },
            rows: None,
        };
        product::dispatches(&self.context, &product)
    }

    fn attention(
        &self,
        [n, queries, keys]: [usize; 3],
        [heads, d]: [usize; 2],
        causal: bool,
    ) -> Result<Vec<Dispatch>> {
        let (mode, storage, c) = (self.mode, self.storage, heads * d);
        let sizes = attention::scratch_bytes(mode, storage, [n, queries, keys], [heads, d]);
        let scratch = sizes.into_iter().map(|bytes| self.view(storage, bytes));
        let scratch = scratch.collect::<Result<Vec<_>>>()?;
        let attention = Attention {
            q: &self.tensor([n, queries, 1, c])?,
            k: &self.tensor([n, keys, 1, c])?,
            v: &self.tensor([n, keys, 1, c])?,
            out: &self.tensor([n, queries, 1, c])?,
            heads,
            causal,
            scratch: &scratch,
        };
        attention.dispatches(&self.context)
    }

    fn group_norm(&self, shape: [usize; 4]) -> Result<Vec<Dispatch>> {
        let [stats, affine] = norm::scratch_bytes(self.mode, shape);
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
        norm.dispatches(&self.gpu, self.mode)
    }

    fn dispatches(&self, case: &Case) -> Result<Vec<Dispatch>> {
        let (n, side, rows) = (case.n, case.side, case.rows());
        let mode = self.mode;
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
                norm::layer_norm(&self.gpu, mode, &x, affine, &y, 1e-5)
            }
            Op::Softmax { columns } => {
                let mask = Mask {
                    count: columns,
                    rows_per_head: rows,
                    first: 0,
                    causal: false,
                };
                let scores = self.of(Storage::F32, [n, rows / n, 1, columns])?;
                let weights = match self.storage {
                    Storage::F32 => None,
                    Storage::F16 => Some(tokens(columns)?),
                };
                Ok(vec![norm::softmax(mode, &scores, weights.as_ref(), mask)?])
            }
            Op::Map { c } => {
                let (x, b, y) = (tokens(c)?, tokens(c)?, tokens(c)?);
                let act = Activation::Silu;
                map::dispatches(&self.context, &x, act, Some(&b), &y)
            }
            Op::ToPlanes { c } => {
                let pixels = self.tensor([n, side, side, c])?;
                let planes = self.floats(rows * c)?;
                Ok(vec![layout::to_planes(mode, &pixels, &planes, [0.5, 0.5])?])
            }
            Op::Guidance => {
                let u = self.tensor([1, side, side, 4])?;
                let t = self.tensor([1, side, side, 4])?;
                let numbers = size_of::<StepValues>() / 4;
                let (step, y) = (self.floats(numbers)?, self.floats(side * side * 4)?);
                let u = Some((&u, 0));
                let part = latent::Weighed::ALONE;
                Ok(vec![latent::guidance(
                    mode,
                    u,
                    (&t, 0),
                    part,
                    1,
                    &step,
                    &y,
                )?])
            }
            Op::Update => {
                let count = side * side;
                let [x, e] = [self.floats(count * 4)?, self.floats(count * 4)?];
                let [noise, history] = [self.floats(count * 4)?, self.floats(3 * count * 4)?];
                let state = latent::State {
                    sample: &x,
                    output: &e,
                    noise: &noise,
                    history: &history,
                };
                // A multistep solver of order three.
                let mut values = StepValues {
                    stores: 1.0,
                    ..Default::default()
                };
                (values.store[0].sample, values.store[0].output) = (0.9, -0.1);
                (values.update.sample, values.update.noise) = (0.9, 0.1);
                values.update.history[..3].copy_from_slice(&[0.3, -0.2, 0.1]);
                let step = self.floats(size_of::<StepValues>() / 4)?;
                let bytes = bytemuck::bytes_of(&values);
                self.gpu.upload(&step.buffer, bytes)?;
                let share = latent::Share::Whole;
                Ok(vec![latent::update(mode, &state, &step, count, share)?])
            }
            Op::Watch { c } => {
                let count = side * side * c;
                let x = self.floats(count)?;
                Mark::new(&self.gpu)?.watch(&self.gpu, mode, &x, count, None)
            }
            Op::Sinusoid { dim } => {
                let how = Sinusoid {
                    dim,
                    cos_first: true,
                    shift: 0.0,
                };
                let y = self.tensor([1, rows, 1, dim])?;
                let values = self.floats(rows)?;
                Ok(vec![sinusoid::dispatch(&values, &y, how, rows)?])
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
    let own = Mode::of(gpu.capabilities());
    let tunings = match options.variant.as_deref() {
        None => vec![own],
        Some("direct") => vec![Mode { direct: true }],
        Some("tiled") => vec![Mode { direct: false }],
        Some(_) => vec![Mode { direct: true }, Mode { direct: false }],
    };
    let mut storages = vec![(Storage::F32, WeightStorage::F32)];
    storages.push((Storage::F32, WeightStorage::F16));
    if gpu.capabilities().shader_f16 {
        storages.push((Storage::F16, WeightStorage::F16));
    }
    let mut rows = Vec::new();
    for case in cases {
        for mode in &tunings {
            for (storage, weights) in &storages {
                if !case.has_weights() && (*storage, *weights) == (Storage::F32, WeightStorage::F16)
                {
                    continue;
                }
                let bench = Bench {
                    gpu: gpu.clone(),
                    context: Context::new(gpu, *mode)?,
                    mode: *mode,
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
                    variant: if mode.direct { "direct" } else { "tiled" },
                    storage: format!("{}{weights}", name_of(*storage)),
                    result: timed(),
                });
            }
        }
    }
    Ok(rows)
}

/// A dispatch of one workgroup whose parameters are all 1, which asks every
/// kernel for next to nothing.
fn tiny(gpu: &Arc<Gpu>, key: PipelineKey) -> Result<Dispatch> {
    let storage = key.bindings.iter().filter(|b| **b != Access::Uniform);
    let views: Result<Vec<View>> = storage
        .map(|_| Ok(View::whole(&Arc::new(gpu.buffer("tiny", 1 << 16)?))))
        .collect();
    let params = bytemuck::cast_slice(&[1u32; 8 + sinusoid::MAX_DIM / 2]).to_vec();
    // SAFETY: with parameters of 1 no kernel goes further than a few tiles, which the
    // views hold many times over; the numbers that kernels read from views are 0.
    Ok(unsafe { Dispatch::unchecked(key, views?, params, [1, 1, 1]) })
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
        let before = processor_seconds().unwrap_or_default();
        Program::new(gpu, vec![tiny(gpu, key)?])?.run(gpu)?;
        let seconds = processor_seconds().unwrap_or_default() - before;
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
