//! What a request may say about a scheduler: its options, as `key=value`.

use super::class::Class;
use super::config::Config;
use crate::{Error, Field, Result};
use serde::Serialize;
use serde_json::{Map, Value};

/// The field that errors name.
pub(super) const FIELD: Field = Field::SchedulerOptions;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Flag,
    Number,
    Numbers,
    Name,
    NameOrNumbers,
}

/// An option that some scheduler takes.
#[derive(Debug, Clone, Serialize)]
pub struct OptionInfo {
    /// As diffusers names it.
    pub name: &'static str,
    /// What its value may be.
    pub values: &'static str,
    /// A shorter name, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short: Option<&'static str>,
    #[serde(skip)]
    kind: Kind,
}

const fn option(name: &'static str, kind: Kind, values: &'static str) -> OptionInfo {
    OptionInfo {
        name,
        values,
        short: None,
        kind,
    }
}

const fn short(info: OptionInfo, short: &'static str) -> OptionInfo {
    OptionInfo {
        short: Some(short),
        ..info
    }
}

/// Every option: one line each.
#[rustfmt::skip]
const OPTIONS: &[OptionInfo] = &[
    short(option("prediction_type", Kind::Name, "epsilon, v_prediction (or v), sample"), "prediction"),
    short(option("timestep_spacing", Kind::Name, "leading, trailing, linspace"), "spacing"),
    option("steps_offset", Kind::Number, "a count of timesteps"),
    option("sigmas", Kind::NameOrNumbers, "trained, karras, exponential, beta; Euler also takes falling levels, such as 14.6,2.9,0"),
    option("sigma_min", Kind::Number, "a noise level"),
    option("sigma_max", Kind::Number, "a noise level"),
    option("final_sigmas_type", Kind::Name, "zero, sigma_min"),
    option("timesteps", Kind::NameOrNumbers, "ays (Align Your Steps), or falling timesteps, such as 999,749,499,249"),
    option("schedule_type", Kind::Name, "as AUTOMATIC1111 computes it: uniform, karras, exponential, polyexponential, sgm_uniform, kl_optimal, align_your_steps, simple, normal, ddim, beta, turbo"),
    option("discard_next_to_last_sigma", Kind::Flag, "true, false"),
    option("rescale_betas_zero_snr", Kind::Flag, "true, false"),
    option("timestep_type", Kind::Name, "discrete, continuous"),
    option("interpolation_type", Kind::Name, "linear, log_linear"),
    option("eta", Kind::Number, "share of fresh noise, 0 to 1"),
    option("clip_sample", Kind::Flag, "true, false"),
    option("clip_sample_range", Kind::Number, "above 0"),
    option("thresholding", Kind::Flag, "true, false"),
    option("dynamic_thresholding_ratio", Kind::Number, "0 to 1"),
    option("sample_max_value", Kind::Number, "above 0"),
    option("set_alpha_to_one", Kind::Flag, "true, false"),
    option("skip_prk_steps", Kind::Flag, "true, false"),
    option("variance_type", Kind::Name, "fixed_small, fixed_small_log, fixed_large, fixed_large_log"),
    option("original_inference_steps", Kind::Number, "steps of the distillation, such as 50"),
    option("timestep_scaling", Kind::Number, "above 0"),
    option("solver_order", Kind::Number, "1 to 3"),
    option("algorithm_type", Kind::Name, "dpmsolver, dpmsolver++, sde-dpmsolver, sde-dpmsolver++"),
    option("solver_type", Kind::Name, "midpoint, heun; of UniPC bh1, bh2"),
    option("lower_order_final", Kind::Flag, "true, false"),
    option("euler_at_final", Kind::Flag, "true, false"),
    option("use_lu_lambdas", Kind::Flag, "true, false"),
    option("lambda_min_clipped", Kind::Number, "a logarithm of a signal-to-noise ratio"),
    option("predict_x0", Kind::Flag, "true, false"),
    option("disable_corrector", Kind::Numbers, "indices of steps"),
    option("noise_sampler_seed", Kind::Number, "a seed of torchsde's Brownian tree"),
    option("num_train_timesteps", Kind::Number, "1 to 100000"),
    option("beta_start", Kind::Number, "between 0 and 1"),
    option("beta_end", Kind::Number, "between 0 and 1"),
    option("beta_schedule", Kind::Name, "linear, scaled_linear, squaredcos_cap_v2, exp, sigmoid, laplace"),
    option("trained_betas", Kind::Numbers, "numbers between 0 and 1"),
];

