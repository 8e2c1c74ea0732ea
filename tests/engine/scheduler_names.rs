//! What names and options of schedulers stand for.

use calotype::schedule::{self, Config};
use serde_json::{Map, Value, json};

fn options(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn refusal(name: &str, given: Value) -> String {
    let made = schedule::choose(name, &options(given));
    let made = made.and_then(|choice| choice.create(&Config::sdxl()));
    let message = made
        .and_then(|s| s.plan(20))
        .map(|_| "nothing wrong".to_string())
        .unwrap_or_else(|error| error.to_string());
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn names_stand_for_schedulers() {
    let rows = [
        ("Euler", "Euler", json!({})),
        (" EULER ", "Euler", json!({})),
        ("k_euler", "Euler", json!({})),
        ("EulerDiscreteScheduler", "Euler", json!({})),
        ("Euler Karras", "Euler", json!({"sigmas": "karras"})),
        ("euler a", "Euler a", json!({})),
        ("Euler-Ancestral", "Euler a", json!({})),
        ("euler_ancestral", "Euler a", json!({})),
        ("DPM2", "DPM2 Karras", json!({"sigmas": "karras"})),
        ("dpm_2", "DPM2 Karras", json!({"sigmas": "karras"})),
        ("DPM2 Karras", "DPM2 Karras", json!({"sigmas": "karras"})),
        ("dpm2_karras", "DPM2 Karras", json!({"sigmas": "karras"})),
        (
            "DPM2 Exponential",
            "DPM2 Karras",
            json!({"sigmas": "exponential"}),
        ),
        ("DPM2 a", "DPM2 a Karras", json!({"sigmas": "karras"})),
        (
            "dpm_2_ancestral",
            "DPM2 a Karras",
            json!({"sigmas": "karras"}),
        ),
        (
            "DPM2 a Karras",
            "DPM2 a Karras",
            json!({"sigmas": "karras"}),
        ),
        ("LMS Karras", "LMS", json!({"sigmas": "karras"})),
        ("heun beta", "Heun", json!({"sigmas": "beta"})),
        ("ddim", "DDIM", json!({})),
        ("PLMS", "PNDM", json!({"skip_prk_steps": true})),
        ("LCMScheduler", "LCM", json!({})),
        ("tcd", "TCD", json!({})),
    ];
    for (name, proper, implied) in rows {
        let choice = schedule::choose(name, &Map::new()).unwrap();
        assert_eq!(choice.name, proper, "{name}");
        assert_eq!(choice.options, options(implied), "{name}");
        assert_eq!(schedule::canonical_name(name).unwrap(), proper);
    }
    // A choice says all: choosing by it gives it again.
    for info in schedule::list() {
        for name in info.aliases.iter().chain([&info.name]) {
            let choice = schedule::choose(name, &Map::new()).unwrap();
            assert_eq!(choice.name, info.name);
            let again = schedule::choose(choice.name, &choice.options).unwrap();
            assert_eq!(again, choice);
            let made = choice.create(&Config::sdxl()).unwrap();
            assert_eq!(made.name(), info.name);
        }
    }
}

/// A class that stands behind several names is the first of them, and what its file
/// says makes the others.
#[test]
fn classes_are_names() {
    for info in schedule::list() {
        let first = schedule::list()
            .into_iter()
            .find(|other| other.class == info.class)
            .unwrap();
        assert_eq!(schedule::canonical_name(info.class).unwrap(), first.name);
    }
}

#[test]
fn no_name_is_there_twice() {
    let mut seen = std::collections::BTreeMap::new();
    for info in schedule::list() {
        for name in info.aliases.iter().chain([&info.name]) {
            let plain = name.to_lowercase().replace(['_', '-'], " ");
            let other = seen.insert(plain, info.name);
            assert!(other.is_none_or(|other| other == info.name), "{name}");
        }
    }
}

#[test]
fn options_have_short_names_and_may_be_text() {
    let given = json!({"sigmas": "Karras", "spacing": "trailing", "prediction": "v",
                       "steps-offset": "0", "sigma_min": "0.05", "rescale_betas_zero_snr": "true"});
    let choice = schedule::choose("Euler", &options(given)).unwrap();
    let expected = json!({"sigmas": "karras", "timestep_spacing": "trailing",
                          "prediction_type": "v_prediction", "steps_offset": 0, "sigma_min": 0.05,
                          "rescale_betas_zero_snr": true});
    assert_eq!(choice.options, options(expected));
    // diffusers' own keys, and what a request says wins over what the name implies.
    for given in [
        json!({"use_karras_sigmas": false}),
        json!({"sigmas": "trained"}),
    ] {
        let choice = schedule::choose("DPM2 Karras", &options(given)).unwrap();
        assert_eq!(choice.options, options(json!({"sigmas": "trained"})));
    }
    let given = json!({"use_beta_sigmas": true, "use_karras_sigmas": false});
    let choice = schedule::choose("LMS Karras", &options(given)).unwrap();
    assert_eq!(choice.options, options(json!({"sigmas": "beta"})));
}

#[test]
fn what_a_scheduler_has_not_is_refused() {
    let rows = [
        (
            "Euler a",
            json!({"eta": 0.5}),
            "scheduler_options is eta=0.5: Euler a takes only prediction_type",
        ),
        ("Euler", json!({"nonsense": "x"}), "nonsense=x"),
        ("Euler a", json!({"sigmas": "karras"}), "Euler a takes only"),
        ("Euler a Karras", json!({}), "Euler a has no karras sigmas"),
        (
            "DDIM",
            json!({"timesteps": "ays"}),
            "timesteps=ays: DDIM takes only",
        ),
        (
            "DDIM",
            json!({"eta": "2"}),
            "eta=2: allowed is a number from 0 to 1",
        ),
        ("DDIM", json!({"eta": "much"}), "eta=much"),
        (
            "Euler",
            json!({"sigmas": "cosine"}),
            "sigmas=cosine: allowed is one of trained, karras",
        ),
        (
            "Euler",
            json!({"sigmas": "karras", "use_beta_sigmas": true}),
            "a second time",
        ),
        (
            "Euler",
            json!({"timesteps": "100,200"}),
            "timesteps=[100.0,200.0]",
        ),
        ("Euler", json!({"timesteps": "1000"}), "timesteps=1000"),
        (
            "Euler",
            json!({"timesteps": "ays", "sigmas": "karras"}),
            "add sigmas=trained",
        ),
        (
            "Euler",
            json!({"timesteps": "ays", "sigmas": "9,1,0"}),
            "leave one of them out",
        ),
        (
            "Heun",
            json!({"sigmas": "9,1,0"}),
            "takes a curve's name only",
        ),
        ("DDPM", json!({"timesteps": "99.5,3"}), "timesteps=99.5"),
        (
            "DDPM",
            json!({"variance_type": "learned"}),
            "variance_type is learned",
        ),
        (
            "Euler a",
            json!({"prediction": "sample"}),
            "prediction_type is sample: Euler a knows epsilon and v_prediction only",
        ),
        (
            "DDIM",
            json!({"rescale_betas_zero_snr": true, "spacing": "trailing"}),
            "rescale_betas_zero_snr is true",
        ),
        (
            "LCM",
            json!({"original_inference_steps": 10}),
            "steps is 20: must be from 1 to 10",
        ),
        (
            "DDIM",
            json!({"steps_offset": 200}),
            "steps is 20: with steps_offset 200 visits timestep 1150",
        ),
        (
            "Eula",
            json!({}),
            "scheduler is \"Eula\": no such name; did you mean Euler",
        ),
    ];
    for (name, given, expected) in rows {
        let message = refusal(name, given);
        assert!(message.contains(expected), "{expected}\n{message}");
    }
    let few = schedule::create("PNDM", &Config::sdxl()).unwrap();
    assert_eq!(few.plan(2).unwrap().steps.len(), 3);
    let prk = options(json!({"skip_prk_steps": "false"}));
    let prk = schedule::create_with("PNDM", &Config::sdxl(), &prk).unwrap();
    let message = prk.plan(3).unwrap_err().to_string();
    assert!(message.contains("at least 4"), "{message}");
}

/// Ten steps are the authors'; the others lie between them, evenly in the logarithm
/// of the noise level.
#[test]
fn align_your_steps() {
    let ays = options(json!({"timesteps": "ays"}));
    let euler = schedule::create_with("Euler", &Config::sdxl(), &ays).unwrap();
    let ten = [
        999.0, 845.0, 730.0, 587.0, 443.0, 310.0, 193.0, 116.0, 53.0, 13.0,
    ];
    assert_eq!(euler.grid(10).unwrap().timesteps, ten);
    let twenty = euler.grid(20).unwrap();
    let every_second: Vec<f32> = twenty.timesteps.iter().copied().step_by(2).collect();
    assert_eq!(every_second, ten);
    for triple in twenty.sigmas[..19].windows(3).step_by(2) {
        let mean = (triple[0] * triple[2]).sqrt();
        // As near as whole timesteps come.
        assert!((triple[1] / mean - 1.0).abs() < 0.06, "{triple:?}");
    }
    for name in ["Heun", "DDPM", "LCM", "TCD"] {
        let other = schedule::create_with(name, &Config::sdxl(), &ays).unwrap();
        let grid = other.grid(10).unwrap();
        assert_eq!(
            (grid.timesteps[0], *grid.timesteps.last().unwrap()),
            (999.0, 13.0)
        );
    }
    let message = euler.grid(900).unwrap_err().to_string();
    assert!(message.contains("repeat a timestep"), "{message}");
    // An explicit list fixes the number of steps.
    let listed = options(json!({"timesteps": "999, 499.5, 3"}));
    let choice = schedule::choose("Euler", &listed).unwrap();
    let config = choice.config(&Config::sdxl()).unwrap();
    assert_eq!(config.listed_steps(), Some(3));
    let grid = choice.create(&Config::sdxl()).unwrap().grid(25).unwrap();
    assert_eq!(grid.timesteps, [999.0, 499.5, 3.0]);
}

/// A file without a key gives each class its own default.
#[test]
fn classes_have_their_own_defaults() {
    let bare = Config::from_json("scheduler_config.json", &json!({})).unwrap();
    let first = |name: &str| {
        let scheduler = schedule::create(name, &bare).unwrap();
        scheduler.plan(10).unwrap()
    };
    // linspace against leading
    assert_eq!(first("Euler").grid.timesteps[0], 999.0);
    assert_eq!(first("DDIM").grid.timesteps[0], 900.0);
    // clip_sample, which needs a slot
    assert_eq!(first("DDIM").slots(), 1);
    let sdxl = schedule::create("DDIM", &Config::sdxl()).unwrap();
    assert_eq!(sdxl.plan(10).unwrap().slots(), 0);
}

#[test]
fn the_command_lists_them() {
    let list = |args: &[&str]| {
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_calotype"))
            .arg("schedulers")
            .args(args)
            .output()
            .unwrap();
        assert!(program.status.success());
        String::from_utf8(program.stdout).unwrap()
    };
    let text = list(&[]);
    for name in schedule::names() {
        assert!(text.contains(name), "{name}");
    }
    let json: Value = serde_json::from_str(&list(&["--json"])).unwrap();
    let schedulers = json["schedulers"].as_array().unwrap();
    assert_eq!(schedulers.len(), schedule::names().count());
    let known: Vec<_> = json["options"].as_array().unwrap().iter().collect();
    for scheduler in schedulers {
        for option in scheduler["options"].as_array().unwrap() {
            assert!(known.iter().any(|own| own["name"] == *option), "{option}");
        }
    }
}
