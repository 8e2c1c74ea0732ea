//! Samplers and schedule types by AUTOMATIC1111's names, as this crate's schedulers and
//! their options: the one table for its API, for the settings inside its pictures, and
//! for those that this program writes.
//!
//! Which schedule is automatic and which samplers leave a level out is from its
//! `modules/sd_samplers_kdiffusion.py`, version 1.10.

use super::dpm_multi::DpmMulti;
use super::{Algorithm, Choice, Config, SigmaCurve, Spacing, Timesteps};
use crate::{Error, Result};
use serde_json::{Map, Value};

/// A sampler.
#[derive(Debug)]
pub struct Sampler {
    pub label: &'static str,
    pub aliases: &'static [&'static str],
    /// The schedule that Automatic stands for: what that program takes with this
    /// sampler. `None` for what the checkpoint says.
    pub automatic: Option<&'static str>,
    /// Whether that program plans one step more and leaves its level out.
    discards: bool,
    /// Why its pictures are others than that program's of the same seed, where they are.
    pub differs: Option<&'static str>,
}

const fn sampler(
    label: &'static str,
    aliases: &'static [&'static str],
    automatic: Option<&'static str>,
) -> Sampler {
    Sampler {
        label,
        aliases,
        automatic,
        discards: false,
        differs: None,
    }
}

const fn discarding(sampler: Sampler) -> Sampler {
    Sampler {
        discards: true,
        ..sampler
    }
}

const fn differing(sampler: Sampler, why: &'static str) -> Sampler {
    Sampler {
        differs: Some(why),
        ..sampler
    }
}

const TREE: &str =
    "its noise comes from the picture's generator here, from a Brownian tree in that program";
const TIMESTEPS: &str = "it is diffusers' solver here, whose steps are not that program's";
const FOREIGN: &str = "that program has no sampler of this name";

/// In that program's order; the last ones are not among its own.
#[rustfmt::skip]
pub const SAMPLERS: &[Sampler] = &[
    sampler("DPM++ 2M", &["k_dpmpp_2m", "dpm++2m"], Some("karras")),
    differing(sampler("DPM++ SDE", &["k_dpmpp_sde"], Some("karras")), TREE),
    differing(sampler("DPM++ 2M SDE", &["k_dpmpp_2m_sde"], Some("exponential")), TREE),
    differing(sampler("DPM++ 2M SDE Heun", &["k_dpmpp_2m_sde_heun"], Some("exponential")), TREE),
    differing(discarding(sampler("DPM++ 3M SDE", &["k_dpmpp_3m_sde"], Some("exponential"))), TREE),
    sampler("Euler a", &["k_euler_a", "k_euler_ancestral"], Some("uniform")),
    sampler("Euler", &["k_euler"], Some("uniform")),
    sampler("LMS", &["k_lms"], Some("uniform")),
    sampler("Heun", &["k_heun"], Some("uniform")),
    discarding(sampler("DPM2", &["k_dpm_2"], Some("karras"))),
    discarding(sampler("DPM2 a", &["k_dpm_2_a", "k_dpm_2_ancestral"], Some("karras"))),
    differing(sampler("DDIM", &["ddim"], None), TIMESTEPS),
    differing(sampler("PLMS", &["plms"], None), TIMESTEPS),
    differing(sampler("UniPC", &["unipc"], None), TIMESTEPS),
    differing(sampler("LCM", &["k_lcm"], None), TIMESTEPS),
    differing(sampler("DPM++ 2S", &["dpmpp_2s"], None), FOREIGN),
    differing(sampler("DDPM", &["ddpm"], None), FOREIGN),
    differing(sampler("DEIS", &["deis"], None), FOREIGN),
    differing(sampler("PNDM", &["pndm"], None), FOREIGN),
    differing(sampler("TCD", &["tcd"], None), FOREIGN),
];

/// A schedule of noise levels.
#[derive(Debug)]
pub struct Schedule {
    /// What the option `schedule_type` calls it too.
    pub name: &'static str,
    pub label: &'static str,
    pub aliases: &'static [&'static str],
    /// The nearest options of schedulers that have no `schedule_type`.
    options: &'static [(&'static str, &'static str)],
}

const fn schedule(
    name: &'static str,
    label: &'static str,
    aliases: &'static [&'static str],
    options: &'static [(&'static str, &'static str)],
) -> Schedule {
    Schedule {
        name,
        label,
        aliases,
        options,
    }
}

const AUTOMATIC: &str = "automatic";