/// diffusers' three flags for what is one option here.
const CURVES: [(&str, &str); 3] = [
    ("use_karras_sigmas", "karras"),
    ("use_exponential_sigmas", "exponential"),
    ("use_beta_sigmas", "beta"),
];

/// What options there are, whichever scheduler takes them.
pub fn options() -> &'static [OptionInfo] {
    OPTIONS
}

/// A request's options by their full names, with values of their types, checked
/// against what `class` takes. Strings may stand for numbers, flags and lists.
///
/// An option that the class has not is [`Error::Invalid`] and lists those it has.
pub(super) fn checked(class: &Class, given: &Map<String, Value>) -> Result<Map<String, Value>> {
    let mut found = Map::new();
    for (key, value) in given {
        let plain = key.trim().to_lowercase().replace('-', "_");
        let curve = CURVES.iter().find(|(flag, _)| *flag == plain);
        let (name, value) = match curve {
            Some((flag, curve)) => match curve_of(flag, curve, value)? {
                Some(value) => ("sigmas", value),
                // Another of the flags may be the one that is true.
                None if found.contains_key("sigmas") => continue,
                None => ("sigmas", Value::from("trained")),
            },
            None => full(class, &plain, key, value)?,
        };
        if !class.has(name) {
            return Err(not_taken(class, key, value));
        }
        if name == "sigmas" && value.is_array() && !class.takes_levels {
            let allowed = format!("{} takes a curve's name only", class.name);
            return Err(Error::invalid(FIELD, format!("sigmas={value}"), allowed));
        }
        let clashes = found
            .insert(name.to_string(), value)
            .is_some_and(|old| old != found[name] && old != "trained");
        if clashes {
            let allowed = format!("says {name} a second time; leave one of them out");
            return Err(Error::invalid(FIELD, key, allowed));
        }
    }
    // Finds values that are out of range; which configuration they are laid over
    // does not matter.
    Config::default().with_options(&found)?;
    Ok(found)
}

fn curve_of(flag: &str, curve: &str, value: &Value) -> Result<Option<Value>> {
    match typed(Kind::Flag, value) {
        Value::Bool(true) => Ok(Some(Value::from(curve))),
        Value::Bool(false) | Value::Null => Ok(None),
        other => {
            let given = format!("{flag}={}", plain(&other));
            Err(Error::invalid(FIELD, given, "allowed is true or false"))
        }
    }
}

/// The full name of an option, and its value with its type.
fn full(class: &Class, plain: &str, key: &str, value: &Value) -> Result<(&'static str, Value)> {
    let known = |info: &&OptionInfo| info.name == plain || info.short == Some(plain);
    let Some(info) = OPTIONS.iter().find(known) else {
        return Err(not_taken(class, key, value.clone()));
    };
    let value = match (info.name, typed(info.kind, value)) {
        ("prediction_type", value) if value == "v" => Value::from("v_prediction"),
        (_, value) => value,
    };
    Ok((info.name, value))
}

fn not_taken(class: &Class, key: &str, value: Value) -> Error {
    let own: Vec<_> = class.options().collect();
    let allowed = format!("{} takes only {}", class.name, own.join(", "));
    Error::invalid(FIELD, format!("{key}={}", plain(&value)), allowed)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A string as the type that it stands for; anything else, and a string that
/// stands for nothing, as it is.
fn typed(kind: Kind, value: &Value) -> Value {
    let Value::String(text) = value else {
        return value.clone();
    };
    let text = text.trim();
    let number = |text: &str| match text.trim().parse::<i64>() {
        Ok(whole) => Some(Value::from(whole)),
        Err(_) => {
            let number = text.trim().parse::<f64>().ok();
            number.filter(|n| n.is_finite()).map(Value::from)
        }
    };
    let typed = match kind {
        Kind::Flag => text.to_lowercase().parse().ok().map(Value::Bool),
        Kind::Number => number(text),
        Kind::Name => Some(Value::from(text.to_lowercase())),
        Kind::Numbers | Kind::NameOrNumbers => {
            let list = text.trim_matches(['[', ']']).split(',').map(number);
            list.collect::<Option<Vec<Value>>>().map(Value::from)
        }
    };
    match (typed, kind) {
        (Some(typed), _) => typed,
        (None, Kind::NameOrNumbers) => Value::from(text.to_lowercase()),
        (None, _) => Value::from(text),
    }
}
