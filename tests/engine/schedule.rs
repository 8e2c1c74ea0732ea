//! Schedulers against diffusers: recorded timesteps and sigmas
//! (`tools/make_schedule_fixture.py`), and the sums of diffusers' own tests.

use calotype::schedule::{self, Config, State};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Fixture {
    base: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    changes: Map<String, Value>,
    steps: usize,
    init_noise_sigma: f64,
    calls: usize,
    indices: Option<Vec<usize>>,
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
    after: Vec<f64>,
}

fn relative(found: f32, expected: f64) -> f64 {
    (f64::from(found) - expected).abs() / expected.abs().max(1e-12)
}

#[test]
fn timesteps_and_sigmas_are_diffusers() {
    let fixture: Fixture =
        serde_json::from_str(include_str!("../fixtures/schedules.json")).unwrap();
    let mut worst = (0.0f64, 0.0f64);
    for case in &fixture.cases {
        let mut object = fixture.base.clone();
        object.extend(case.changes.clone());
        let config = Config::from_json("scheduler_config.json", &Value::Object(object)).unwrap();
        let grid = schedule::create("euler", &config)
            .unwrap()
            .grid(case.steps)
            .unwrap();
        let what = format!("{:?}, {} steps", case.changes, case.steps);

        assert_eq!(grid.timesteps.len(), case.calls, "{what}");
        assert_eq!(grid.sigmas.len(), case.calls + case.after.len(), "{what}");
        let indices = case
            .indices
            .clone()
            .unwrap_or_else(|| (0..case.calls).collect());
        let computed = object_has_fractions(&case.changes);
        for (i, (t, sigma)) in indices.iter().zip(case.timesteps.iter().zip(&case.sigmas)) {
            let off = f64::from((grid.timesteps[*i] - *t as f32).abs());
            // Timesteps found from noise levels go through f32 logarithms.
            let allowed = if computed { 2e-4 } else { 0.0 };
            assert!(
                off <= allowed,
                "{what}: timestep {i}: {} {t}",
                grid.timesteps[*i]
            );
            let level = relative(grid.sigmas[*i], *sigma);
            assert!(
                level <= 1e-6,
                "{what}: sigma {i}: {} {sigma}",
                grid.sigmas[*i]
            );
            worst = (worst.0.max(off), worst.1.max(level));
        }
        for (found, expected) in grid.sigmas[case.calls..].iter().zip(&case.after) {
            assert!(relative(*found, *expected) <= 1e-6, "{what}");
        }
        assert!(
            relative(grid.init_noise_sigma, case.init_noise_sigma) <= 1e-6,
            "{what}"
        );
    }
    println!(
        "{} cases; timesteps off by at most {:e}, sigmas by {:e}",
        fixture.cases.len(),
        worst.0,
        worst.1
    );
}

fn object_has_fractions(changes: &Map<String, Value>) -> bool {
    changes.keys().any(|key| key.ends_with("_sigmas"))
        || changes.get("timestep_type") == Some(&json!("continuous"))
}

/// Loop A of diffusers' scheduler tests. Entry `i` of the sample is `i/768`; the
/// model is `x·t/(t+1)`; the *scaled* sample goes into the step.
fn loop_a(changes: Value, start: Option<usize>) -> f64 {
    let mut object = json!({"num_train_timesteps": 1100, "beta_start": 0.0001, "beta_end": 0.02});
    let extra = changes.as_object().unwrap().clone();
    object.as_object_mut().unwrap().extend(extra);
    let config = Config::from_json("scheduler_config.json", &object).unwrap();
    let scheduler = schedule::create("Euler", &config).unwrap();
    let grid = scheduler.grid(10).unwrap();
    let steps = scheduler.steps(&grid, start.unwrap_or(0)..grid.timesteps.len());
    let sample = (0..768)
        .map(|i| f64::from(i) / 768.0 * f64::from(grid.init_noise_sigma))
        .collect();
    let mut state = State::new(sample);
    if start.is_some() {
        let mix = steps[0].mix;
        for (i, x) in state.sample.iter_mut().enumerate() {
            *x = *x * mix.original + (767 - i) as f64 / 768.0 * mix.noise;
        }
    }
    for step in &steps {
        state.sample = state.model_input(step);
        let t = f64::from(step.timestep);
        let output: Vec<f64> = state.sample.iter().map(|x| x * t / (t + 1.0)).collect();
        state.advance(step, &output, &[]);
    }
    state.sample.iter().map(|x| x.abs()).sum()
}