/// In that program's order. The last is Forge's.
#[rustfmt::skip]
pub const SCHEDULES: &[Schedule] = &[
    schedule(AUTOMATIC, "Automatic", &[], &[]),
    schedule("uniform", "Uniform", &["discrete"], &[("sigmas", "trained"), ("timestep_spacing", "linspace")]),
    schedule("karras", "Karras", &[], &[("sigmas", "karras"), ("timestep_spacing", "linspace")]),
    schedule("exponential", "Exponential", &[], &[("sigmas", "exponential"), ("timestep_spacing", "linspace")]),
    schedule("polyexponential", "Polyexponential", &[], &[("sigmas", "exponential"), ("timestep_spacing", "linspace")]),
    schedule("sgm_uniform", "SGM Uniform", &["SGMUniform"], &[("sigmas", "trained"), ("timestep_spacing", "trailing")]),
    schedule("kl_optimal", "KL Optimal", &[], &[("schedule_type", "kl_optimal")]),
    schedule("align_your_steps", "Align Your Steps", &["ays", "Align Your Steps 11"], &[("timesteps", "ays")]),
    schedule("simple", "Simple", &[], &[("sigmas", "trained"), ("timestep_spacing", "trailing")]),
    schedule("normal", "Normal", &[], &[("sigmas", "trained"), ("timestep_spacing", "linspace")]),
    schedule("ddim", "DDIM", &["ddim_uniform"], &[("sigmas", "trained"), ("timestep_spacing", "leading")]),
    schedule("beta", "Beta", &[], &[("sigmas", "beta"), ("timestep_spacing", "linspace")]),
    schedule("turbo", "Turbo", &[], &[("sigmas", "trained"), ("timestep_spacing", "trailing")]),
];

/// Options without which a schedule is another.
const DECISIVE: [&str; 3] = ["sigmas", "timesteps", SCHEDULE_TYPE];
const SCHEDULE_TYPE: &str = "schedule_type";
const DISCARDS: &str = "discard_next_to_last_sigma";

/// What a checkpoint asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish<'a> {
    /// A scheduler of its own, with a schedule of its own.
    pub scheduler: Option<&'a str>,
    /// Whether it keeps a schedule of its own where none is named, as a checkpoint of few
    /// steps does.
    pub own_schedule: bool,
}

/// What names come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// For [`super::choose`].
    pub name: String,
    pub options: Map<String, Value>,
    /// What that program calls the sampler.
    pub label: String,
    /// The schedule is the sampler's own, as nothing else was asked for.
    pub automatic: bool,
    /// As [`Sampler::differs`].
    pub differs: Option<&'static str>,
    pub warnings: Vec<String>,
}

/// What the names stand for. As in that program, a schedule behind the sampler's name
/// wins over `schedule_type`, and an unknown schedule is Automatic.
///
/// # Errors
/// An unknown sampler.
pub fn choose(
    sampler: Option<&str>,
    schedule_type: Option<&str>,
    wish: Wish<'_>,
) -> Result<Sampling> {
    let given = sampler.or(wish.scheduler).unwrap_or("Euler");
    let (name, behind) = split(given);
    let name = own_name(name);
    let proper = super::choose(name, &Map::new()).map_err(|_| unknown(given))?;
    let row = SAMPLERS.iter().find(|row| {
        let known = super::choose(row.label, &Map::new());
        known.is_ok_and(|known| known == proper)
    });
    let mut sampling = Sampling {
        name: name.to_owned(),
        options: Map::new(),
        label: row.map_or(name, |row| row.label).to_owned(),
        automatic: false,
        differs: row.and_then(|row| row.differs),
        warnings: Vec::new(),
    };
    let discards = row.is_some_and(|row| row.discards);
    let asked = behind.or_else(|| match schedule_type {
        Some(text) => by_name(text).or_else(|| {
            sampling.warns(text, "unknown");
            None
        }),
        None => None,
    });
    match asked.filter(|asked| asked.name != AUTOMATIC) {
        Some(asked) if sampling.take(asked, discards) => return Ok(sampling),
        Some(asked) => sampling.warns(asked.label, "nothing that this sampler has"),
        None => {}
    }
    sampling.automatic = true;
    // A checkpoint of few steps has a schedule of its own, and so has its own sampler.
    let silent = sampler.is_none() && wish.scheduler.is_some();
    if let Some(automatic) = row.and_then(|row| row.automatic).and_then(by_name)
        && !wish.own_schedule
        && !silent
    {
        sampling.take(automatic, discards);
    }
    Ok(sampling)
}

