//! What clients call the loaded model, its refiner and its VAE.

use crate::pipeline::{LoadOptions, model_name};
use crate::server::work::{Service, same};

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
