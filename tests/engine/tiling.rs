//! The VAE on tiles against the VAE on the whole, with a smooth picture large
//! enough for several tiles.

use calotype::picture::{Format, Picture};
use calotype::pipeline::vae::Coder;
use calotype::pipeline::{Cancel, Dtype, LoadOptions, Pipeline, Tiling};

const H: usize = 96;
const W: usize = 832;

fn load() -> Pipeline {
    let options = LoadOptions {
        model: "demo".into(),
        dtype: Dtype::F32,
        ..Default::default()
    };
    crate::case::load(&options).unwrap()
}

/// Soft waves of colour, planes, -1 to 1.
fn smooth() -> Vec<f32> {
    let at = |c: usize, i: usize| {
        let (y, x) = ((i / W) as f32 / H as f32, (i % W) as f32 / W as f32);
        0.9 * match c {
            0 => (6.0 * x + 2.0 * y).sin(),
            1 => (5.0 * y - 3.0 * x).cos() * 0.8,
            _ => (4.0 * (x - 0.5).hypot(y - 0.4)).sin(),
        }
    };
    (0..3)
        .flat_map(|c| (0..H * W).map(move |i| at(c, i)))
        .collect()
}

fn rms(values: impl Iterator<Item = f32>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, n), v| {
        (sum + f64::from(v).powi(2), n + 1)
    });
    (sum / count as f64).sqrt()
}

fn difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    rms(a.iter().zip(b).map(|(a, b)| a - b))
}

/// The largest jump of the error from one row or column to the next, as a mean
/// along the line: what the eye takes for a seam.
fn worst_step(error: &[f32], h: usize, w: usize) -> f64 {
    let step = |from: usize, to: usize, stride: usize, count: usize| {
        let jumps = error.chunks(h * w).map(|plane| {
            let jump = |k: usize| f64::from(plane[to + k * stride] - plane[from + k * stride]);
            (0..count).map(jump).sum::<f64>().abs()
        });
        jumps.fold(0.0, f64::max) / count as f64
    };
    // The picture's own edges are no seams; what differs there is the padding's.
    let edge = 32;
    let columns = (edge..w - edge).map(|x| step(x - 1, x, w, h));
    let rows = (edge..h - edge).map(|y| step((y - 1) * w, y * w, 1, w));
    columns.chain(rows).fold(0.0, f64::max)
}

fn run(coder: calotype::Result<Coder>, input: &[f32]) -> Vec<f32> {
    coder.unwrap().run(input, &Cancel::default()).unwrap()
}

#[test]
fn tiles_are_the_whole() {
    let pipeline = load();
    let size = [H, W];
    let small = [H / 8, W / 8];
    let (whole, tiled) = (pipeline.vae(Tiling::Never), pipeline.vae(Tiling::Always));

    let moments = run(whole.encoder(size), &smooth());
    let by_tiles = run(tiled.encoder(size), &smooth());
    // The first half of the moments is the mean, which is all that is used.
    let mean = |m: &[f32]| m[..m.len() / 2].to_vec();
    let (mean_whole, mean_tiled) = (mean(&moments), mean(&by_tiles));
    let encoded = difference(&mean_tiled, &mean_whole) / rms(mean_whole.iter().copied());
    println!("encoder: relative difference {encoded:.2e}");

    let decoded = run(whole.decoder(small), &mean_whole);
    let by_tiles = run(tiled.decoder(small), &mean_whole);
    let decibels = 20.0 * (2.0 / difference(&by_tiles, &decoded)).log10();
    println!("decoder: {decibels:.1} dB");
    let error: Vec<f32> = by_tiles.iter().zip(&decoded).map(|(a, b)| a - b).collect();
    let seam = worst_step(&error, H, W);
    println!("largest step of the error from line to line: {seam:.2e}");
    if let Some(folder) = std::env::var_os("CALOTYPE_TEST_PICTURES") {
        for (name, values) in [("whole.png", &decoded), ("tiled.png", &by_tiles)] {
            let picture = Picture::from_planar(W, H, values).unwrap();
            let bytes = Format::Png.encode(&picture, None).unwrap();
            std::fs::write(std::path::Path::new(&folder).join(name), bytes).unwrap();
        }
    }
    // More than one tile, or there is nothing to compare.
    assert!(decibels.is_finite() && encoded > 0.0);
    assert!(decibels >= 40.0);
    assert!(encoded <= 0.05);
    // Less than a quarter of a step of an 8-bit picture.
    assert!(seam <= 0.25 * 2.0 / 255.0);
}
