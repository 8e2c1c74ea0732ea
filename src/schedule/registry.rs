//! The table of schedulers, and what names stand for.

use super::class::Class;
use super::config::Config;
use super::{Scheduler, choices, edm};
use super::{ddim, ddpm, deis, dpm_multi, dpm_sde, dpm_single, dpm2, dpm2_ancestral};
use super::{euler, euler_ancestral, heun, lcm, lms, pndm, tcd, unipc};
use crate::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

/// Every scheduler: one line each, in the order in which they are listed.
const CLASSES: &[&Class] = &[
    &ddim::CLASS,
    &ddpm::CLASS,
    &dpm_multi::CLASS,
    &dpm_single::CLASS,
    &dpm2::CLASS,
    &dpm2_ancestral::CLASS,
    &euler::CLASS,
    &euler_ancestral::CLASS,
    &heun::CLASS,
    &lms::CLASS,
    &pndm::CLASS,
    &unipc::CLASS,
    &lcm::CLASS,
    &tcd::CLASS,
    &deis::CLASS,
    &dpm_multi::CLASS_2M_SDE,
    &dpm_sde::CLASS,
    &dpm_multi::CLASS_3M_SDE,
];

/// Names that stand for a scheduler with an option.
const VARIANTS: &[(&str, &str, Implied)] = &[
    ("PLMS", "PNDM", &[("skip_prk_steps", "true")]),
    (
        "DPM++ 2M SDE Heun",
        "DPM++ 2M SDE",
        &[("solver_type", "heun")],
    ),
    ("uni_pc", "UniPC", &[("solver_type", "bh1")]),
];

/// The last word of a name, as AUTOMATIC1111 writes it: the curve of noise levels.
const SUFFIXES: &[(&str, Implied)] = &[
    (" karras", &[("sigmas", "karras")]),
    (" exponential", &[("sigmas", "exponential")]),
    (" beta", &[("sigmas", "beta")]),
];

type Implied = &'static [(&'static str, &'static str)];

/// A scheduler, and what of a checkpoint's configuration a request changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The proper name.
    pub name: &'static str,
    /// Options by their full names, with values of their types: those that the name
    /// as given stands for, and those of the request.
    pub options: Map<String, Value>,
}

impl Choice {
    /// Makes the scheduler for a checkpoint. Fails where the configuration is none
    /// that the scheduler can run.
    pub fn create(&self, config: &Config) -> Result<Box<dyn Scheduler>> {
        by_name(self.name)?.create(&self.config(config)?)
    }

    /// The checkpoint's configuration with the options laid over it. Fails where the
    /// scheduler, or one of the options, does not go with the checkpoint.
    pub fn config(&self, config: &Config) -> Result<Config> {
        by_name(self.name)?.check(config, &self.options)?;
        config.with_options(&self.options)
    }
}

/// What `calotype schedulers` says of one.
#[derive(Debug, Clone, Serialize)]
pub struct SchedulerInfo {
    /// The proper name.
    pub name: &'static str,
    /// Other names that mean the same.
    pub aliases: Vec<&'static str>,
    /// The diffusers class, which is a name too.
    pub class: &'static str,
    /// Names of the options it takes; [`super::options`] says what their values may be.
    pub options: Vec<&'static str>,
    /// Whether it also draws with models that were trained over noise levels.
    pub edm: bool,
    /// Options that its name stands for.
    pub implies: Map<String, Value>,
}

/// All schedulers.
pub fn list() -> Vec<SchedulerInfo> {
    CLASSES.iter().copied().map(info).collect()
}

fn info(class: &Class) -> SchedulerInfo {
    SchedulerInfo {
        name: class.name,
        aliases: class.others.to_vec(),
        class: class.class,
        options: class.options().collect(),
        edm: class.edm.is_some(),
        implies: implied(class.implies),
    }
}

/// All schedulers that go with a checkpoint, and of their options those that do.
pub fn list_for(config: &Config) -> Vec<SchedulerInfo> {
    let fits = |class: &&&Class| class.check(config, &Map::new()).is_ok();
    let info = |class: &&Class| {
        let takes = |option: &&'static str| class.takes(config, option);
        SchedulerInfo {
            options: class.options().filter(takes).collect(),
            ..info(class)
        }
    };
    CLASSES.iter().filter(fits).map(info).collect()
}

/// Whether a checkpoint's file may name this diffusers class.
pub(super) fn is_class(name: &str) -> bool {
    classes().any(|class| class == name)
}

