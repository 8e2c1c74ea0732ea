//! What fits the device: plans, weights in blocks, weights that are streamed.

use crate::case::{generate, load_alone, psnr, relative};
use crate::forms::is_long;
use calotype::checkpoint::{Checkpoint, Part};
use calotype::gpu::Gpu;
use calotype::graph::{Executor, Runner};
use calotype::kernel::product::{BlockFormat, WeightStorage};
use calotype::kernel::{Context, Mode, Storage};
use calotype::model::{DeviceWeights, Keeping, Loaded, Streamed, unet};
use calotype::pipeline::{
    Dtype, LoadOptions, MemoryLimit, MemoryPlan, Pipeline, RawRequest, TextEncoders, Trace,
    WeightFormat,
};
use calotype::text::Styles;
use std::collections::HashMap;
use std::process::Command;
use std::rc::Rc;

const GIB: u64 = 1 << 30;

fn plan(pipeline: &Pipeline, raw: RawRequest) -> MemoryPlan {
    let request = pipeline.resolve(raw, &Styles::builtin()).unwrap();
    pipeline.memory_plan(&request)
}

fn sdxl(options: LoadOptions) -> Pipeline {
    load_alone(&LoadOptions {
        model: "random:sdxl-base".into(),
        dtype: Dtype::F16,
        ..options
    })
    .unwrap()
}

fn prompt() -> RawRequest {
    RawRequest {
        prompt: Some("a house by a lake".into()),
        seed: Some(7.into()),
        ..Default::default()
    }
}

/// SDXL at its own size on cards of every size: what is given up, and in which order.
#[test]
fn plans_fit_the_card() {
    let of = |limit: u64, weights| {
        let pipeline = sdxl(LoadOptions {
            max_memory: MemoryLimit::Bytes(limit),
            weights,
            ..Default::default()
        });
        plan(&pipeline, prompt())
    };
    let mut last = u64::MAX;
    for limit in [24, 12, 8, 6, 4, 3, 2].map(|gib| gib * GIB) {
        let plan = of(limit, WeightFormat::Auto);
        println!("{plan}");
        assert!(plan.fits && plan.peak() <= limit, "{plan}");
        assert!(plan.peak() <= last, "{plan}");
        last = plan.peak();
        let all_stay = plan.unet.resident.is_none();
        assert_eq!(all_stay, limit >= 4 * GIB, "{plan}");
        let plain = plan.unet.blocks.is_none();
        assert_eq!(plain, limit >= 6 * GIB, "{plan}");
        let texts = plan.texts == TextEncoders::Stay;
        assert_eq!(texts, limit >= 12 * GIB, "{plan}");
    }
    // f16 that must be streamed, and four bits that need not be.
    let plain = of(4 * GIB, WeightFormat::F16);
    assert!(plain.fits && plain.unet.resident.is_some() && plain.unet.blocks.is_none());
    let four = of(3 * GIB, WeightFormat::Q4);
    assert!(four.fits && four.unet.resident.is_none(), "{four}");
    assert!(!of(GIB / 2, WeightFormat::Auto).fits);
}

/// Base and refiner on six gibibytes.
#[test]
fn a_refiner_takes_turns_with_the_base() {
    let pipeline = sdxl(LoadOptions {
        refiner: Some("random:sdxl-refiner".into()),
        max_memory: MemoryLimit::Bytes(6 * GIB),
        ..Default::default()
    });
    let alone = plan(
        &pipeline,
        RawRequest {
            refiner: Some(false),
            ..prompt()
        },
    );
    let both = plan(
        &pipeline,
        RawRequest {
            refiner: Some(true),
            ..prompt()
        },
    );
    println!("{both}");
    assert!(both.fits && both.refiner.weights > 0, "{both}");
    assert_eq!(alone.refiner.weights, 0);
}

#[test]
fn too_little_memory_is_an_error_that_says_how_much() {
    let mut pipeline = sdxl(LoadOptions {
        max_memory: MemoryLimit::Bytes(GIB / 2),
        ..Default::default()
    });
    let request = pipeline.resolve(prompt(), &Styles::builtin()).unwrap();
    let mut observer = calotype::pipeline::Observer {
        events: &mut |_| {},
        cancel: &Default::default(),
        trace: None,
        preview_every: 0,
    };
    let error = pipeline.generate(&request, &mut observer).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("512 MiB") && error.contains("picture"),
        "{error}"
    );
}