#[test]
fn sums_of_diffusers_tests_hold() {
    let rows = [
        ("epsilon", json!({}), None, 10.0807, 1e-2),
        (
            "v",
            json!({"prediction_type": "v_prediction"}),
            None,
            // Published as 0.0002 within 1e-2; this is what diffusers computes.
            2.41815e-10,
            1e-14,
        ),
        (
            "Karras",
            json!({"use_karras_sigmas": true}),
            None,
            124.5230,
            1e-2,
        ),
        ("noise", json!({}), Some(8), 57062.9297, 1.0),
    ];
    for (name, changes, start, expected, tolerance) in rows {
        let sum = loop_a(changes, start);
        println!("{name}: {sum:.6}, published {expected}");
        assert!(
            (sum - expected).abs() <= tolerance,
            "{name}: {sum} {expected}"
        );
    }
}

#[test]
fn sample_prediction_reaches_the_sample() {
    let config = Config::from_json("c.json", &json!({"prediction_type": "sample"})).unwrap();
    let plan = schedule::create("euler", &config).unwrap().plan(4).unwrap();
    let mut state = State::new(vec![3.0, -2.0]);
    for step in &plan.steps {
        state.advance(step, &[0.25, 0.5], &[]);
    }
    assert!(
        state
            .sample
            .iter()
            .zip([0.25, 0.5])
            .all(|(a, b)| (a - b).abs() < 1e-12)
    );
    assert_eq!(plan.slots(), 0);
}

#[test]
fn a_part_of_the_run_is_that_part() {
    let euler = schedule::create("euler", &Config::sdxl()).unwrap();
    let whole = euler.plan(25).unwrap();
    let grid = euler.grid(25).unwrap();
    assert_eq!(euler.steps(&grid, 20..25), whole.steps[20..]);
    assert_eq!(euler.steps(&grid, 20..99), whole.steps[20..]);
    assert!(euler.steps(&grid, 30..40).is_empty());
}

#[test]
fn bad_values_are_named() {
    let read = |value: Value| match Config::from_json("a/scheduler_config.json", &value) {
        Ok(config) => schedule::create("euler", &config)
            .and_then(|s| s.plan(20))
            .unwrap_err()
            .to_string(),
        Err(error) => error.to_string(),
    };
    let bad = [
        (json!({"beta_start": -1}), "beta_start is -1"),
        (
            json!({"beta_schedule": "cubic"}),
            "beta_schedule is \"cubic\"",
        ),
        (
            json!({"num_train_timesteps": -5}),
            "num_train_timesteps is -5",
        ),
        (json!({"num_train_timesteps": 10}), "steps is 20"),
        (
            json!({"num_train_timesteps": 1e300}),
            "num_train_timesteps is 1e",
        ),
        (json!({"trained_betas": [0.1, 2.0]}), "trained_betas is 2.0"),
        (
            json!({"trained_betas": [0.1, 0.2]}),
            "trained_betas is 2 numbers",
        ),
        (json!({"steps_offset": 1.5}), "steps_offset is 1.5"),
        (
            json!({"use_karras_sigmas": true, "use_beta_sigmas": true}),
            "use_beta_sigmas is true",
        ),
        (
            json!({"use_karras_sigmas": "yes"}),
            "use_karras_sigmas is \"yes\"",
        ),
        (
            json!({"beta_end": 0.999, "beta_start": 0.99}),
            "beta_end is 0.999",
        ),
        (json!([1, 2]), "is not a JSON object"),
    ];
    for (value, named) in bad {
        let message = read(value);
        assert!(message.contains(named), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    let unknown = schedule::create("nope", &Config::default()).err().unwrap();
    let message = unknown.to_string();
    assert!(
        message.starts_with("scheduler is \"nope\": choose one of DDIM, DDPM, "),
        "{message}"
    );
}
