//! `torch.randn` on the CPU, against what PyTorch drew
//! (`tools/make_noise_fixture.py`), and on CUDA, against a numpy port
//! (`tools/make_philox_fixture.py`).

use calotype::schedule::{NoiseGenerator, PhiloxGenerator, TorchCpuGenerator};
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
    let fixture: Fixture = serde_json::from_str(include_str!("../fixtures/randn.json")).unwrap();
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

#[derive(Deserialize)]
struct PhiloxFixture {
    cases: Vec<PhiloxCase>,
}

#[derive(Deserialize)]
struct PhiloxCase {
    seed: u64,
    draws: Vec<PhiloxDraw>,
}

#[derive(Deserialize)]
struct PhiloxDraw {
    n: usize,
    first: Vec<f64>,
    last: Vec<f64>,
}

#[test]
fn numbers_are_cudas() {
    let fixture: PhiloxFixture =
        serde_json::from_str(include_str!("../fixtures/philox.json")).unwrap();
    let mut worst: f64 = 0.0;
    for case in &fixture.cases {
        let mut generator = PhiloxGenerator::new(case.seed);
        for draw in &case.draws {
            let found = generator.randn(draw.n);
            let (first, last) = (&draw.first, &draw.last);
            worst = worst
                .max(largest_difference(&found[..first.len()], first))
                .max(largest_difference(&found[draw.n - last.len()..], last));
            assert!(worst <= TOLERANCE, "seed {}: off by {worst:e}", case.seed);
        }
    }
    println!(
        "{} cases, largest difference {worst:e}",
        fixture.cases.len()
    );
    // What CUDA devices draw.
    let device = [-0.92466, -0.42534, -2.64385, 0.14518, -0.12087, -0.57973];
    let found = PhiloxGenerator::new(0).randn(6);
    assert!(largest_difference(&found, &device) <= 6e-6, "{found:?}");
}