fn demo(options: LoadOptions, side: i64, steps: i64) -> (Trace, calotype::pipeline::Output) {
    let options = LoadOptions {
        model: "demo".into(),
        dtype: Dtype::F16,
        ..options
    };
    let mut trace = Trace::new();
    let raw = RawRequest {
        width: Some(side),
        height: Some(side),
        steps: Some(steps),
        scheduler: Some("Euler".into()),
        ..prompt()
    };
    let output = generate(&mut load_alone(&options).unwrap(), raw, Some(&mut trace));
    (trace, output)
}

/// Nothing is on the device that the plan does not count.
#[test]
fn the_plan_counts_all_there_is() {
    for weights in [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4] {
        for low_memory in [false, true] {
            if low_memory && weights == WeightFormat::Q8 && !is_long() {
                continue;
            }
            let options = LoadOptions {
                weights,
                low_memory,
                ..Default::default()
            };
            let (_, output) = demo(options, 64, 2);
            let (peak, planned) = (output.peak_device_bytes, output.plan.peak());
            println!(
                "{weights} {low_memory}: {peak} of {planned}, UNet {}",
                output.unet_device_bytes
            );
            assert!(peak <= planned, "{peak} {}", output.plan);
            let unet = output.plan.unet.bytes;
            let there = output.unet_device_bytes + output.unet_shared_bytes;
            assert!(there <= unet + unet / 50, "{there} {}", output.plan);
        }
    }
}

#[test]
fn pictures_from_weights_in_blocks_are_close_to_those_from_f16() {
    let (exact, _) = demo(LoadOptions::default(), 128, 8);
    let get = |trace: &Trace, name: &str| trace.f32s(name).unwrap().1;
    for (weights, step, decibels) in [
        (WeightFormat::Q8, 1e-2, 38.0),
        (WeightFormat::Q4, 0.1, 28.0),
    ] {
        let options = LoadOptions {
            weights,
            ..Default::default()
        };
        let (trace, output) = demo(options, 128, 8);
        assert!(output.warnings.is_empty(), "{:?}", output.warnings);
        let of = |name| (get(&trace, name), get(&exact, name));
        let (found, wanted) = of("noise_pred.000");
        let error = relative(&found, &wanted);
        let (found, wanted) = of("decoded");
        let psnr = psnr(&found, &wanted);
        println!("{weights}: noise_pred.000 {error:.1e}, decoded {psnr:.1} dB");
        assert!(error <= step && error > 1e-5, "{weights}: {error}");
        assert!(psnr >= decibels, "{weights}: {psnr}");
    }
}

/// The UNet of the embedded model with few of its weights on the device, in every form,
/// run twice: to the bit what it makes with all of them there.
#[test]
fn streamed_weights_change_nothing() {
    let gpu = Gpu::open(&Default::default()).unwrap();
    let checkpoint = Checkpoint::open("demo").unwrap();
    let source = checkpoint.source(Part::UNet);
    let size = unet::Size {
        batch: 2,
        height: 8,
        width: 8,
        tokens: 77,
    };
    let graph = unet::graph(&checkpoint.unet, size).optimise();
    let context = Context::new(&gpu, Mode { direct: true }).unwrap();
    for blocks in [None, Some(BlockFormat::Q8), Some(BlockFormat::Q4)] {
        let run = |resident: Option<u64>| {
            let keeping = Keeping {
                storage: WeightStorage::F16,
                blocks,
                resident,
            };
            let loaded = Loaded::default();
            let weights = DeviceWeights::new(&gpu, source, keeping, &loaded);
            let unet = Executor::new(&context, Storage::F32, &graph, &weights, &HashMap::new());
            let unet = unet.unwrap();
            assert_eq!(unet.step().is_streamed(), resident.is_some());
            for name in [unet::SAMPLE, unet::CONTEXT, unet::TIME] {
                if let Some(input) = unet.input(name) {
                    let value = |i| ((i * 7919) as f32).sin();
                    let values: Vec<f32> = (0..input.rows() * input.c).map(value).collect();
                    unet.write(&gpu, name, &values).unwrap();
                }
            }
            let stream = Rc::new(Streamed::new(&gpu, source, &loaded));
            let mut runner = Runner::new(&gpu, false)
                .unwrap()
                .with_stream(stream.clone());
            let mut made = Vec::new();
            for _ in 0..2 {
                runner.run(|_| {}, &[unet.once()], &|| false).unwrap();
                runner.run(|_| {}, &[unet.step()], &|| false).unwrap();
                runner.finish().unwrap();
                made.push(unet.read(&gpu, 0).unwrap());
            }
            (made, stream.bytes(), loaded.streamed_bytes())
        };
        let (whole, none, _) = run(None);
        assert_eq!(none, 0);
        for resident in [0, 1 << 20] {
            let (streamed, brought, once) = run(Some(resident));
            println!("{blocks:?}, {resident} stay: {brought} bytes were brought");
            assert!(streamed == whole, "{blocks:?} {resident}");
            assert!(once > 0 && brought >= once, "{brought} {once}");
        }
    }
}