/// The diffusers classes that a checkpoint's file may name.
pub(super) fn classes() -> impl Iterator<Item = &'static str> {
    let own = CLASSES.iter().map(|class| class.class);
    // The stochastic solvers share a class with the plain one.
    let once = own.enumerate().filter(|(i, class)| {
        let earlier = CLASSES.iter().take(*i);
        !earlier.clone().any(|other| other.class == *class)
    });
    once.map(|(_, class)| class).chain(edm::CLASSES)
}

/// The proper names of all schedulers.
pub fn names() -> impl Iterator<Item = &'static str> {
    CLASSES.iter().map(|class| class.name)
}

/// The proper names of the schedulers that are so.
pub(super) fn names_of(is: impl Fn(&Class) -> bool) -> impl Iterator<Item = &'static str> {
    let fits = CLASSES.iter().filter(move |class| is(class));
    fits.map(|class| class.name)
}

/// The scheduler that a name stands for, with a request's options.
///
/// `name` is a proper name or any other; upper case does not matter, nor which of
/// space, `-` and `_` stands between words. `Karras`, `Exponential` or `Beta` behind
/// a name is the option `sigmas`. An unknown name, an option that the scheduler has
/// not, and a wrong value are [`Error::Invalid`].
pub fn choose(name: &str, options: &Map<String, Value>) -> Result<Choice> {
    let (class, with) = find(name)?;
    let mut all = implied(class.implies);
    all.extend(implied(with));
    let given = choices::checked(class, options)?;
    if given.contains_key("schedule_type") {
        // In the place of the curve that the name stands for.
        all.remove("sigmas");
    }
    all.extend(given);
    // Typed, and once more checked as a whole.
    let options = choices::checked(class, &all)?;
    Ok(Choice {
        name: class.name,
        options,
    })
}

/// The proper name of a scheduler given by any of its names.
///
/// An unknown name is [`Error::Invalid`] and offers the nearest.
pub fn canonical_name(name: &str) -> Result<&'static str> {
    Ok(find(name)?.0.name)
}

/// Makes the scheduler called `name` with a checkpoint's configuration.
///
/// Fails as [`choose`] and [`Choice::create`] do.
pub fn create(name: &str, config: &Config) -> Result<Box<dyn Scheduler>> {
    create_with(name, config, &Map::new())
}

/// Makes the scheduler called `name` with a checkpoint's configuration and a
/// request's options, which win. Fails as [`choose`] and [`Choice::create`] do.
pub fn create_with(
    name: &str,
    config: &Config,
    options: &Map<String, Value>,
) -> Result<Box<dyn Scheduler>> {
    choose(name, options)?.create(config)
}

fn implied(options: Implied) -> Map<String, Value> {
    let pair = |(key, value): &(&str, &str)| (key.to_string(), Value::from(*value));
    options.iter().map(pair).collect()
}

/// Words in lower case with a space between them; k-diffusion's prefix is left out.
fn plain(name: &str) -> String {
    let lower = name.to_lowercase().replace(['-', '_'], " ");
    let words: Vec<_> = lower.split_whitespace().collect();
    let plain = words.join(" ");
    match plain.strip_prefix("k ") {
        Some(rest) => rest.to_string(),
        None => plain,
    }
}

fn by_name(name: &str) -> Result<&'static Class> {
    let wanted = plain(name);
    CLASSES
        .iter()
        .find(|class| {
            let names = class.others.iter().chain([&class.name, &class.class]);
            names.into_iter().any(|own| plain(own) == wanted)
        })
        .copied()
        .ok_or_else(|| Error::unknown("scheduler", name, names()))
}

fn find(name: &str) -> Result<(&'static Class, Implied)> {
    let unknown = match by_name(name) {
        Ok(class) => return Ok((class, &[])),
        Err(error) => error,
    };
    let wanted = plain(name);
    if let Some((_, proper, with)) = VARIANTS.iter().find(|row| plain(row.0) == wanted) {
        return Ok((by_name(proper)?, with));
    }
    for (suffix, with) in SUFFIXES {
        let Some(Ok(class)) = wanted.strip_suffix(suffix).map(by_name) else {
            continue;
        };
        if !class.has("sigmas") {
            let allowed = format!("{} has no{suffix} sigmas; leave the word out", class.name);
            return Err(Error::invalid("scheduler", format!("{name:?}"), allowed));
        }
        return Ok((class, with));
    }
    Err(unknown)
}
