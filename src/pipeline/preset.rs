//! What few-step checkpoints ask for, by name or by the checkpoint's own word.

use crate::checkpoint::Checkpoint;
use crate::schedule::automatic1111::Wish;
use crate::schedule::{self, Spacing};
use crate::{Error, Result};
use serde_json::{Map, Value, json};

/// Defaults of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    pub steps: usize,
    pub guidance_scale: f64,
    /// A scheduler's name.
    pub scheduler: &'static str,
    /// Its options.
    pub options: Map<String, Value>,
    /// How the checkpoint was trained, which says what schedulers go with it; `None`
    /// before there is one.
    pub training: Option<schedule::Config>,
}

/// Names of the presets: `turbo` (SDXL Turbo), `lightning-N` (SDXL-Lightning of N
/// steps), `lcm` (an LCM checkpoint or LoRA).
pub const PRESETS: [&str; 6] = [
    "turbo",
    "lightning-1",
    "lightning-2",
    "lightning-4",
    "lightning-8",
    "lcm",
];

impl Default for Preset {
    /// The API's.
    fn default() -> Self {
        Self {
            steps: 25,
            guidance_scale: 7.5,
            scheduler: "UniPC",
            options: Map::new(),
            training: None,
        }
    }
}

impl Preset {
    /// A preset by its name.
    pub fn named(name: &str) -> Result<Self> {
        let wanted = name.trim().to_lowercase();
        let known = PRESETS.iter().position(|known| *known == wanted);
        let few = |steps, scheduler, options: Value| Self {
            steps,
            guidance_scale: 1.0,
            scheduler,
            options: options.as_object().cloned().unwrap_or_default(),
            training: None,
        };
        let trailing = json!({ "timestep_spacing": "trailing" });
        Ok(match known {
            Some(0) => few(1, "Euler a", trailing),
            // The one-step model says what the picture is, not what the noise is.
            Some(1) => few(
                1,
                "Euler",
                json!({ "timestep_spacing": "trailing", "prediction_type": "sample" }),
            ),
            Some(i @ 2..=4) => few(1 << (i - 1), "Euler", trailing),
            Some(_) => few(4, "LCM", json!({})),
            None => return Err(Error::unknown("preset", name, PRESETS)),
        })
    }

    /// What a checkpoint asks for.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Self {
        let preset = Self::of(&checkpoint.scheduler);
        match checkpoint.unet.time_cond_proj_dim {
            // Such a model is told the scale; at 1 it would follow no prompt.
            Some(_) => Self {
                guidance_scale: 8.0,
                ..preset
            },
            None => preset,
        }
    }

    /// What a checkpoint's scheduler configuration asks for. SDXL's own file says
    /// Euler with leading steps, which is every base model's: there the API's
    /// default holds. Any other solver, spacing or kind of diffusion is meant.
    pub fn of(config: &schedule::Config) -> Self {
        let class = config.class_name.as_deref().unwrap_or_default();
        let asked = schedule::canonical_name(class).ok();
        let is_base = config.timestep_spacing == Spacing::Leading && !config.is_continuous();
        let plain = Self {
            training: Some(config.clone()),
            ..Self::default()
        };
        match asked {
            Some("LCM" | "TCD") => Self {
                steps: 4,
                guidance_scale: 1.0,
                scheduler: asked.unwrap_or(plain.scheduler),
                ..plain
            },
            Some("Euler a") if config.timestep_spacing == Spacing::Trailing => Self {
                steps: 1,
                guidance_scale: 1.0,
                scheduler: "Euler a",
                ..plain
            },
            Some("Euler") if is_base => plain,
            Some(scheduler) => Self { scheduler, ..plain },
            None => plain,
        }
    }

    /// Whether the checkpoint asks for nothing in particular, so that each API's defaults hold.
    pub fn is_plain(&self) -> bool {
        let training = self.training.clone();
        *self
            == Self {
                training,
                ..Self::default()
            }
    }

    /// What a table of other names must know of it.
    pub fn wish(&self) -> Wish<'_> {
        let own = self.scheduler != Self::default().scheduler;
        Wish {
            scheduler: own.then_some(self.scheduler),
            own_schedule: self.guidance_scale <= 1.0
                || self
                    .training
                    .as_ref()
                    .is_some_and(schedule::Config::is_continuous),
        }
    }

    /// Leaves out of a schedule, which a name of another program stands for, what does
    /// not go with a model over noise levels: such a model has no timesteps to space.
    /// Its curve of levels stays.
    pub fn fit_schedule(&self, name: &str, options: &mut Map<String, Value>) {
        const OF_TIMESTEPS: [&str; 4] = [
            "timestep_spacing",
            "steps_offset",
            "schedule_type",
            "discard_next_to_last_sigma",
        ];
        let Some(training) = self.training.as_ref().filter(|t| t.edm.is_some()) else {
            return;
        };
        let known = schedule::canonical_name(name).unwrap_or_default();
        let mut fitting = schedule::list_for(training).into_iter();
        let has_curves = fitting.any(|info| info.name == known && info.options.contains(&"sigmas"));
        let curve = match options.get("schedule_type").and_then(Value::as_str) {
            Some("polyexponential") => Some("exponential"),
            Some(curve @ ("karras" | "exponential" | "beta")) => Some(curve),
            _ => None,
        };
        if let Some(curve) = curve.filter(|_| has_curves) {
            options.insert("sigmas".into(), curve.into());
        }
        options.retain(|key, _| !OF_TIMESTEPS.contains(&key.as_str()));
    }

    /// The preset's options for the scheduler of this name: all for its own, for
    /// another those that it has too.
    pub(super) fn options_for(&self, name: &str) -> Map<String, Value> {
        let known = schedule::canonical_name(name).unwrap_or_default();
        let info = schedule::list().into_iter().find(|info| info.name == known);
        let has = |key: &str| {
            info.as_ref()
                .is_some_and(|info| info.options.contains(&key))
        };
        let options = self.options.iter().filter(|(key, _)| has(key));
        options
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_fits_the_kind_of_diffusion() {
        let fitted = |config: schedule::Config, name: &str, options: Value| {
            let mut options = options.as_object().cloned().unwrap_or_default();
            Preset::of(&config).fit_schedule(name, &mut options);
            Value::Object(options)
        };
        let karras = json!({"sigmas": "karras", "timestep_spacing": "linspace"});
        let sdxl = fitted(schedule::Config::sdxl(), "Euler", karras.clone());
        assert_eq!(sdxl, karras);
        let cosxl = |name, options| fitted(schedule::Config::cosxl(), name, options);
        assert_eq!(cosxl("Euler", karras), json!({"sigmas": "karras"}));
        let kind = |kind: &str| json!({"schedule_type": kind});
        assert_eq!(
            cosxl("DPM++ 2M", kind("karras")),
            json!({"sigmas": "karras"})
        );
        assert_eq!(cosxl("Euler", kind("uniform")), json!({}));
        // It has one curve only.
        assert_eq!(cosxl("Euler a", kind("karras")), json!({}));
    }
}
