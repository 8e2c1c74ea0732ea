//! A model that draws, for those who do not hold it.

use crate::pipeline::{ModelFacts, Preset, model_name};
use std::time::SystemTime;

/// What the loaded model is, for those who do not hold it.
#[derive(Debug, Clone)]
pub struct Model {
    /// The last part of its path.
    pub name: String,
    /// Width and height in pixels.
    pub native: (usize, usize),
    pub preset: Preset,
    pub refiner: bool,
    /// When it was loaded.
    pub loaded: SystemTime,
}

impl Model {
    /// The model of these facts, loaded just now.
    pub fn of(facts: &ModelFacts) -> Self {
        Self {
            name: facts.name.clone(),
            native: facts.native,
            preset: facts.preset.clone(),
            refiner: facts.has_refiner,
            loaded: SystemTime::now(),
        }
    }
}

/// Whether a client's name means this one: `folder/NAME.safetensors [hash]` does.
pub fn same(given: &str, name: &str) -> bool {
    let title = given.split(" [").next().unwrap_or_default().trim();
    let file = title.rsplit(['/', '\\']).next().unwrap_or_default();
    model_name(file).eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn a_model_is_known_by_its_titles() {
        for given in [
            "sd_xl_base_1.0",
            "SD_XL_base_1.0.safetensors",
            "sd_xl_base_1.0.safetensors [31e35c80fc]",
            "xl\\sd_xl_base_1.0.safetensors [31e35c80fc]",
            "sd_xl_base_1.0.ckpt",
            "sd_xl_base_1.0.GGUF",
        ] {
            assert!(same(given, "sd_xl_base_1.0"), "{given}");
        }
        assert!(!same("sd_xl_base", "sd_xl_base_1.0"));
        assert!(!same("", "sd_xl_base_1.0"));
    }
}
