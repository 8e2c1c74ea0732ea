//! `--like`: the settings of a picture, laid under the flags.

use super::args::Args;
use anyhow::Result;
use calotype::Error;
use calotype::error::Field;
use calotype::picture::Parameters;
use calotype::pipeline::{Dtype, LoadOptions, RawRequest, Recipe, model_name};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What AUTOMATIC1111's program calls fields in a picture.
const NAMES: &[(Field, &str)] = &[
    (Field::Steps, "Steps"),
    (Field::Scheduler, "Sampler"),
    (Field::SchedulerOptions, "Schedule type"),
    (Field::GuidanceScale, "CFG scale"),
    (Field::GuidanceRescale, "CFG Rescale phi"),
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
}

impl Like {
    /// Reads a picture's metadata: this program's or AUTOMATIC1111's.
    pub fn open(path: &Path) -> Result<Self> {
        let Some(parameters) = Parameters::open(path)? else {
            let remedy = "use a picture as this program or AUTOMATIC1111's wrote it";
            return Err(Error::file(path, "holds no settings", remedy).into());
        };
        let (recipe, own) = match &parameters.settings {
            Some(settings) => (
                serde_json::from_value(settings.clone()).map_err(|e| {
                    let problem = format!("its settings cannot be read ({e})");
                    Error::file(path, problem, "give the settings as flags")
                })?,
                true,
            ),
            None => (automatic1111(&parameters), false),
        };
        Ok(Self {
            path: path.to_owned(),
            recipe,
            own,
        })
    }

    /// Fills what the flags leave open; returns what the user should know.
    pub fn lay_under(
        &self,
        raw: &mut RawRequest,
        options: &mut LoadOptions,
        args: &Args,
    ) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        self.model(options, args, &mut warnings)?;
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
        if self.recipe.request.refiner == Some(true) && options.refiner.is_none() {
            options.refiner = self.recipe.loaded_refiner.clone();
        }
        let mut request = self.recipe.request.clone();
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

/// What AUTOMATIC1111's program says of a picture, in this program's terms.
fn automatic1111(parameters: &Parameters) -> Recipe {
    let number = |name: &str| {
        parameters
            .get(name)
            .and_then(|v| v.trim().parse::<f64>().ok())
    };
    let whole = |name: &str| {
        parameters
            .get(name)
            .and_then(|v| v.trim().parse::<i64>().ok())
    };
    let size = parameters.get("Size").and_then(|size| size.split_once('x'));
    let side = |text: Option<&str>| text.and_then(|text| text.trim().parse().ok());
    let sampler = parameters.get("Sampler").map(|sampler| {
        // Since 1.9 the curve is a pair of its own.
        let curve = parameters.get("Schedule type").filter(|curve| {
            ["Karras", "Exponential", "Beta"].contains(curve) && !sampler.ends_with(*curve)
        });
        match curve {
            Some(curve) => format!("{sampler} {curve}"),
            None => sampler.to_owned(),
        }
    });
    let rng = match parameters.get("RNG") {
        Some(rng) if rng.eq_ignore_ascii_case("cpu") => "cpu",
        // Its default.
        _ => "cuda",
    };
    Recipe {
        request: RawRequest {
            prompt: Some(parameters.prompt.clone()),
            negative_prompt: Some(parameters.negative_prompt.clone().unwrap_or_default()),
            steps: whole("Steps"),
            scheduler: sampler,
            guidance_scale: number("CFG scale"),
            guidance_rescale: number("CFG Rescale phi"),
            seed: whole("Seed"),
            rng: Some(rng.into()),
            width: side(size.map(|size| size.0)),
            height: side(size.map(|size| size.1)),
            strength: number("Denoising strength"),
            // That program counts from the last layer; SDXL is never below 2 there.
            clip_skip: whole("Clip skip").map(|n| (n - 2).max(0)),
            ..Default::default()
        },
        model: parameters.get("Model").unwrap_or_default().to_owned(),
        ..Default::default()
    }
}
