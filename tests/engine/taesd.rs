//! TAESD (`AutoencoderTiny`) against diffusers. The fixture is
//! `tools/make_taesd_fixture.py`'s.

use crate::common::write_sparse;
use crate::tensors::{Tensors, floats, read, relative, renamed, write};
use calotype::checkpoint::{Autoencoder, Checkpoint, Part, open_vae};
use calotype::kernel::product::Family;
use calotype::model::autoencoder;
use calotype::pipeline::{Cancel, Dtype, LoadOptions, Pipeline, Tiling};
use calotype::schedule::{NoiseGenerator, TorchCpuGenerator};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/taesd")
}

fn weights() -> Tensors {
    read(&fixture().join("diffusion_pytorch_model.safetensors"))
}

fn cases() -> Tensors {
    read(&fixture().join("cases.safetensors"))
}

fn load(vae: &Path, direct: Option<bool>) -> Pipeline {
    try_load(vae, direct, Dtype::F32).unwrap()
}

fn try_load(vae: &Path, direct: Option<bool>, dtype: Dtype) -> calotype::Result<Pipeline> {
    let options = LoadOptions {
        model: "demo".into(),
        vae: Some(vae.to_str().unwrap().into()),
        dtype,
        activations: dtype,
        kernels: direct.map(Family::of_direct),
        ..Default::default()
    };
    crate::case::load(&options)
}

/// What becomes of the cases' latents and picture.
fn coded(pipeline: &Pipeline) -> [Vec<f32>; 2] {
    let (cases, cancel) = (cases(), Cancel::default());
    let vae = pipeline.vae(Tiling::Never);
    let decoder = vae.decoder([6, 5]).unwrap();
    let decoded = decoder.decode(&floats(&cases, "latents"), &cancel);
    let picture = floats(&cases, "picture");
    let posterior = vae
        .encode_distribution(&picture, [32, 48], &cancel)
        .unwrap();
    assert!(posterior.std.is_none());
    assert_eq!(posterior.sample(&[1.0; 96]), posterior.mean);
    [decoded.unwrap(), posterior.mean]
}

#[test]
fn decoder_and_encoder_are_diffusers() {
    let cases = cases();
    for direct in [false, true] {
        let found = coded(&load(&fixture(), Some(direct)));
        for (name, found) in ["decoded", "encoded"].iter().zip(&found) {
            let error = relative(found, &floats(&cases, name));
            println!("direct {direct}, {name}: {error:.1e}");
            assert!(error <= 1e-4, "{name}: {error:e}");
        }
    }
}

#[test]
fn half_precision_is_close_to_diffusers() {
    let pipeline = match try_load(&fixture(), None, Dtype::F16) {
        Err(e) if e.to_string().contains("SHADER_F16") => return println!("skipped: {e}"),
        loaded => loaded.unwrap(),
    };
    let (cases, found) = (cases(), coded(&pipeline));
    for (name, found) in ["decoded", "encoded"].iter().zip(&found) {
        let error = relative(found, &floats(&cases, name));
        println!("f16, {name}: {error:.1e}");
        assert!(error <= 1e-2, "{name}: {error:e}");
    }
}

/// The published TAESD has 64 channels; diffusers counts these parameters.
#[test]
fn its_full_size_is_read_from_the_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taesdxl.safetensors");
    let wide = |(name, (_, shape, _)): (String, (_, Vec<usize>, _))| {
        let shape = shape.iter().map(|n| if *n == 8 { 64 } else { *n });
        (name, "F16", shape.collect())
    };
    let described: Vec<_> = renamed(&weights(), original("decoder.", "encoder."))
        .into_iter()
        .map(wide)
        .collect();
    write_sparse(&path, &described);
    let vae = open_vae(&path).unwrap();
    let Autoencoder::Tiny(config) = &vae.config else {
        panic!("{vae:?}");
    };
    assert_eq!(config.num_encoder_blocks, [1, 3, 3, 3]);
    assert_eq!(config.num_decoder_blocks, [3, 3, 3, 1]);
    let wanted = autoencoder::wanted(&vae.config);
    for (name, shape) in &wanted {
        vae.source().check(name, shape).unwrap();
    }
    let side = |side: &str| -> usize {
        let side = wanted.iter().filter(|(name, _)| name.starts_with(side));
        side.map(|(_, shape)| shape.iter().product::<usize>()).sum()
    };
    assert_eq!([side("decoder"), side("encoder")], [1_222_531, 1_222_532]);
}

