//! `--like`: the settings of a picture, laid under the flags.

mod automatic1111;
mod fooocus;

use super::args::Args;
use anyhow::Result;
use calotype::Error;
use calotype::error::Field;
use calotype::picture::Parameters;
use calotype::pipeline::{Dtype, LoadOptions, RawRequest, Recipe, model_name};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What AUTOMATIC1111's program calls fields in a picture.
const NAMES: &[(Field, &str)] = &[
    (Field::Steps, "Steps"),
    (Field::Scheduler, "Sampler"),
    (Field::SchedulerOptions, "Schedule type"),
    (Field::GuidanceScale, "CFG scale"),
    (Field::GuidanceRescale, "CFG Rescale phi"),
    (Field::CacheInterval, "Cache interval"),
    (Field::Seed, "Seed"),
    (Field::Rng, "RNG"),
    (Field::Width, "width in the Size"),
    (Field::Height, "height in the Size"),
    (Field::Strength, "Denoising strength"),
    (Field::ClipSkip, "Clip skip (less 2)"),
    (Field::PromptWeighting, "Emphasis"),
];

/// What made a picture.
pub struct Like {
    path: PathBuf,
    recipe: Recipe,
    /// Written by this program, which says everything.
    own: bool,
    /// The schedule is the sampler's own, unless the checkpoint is of few steps.
    pub automatic: bool,
    /// The VAE that another program had in the place of the model's own.
    vae: Option<String>,
    /// What the user should know, about the picture.
    notes: Vec<String>,
}

/// What another program's settings come to.
#[derive(Debug, Default)]
struct Read {
    recipe: Recipe,
    automatic: bool,
    vae: Option<String>,
    notes: Vec<String>,
}

impl Like {
    /// Reads a picture's metadata: this program's, AUTOMATIC1111's or Fooocus'; what the
    /// flags say in `given` need not be understood.
    pub fn open(path: &Path, given: &RawRequest, args: &Args) -> Result<Self> {
        let start = automatic1111::Start {
            picture: args.picture.image.is_some(),
            mask: args.picture.mask.is_some(),
        };
        let Some(parameters) = Parameters::open(path)? else {
            return Err(match Parameters::foreign(path)? {
                Some(program) => refused(path, &format!("has settings of {program}'s alone")),
                None => refused(path, "holds no settings"),
            });
        };
        let mut own = false;
        let read = match (&parameters.settings, object(&parameters)) {
            (Some(settings), _) => {
                own = true;
                let recipe = serde_json::from_value(settings.clone()).map_err(|e| {
                    let problem = format!("its settings cannot be read ({e})");
                    Error::file(path, problem, "give the settings as flags")
                })?;
                Read {
                    recipe,
                    ..Default::default()
                }
            }
            (None, Some(json)) if fooocus::is_fooocus(&json) => fooocus::read(&json, given)
                .map_err(|error| Error::file(path, error, "or give the settings as flags"))?,
            (None, Some(json)) => {
                let swarm = json.contains_key("sui_image_params");
                let whose = if swarm {
                    "SwarmUI's"
                } else {
                    "of an unknown program's"
                };
                return Err(refused(path, &format!("has settings {whose} alone")));
            }
            (None, None) if parameters.get("Steps").is_none() => {
                let problem = "has a text under \"parameters\" without a line of settings \
                               (Steps: ...)";
                return Err(refused(path, problem));
            }
            (None, None) => automatic1111::read(&parameters, given, start)
                .map_err(|error| Error::file(path, error, "or give the settings as flags"))?,
        };
        Ok(Self {
            path: path.to_owned(),
            recipe: read.recipe,
            own,
            automatic: read.automatic,
            vae: read.vae,
            notes: read.notes,
        })
    }

    /// Fills what the flags leave open; returns what the user should know.
    pub fn lay_under(
        &self,
        raw: &mut RawRequest,
        options: &mut LoadOptions,
        args: &Args,
    ) -> Result<Vec<String>> {
        let about = |note: &String| format!("{} {note}", self.path.display());
        let mut warnings: Vec<String> = self.notes.iter().map(about).collect();
        self.model(options, args, &mut warnings)?;
        self.others(options, raw, &mut warnings);
        for (wanted, given, flag) in [
            (&self.recipe.image, &args.picture.image, "--image"),
            (&self.recipe.mask, &args.picture.mask, "--mask"),
        ] {
            if let (Some(name), None) = (wanted, given) {
                let problem = format!("was made from {name}, which it does not hold");
                let remedy = format!("give that picture by {flag}");
                return Err(Error::file(&self.path, problem, remedy).into());
            }
        }
        if self.own && self.recipe.request.refiner == Some(true) && options.refiner.is_none() {
            options.refiner = self.recipe.loaded_refiner.clone();
        }
        let mut request = self.recipe.request.clone();
        if !self.own && options.refiner.is_none() {
            (request.refiner, request.high_noise_fraction) = (None, None);
        }
        // Their files are looked for where a prompt's tags are.
        for lora in &mut request.loras {
            lora.path = args.model.lora_folder().join(&lora.path);
        }
        if !raw.loras.is_empty() {
            request.loras.clear();
        }
        *raw = overlaid(&request, raw)?;
        Ok(warnings)
    }

