//! The models that draw, by the names that clients give them.

use super::failure::Failure;
use super::model::{Model, same};
use super::service::Service;
use crate::error::Field;
use crate::pipeline::{ModelFacts, Preset, model_name};
use crate::schedule;
use crate::server::config::Role;

impl Service {
    /// Where a request is silent: what the model asks for, and the operator.
    pub fn preset(&self, model: &Model) -> Preset {
        let mut preset = model.preset.clone();
        preset.steps = self.limits.default_steps.unwrap_or(preset.steps);
        preset.steps = preset.steps.min(self.limits.max_steps);
        preset
    }

    /// The model, once it is loaded and while requests are taken.
    pub fn model(&self) -> Result<Model, Failure> {
        let models = self.models()?;
        models.first().cloned().ok_or(Failure::Internal)
    }

    /// All models, the default one first, once that is loaded and while requests are
    /// taken.
    pub fn models(&self) -> Result<&[Model], Failure> {
        match self.models.get() {
            Some(models) if self.is_ready() => Ok(models),
            Some(_) if self.setup.role == Role::Front => {
                Err(Failure::Unavailable("no worker is there"))
            }
            _ => Err(Failure::Unavailable("the model is being loaded")),
        }
    }

    /// The model of a name, as clients write it (see [`same`]), and its number; the
    /// default one where none is named.
    pub fn pick(&self, name: Option<&str>) -> Result<(usize, Model), Failure> {
        let models = self.models()?;
        let known = match name {
            Some(name) => models.iter().position(|model| same(name, &model.name)),
            None => Some(0),
        };
        match known {
            Some(index) if self.setup.role == Role::Front && !self.devices.has_loaded(index) => {
                Err(Failure::Unavailable("no worker has this model"))
            }
            Some(index) => Ok((index, models[index].clone())),
            None => {
                let name = name.unwrap_or_default();
                let names: Vec<&str> = models.iter().map(|model| &model.name[..]).collect();
                let allowed = format!("this service has {}", names.join(", "));
                Err(Failure::invalid(Field::Model, name, allowed))
            }
        }
    }

    /// The name, if it means one of the models; clients of other services name theirs,
    /// which the default one stands for.
    pub fn if_known(&self, name: &str) -> Option<String> {
        let mut models = self.setup.models();
        let known = models.any(|options| same(name, model_name(&options.model)));
        known.then(|| name.to_owned())
    }

    /// What `/v1/info` tells of the model: `None` before it is loaded.
    pub fn known_model(&self) -> Option<&Model> {
        self.known_models().first()
    }

    /// All models; none before the default one is loaded.
    pub fn known_models(&self) -> &[Model] {
        self.models.get().map_or(&[], Vec::as_slice)
    }

    /// Whether the scheduler of this name draws with the model; any, before the model is
    /// known.
    pub fn goes_with_model(&self, scheduler: &str) -> bool {
        let training = self
            .known_model()
            .and_then(|model| model.preset.training.as_ref());
        let name = schedule::canonical_name(scheduler).unwrap_or_default();
        training.is_none_or(|training| {
            let mut fitting = schedule::list_for(training).into_iter();
            fitting.any(|info| info.name == name)
        })
    }

    pub fn model_name(&self) -> &str {
        model_name(&self.setup.load.model)
    }

    /// Looks at the models that others draw with.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn look_at_models(&self) -> crate::Result<()> {
        let facts = self.setup.models().map(ModelFacts::of);
        let known = facts.collect::<crate::Result<Vec<_>>>()?;
        self.loaded(known.iter().map(Model::of).collect());
        Ok(())
    }

    pub(super) fn loaded(&self, models: Vec<Model>) {
        // Models that are loaded again are the same.
        let _ = self.models.set(models);
    }

    /// Whether a device can draw now.
    pub fn is_ready(&self) -> bool {
        self.devices.ready() > 0
    }
}