/// A layer's number moved by `by`, below another prefix.
fn moved(name: &str, from: &str, to: &str, by: usize) -> Option<String> {
    let (layer, rest) = name.strip_prefix(from)?.split_once('.')?;
    Some(format!(
        "{to}{}.{rest}",
        layer.parse::<usize>().unwrap() + by
    ))
}

/// The layout of TAESD's author below the two prefixes.
fn original(decoder: &str, encoder: &str) -> impl Fn(&str) -> Option<String> {
    move |name| {
        moved(name, "decoder.layers.", decoder, 1)
            .or_else(|| moved(name, "encoder.layers.", encoder, 0))
    }
}

#[test]
fn every_layout_of_its_files_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let weights = weights();
    let want = coded(&load(&fixture(), None));

    write(&at("diffusers.safetensors"), &weights, None);
    let both = renamed(&weights, original("decoder.", "encoder."));
    write(&at("both.safetensors"), &both, None);
    let prefixed = renamed(&weights, original("taesd_decoder.", "taesd_encoder."));
    write(&at("prefixed.safetensors"), &prefixed, None);
    let side = |from: &'static str, by| move |name: &str| moved(name, from, "", by);
    let decoder = renamed(&weights, side("decoder.layers.", 1));
    let encoder = renamed(&weights, side("encoder.layers.", 0));
    write(&at("taesdxl_decoder.safetensors"), &decoder, None);
    write(&at("taesdxl_encoder.safetensors"), &encoder, None);
    for name in ["diffusers", "both", "prefixed", "taesdxl_decoder"] {
        let path = at(&format!("{name}.safetensors"));
        assert_eq!(
            open_vae(&path).unwrap().config,
            open_vae(fixture()).unwrap().config
        );
        assert!(coded(&load(&path, None)) == want, "{name}");
    }

    write(&at("alone.safetensors"), &decoder, None);
    let alone = load(&at("alone.safetensors"), None);
    let (vae, cancel) = (alone.vae(Tiling::Never), Cancel::default());
    let latents = floats(&cases(), "latents");
    let decoded = vae.decoder([6, 5]).unwrap().decode(&latents, &cancel);
    assert!(decoded.unwrap() == want[0]);
    let refused = vae.encode_distribution(&[0.0; 3 * 64], [8, 8], &cancel);
    let refused = refused.unwrap_err();
    assert!(refused.is_usage() && refused.to_string().contains("taesdxl_encoder"));
    let refused = open_vae(at("taesdxl_encoder.safetensors")).unwrap_err();
    assert!(refused.to_string().contains("encoder alone"), "{refused}");
}

/// A decoder sees 18 latents around each of its own, most of what neighbours share:
/// they differ a little where they meet.
#[test]
fn tiles_are_the_whole() {
    let pipeline = load(&fixture(), None);
    let (size, cancel) = ([40, 150], Cancel::default());
    let latents = TorchCpuGenerator::new(4).randn(4 * size[0] * size[1]);
    let decode = |tiling| {
        let decoder = pipeline.vae(tiling).decoder(size).unwrap();
        decoder.decode(&latents, &cancel).unwrap()
    };
    let error = relative(&decode(Tiling::Always), &decode(Tiling::Never));
    println!("decoder: {error:.1e}");
    assert!(error <= 1e-2, "{error:e}");
    let size = size.map(|x| 8 * x);
    let picture: Vec<f32> = (0..3 * size[0] * size[1])
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let encode = |tiling| {
        let posterior = pipeline
            .vae(tiling)
            .encode_distribution(&picture, size, &cancel);
        posterior.unwrap().mean
    };
    let error = relative(&encode(Tiling::Always), &encode(Tiling::Never));
    println!("encoder: {error:.1e}");
    assert!(error <= 1e-2, "{error:e}");
}

#[test]
fn a_checkpoint_may_have_it_and_its_tensors_are_known() {
    let mut checkpoint = Checkpoint::open("demo").unwrap();
    checkpoint
        .replace_vae(open_vae(fixture()).unwrap())
        .unwrap();
    assert!(matches!(checkpoint.vae, Autoencoder::Tiny(_)));
    assert_eq!((checkpoint.vae_scale(), checkpoint.native_size()), (8, 128));
    let expected: BTreeMap<_, _> = checkpoint.expected(Part::Vae).into_iter().collect();
    let wanted = autoencoder::wanted(&checkpoint.vae);
    assert_eq!(expected, wanted.into_iter().collect());
    let names: Vec<_> = expected.keys().cloned().collect();
    assert_eq!(names, weights().into_keys().collect::<Vec<_>>());
    let report = checkpoint.report();
    assert_eq!(report.problems, Vec::<String>::new());
    assert!(report.files.is_empty(), "the demo lies in no file");
}
