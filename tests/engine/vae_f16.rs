//! VAEs whose operands are f16 and whose residual stream is f32: whatever that stream
//! reaches, nothing overflows and nothing is worked out twice.

use crate::spoilt::{Model, VAE, widen};
use crate::tensors::Tensors;
use calotype::pipeline::{Cancel, Dtype, LoadOptions, Pipeline, Tiling};
use calotype::schedule::{NoiseGenerator, TorchCpuGenerator};

fn load(model: &str, dtype: Dtype) -> Pipeline {
    let options = LoadOptions {
        model: model.into(),
        dtype,
        activations: dtype,
        ..Default::default()
    };
    crate::case::load(&options).unwrap()
}

fn has_f16(pipeline: &Pipeline) -> bool {
    let has = pipeline.gpu().capabilities().shader_f16;
    if !has {
        eprintln!("skipped: the adapter has no f16");
    }
    has
}

/// The residual stream of both halves times `by`. The pictures stay the same but for the
/// epsilons of the norms.
fn louder(tensors: &mut Tensors, by: f32) {
    let names: Vec<String> = tensors.keys().cloned().collect();
    for name in names {
        let written = ["conv_in.", "conv2.", "to_out.0."];
        let kept = [
            "conv_shortcut.",
            "upsamplers.0.conv.",
            "downsamplers.0.conv.",
        ];
        let any = |all: &[&str]| all.iter().any(|part| name.contains(part));
        if any(&written) || (any(&kept) && name.ends_with("bias")) {
            widen(tensors, &name, |_, x| by * x);
        }
    }
}

/// PSNR of values of -1 to 1.
fn decibels(got: &[f32], wanted: &[f32]) -> f64 {
    let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
    let mean = got.iter().zip(wanted).map(square).sum::<f64>() / wanted.len() as f64;
    10.0 * (4.0 / mean).log10()
}

/// A decoded picture of `[8 h, 8 w]` pixels and the mean of the latents of another one.
fn coded(pipeline: &Pipeline, [h, w]: [usize; 2], tiling: Tiling) -> [Vec<f32>; 2] {
    let (vae, cancel) = (pipeline.vae(tiling), Cancel::default());
    let latents = TorchCpuGenerator::new(2).randn(4 * h * w);
    let latents: Vec<f32> = latents.iter().map(|x| 0.7 * x).collect();
    let decoder = vae.decoder([h, w]).unwrap();
    let decoded = decoder.decode(&latents, &cancel).unwrap();
    let picture = TorchCpuGenerator::new(3).randn(3 * 64 * h * w);
    let picture: Vec<f32> = picture.iter().map(|x| (0.4 * x).clamp(-1.0, 1.0)).collect();
    let size = [8 * h, 8 * w];
    let posterior = vae.encode_distribution(&picture, size, &cancel).unwrap();
    [decoded, posterior.mean]
}

/// `least` dB for the picture. Latents count with their own size.
fn compare(model: &str, size: [usize; 2], tiling: Tiling, least: f64) {
    let half = load(model, Dtype::F16);
    if !has_f16(&half) {
        return;
    }
    let [decoded, mean] = coded(&half, size, tiling);
    let [wanted, wanted_mean] = coded(&load(model, Dtype::F32), size, tiling);
    let found = decibels(&decoded, &wanted);
    let error = crate::tensors::relative(&mean, &wanted_mean);
    println!("{model} {size:?} {tiling:?}: {found:.1} dB, latents {error:.1e}");
    assert!(found >= least, "{found} dB");
    assert!(error < 1e-2, "latents {error:e}");
}

#[test]
fn the_embedded_model_is_as_good_as_in_f32() {
    let upcast = Model::base().upcast();
    for model in ["demo", upcast.path()] {
        compare(model, [11, 10], Tiling::Never, 55.0);
        // Two tiles.
        compare(model, [4, 100], Tiling::Always, 55.0);
    }
}

/// Streams far beyond f16, and far below it.
#[test]
fn a_stream_that_f16_does_not_hold() {
    for by in [1e6, 1e-4] {
        let model = Model::base()
            .upcast()
            .change(VAE, |tensors| louder(tensors, by));
        compare(model.path(), [8, 9], Tiling::Never, 40.0);
    }
}

/// The real VAE's widths, with random weights; of pictures of `CALOTYPE_VAE_SIDE` latents,
/// 64 of which take minutes on a CPU.
#[test]
fn a_vae_of_full_width() {
    let side = std::env::var("CALOTYPE_VAE_SIDE").ok();
    let side = side.map_or(6, |side| side.parse().unwrap());
    compare("random:sdxl-base", [side; 2], Tiling::Never, 45.0);
}
