//! Previews of latents against what they become.

use crate::tensors::{floats, read};
use calotype::picture::{Format, Picture};
use calotype::pipeline::{Cancel, Dtype, LoadOptions, Pipeline, Tiling};
use half::f16;
use std::path::{Path, PathBuf};

const CASES: [&str; 4] = [
    "red-circle",
    "squares",
    "unguided",
    "white-cross-two-samples",
];

fn here(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

fn load(preview_vae: Option<&Path>) -> calotype::Result<Pipeline> {
    let options = LoadOptions {
        model: "demo".into(),
        preview_vae: preview_vae.map(|path| path.to_str().unwrap().into()),
        dtype: Dtype::F32,
        ..Default::default()
    };
    crate::case::load(&options)
}

/// The last latents of a recorded run of diffusers, and its picture: the first of
/// the case.
fn recorded(name: &str) -> (Vec<f32>, [usize; 2], Picture) {
    let tensors = read(&here(&format!("tests/fixtures/cases/{name}.safetensors")));
    let last = tensors.keys().rfind(|n| n.starts_with("latents.")).unwrap();
    let (_, shape, _) = &tensors[last];
    let [h, w] = [shape[2], shape[3]];
    let mut latents = floats(&tensors, last);
    latents.truncate(4 * h * w);
    let halves = tensors["decoded"].2.chunks_exact(2);
    let values: Vec<f32> = halves
        .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
        .take(3 * 64 * h * w)
        .collect();
    let picture = Picture::from_planar(8 * w, 8 * h, &values).unwrap();
    (latents, [h, w], picture)
}

/// Means of every 8 by 8 pixels, a colour after the other.
fn means(picture: &Picture) -> Vec<f64> {
    let (w, h) = (picture.width / 8, picture.height / 8);
    let mut means = vec![0.0; 3 * w * h];
    for (i, x) in picture.rgb.iter().enumerate() {
        let (c, at) = (i % 3, i / 3);
        let (y, x_at) = (at / picture.width / 8, at % picture.width / 8);
        means[(c * h + y) * w + x_at] += f64::from(*x) / 64.0;
    }
    means
}

/// In dB, of values from 0 to 255.
fn psnr(a: &[f64], b: &[f64]) -> f64 {
    let off: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    10.0 * (255f64.powi(2) * a.len() as f64 / off).log10()
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (p, q) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(a, b)| f(a - p, b - q)).sum()
    };
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[test]
fn the_linear_preview_shows_what_will_be() {
    let pipeline = load(None).unwrap();
    let cancel = Cancel::default();
    let previewer = pipeline.previewer(&cancel).unwrap();
    for name in CASES {
        let (latents, [h, w], decoded) = recorded(name);
        let preview = previewer.picture(&latents, h, w, &cancel).unwrap();
        assert_eq!((preview.width, preview.height), (8 * w, 8 * h));
        let (seen, will_be) = (means(&preview), means(&decoded));
        let (decibels, likeness) = (psnr(&seen, &will_be), correlation(&seen, &will_be));
        println!("{name}: {decibels:.1} dB, correlation {likeness:.3}");
        if let Some(folder) = std::env::var_os("CALOTYPE_TEST_PICTURES") {
            for (kind, picture) in [("preview", &preview), ("decoded", &decoded)] {
                let bytes = Format::Png.encode(picture, None).unwrap();
                let file = format!("{name}-{kind}.png");
                std::fs::write(Path::new(&folder).join(file), bytes).unwrap();
            }
        }
        assert!(decibels >= 20.0 && likeness >= 0.95, "{name}");
    }
}

#[test]
fn a_preview_vae_decodes_previews() {
    let cancel = Cancel::default();
    let pipeline = load(Some(&here("models/demo/base/vae"))).unwrap();
    let previewer = pipeline.previewer(&cancel).unwrap();
    // Another size in between makes another decoder.
    for name in ["squares", "red-circle", "squares"] {
        let (latents, [h, w], _) = recorded(name);
        let preview = previewer.picture(&latents, h, w, &cancel).unwrap();
        let decoder = pipeline.vae(Tiling::Auto).decoder([h, w]).unwrap();
        let decoded = decoder.decode(&latents, &cancel).unwrap();
        let picture = Picture::from_planar(8 * w, 8 * h, &decoded).unwrap();
        assert!(preview == picture, "{name}");
        assert!(previewer.picture(&latents, h, w + 1, &cancel).is_err());
    }
    let taesd = load(Some(&here("tests/fixtures/taesd"))).unwrap();
    let (latents, [h, w], decoded) = recorded("squares");
    let previewer = taesd.previewer(&cancel).unwrap();
    let preview = previewer.picture(&latents, h, w, &cancel).unwrap();
    assert_eq!((preview.width, preview.height), (8 * w, 8 * h));
    // Its weights are random: what it shows is its own, not the model's.
    assert!(preview != decoded);
    let stop = Cancel::default();
    stop.cancel();
    let stopped = previewer.picture(&latents, h, w, &stop);
    assert!(matches!(stopped, Err(calotype::Error::Cancelled)));
}

#[test]
fn a_preview_vae_of_another_scale_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.safetensors");
    // Without its last upsampling a decoder makes pictures of half the size.
    let all = read(&here(
        "tests/fixtures/taesd/diffusion_pytorch_model.safetensors",
    ));
    let last = |name: &str| {
        let layer = name.strip_prefix("decoder.layers.")?;
        let number: usize = layer.split_once('.')?.0.parse().ok()?;
        match number {
            0..=11 => Some(name.to_string()),
            18 => Some(name.replace(".18.", ".12.")),
            _ => None,
        }
    };
    crate::tensors::write(&path, &crate::tensors::renamed(&all, last), None);
    let refused = load(Some(&path)).err().unwrap().to_string();
    assert!(refused.contains("scale"), "{refused}");
}
