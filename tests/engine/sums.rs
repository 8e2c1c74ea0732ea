//! The sums that diffusers' own tests of its schedulers publish.

use calotype::schedule::{self, Config, NoiseGenerator, State, TorchCpuGenerator};
use serde_json::{Map, Value, json};

const COUNT: usize = 768;

/// How a loop of those tests goes.
#[derive(Clone, Copy, PartialEq)]
enum Loop {
    /// 1100 training timesteps; the *scaled* latents go into the step.
    A,
    /// 1000 training timesteps; nothing is scaled.
    B,
    /// The same with SDXL's variances.
    Distilled,
}

impl Loop {
    fn config(self) -> Value {
        match self {
            Loop::A => {
                json!({"num_train_timesteps": 1100, "beta_start": 0.0001, "beta_end": 0.02,
                           "beta_schedule": "linear"})
            }
            Loop::B => {
                json!({"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02,
                           "beta_schedule": "linear"})
            }
            Loop::Distilled => {
                json!({"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
                                   "beta_schedule": "scaled_linear"})
            }
        }
    }
}

/// Noise of the shape `(4, 3, 8, 8)`, in the order of the samples: entry
/// `((c·8 + h)·8 + w)·4 + b` is that of `[b, c, h, w]`.
fn noise(generator: &mut TorchCpuGenerator) -> Vec<f64> {
    let drawn = generator.randn(COUNT);
    (0..COUNT)
        .map(|i| f64::from(drawn[i % 4 * 192 + i / 4]))
        .collect()
}

fn sum(how: Loop, name: &str, options: &Value, steps: usize, start: Option<usize>) -> f64 {
    let config = Config::from_json("scheduler_config.json", &how.config()).unwrap();
    let options: &Map<String, Value> = options.as_object().unwrap();
    let scheduler = schedule::create_with(name, &config, options).unwrap();
    let grid = scheduler.grid(steps).unwrap();
    let first = start.unwrap_or(0) * scheduler.order();
    let steps = scheduler.steps(&grid, first..grid.timesteps.len());
    let sigma = f64::from(grid.init_noise_sigma);
    let mut state = State::new((0..COUNT).map(|i| i as f64 / 768.0 * sigma).collect());
    if start.is_some() {
        let mix = steps[0].mix;
        for (i, x) in state.sample.iter_mut().enumerate() {
            *x = *x * mix.original + (767 - i) as f64 / 768.0 * mix.noise;
        }
    }
    let mut generator = TorchCpuGenerator::new(0);
    for step in &steps {
        if how == Loop::A {
            state.sample = state.model_input(step);
        }
        let t = f64::from(step.timestep);
        let output: Vec<f64> = state.sample.iter().map(|x| x * t / (t + 1.0)).collect();
        let noise = match step.draws_noise {
            true => noise(&mut generator),
            false => Vec::new(),
        };
        state.advance(step, &output, &noise);
    }
    state.sample.iter().map(|x| x.abs()).sum()
}