impl Sampling {
    /// Takes the schedule, exactly where the scheduler has that program's, else by the
    /// nearest options that it has; false, and none, if one that makes the schedule is
    /// not among them.
    fn take(&mut self, schedule: &Schedule, discards: bool) -> bool {
        let own = options_of(&self.name);
        let lacks = |key: &str| !own.contains(&key);
        if !lacks(SCHEDULE_TYPE) {
            self.options
                .insert(SCHEDULE_TYPE.into(), schedule.name.into());
            if discards {
                self.options.insert(DISCARDS.into(), true.into());
            }
            return true;
        }
        let decisive = |(key, value): &(&str, &str)| DECISIVE.contains(key) && *value != "trained";
        if schedule
            .options
            .iter()
            .any(|pair| decisive(pair) && lacks(pair.0))
        {
            return false;
        }
        for (key, value) in schedule.options.iter().filter(|(key, _)| !lacks(key)) {
            self.options.insert((*key).to_owned(), Value::from(*value));
        }
        true
    }

    /// Whether the sampler has this option.
    pub fn has(&self, option: &str) -> bool {
        options_of(&self.name).contains(&option)
    }

    /// Takes the share of fresh noise. Some clients send 1, the ancestral samplers' own,
    /// with every sampler.
    pub fn set_eta(&mut self, eta: f64) {
        let label = &self.label;
        if self.has("eta") {
            self.options.insert("eta".into(), eta.into());
        } else if eta != 1.0 && (label.ends_with(" a") || label.contains("SDE")) {
            let warning = format!("eta {eta} has no effect: {label} draws with 1");
            self.warnings.push(warning);
        }
    }

    fn warns(&mut self, schedule_type: &str, why: &str) {
        let label = &self.label;
        let warning = format!("scheduler {schedule_type:?} is {why}; {label} uses Automatic");
        self.warnings.push(warning);
    }
}

/// What that program calls a scheduler and its schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Names {
    /// The scheduler's own name where that program has none.
    pub sampler: &'static str,
    /// The label of the same schedule, or of the nearest; none of samplers that have
    /// their own alone.
    pub schedule_type: Option<&'static str>,
}

/// That program's names for a choice, with which it draws the same or the nearest.
/// `config` is the checkpoint's, with the choice's options laid over it.
pub fn names_of(choice: &Choice, config: &Config) -> Names {
    let name = multistep_name(choice.name, config);
    let row = SAMPLERS.iter().find(|row| {
        super::choose(row.label, &Map::new()).is_ok_and(|known| {
            let same = |key: &str| known.options.get(key) == choice.options.get(key);
            Some(known.name) == name && ["solver_type", "skip_prk_steps"].into_iter().all(same)
        })
    });
    let schedule_type = match row {
        Some(row) if row.automatic.is_some() => Some(schedule_of(config)),
        _ => None,
    };
    Names {
        sampler: row.map_or(choice.name, |row| row.label),
        schedule_type: schedule_type
            .and_then(by_name)
            .map(|schedule| schedule.label),
    }
}

/// The scheduler's name, or of the multistep solver the one of its order and equation;
/// none where no sampler has these.
fn multistep_name(name: &'static str, config: &Config) -> Option<&'static str> {
    if name != DpmMulti::NAME {
        return Some(name);
    }
    let algorithm = config
        .algorithm_type
        .unwrap_or(Algorithm::DpmSolverPlusPlus);
    match (algorithm, config.solver_order.unwrap_or(2)) {
        (Algorithm::DpmSolverPlusPlus | Algorithm::Deis, 2) => Some(name),
        (Algorithm::SdeDpmSolverPlusPlus, 2) => Some(DpmMulti::NAME_2M_SDE),
        (Algorithm::SdeDpmSolverPlusPlus, 3) => Some(DpmMulti::NAME_3M_SDE),
        _ => None,
    }
}

/// The name of the schedule, or of the nearest.
fn schedule_of(config: &Config) -> &'static str {
    if let Some(kind) = config.schedule_type {
        return kind.name();
    }
    if config.timesteps == Some(Timesteps::AlignYourSteps) {
        return "align_your_steps";
    }
    match (config.sigma_curve, config.timestep_spacing) {
        (SigmaCurve::Karras, _) => "karras",
        (SigmaCurve::Exponential, _) => "exponential",
        (SigmaCurve::Beta, _) => "beta",
        (SigmaCurve::Trained, Spacing::Linspace) => "uniform",
        // Both are the same whole timesteps.
        (SigmaCurve::Trained, Spacing::Trailing) => "simple",
        (SigmaCurve::Trained, Spacing::Leading) => "ddim",
    }
}

/// The label that an alias stands for; any other name as it is.
fn own_name(name: &str) -> &str {
    let wanted = plain(name);
    let means = |row: &&Sampler| row.aliases.iter().any(|alias| plain(alias) == wanted);
    SAMPLERS.iter().find(means).map_or(name, |row| row.label)
}

