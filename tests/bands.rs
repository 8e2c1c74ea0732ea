//! A whole graph on an adapter whose bindings are small: bands must change nothing.

use calotype::checkpoint::{Checkpoint, Part};
use calotype::gpu::{AdapterChoice, Gpu};
use calotype::graph::{Executor, Graph};
use calotype::kernel::product::WeightStorage;
use calotype::kernel::{Context, Mode, Storage};
use calotype::model::{DeviceWeights, Loaded, autoencoder};
use calotype::schedule::{NoiseGenerator, TorchCpuGenerator};
use std::collections::HashMap;

/// Room for the largest weights of the embedded VAE, not for its activations.
const BINDING: u64 = 256 << 10;

fn run(graph: &Graph, input: &str, max_binding: Option<u64>, direct: bool) -> Vec<f32> {
    let choice = AdapterChoice {
        max_binding,
        ..Default::default()
    };
    let gpu = Gpu::open(&choice).unwrap();
    let checkpoint = Checkpoint::open("demo").unwrap();
    let loaded = Loaded::default();
    let source = checkpoint.source(Part::Vae);
    let weights = DeviceWeights::new(&gpu, source, WeightStorage::F32, &loaded);
    let none = HashMap::new();
    let context = Context::new(&gpu, Mode { direct }).unwrap();
    let executor = Executor::new(&context, Storage::F32, graph, &weights, &none).unwrap();
    let tensor = executor.input(input).unwrap();
    let values = TorchCpuGenerator::new(1).randn(tensor.rows() * tensor.c);
    executor.write(&gpu, input, &values).unwrap();
    executor.step().run(&gpu).unwrap();
    executor.read(&gpu, 0).unwrap()
}

#[test]
fn the_vae_is_the_same_in_bands() {
    let config = Checkpoint::open("demo").unwrap().vae;
    let decoder = autoencoder::decoder(&config, [13, 17]).optimise();
    let encoder = autoencoder::encoder(&config, [104, 136]).optimise();
    for (graph, input) in [(&decoder, "latents"), (&encoder, "picture")] {
        for direct in [true, false] {
            let (_, largest) = graph.planned_bytes(Mode { direct }, Storage::F32);
            assert!(largest > 4 * BINDING, "{largest}");
            let whole = run(graph, input, None, direct);
            let banded = run(graph, input, Some(BINDING), direct);
            assert!(whole.iter().all(|x| x.is_finite()));
            assert!(whole == banded, "{input}, direct {direct}: values differ");
        }
    }
}
