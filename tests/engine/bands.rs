//! A whole graph on an adapter whose bindings are small: bands must change nothing.

use crate::forms::is_long;
use calotype::checkpoint::{Checkpoint, Part};
use calotype::gpu::{AdapterChoice, Gpu};
use calotype::graph::{Activations, Executor, Graph};
use calotype::kernel::product::WeightStorage;
use calotype::kernel::{Context, Mode, Storage};
use calotype::model::{DeviceWeights, Loaded, autoencoder};
use calotype::schedule::{NoiseGenerator, TorchCpuGenerator};
use std::collections::HashMap;

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