fn unknown(given: &str) -> Error {
    let labels = SAMPLERS.iter().map(|row| row.label);
    Error::unknown("scheduler", given, labels)
}

fn options_of(name: &str) -> Vec<&'static str> {
    let proper = super::canonical_name(name).unwrap_or_default();
    let found = super::list().into_iter().find(|s| s.name == proper);
    found.map_or_else(Vec::new, |info| info.options)
}

/// Lower case, with a space between words.
fn plain(name: &str) -> String {
    let spaced = name.to_lowercase().replace(['_', '-'], " ");
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Schedule {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let own = [self.label, self.name];
        own.into_iter().chain(self.aliases.iter().copied())
    }
}

fn by_name(name: &str) -> Option<&'static Schedule> {
    let wanted = plain(name);
    SCHEDULES
        .iter()
        .find(|schedule| schedule.names().any(|own| plain(own) == wanted))
}

/// A sampler's name and the schedule that stands behind it, if one does.
fn split(given: &str) -> (&str, Option<&'static Schedule>) {
    let given = given.trim();
    for schedule in SCHEDULES {
        for own in schedule.names() {
            let Some(at) = given.len().checked_sub(own.len()) else {
                continue;
            };
            let (Some(rest), Some(end)) = (given.get(..at), given.get(at..)) else {
                continue;
            };
            let apart = rest.ends_with([' ', '_', '-']);
            let rest = rest.trim_end_matches([' ', '_', '-']);
            let known = super::canonical_name(own_name(rest)).is_ok();
            if apart && known && plain(end) == plain(own) {
                return (rest, Some(schedule));
            }
        }
    }
    (given, None)
}

#[cfg(test)]
mod tests {
    use super::super as schedule;
    use super::*;
    use serde_json::json;

    fn chosen(sampler: &str, scheduler: Option<&str>) -> Sampling {
        choose(Some(sampler), scheduler, Wish::default()).unwrap()
    }

    #[test]
    fn every_sampler_runs_with_every_schedule_that_is_listed() {
        for sampler in SAMPLERS {
            for schedule in SCHEDULES {
                let sampling = chosen(sampler.label, Some(schedule.label));
                assert_eq!(sampling.label, sampler.label);
                let choice = schedule::choose(&sampling.name, &sampling.options);
                let plan = choice.unwrap().create(&Default::default()).unwrap().plan(8);
                assert!(plan.is_ok(), "{} {}", sampler.label, schedule.label);
            }
            for alias in sampler.aliases {
                assert_eq!(chosen(alias, None).label, sampler.label, "{alias}");
            }
        }
    }

    #[test]
    fn every_scheduler_of_this_program_has_a_sampler() {
        for name in schedule::names() {
            let found = SAMPLERS
                .iter()
                .any(|row| schedule::canonical_name(row.label).is_ok_and(|n| n == name));
            assert!(found, "{name}");
        }
    }

    #[test]
    fn names_of_webui_are_understood() {
        for (sampler, scheduler, wanted) in [
            ("DPM++ 2M", None, ("DPM Multi", "karras")),
            ("DPM++ 2M", Some("automatic"), ("DPM Multi", "karras")),
            ("DPM++ 2M", Some("Uniform"), ("DPM Multi", "uniform")),
            ("DPM++ 2M Karras", Some("Simple"), ("DPM Multi", "karras")),
            ("dpmpp_2m_karras", None, ("DPM Multi", "karras")),
            ("DPM++ 2M SGMUniform", None, ("DPM Multi", "sgm_uniform")),
            ("DPM++ 3M SDE", None, ("DPM++ 3M SDE", "exponential")),
            ("DPM2 a Karras", None, ("DPM2 a Karras", "karras")),
            ("DPM2", Some("Normal"), ("DPM2 Karras", "normal")),
            ("Euler", Some("SGM Uniform"), ("Euler", "sgm_uniform")),
            ("euler", Some("sgm_uniform"), ("Euler", "sgm_uniform")),
            ("euler", Some("ddim_uniform"), ("Euler", "ddim")),
            ("Heun", Some("polyexponential"), ("Heun", "polyexponential")),
            ("LMS Beta", None, ("LMS", "beta")),
            ("Euler", Some("DDIM"), ("Euler", "ddim")),
            ("Euler", Some("KL Optimal"), ("Euler", "kl_optimal")),
            ("Euler a", Some("Karras"), ("Euler a", "karras")),
            ("Euler a Karras", Some("Automatic"), ("Euler a", "karras")),
            (
                "Euler",
                Some("Align Your Steps"),
                ("Euler", "align_your_steps"),
            ),
            // As stable-diffusion.cpp writes them.
            ("euler_a karras", None, ("Euler a", "karras")),
            ("euler discrete", None, ("Euler", "uniform")),
            ("dpm++2m ays", None, ("DPM Multi", "align_your_steps")),
        ] {
            let sampling = chosen(sampler, scheduler);
            let choice = schedule::choose(&sampling.name, &sampling.options).unwrap();
            let kind = choice.options.get("schedule_type").cloned();
            let found = (choice.name, kind.unwrap_or_default());
            assert_eq!(
                found,
                (wanted.0, Value::from(wanted.1)),
                "{sampler} {scheduler:?}"
            );
            assert_eq!(sampling.warnings, [""; 0], "{sampler} {scheduler:?}");
        }
        let heun = chosen("DPM++ 2M SDE Heun", None);
        let choice = schedule::choose(&heun.name, &heun.options).unwrap();
        assert_eq!(choice.options["solver_type"], "heun");
    }

