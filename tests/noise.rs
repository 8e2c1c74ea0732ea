//! `torch.randn` on the CPU, against what PyTorch drew
//! (`tools/make_noise_fixture.py`).

use calotype::schedule::{NoiseGenerator, TorchCpuGenerator};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    seed: u64,
    draws: Vec<Draw>,
}

#[derive(Deserialize)]
struct Draw {
    n: usize,
    first: Vec<f64>,
    last: Vec<f64>,
    mean: f64,
    mean_abs: f64,
}

const TOLERANCE: f64 = 1e-6;

fn largest_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - b).abs());
    differences.fold(0.0, f64::max)
}

fn check(seed: u64, draw: &Draw, found: &[f32]) -> f64 {
    let (n, what) = (draw.n as f64, format!("seed {seed}, {} values", draw.n));
    let first = largest_difference(&found[..draw.first.len()], &draw.first);
    let last = largest_difference(&found[draw.n - draw.last.len()..], &draw.last);
    let mean = found.iter().copied().map(f64::from).sum::<f64>() / n;
    let mean_abs = found.iter().map(|x| f64::from(x.abs())).sum::<f64>() / n;
    let worst = [
        first,
        last,
        (mean - draw.mean).abs(),
        (mean_abs - draw.mean_abs).abs(),
    ]
    .into_iter()
    .fold(0.0, f64::max);
    assert!(worst <= TOLERANCE, "{what}: off by {worst:e}");
    worst
}

#[test]
fn numbers_are_torchs() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/randn.json")).unwrap();
    let mut worst: f64 = 0.0;
    for case in &fixture.cases {
        let mut generator = TorchCpuGenerator::new(case.seed);
        for draw in &case.draws {
            worst = worst.max(check(case.seed, draw, &generator.randn(draw.n)));
        }
    }
    println!(
        "{} cases, largest difference {worst:e}",
        fixture.cases.len()
    );
}

#[test]
fn only_the_low_32_bits_of_a_seed_count() {
    let draw = |seed| TorchCpuGenerator::new(seed).randn(64);
    assert_eq!(draw(5), draw((1 << 32) + 5));
    assert_ne!(draw(5), draw(6));
}
