//! AUTOMATIC1111's samplers and schedule types against k-diffusion, every pair: noise
//! levels and the latents after a run with a toy for a UNet
//! (`tools/make_k_diffusion_fixture.py`).

use calotype::schedule::automatic1111::{self, SAMPLERS, SCHEDULES, Wish};
use calotype::schedule::{self, Config, State};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Fixture {
    levels: Vec<Vec<f64>>,
    cases: Vec<Case>,
    automatic: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Case {
    sampler: String,
    schedule: String,
    steps: usize,
    prediction: String,
    levels: usize,
    latents: Vec<f64>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/k_diffusion.json")).unwrap()
}

/// Levels, each once.
fn levels(sigmas: &[f32], order: usize) -> Vec<f64> {
    let mut all: Vec<f64> = sigmas.iter().map(|s| f64::from(*s)).collect();
    if order > 1 {
        all.dedup();
    }
    all
}

/// How far levels and latents are off: the levels as a share of each, the latents of
/// the largest or of 1.
fn compare(case: &Case, wanted: &[f64]) -> (f64, f64) {
    let sampling =
        automatic1111::choose(Some(&case.sampler), Some(&case.schedule), Wish::default()).unwrap();
    assert_eq!(sampling.warnings, [""; 0]);
    let mut options = sampling.options;
    options.insert("prediction_type".into(), json!(case.prediction));
    let choice = schedule::choose(&sampling.name, &options).unwrap();
    let solver = choice.create(&Config::sdxl()).unwrap();
    let plan = solver.plan(case.steps).unwrap();
    let found = levels(&plan.grid.sigmas, solver.order());
    assert_eq!(
        found.len(),
        wanted.len(),
        "{} {}",
        case.sampler,
        case.schedule
    );
    let pairs = found.iter().zip(wanted);
    let off = pairs
        .map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() / b })
        .fold(0.0, f64::max);

    let count = case.latents.len();
    let places = || (0..count).map(|i| i as f64);
    let first = f64::from(plan.grid.init_noise_sigma);
    let start = places().map(|i| (1.7 * i + 0.3).sin() * first).collect();
    let mut state = State::new(start);
    let mut drawn = 0;
    for step in &plan.steps {
        let t = f64::from(step.timestep);
        let input = state.model_input(step);
        let output: Vec<f64> = places()
            .zip(input)
            .map(|(i, x)| 0.5 * x + 0.5 * (i + t / 100.0).cos())
            .collect();
        let mut noise = Vec::new();
        if step.draws_noise {
            noise = places()
                .map(|i| (2.3 * i + 0.9 * f64::from(drawn) + 0.4).cos())
                .collect();
            drawn += 1;
        }
        state.advance(step, &output, &noise);
    }
    let size = case
        .latents
        .iter()
        .fold(1.0, |most: f64, x| most.max(x.abs()));
    let pairs = state.sample.iter().zip(&case.latents);
    let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / size;
    (off, error)
}

#[test]
fn every_pair_is_k_diffusions() {
    let fixture = fixture();
    let mut table: BTreeMap<(&str, &str), (f64, f64)> = BTreeMap::new();
    for case in &fixture.cases {
        let (levels, latents) = compare(case, &fixture.levels[case.levels]);
        let worst = table.entry((&case.sampler, &case.schedule)).or_default();
        *worst = (worst.0.max(levels), worst.1.max(latents));
    }
    let schedules = || SCHEDULES[1..].iter().map(|row| row.label);
    println!(
        "| sampler | {} |",
        schedules().collect::<Vec<_>>().join(" | ")
    );
    let mut pairs = 0;
    for sampler in SAMPLERS.iter().filter(|row| row.automatic.is_some()) {
        let cells = schedules().map(|schedule| {
            pairs += 1;
            let (levels, latents) = table[&(sampler.label, schedule)];
            format!("{levels:.0e}, {latents:.0e}")
        });
        println!(
            "| {} | {} |",
            sampler.label,
            cells.collect::<Vec<_>>().join(" | ")
        );
    }
    assert_eq!(table.len(), pairs);
    for (pair, (levels, latents)) in table {
        assert!(levels <= 1e-6, "{pair:?}: levels off by {levels:e}");
        assert!(latents <= 1e-4, "{pair:?}: latents off by {latents:e}");
    }
}

#[test]
fn automatic_is_what_that_program_takes() {
    for (sampler, schedule) in fixture().automatic {
        let chosen = |kind| automatic1111::choose(Some(&sampler), Some(kind), Wish::default());
        let (automatic, named) = (chosen("Automatic").unwrap(), chosen(&schedule).unwrap());
        assert_eq!(automatic.options, named.options, "{sampler}");
        assert!(automatic.automatic && !named.automatic, "{sampler}");
    }
}
