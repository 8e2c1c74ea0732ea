//! Cooperative matrices by measurement: what the adapter offers (how fast it is,
//! `calotype bench peaks` says), and which tile of the product is fastest at SDXL's shapes.
//!
//!     cargo bench --bench matrix -- devices check tiles
//!
//! Every variant is compared with an exact result before it is timed. Operands are
//! random; weights rotate through more buffers than the cache holds.

mod attention;
mod device;
mod product;
mod semantics;
mod spirv;

use anyhow::Result;
use clap::Parser;
use device::Device;
use product::{Operands, Shape, Variant, wrong};

#[derive(Parser)]
struct Options {
    /// devices, check, tiles, race, attention, semantics.
    what: Vec<String>,
    /// A part of an adapter's name.
    #[arg(long)]
    adapter: Option<String>,
    /// Keeps naga's run-time checks in the shaders.
    #[arg(long)]
    checked: bool,
    /// Hands the driver SPIR-V whose barriers order workgroup memory (Vulkan).
    #[arg(long)]
    ordered: bool,
    /// Only shapes or variants that contain this.
    #[arg(long)]
    filter: Option<String>,
    /// Row tiles that are walked together.
    #[arg(long, default_value_t = 16)]
    raster: u32,
    /// Only the variants that are tried first.
    #[arg(long)]
    few: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

const SHAPES: [Shape; 13] = [
    Shape::linear(2048, 1280, 1280),
    Shape::linear(2048, 3840, 1280),
    Shape::linear(2048, 10240, 1280),
    Shape::linear(2048, 1280, 5120),
    Shape::linear(8192, 640, 640),
    Shape::linear(8192, 1920, 640),
    Shape::linear(8192, 5120, 640),
    Shape::linear(8192, 640, 2560),
    Shape::conv(2, 32, 1280, 1280),
    Shape::conv(2, 64, 640, 640),
    Shape::conv(2, 128, 320, 320),
    Shape::conv(1, 256, 512, 512),
    Shape::conv(1, 1024, 128, 128),
];

/// The candidates, the most promising first.
fn variants(device: &Device, few: bool) -> Vec<Variant> {
    let v = Variant::new;
    let mut all = vec![
        v(128, 128, 32, 4, 2),
        v(128, 128, 32, 2, 2),
        v(128, 160, 32, 4, 2),
        v(64, 160, 32, 2, 2),
        v(128, 80, 32, 4, 1),
        v(128, 128, 64, 4, 2),
        v(256, 128, 32, 4, 2),
        v(128, 64, 32, 2, 2),
    ];
    if !few {
        let two = |v: Variant| Variant { stages: 2, ..v };
        let flat = |v: Variant| Variant { flat: true, ..v };
        all.extend([
            two(v(128, 128, 32, 4, 2)),
            flat(v(128, 128, 32, 4, 2)),
            two(v(128, 128, 32, 2, 2)),
            flat(v(128, 128, 32, 2, 2)),
            two(v(128, 160, 32, 4, 2)),
            v(128, 160, 32, 2, 2),
            v(128, 128, 32, 2, 4),
            v(128, 128, 16, 2, 2),
            v(128, 128, 64, 2, 2),
            v(128, 256, 32, 2, 4),
            v(256, 128, 16, 4, 2),
            v(256, 64, 32, 4, 1),
            v(64, 128, 32, 2, 2),
            v(64, 64, 32, 2, 2),
            v(64, 64, 64, 2, 2),
            v(64, 160, 64, 2, 2),
            v(256, 160, 32, 4, 2),
        ]);
    }
    if !device.matrices.iter().any(|m| m.m_size == 16) {
        let lanes = device.info.subgroup_min_size;
        all = [
            v(32, 32, 32, 1, 1),
            v(64, 32, 32, 2, 1),
            v(32, 64, 16, 1, 2),
        ]
        .map(|v| Variant { f: 8, lanes, ..v })
        .to_vec();
        all.extend(all.clone().into_iter().map(|v| Variant { flat: true, ..v }));
        all.extend(all.clone().into_iter().map(|v| Variant { stages: 2, ..v }));
    }
    all.retain(|v| v.valid(device));
    all
}

fn main() -> Result<()> {
    let options = Options::parse();
    let device = Device::open(options.adapter.clone(), options.checked, options.ordered)?;
    println!(
        "{} ({}), {} {}",
        device.info.name, device.info.backend, device.info.driver, device.info.driver_info
    );
    for what in &options.what {
        let result = match what.as_str() {
            "devices" => devices(&device),
            "check" => check(&device, &options),
            "race" => race(&device, &options),
            "tiles" => tiles(&device, &options),
            "attention" => attend(&device),
            "semantics" => semantics::run(&device),
            _ => Err(anyhow::anyhow!("no such part")),
        };
        if let Err(e) = result {
            println!("{what}: {e:#}");
        }
    }
    Ok(())
}

fn devices(device: &Device) -> Result<()> {
    println!(
        "subgroups {}..{}, shared memory {} bytes, f16 {}",
        device.info.subgroup_min_size, device.info.subgroup_max_size, device.shared, device.f16
    );
    for m in &device.matrices {
        println!(
            "matrix {}x{}x{} {:?} -> {:?}",
            m.m_size, m.n_size, m.k_size, m.ab_type, m.cr_type
        );
    }
    Ok(())
}

fn kept(options: &Options, text: &str) -> bool {
    options
        .filter
        .as_ref()
        .is_none_or(|f| text.contains(f.as_str()))
}

/// Odd shapes, every value, every variant.
fn check(device: &Device, options: &Options) -> Result<()> {
    let big = device.info.device_type != wgpu::DeviceType::Cpu;
    let shapes = if big {
        [
            Shape::linear(300, 328, 448),
            Shape::linear(1, 8, 64),
            Shape::linear(517, 640, 1280),
            Shape::conv(2, 19, 136, 128),
            Shape::conv(1, 33, 320, 64),
        ]
    } else {
        [
            Shape::linear(70, 96, 128),
            Shape::linear(1, 8, 64),
            Shape::linear(65, 72, 64),
            Shape::conv(2, 5, 40, 64),
            Shape::conv(1, 9, 64, 64),
        ]
    };
    for shape in shapes {
        let operands = Operands::new(shape, 5);
        let rows: Vec<_> = (0..shape.m).map(|r| (r, operands.row(r))).collect();
        for variant in variants(device, options.few) {
            if !kept(options, &variant.label()) || shape.k % variant.bk != 0 {
                continue;
            }
            let kernel = variant.kernel(device, shape.side.is_some())?;
            let bound = operands.upload(device, 1, 3);
            device.pass(&kernel, &bound.jobs(device, &kernel, variant, 2), 1)?;
            let wrong = wrong(device, &operands, &bound.y, &rows, 3)?;
            println!(
                "{} | {} | {wrong} of {} wrong",
                variant.label(),
                shape.label(),
                shape.m * shape.n
            );
        }
    }
    Ok(())
}

/// A thousand runs of each variant while the device is full; a moving error is a race.
fn race(device: &Device, options: &Options) -> Result<()> {
    let shape = Shape::linear(2048, 640, 1280);
    let operands = Operands::new(shape, 9);
    for variant in variants(device, options.few) {
        if !kept(options, &variant.label()) {
            continue;
        }
        let kernel = variant.kernel(device, false)?;
        let bound = operands.upload(device, 1, 0);
        let job = bound.jobs(device, &kernel, variant, options.raster);
        device.pass(&kernel, &job, 1)?;
        let bytes = u64::from(shape.m * shape.n) * 2;
        let first = device.read(&bound.y, 0, bytes)?;
        let mut differ = 0;
        for _ in 0..20 {
            device.pass(&kernel, &job, 50)?;
            differ += usize::from(device.read(&bound.y, 0, bytes)? != first);
        }
        println!(
            "{}: {differ} of 20 samples of 1000 runs differ from the first",
            variant.label()
        );
    }
    Ok(())
}

/// The table: shapes by variants, in TFLOP/s.
fn tiles(device: &Device, options: &Options) -> Result<()> {
    for shape in SHAPES {
        let operands = Operands::new(shape, 3);
        let picked = [0, 1, shape.m / 2 + 3, shape.m - 1];
        let rows: Vec<_> = picked.iter().map(|r| (*r, operands.row(*r))).collect();
        let bytes = shape.n as usize * (shape.k * shape.taps()) as usize * 2;
        let bound = operands.upload(device, ((160 << 20) / bytes + 1).min(32), 0);
        for variant in variants(device, options.few) {
            if !kept(options, &variant.label()) && !kept(options, &shape.label()) {
                continue;
            }
            let started = std::time::Instant::now();
            let kernel = match variant.kernel(device, shape.side.is_some()) {
                Ok(kernel) => kernel,
                Err(e) => {
                    println!("{} | {} | {e:#}", shape.label(), variant.label());
                    continue;
                }
            };
            let compiled = started.elapsed().as_secs_f64();
            let seconds = device.time(
                &kernel,
                &bound.jobs(device, &kernel, variant, options.raster),
            )?;
            let wrong = wrong(device, &operands, &bound.y, &rows, 0)?;
            println!(
                "{} | {} | {:.1} TFLOP/s | {:.1} us | wrong {wrong} | compiled in {compiled:.2} s",
                shape.label(),
                variant.label(),
                shape.flop() / seconds / 1e12,
                seconds * 1e6
            );
        }
    }
    Ok(())
}

/// Self-attention at SDXL's shapes; first a small one with a remainder and wide scores.
fn attend(device: &Device) -> Result<()> {
    let big = device.info.device_type != wgpu::DeviceType::Cpu;
    let shapes: &[(u32, u32, u32, f32)] = match big {
        true => &[(2, 3, 333, 6.0), (2, 10, 4096, 1.0), (2, 20, 1024, 1.0)],
        false => &[(2, 2, 77, 6.0), (1, 2, 64, 1.0)],
    };
    for (batch, heads, tokens, loud) in shapes {
        let operands = attention::Operands::new(*batch, *heads, *tokens, *loud);
        for variant in attention::variants(device) {
            let kernel = variant.kernel(device, *tokens)?;
            let (job, out) = operands.job(device, &kernel, variant);
            let seconds = device.time(&kernel, &[job])?;
            println!(
                "attention {batch}x{heads}x{tokens} | {} | {:.1} TFLOP/s | {:.1} us | error {:.1e}",
                variant.label(),
                operands.flop() / seconds / 1e12,
                seconds * 1e6,
                operands.error(device, &out)?
            );
        }
    }
    Ok(())
}
