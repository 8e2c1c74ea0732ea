//! What few-step checkpoints ask for, by name or by the checkpoint's own word.

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
