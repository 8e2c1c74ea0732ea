//! Samplers and schedulers by AUTOMATIC1111's names, as this program's schedulers and
//! their options.

use crate::pipeline::Preset;
use crate::schedule;
use crate::server::failure::Failure;
use serde_json::{Map, Value};

/// A sampler that clients may choose.
pub struct Sampler {
    pub label: &'static str,
    pub aliases: &'static [&'static str],
    /// The schedule that Automatic stands for: what that program takes with this
    /// sampler. `None` for what the checkpoint says.
    pub automatic: Option<&'static str>,
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
    }
}

/// In that program's order; the last ones are not among its own.
#[rustfmt::skip]
pub const SAMPLERS: &[Sampler] = &[
    sampler("DPM++ 2M", &["k_dpmpp_2m"], Some("karras")),
    sampler("DPM++ SDE", &["k_dpmpp_sde"], Some("karras")),
    sampler("DPM++ 2M SDE", &["k_dpmpp_2m_sde"], Some("exponential")),
    sampler("DPM++ 2M SDE Heun", &["k_dpmpp_2m_sde_heun"], Some("exponential")),
    sampler("DPM++ 3M SDE", &["k_dpmpp_3m_sde"], Some("exponential")),
    sampler("Euler a", &["k_euler_a", "k_euler_ancestral"], Some("uniform")),
    sampler("Euler", &["k_euler"], Some("uniform")),
    sampler("LMS", &["k_lms"], Some("uniform")),
    sampler("Heun", &["k_heun"], Some("uniform")),
    sampler("DPM2", &["k_dpm_2"], Some("karras")),
    sampler("DPM2 a", &["k_dpm_2_a", "k_dpm_2_ancestral"], Some("karras")),
    sampler("DDIM", &["ddim"], None),
    sampler("PLMS", &["plms"], None),
    sampler("UniPC", &["unipc"], None),
    sampler("LCM", &["k_lcm"], None),
    sampler("DPM++ 2S", &["dpmpp_2s"], None),
    sampler("DDPM", &["ddpm"], None),
    sampler("DEIS", &["deis"], None),
    sampler("PNDM", &["pndm"], None),
    sampler("TCD", &["tcd"], None),
];

/// A schedule of noise levels.
pub struct Schedule {
    pub name: &'static str,
    pub label: &'static str,
    pub aliases: &'static [&'static str],
    options: &'static [(&'static str, &'static str)],
}

const fn schedule(
    name: &'static str,
    label: &'static str,
    options: &'static [(&'static str, &'static str)],
) -> Schedule {
    Schedule {
        name,
        label,
        aliases: &[],
        options,
    }
}

/// Curves are drawn over the whole range of noise levels, as that program does.
/// Polyexponential with its default power is Exponential. That program's Simple and SGM
/// Uniform differ by less than a timestep, its Uniform and Normal not at all.
#[rustfmt::skip]
pub const SCHEDULES: &[Schedule] = &[
    schedule("automatic", "Automatic", &[]),
    schedule("uniform", "Uniform", &[("sigmas", "trained"), ("timestep_spacing", "linspace")]),
    schedule("karras", "Karras", &[("sigmas", "karras"), ("timestep_spacing", "linspace")]),
    schedule("exponential", "Exponential", &[("sigmas", "exponential"), ("timestep_spacing", "linspace")]),
    schedule("polyexponential", "Polyexponential", &[("sigmas", "exponential"), ("timestep_spacing", "linspace")]),
    Schedule {
        aliases: &["SGMUniform"],
        ..schedule("sgm_uniform", "SGM Uniform", &[("sigmas", "trained"), ("timestep_spacing", "trailing")])
    },
    schedule("align_your_steps", "Align Your Steps", &[("timesteps", "ays")]),
    schedule("simple", "Simple", &[("sigmas", "trained"), ("timestep_spacing", "trailing")]),
    schedule("normal", "Normal", &[("sigmas", "trained"), ("timestep_spacing", "linspace")]),
    schedule("ddim", "DDIM", &[("sigmas", "trained"), ("timestep_spacing", "leading")]),
    schedule("beta", "Beta", &[("sigmas", "beta"), ("timestep_spacing", "linspace")]),
];

