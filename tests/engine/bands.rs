//! Adapters that offer less. A whole graph where bindings are small: bands must change
//! nothing. A picture where f16 weights cannot be read.

use crate::case::generate;
use crate::forms::is_long;
use calotype::checkpoint::{Checkpoint, Part};
use calotype::gpu::{AdapterChoice, Gpu};
use calotype::graph::{Activations, Executor, Graph};
use calotype::kernel::product::WeightStorage;
use calotype::kernel::{Context, Mode, Storage};
use calotype::model::{DeviceWeights, Loaded, autoencoder};
use calotype::pipeline::{
    Cancel, Dtype, LoadOptions, Observer, Pipeline, RawRequest, WeightFormat,
};
use calotype::schedule::{NoiseGenerator, TorchCpuGenerator};
use std::collections::HashMap;
use std::sync::Arc;

/// Room for the largest weights of the embedded VAE, not for its activations.
const BINDING: u64 = 160 << 10;

fn run(
    graph: &Graph,
    activations: Activations,
    input: &str,
    max_binding: Option<u64>,
    direct: bool,
) -> Option<Vec<f32>> {
    let choice = AdapterChoice {
        max_binding,
        ..Default::default()
    };
    let gpu = Gpu::open(&choice).unwrap();
    if activations == Activations::Mixed && !gpu.capabilities().shader_f16 {
        return None;
    }
    let checkpoint = Checkpoint::open("demo").unwrap();
    let loaded = Loaded::default();
    let source = checkpoint.source(Part::Vae);
    let weights = DeviceWeights::new(&gpu, source, WeightStorage::F32, &loaded);
    let none = HashMap::new();
    let context = Context::new(&gpu, Mode { direct }).unwrap();
    let executor = Executor::new(&context, activations, graph, &weights, &none).unwrap();
    let tensor = executor.input(input).unwrap();
    let values = TorchCpuGenerator::new(1).randn(tensor.rows() * tensor.c);
    executor.write(&gpu, input, &values).unwrap();
    executor.step().run(&gpu).unwrap();
    Some(executor.read(&gpu, 0).unwrap())
}

#[test]
fn the_vae_is_the_same_in_bands() {
    let config = Checkpoint::open("demo").unwrap().vae;
    let decoder = autoencoder::decoder(&config, [9, 11]).optimise();
    let encoder = autoencoder::encoder(&config, [72, 88]).optimise();
    let ways = [
        (true, Activations::Mixed),
        (true, Storage::F32.into()),
        (false, Storage::F32.into()),
    ];
    let of_encoder = if is_long() { &ways[..] } else { &ways[..1] };
    for (graph, input, ways) in [
        (&decoder, "latents", &ways[..]),
        (&encoder, "picture", of_encoder),
    ] {
        for &(direct, activations) in ways {
            let (_, largest) = graph.planned_bytes(Mode { direct }, activations);
            assert!(largest > 4 * BINDING, "{largest}");
            let run = |limit| run(graph, activations, input, limit, direct);
            let Some(whole) = run(None) else {
                continue;
            };
            assert!(whole.iter().all(|x| x.is_finite()));
            let same = run(Some(BINDING)) == Some(whole);
            assert!(same, "{input}, direct {direct}: values differ");
        }
    }
}

/// The embedded weights are f16 values: they are kept as f32, and the picture is the same.
#[test]
fn weights_are_f32_where_halves_cannot_be_read() {
    let gpu = |no_half_words| {
        let choice = AdapterChoice {
            no_half_words,
            ..Default::default()
        };
        Gpu::open(&choice).unwrap()
    };
    let options = LoadOptions {
        model: "demo".into(),
        dtype: Dtype::F32,
        ..Default::default()
    };
    let load = |gpu: &Arc<Gpu>, options: &LoadOptions| {
        let mut observer = Observer {
            events: &mut |_| {},
            cancel: &Cancel::default(),
            trace: None,
            preview_every: 0,
        };
        Pipeline::load_on(gpu.clone(), options, &mut observer)
    };
    let draw = |gpu: &Arc<Gpu>| {
        let raw = RawRequest {
            prompt: Some("a red circle".into()),
            width: Some(64),
            height: Some(64),
            steps: Some(2),
            seed: Some(7),
            ..Default::default()
        };
        generate(&mut load(gpu, &options).unwrap(), raw, None).pictures
    };
    let of_halves = |gpu: &Gpu| {
        let made = gpu.pipelines_made().into_iter();
        let halves = made.filter(|key| key.wgsl().unwrap().contains("unpack2x16float"));
        halves.count()
    };
    let (usual, without) = (gpu(false), gpu(true));
    let (expected, found) = (draw(&usual), draw(&without));
    assert!(of_halves(&usual) > 0);
    assert_eq!(of_halves(&without), 0);
    let furthest = expected[0].rgb.iter().zip(&found[0].rgb);
    let furthest = furthest.map(|(a, b)| a.abs_diff(*b)).max();
    assert!(furthest <= Some(1), "{furthest:?}");

    for (wrong, remedy) in [
        (
            LoadOptions {
                dtype: Dtype::F16,
                ..options.clone()
            },
            "dtype",
        ),
        (
            LoadOptions {
                weights: WeightFormat::Q8,
                ..options.clone()
            },
            "weights",
        ),
    ] {
        let said = load(&without, &wrong).map(|_| ()).unwrap_err().to_string();
        assert!(
            said.contains("SHADER_F16_IN_F32") && said.contains(remedy),
            "{said}"
        );
    }
}