/// One published sum: the loop, the scheduler, its options, steps, the first step
/// kept, the sum and how far off it may be.
type Row = (Loop, &'static str, Value, usize, Option<usize>, f64, f64);

fn check(rows: Vec<Row>) {
    for (how, name, options, steps, start, expected, tolerance) in rows {
        let found = sum(how, name, &options, steps, start);
        println!("{name} {options} {start:?}: {found:.5}, published {expected}");
        // Theirs are in float32.
        let tolerance = tolerance.max(5e-5 * expected);
        assert!(
            (found - expected).abs() <= tolerance,
            "{name} {options} {start:?}: {found} {expected}"
        );
    }
}

fn v() -> Value {
    json!({"prediction_type": "v_prediction"})
}

#[test]
fn over_noise_levels() {
    use Loop::A;
    let (none, karras) = (json!({}), json!({"sigmas": "karras"}));
    let trained = json!({"sigmas": "trained"});
    let trained_v = json!({"sigmas": "trained", "prediction": "v"});
    check(vec![
        (A, "Euler a", none.clone(), 10, None, 152.3192, 1e-2),
        (A, "Euler a", v(), 10, None, 108.4439, 1e-2),
        (A, "Euler a", none.clone(), 10, Some(8), 56163.0508, 1e-2),
        (A, "Heun", none.clone(), 10, None, 0.1233, 1e-2),
        (A, "Heun", karras.clone(), 10, None, 0.00015, 1e-5),
        (A, "Heun", none.clone(), 10, Some(8), 75074.8906, 1e-2),
        (A, "LMS", none.clone(), 10, None, 1006.388, 1e-2),
        (A, "LMS", karras, 10, None, 3812.9927, 2e-2),
        (A, "LMS", none, 10, Some(8), 27663.6895, 1e-2),
        (A, "DPM2", trained.clone(), 10, None, 20.4125, 1e-2),
        (A, "DPM2", trained.clone(), 10, Some(8), 70408.4062, 1e-2),
        (A, "DPM2 a", trained.clone(), 10, None, 13979.9433, 1e-2),
        (A, "DPM2 a", trained_v, 10, None, 331.8133, 1e-2),
        (A, "DPM2 a", trained, 10, Some(8), 93087.3437, 1e-2),
    ]);
}

#[test]
fn over_timesteps() {
    use Loop::B;
    let none = json!({});
    let one = |to_one: bool| json!({"beta_start": 0.01, "set_alpha_to_one": to_one});
    check(vec![
        (B, "DDIM", none.clone(), 10, None, 172.0067, 1e-2),
        (B, "DDIM", v(), 10, None, 52.5302, 1e-2),
        (B, "DDIM", one(true), 10, None, 149.8295, 1e-2),
        (B, "DDIM", one(false), 10, None, 149.0784, 1e-2),
        (B, "DDIM", none.clone(), 10, Some(8), 354.5418, 1e-2),
        (B, "DDPM", none.clone(), 1000, None, 258.9606, 1e-2),
        (B, "DDPM", v(), 1000, None, 202.0296, 1e-2),
        (B, "DDPM", none.clone(), 1000, Some(998), 387.9466, 1e-2),
        (B, "PNDM", none, 10, None, 198.1318, 1e-2),
        (B, "PNDM", v(), 10, None, 67.3986, 1e-2),
        (B, "PNDM", one(true), 10, None, 230.0399, 1e-2),
        (B, "PNDM", one(false), 10, None, 186.9482, 1e-2),
    ]);
}

#[test]
fn of_consistency_models() {
    use Loop::Distilled;
    let (none, eta) = (json!({}), json!({"eta": 0}));
    check(vec![
        (Distilled, "LCM", none.clone(), 1, None, 18.7097, 1e-3),
        (Distilled, "LCM", none, 10, None, 197.7616, 1e-3),
        (Distilled, "TCD", eta.clone(), 1, None, 29.8715, 1e-3),
        (Distilled, "TCD", eta, 10, None, 181.2040, 1e-3),
    ]);
}

/// diffusers publishes `_get_variance` at these, which with `eta` 1 is the square of
/// the noise's factor.
#[test]
fn ddims_variances() {
    let config = Config::from_json("scheduler_config.json", &Loop::B.config()).unwrap();
    let options = json!({"eta": 1.0});
    let ddim = schedule::create_with("DDIM", &config, options.as_object().unwrap()).unwrap();
    for (steps, timestep, expected) in [
        (50, 420.0, 0.14771),
        (50, 980.0, 0.32460),
        (1000, 487.0, 0.00979),
        (1000, 999.0, 0.02),
    ] {
        let plan = ddim.plan(steps).unwrap();
        let step = plan.steps.iter().find(|step| step.timestep == timestep);
        let variance = step.unwrap().update.noise.powi(2);
        assert!(
            (variance - expected).abs() <= 1e-5,
            "{timestep}: {variance}"
        );
    }
}