/// Options without which a schedule is another.
const DECISIVE: [&str; 2] = ["sigmas", "timesteps"];

/// What a client's names come to.
#[derive(Debug, PartialEq)]
pub struct Sampling {
    /// For [`schedule::choose`].
    pub name: String,
    pub options: Map<String, Value>,
    /// What this API calls the sampler.
    pub label: String,
    pub warnings: Vec<String>,
}

/// What the names stand for. As in that program, a schedule behind the sampler's name
/// wins over `scheduler`, and an unknown schedule is Automatic. `preset` is what the
/// checkpoint asks for.
///
/// # Errors
/// An unknown sampler.
pub fn choose(
    sampler: Option<&str>,
    scheduler: Option<&str>,
    preset: &Preset,
) -> Result<Sampling, Failure> {
    let plain = Preset::default().scheduler;
    let own = preset.scheduler != plain;
    let given = sampler.unwrap_or(if own { preset.scheduler } else { "Euler" });
    let (name, behind) = split(given);
    let name = own_name(name);
    let proper = schedule::choose(name, &Map::new()).map_err(|_| unknown(given))?;
    let row = SAMPLERS.iter().find(|row| {
        let known = schedule::choose(row.label, &Map::new());
        known.is_ok_and(|known| known == proper)
    });
    let label = row.map_or(name, |row| row.label).to_owned();
    let mut sampling = Sampling {
        name: name.to_owned(),
        options: Map::new(),
        label,
        warnings: Vec::new(),
    };
    let asked = behind.or_else(|| match scheduler {
        Some(text) => by_name(text).or_else(|| {
            sampling.warns(text, "unknown");
            None
        }),
        None => None,
    });
    match asked.filter(|asked| asked.name != "automatic") {
        Some(asked) if sampling.take(asked) => return Ok(sampling),
        Some(asked) => sampling.warns(asked.label, "nothing that this sampler has"),
        None => {}
    }
    // A checkpoint of few steps has a schedule of its own, and so has its own sampler.
    let few_steps = preset.guidance_scale <= 1.0;
    let silent = sampler.is_none() && own;
    if let Some(automatic) = row.and_then(|row| row.automatic).and_then(by_name)
        && !few_steps
        && !silent
    {
        sampling.take(automatic);
    }
    Ok(sampling)
}