    #[test]
    fn every_pair_is_written_by_its_own_names() {
        for sampler in SAMPLERS.iter().filter(|row| row.automatic.is_some()) {
            for schedule in &SCHEDULES[1..] {
                let sampling = chosen(sampler.label, Some(schedule.label));
                let choice = schedule::choose(&sampling.name, &sampling.options).unwrap();
                let names = names_of(&choice, &choice.config(&Config::sdxl()).unwrap());
                let wanted = (sampler.label, Some(schedule.label));
                assert_eq!((names.sampler, names.schedule_type), wanted);
            }
        }
        for (name, options, sampler, kind) in [
            ("UniPC", json!({}), "UniPC", None),
            ("DDIM", json!({}), "DDIM", None),
            ("PLMS", json!({}), "PLMS", None),
            ("PNDM", json!({}), "PNDM", None),
            ("Euler", json!({}), "Euler", Some("DDIM")),
            (
                "Euler",
                json!({"spacing": "trailing"}),
                "Euler",
                Some("Simple"),
            ),
            (
                "Euler a",
                json!({"spacing": "linspace"}),
                "Euler a",
                Some("Uniform"),
            ),
            ("DPM2 Karras", json!({}), "DPM2", Some("Karras")),
            ("DPM++ 2M Karras", json!({}), "DPM++ 2M", Some("Karras")),
            ("DPM Multi", json!({"solver_order": 3}), "DPM Multi", None),
            (
                "DPM Multi",
                json!({"algorithm_type": "sde-dpmsolver++", "sigmas": "beta"}),
                "DPM++ 2M SDE",
                Some("Beta"),
            ),
            (
                "Euler",
                json!({"timesteps": "ays"}),
                "Euler",
                Some("Align Your Steps"),
            ),
        ] {
            let choice = schedule::choose(name, options.as_object().unwrap()).unwrap();
            let names = names_of(&choice, &choice.config(&Config::sdxl()).unwrap());
            assert_eq!(
                (names.sampler, names.schedule_type),
                (sampler, kind),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_not_there_is_automatic_and_said() {
        for (sampler, scheduler) in [
            ("UniPC", "KL Optimal"),
            ("Euler", "nonsense"),
            ("Euler", "Align Your Steps GITS"),
            ("DDIM", "Beta"),
        ] {
            let sampling = chosen(sampler, Some(scheduler));
            assert_eq!(sampling.warnings.len(), 1, "{sampler} {scheduler}");
            let plain = chosen(&sampling.label, None);
            assert_eq!(sampling.options, plain.options, "{sampler} {scheduler}");
        }
        for sampler in ["DPM adaptive", "Restart", "Karras", ""] {
            assert!(
                choose(Some(sampler), None, Wish::default()).is_err(),
                "{sampler}"
            );
        }
    }

    #[test]
    fn a_checkpoint_of_few_steps_keeps_its_schedule() {
        let turbo = Wish {
            scheduler: Some("Euler a"),
            own_schedule: true,
        };
        let silent = choose(None, None, turbo).unwrap();
        assert_eq!((silent.name.as_str(), silent.options.len()), ("Euler a", 0));
        let given = choose(Some("Euler"), Some("Automatic"), turbo).unwrap();
        assert_eq!(given.options.len(), 0);
        let asked = choose(Some("Euler"), Some("Karras"), turbo).unwrap();
        assert_eq!(asked.options["schedule_type"], "karras");
        let usual = choose(None, None, Wish::default()).unwrap();
        assert_eq!(usual.label, "Euler");
        assert_eq!(usual.options["schedule_type"], "uniform");
    }
}