/// A device that has less than it says: the next plan draws the same picture, and the run
/// says so.
#[test]
fn out_of_memory_takes_the_next_plan() {
    let folder = tempfile::tempdir().unwrap();
    let run = |bytes: Option<u64>, out: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_calotype"));
        command.current_dir(folder.path()).args([
            "generate",
            "a red circle",
            "--seed",
            "1",
            "--steps",
            "1",
            // Two tiles.
            "--width",
            "1024",
            "--height",
            "64",
            "--json",
            "-q",
            "--out",
            out,
        ]);
        command.env_remove("CALOTYPE_DEVICE_BYTES");
        if let Some(bytes) = bytes {
            command.env("CALOTYPE_DEVICE_BYTES", bytes.to_string());
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let whole = run(None, "whole.png");
    let peak = whole["peak_device_bytes"].as_u64().unwrap();
    let short = run(Some(peak * 4 / 5), "short.png");
    let warnings = short["warnings"].to_string();
    assert!(
        short["peak_device_bytes"].as_u64().unwrap() <= peak * 4 / 5,
        "{short}"
    );
    assert!(warnings.contains("less memory"), "{warnings}");
}

/// Little memory gives up from the beginning what costs time, and the rest as any other
/// plan does where the card is small.
#[test]
fn low_memory_streams_where_it_must() {
    let of = |limit: u64| {
        let pipeline = sdxl(LoadOptions {
            low_memory: true,
            weights: WeightFormat::F16,
            max_memory: MemoryLimit::Bytes(limit),
            ..Default::default()
        });
        plan(&pipeline, prompt())
    };
    for (limit, all_stay) in [(24 * GIB, true), (6 * GIB, true), (4 * GIB, false)] {
        let plan = of(limit);
        assert!(plan.fits && plan.peak() <= limit, "{plan}");
        assert_eq!(plan.unet.resident.is_none(), all_stay, "{plan}");
        let low = (plan.pictures, plan.batched, plan.one_unet);
        assert_eq!(low, (1, false, true), "{plan}");
        assert_ne!(plan.texts, TextEncoders::Stay, "{plan}");
    }
}

/// A request that does without the refiner leaves it on the device for the next.
#[test]
fn a_refiner_that_is_not_asked_for_waits() {
    let mut pipeline = load_alone(&LoadOptions {
        model: "demo".into(),
        refiner: Some("demo".into()),
        ..Default::default()
    })
    .unwrap();
    let mut bytes = Vec::new();
    for refiner in [true, false, true] {
        let raw = RawRequest {
            width: Some(64),
            height: Some(64),
            steps: Some(2),
            refiner: Some(refiner),
            high_noise_fraction: refiner.then_some(0.5),
            ..prompt()
        };
        generate(&mut pipeline, raw, None);
        bytes.push(pipeline.own_bytes());
    }
    assert!(bytes[0] > 0 && bytes == [bytes[0]; 3], "{bytes:?}");
}