    /// Refiner and VAE of another program.
    fn others(&self, options: &LoadOptions, raw: &RawRequest, warnings: &mut Vec<String>) {
        if self.own {
            return;
        }
        let wanted = [
            (
                &self.recipe.loaded_refiner,
                &options.refiner,
                "refiner",
                "--refiner",
            ),
            (&self.vae, &options.vae, "VAE", "--vae"),
        ];
        let silent = |what: &str| what == "refiner" && raw.refiner == Some(false);
        for (wanted, given, what, flag) in wanted {
            let Some(wanted) = wanted.as_deref().filter(|_| !silent(what)) else {
                continue;
            };
            let path = self.path.display();
            match given.as_deref().map(model_name) {
                None => warnings.push(format!(
                    "{path} was made with the {what} {wanted}, which is not loaded; give it by {flag}"
                )),
                Some(given) if given != wanted => warnings.push(format!(
                    "{path} was made with the {what} {wanted}; this is {given}"
                )),
                Some(_) => {}
            }
        }
    }

    /// What it asks for.
    pub fn request(&self) -> &RawRequest {
        &self.recipe.request
    }

    /// What the picture's metadata calls a field.
    pub fn name_of<'a>(&self, field: &'a Field) -> &'a str {
        let found = NAMES.iter().find(|(known, _)| known == field && !self.own);
        found.map_or(field.name(), |(_, name)| name)
    }

    fn model(
        &self,
        options: &mut LoadOptions,
        args: &Args,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let recipe = &self.recipe;
        let built_in = |name: &str| name == "demo" || name.contains(':');
        if !args.model.is_named() && built_in(&recipe.model) {
            options.model = recipe.model.clone();
        }
        if model_name(&options.model) != recipe.model && !recipe.model.is_empty() {
            warnings.push(format!(
                "{} was made with the model {}; this is {}",
                self.path.display(),
                recipe.model,
                model_name(&options.model)
            ));
        }
        if let (Some(vae), None) = (&recipe.vae, &options.vae) {
            let problem = format!("was made with the VAE {vae}");
            return Err(Error::file(&self.path, problem, "give its file by --vae").into());
        }
        if self.own && options.dtype == Dtype::Auto && !recipe.dtype.is_empty() {
            options.dtype = recipe.dtype.parse()?;
        }
        if self.own && options.activations == Dtype::Auto && !recipe.activations.is_empty() {
            options.activations = recipe.activations.parse()?;
        }
        Ok(())
    }
}

fn refused(path: &Path, problem: &str) -> anyhow::Error {
    let remedy = "use a picture as this program, AUTOMATIC1111's or Fooocus wrote it";
    Error::file(path, problem, remedy).into()
}

/// The text where it is a JSON object.
fn object(parameters: &Parameters) -> Option<Map<String, Value>> {
    let text = parameters.to_string();
    serde_json::from_str(text.trim()).ok()
}

/// Whether a field's value says something.
pub fn says(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    }
}

/// `under` with every field of `over` that says something.
fn overlaid(under: &RawRequest, over: &RawRequest) -> Result<RawRequest> {
    let fields = |request: &RawRequest| serde_json::to_value(request);
    let (mut all, over) = (fields(under)?, fields(over)?);
    if let (Some(all), Some(over)) = (all.as_object_mut(), over.as_object()) {
        // Another scheduler has other options, another size other conditioning.
        let given = |key: &str| over.get(key).is_some_and(says);
        let sizes = [
            "original_size",
            "target_size",
            "negative_original_size",
            "negative_target_size",
        ];
        let gone: Vec<&str> = [
            (given("scheduler"), &["scheduler_options"][..]),
            (
                given("preset"),
                &["scheduler", "scheduler_options", "steps", "guidance_scale"],
            ),
            (given("width") || given("height"), &sizes),
            (given("refiner_strength"), &["high_noise_fraction"]),
            (given("high_noise_fraction"), &["refiner_strength"]),
        ]
        .iter()
        .filter(|(given, _)| *given)
        .flat_map(|(_, keys)| keys.iter().copied())
        .collect();
        gone.into_iter().for_each(|key| {
            all.remove(key);
        });
        for (key, value) in over.iter().filter(|(_, value)| says(value)) {
            all.insert(key.clone(), value.clone());
        }
    }
    Ok(serde_json::from_value(all)?)
}
