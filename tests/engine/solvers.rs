//! Every solver against diffusers: timesteps, noise levels, draws of noise and the
//! latents after a run with a toy for a UNet (`tools/make_solver_fixture.py`). With
//! models that were trained over noise levels some of them against k-diffusion.
//!
//! `SOLVER_CASES` names another file of cases, such as the tool makes by chance.

use calotype::schedule::{self, Config, Grid, NoiseGenerator, State, TorchCpuGenerator};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Fixture {
    file: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    class: String,
    file: Option<Value>,
    options: Map<String, Value>,
    steps: usize,
    begin: usize,
    init: f64,
    timesteps: Vec<f64>,
    sigmas: Option<Vec<f64>>,
    draws: String,
    latents: Vec<f64>,
}

const COUNT: usize = 16;

fn fixture() -> Fixture {
    let text = match std::env::var_os("SOLVER_CASES") {
        Some(path) => std::fs::read_to_string(path).unwrap(),
        None => include_str!("../fixtures/solvers.json").to_string(),
    };
    serde_json::from_str(&text).unwrap()
}

/// Runs with models that were trained over noise levels.
#[test]
fn runs_over_noise_levels_are_diffusers() {
    let fixture: Fixture = serde_json::from_str(include_str!("../fixtures/edm.json")).unwrap();
    for case in &fixture.cases {
        let config = Config::from_json("scheduler_config.json", case.file.as_ref().unwrap());
        let config = config.unwrap();
        assert!(config.edm.is_some() && config.is_continuous());
        let (grid, _, _) = run(case, &config);
        // The UNet is told the logarithm of the level: small numbers.
        for (ours, theirs) in grid.timesteps.iter().zip(&case.timesteps) {
            assert!((f64::from(*ours) - theirs).abs() <= 2e-6, "{ours} {theirs}");
        }
    }
    compare(&fixture);
}

fn places(value: fn(f64) -> f64) -> Vec<f64> {
    (0..COUNT).map(|i| value(i as f64)).collect()
}

/// The latents after a run, and at which steps noise was drawn.
fn run(case: &Case, config: &Config) -> (Grid, Vec<f64>, String) {
    let scheduler = schedule::create_with(&case.class, config, &case.options).unwrap();
    let grid = scheduler.grid(case.steps).unwrap();
    let steps = scheduler.steps(&grid, case.begin..grid.timesteps.len());
    let (start, noise) = (
        places(|i| (1.7 * i + 0.3).sin()),
        places(|i| (2.3 * i).cos()),
    );
    let mut state = State::new(match case.begin {
        0 => start
            .iter()
            .map(|x| x * f64::from(grid.init_noise_sigma))
            .collect(),
        _ => {
            let mix = steps[0].mix;
            let pairs = start.iter().zip(&noise);
            pairs
                .map(|(x, n)| x * mix.original + n * mix.noise)
                .collect()
        }
    });
    let mut generator = TorchCpuGenerator::new(0);
    let mut draws = String::new();
    for step in &steps {
        let t = f64::from(step.timestep);
        let input = state.model_input(step);
        let output: Vec<f64> = (0..COUNT)
            .map(|i| 0.5 * input[i] + 0.5 * (i as f64 + t / 100.0).cos())
            .collect();
        let noise = match step.draws_noise {
            true => generator.randn(COUNT),
            false => Vec::new(),
        };
        draws.push(if step.draws_noise { '1' } else { '0' });
        let noise: Vec<f64> = noise.into_iter().map(f64::from).collect();
        state.advance(step, &output, &noise);
        assert!(step.slots() <= schedule::MOST_SLOTS, "{}", case.class);
        assert!(step.store.len() <= schedule::MOST_STORES, "{}", case.class);
    }
    (grid, state.sample, draws)
}

fn highest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, |most, x| x.abs().max(most))
}

#[test]
fn runs_are_diffusers() {
    compare(&fixture());
}

fn compare(fixture: &Fixture) {
    let (mut worst, mut wrong) = (0.0f64, Vec::new());
    let mut worst_time = 0.0f64;
    for case in &fixture.cases {
        let file = case.file.as_ref().unwrap_or(&fixture.file);
        let mut config = Config::from_json("scheduler_config.json", file).unwrap();
        if case.class == "TCDScheduler" {
            // The class's own default; ours is what the pipelines pass, 0.
            config.eta = config.eta.or(Some(0.3));
        }
        let (grid, latents, draws) = run(case, &config);
        let what = format!(
            "{} {:?}, {} steps from {}{}",
            case.class,
            case.options,
            case.steps,
            case.begin,
            if case.file.is_some() {
                ", own file"
            } else {
                ""
            }
        );
        assert_eq!(grid.timesteps.len(), case.timesteps.len(), "{what}");
        let times = grid.timesteps.iter().zip(&case.timesteps);
        let off = highest(times.map(|(a, b)| f64::from(*a) - b));
        worst_time = worst_time.max(off);
        if let Some(sigmas) = &case.sigmas {
            assert_eq!(grid.sigmas.len(), sigmas.len(), "{what}");
            let pairs = grid.sigmas.iter().zip(sigmas);
            let off = highest(pairs.map(|(a, b)| (f64::from(*a) - b) / b.max(1e-9)));
            assert!(off <= 2e-6, "{what}: sigmas off by {off:e}");
        } else {
            assert!(grid.sigmas.is_empty(), "{what}");
        }
        let init = f64::from(grid.init_noise_sigma);
        assert!((init / case.init - 1.0).abs() <= 2e-6, "{what}: {init}");
        let size = highest(case.latents.iter().copied()).max(1.0);
        let pairs = latents.iter().zip(&case.latents);
        let error = highest(pairs.map(|(a, b)| if (a - b).is_nan() { 1e9 } else { a - b })) / size;
        worst = worst.max(error);
        if draws != case.draws || error > 1e-4 || off > 2e-3 {
            wrong.push(format!(
                "{what}: latents off by {error:e}, timesteps by {off:e}, drew {draws} for {}",
                case.draws
            ));
        }
    }
    println!(
        "{} cases; latents off by at most {worst:e} of the largest, timesteps by {worst_time:e}",
        fixture.cases.len()
    );
    assert!(
        wrong.is_empty(),
        "{} wrong\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
