//! Every op at SDXL's own shapes (a picture of 1024x1024), timed on the device: the same
//! cases and the same clock as `calotype bench kernels`.
//!
//!     cargo bench --bench kernels -- [FILTER...] [--quick] [--list]
//!     cargo bench --bench kernels -- --compile
//!
//! A row counts the arithmetic or the bytes of the op itself, not what a variant adds to
//! it. `--quick` shortens the sides of pictures, for adapters that are CPUs. `--compile`
//! times the making and first run of each pipeline instead; set
//! MESA_SHADER_CACHE_DISABLE=1 for cold ones.

use calotype::Result;
use calotype::bench::kernels::timing::{Selection, plans};
use calotype::bench::kernels::{Bed, Case};
use calotype::bench::measure::{LEAST, Manner, measure};
use calotype::bench::report::{Row, table};
use calotype::gpu::{Access, AdapterChoice, Gpu, PipelineKey, processor_seconds};
use calotype::kernel::{Dispatch, Program, View, permutations, sinusoid};
use clap::Parser;
use std::sync::Arc;

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
    /// `all`, or a part of a variant's name; the adapter's own if left out.
    #[arg(long)]
    variant: Option<String>,
    /// Times the making of pipelines.
    #[arg(long)]
    compile: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
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

fn cells(row: &Row) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let operations = row.tera_operations().map(|t| (t * 1e3, "GOP/s"));
    let rate = operations.or(row.giga_bytes().map(|g| (g, "GB/s")));
    let rate = rate.map(|(value, unit)| format!("{} {unit}", table::figures(value)));
    vec![
        row.subject.name.clone(),
        text(&row.subject.shape),
        text(&row.subject.variant),
        text(&row.subject.storage),
        table::time(row.summary.median),
        format!("{:.1} %", 100.0 * row.summary.spread),
        rate.unwrap_or_default(),
    ]
}

fn main() -> Result<()> {
    let options = Options::parse();
    let open = || {
        Gpu::open(&AdapterChoice {
            adapter: options.adapter.clone(),
            ..Default::default()
        })
    };
    if options.compile {
        return compile(&options, &open()?);
    }
    let selection = Selection {
        filter: options.filter.clone(),
        variant: options.variant.clone(),
        quick: options.quick,
        ..Default::default()
    };
    let cases = selection.cases()?;
    if options.list {
        let labels: Vec<String> = cases.iter().map(Case::label).collect();
        println!("{}", labels.join("\n"));
        return Ok(());
    }
    let gpu = open()?;
    println!("{}, {}\n", gpu.info().name, gpu.info().driver_info);
    let bed = Bed::tuned(&gpu)?;
    let manner = Manner {
        repetitions: LEAST,
        by_processor: false,
    };
    let mut rows = Vec::new();
    for plan in plans(&bed, &cases, &selection)? {
        eprintln!("{}", plan.subject.label());
        rows.push(cells(&measure(&plan, manner, &|| false)?));
    }
    let heads = [
        "op",
        "shape",
        "variant",
        "storage",
        "median",
        "± spread",
        "rate",
    ];
    println!("{}", table::markdown(&heads, &[4, 5, 6], rows));
    Ok(())
}