impl Sampling {
    /// Takes the schedule's options that the sampler has; false, and none, if one that
    /// makes the schedule is not among them.
    fn take(&mut self, schedule: &Schedule) -> bool {
        let own = options_of(&self.name);
        let lacks = |key: &str| !own.contains(&key);
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

    fn warns(&mut self, scheduler: &str, why: &str) {
        let label = &self.label;
        let warning = format!("scheduler {scheduler:?} is {why}; {label} uses Automatic");
        self.warnings.push(warning);
    }
}

/// The label that an alias stands for; any other name as it is.
fn own_name(name: &str) -> &str {
    let wanted = plain(name);
    let means = |row: &&Sampler| row.aliases.iter().any(|alias| plain(alias) == wanted);
    SAMPLERS.iter().find(means).map_or(name, |row| row.label)
}

fn unknown(given: &str) -> Failure {
    let labels = SAMPLERS.iter().map(|row| row.label);
    crate::Error::unknown("scheduler", given, labels).into()
}

fn options_of(name: &str) -> Vec<&'static str> {
    let proper = schedule::canonical_name(name).unwrap_or_default();
    let found = schedule::list().into_iter().find(|s| s.name == proper);
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
            let known = schedule::canonical_name(own_name(rest)).is_ok();
            if apart && known && plain(end) == plain(own) {
                return (rest, Some(schedule));
            }
        }
    }
    (given, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(sampler: &str, scheduler: Option<&str>) -> Sampling {
        choose(Some(sampler), scheduler, &Preset::default()).unwrap()
    }

    /// The scheduler and its options that a run would have.
    fn solver(sampling: &Sampling) -> (&'static str, Value, Value) {
        let choice = schedule::choose(&sampling.name, &sampling.options).unwrap();
        let option = |key| choice.options.get(key).cloned().unwrap_or_default();
        (choice.name, option("sigmas"), option("timestep_spacing"))
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
            ("DPM++ 2M", None, ("DPM Multi", "karras", "linspace")),
            (
                "DPM++ 2M",
                Some("automatic"),
                ("DPM Multi", "karras", "linspace"),
            ),
            (
                "DPM++ 2M",
                Some("Uniform"),
                ("DPM Multi", "trained", "linspace"),
            ),
            (
                "DPM++ 2M Karras",
                Some("Simple"),
                ("DPM Multi", "karras", "linspace"),
            ),
            ("dpmpp_2m_karras", None, ("DPM Multi", "karras", "linspace")),
            (
                "DPM++ 2M SGMUniform",
                None,
                ("DPM Multi", "trained", "trailing"),
            ),
            (
                "DPM++ 3M SDE Exponential",
                None,
                ("DPM++ 3M SDE", "exponential", "linspace"),
            ),
            (
                "DPM2 a Karras",
                None,
                ("DPM2 a Karras", "karras", "linspace"),
            ),
            (
                "DPM2",
                Some("Normal"),
                ("DPM2 Karras", "trained", "linspace"),
            ),
            (
                "Euler",
                Some("SGM Uniform"),
                ("Euler", "trained", "trailing"),
            ),
            (
                "euler",
                Some("sgm_uniform"),
                ("Euler", "trained", "trailing"),
            ),
            (
                "Heun",
                Some("polyexponential"),
                ("Heun", "exponential", "linspace"),
            ),
            ("LMS Beta", None, ("LMS", "beta", "linspace")),
            ("Euler", Some("DDIM"), ("Euler", "trained", "leading")),
        ] {
            let sampling = chosen(sampler, scheduler);
            let (name, sigmas, spacing) = solver(&sampling);
            let found = (name, sigmas.as_str(), spacing.as_str());
            let wanted = (wanted.0, Some(wanted.1), Some(wanted.2));
            assert_eq!(found, wanted, "{sampler} {scheduler:?}");
            assert_eq!(sampling.warnings, [""; 0], "{sampler} {scheduler:?}");
        }
        let heun = chosen("DPM++ 2M SDE Heun", None);
        let choice = schedule::choose(&heun.name, &heun.options).unwrap();
        assert_eq!(choice.options["solver_type"], "heun");
        assert_eq!(
            chosen("Euler", Some("Align Your Steps")).options["timesteps"],
            "ays"
        );
    }

    #[test]
    fn what_is_not_there_is_automatic_and_said() {
        for (sampler, scheduler) in [
            ("Euler", "KL Optimal"),
            ("Euler", "nonsense"),
            ("Euler a", "Karras"),
            ("Euler a Karras", "Automatic"),
            ("DDIM", "Beta"),
        ] {
            let sampling = chosen(sampler, Some(scheduler));
            assert_eq!(sampling.warnings.len(), 1, "{sampler} {scheduler}");
            let plain = chosen(&sampling.label, None);
            assert_eq!(sampling.options, plain.options, "{sampler} {scheduler}");
        }
        for sampler in ["DPM adaptive", "Restart", "Karras", ""] {
            assert!(
                choose(Some(sampler), None, &Preset::default()).is_err(),
                "{sampler}"
            );
        }
    }

    #[test]
    fn a_checkpoint_of_few_steps_keeps_its_schedule() {
        let turbo = Preset::named("turbo").unwrap();
        let silent = choose(None, None, &turbo).unwrap();
        assert_eq!((silent.name.as_str(), silent.options.len()), ("Euler a", 0));
        let given = choose(Some("Euler"), Some("Automatic"), &turbo).unwrap();
        assert_eq!(given.options.len(), 0);
        let asked = choose(Some("Euler"), Some("Karras"), &turbo).unwrap();
        assert_eq!(asked.options["sigmas"], "karras");
        let usual = choose(None, None, &Preset::default()).unwrap();
        assert_eq!(usual.label, "Euler");
        assert_eq!(usual.options["timestep_spacing"], "linspace");
    }
}
