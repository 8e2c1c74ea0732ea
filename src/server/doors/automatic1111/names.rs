//! What clients call the loaded model, its refiner and its VAE.

use crate::pipeline::{LoadOptions, model_name};
use crate::server::service::Service;

/// Names of what the service has loaded.
pub struct Loaded<'a>(&'a LoadOptions);

impl<'a> Loaded<'a> {
    pub fn of(service: &'a Service) -> Self {
        Self(&service.setup.load)
    }

    pub fn model(&self) -> &'a str {
        model_name(&self.0.model)
    }

    /// A refiner may have its base's name, as the demo's has.
    pub fn refiner(&self) -> Option<String> {
        let name = model_name(self.0.refiner.as_deref()?);
        Some(match name == self.model() {
            true => format!("{name}-refiner"),
            false => name.to_owned(),
        })
    }

    /// A VAE in place of the model's own.
    pub fn vae(&self) -> Option<&'a str> {
        self.0.vae.as_deref().map(model_name)
    }

    /// Whether a client's name means the loaded VAE.
    pub fn is_vae(&self, name: &str) -> bool {
        let automatic = ["", "automatic", "none"];
        automatic.contains(&name.trim().to_lowercase().as_str())
            || self.vae().is_some_and(|vae| same(name, vae))
    }
}

/// Whether a client's name means this one: `folder/NAME.safetensors [hash]` does.
pub fn same(given: &str, name: &str) -> bool {
    let title = given.split(" [").next().unwrap_or_default().trim();
    let file = title.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = [".safetensors", ".ckpt"]
        .iter()
        .find_map(|end| file.strip_suffix(end))
        .unwrap_or(file);
    stem.eq_ignore_ascii_case(name)
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
        ] {
            assert!(same(given, "sd_xl_base_1.0"), "{given}");
        }
        assert!(!same("sd_xl_base", "sd_xl_base_1.0"));
        assert!(!same("", "sd_xl_base_1.0"));
    }
}
