//! A run's settings, as pictures carry them and reports print them.

use super::request::{MaskedContent, Masking};
use super::{LoadOptions, Output, RawRequest, Refinement, Request, Rng};
use crate::picture::Parameters;
use crate::text::Weighting;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// All that makes a picture again, as the picture holds it. Files are known by
/// their names; the folders above them are nobody else's business.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipe {
    #[serde(flatten)]
    pub request: RawRequest,
    pub model: String,
    pub loaded_refiner: Option<String>,
    pub vae: Option<String>,
    pub dtype: String,
    pub activations: String,
    pub image: Option<String>,
    pub mask: Option<String>,
    pub version: String,
}

/// The request as it was carried out.
pub struct Settings<'a> {
    options: &'a LoadOptions,
    request: &'a Request,
    output: &'a Output,
    image: Option<String>,
    mask: Option<String>,
}

impl<'a> Settings<'a> {
    pub fn new(options: &'a LoadOptions, request: &'a Request, output: &'a Output) -> Self {
        Self {
            options,
            request,
            output,
            image: None,
            mask: None,
        }
    }

    /// With the names of the pictures that it started from.
    #[must_use]
    pub fn started_from(mut self, image: Option<&Path>, mask: Option<&Path>) -> Self {
        let name = |path: &Path| file_name(path).to_owned();
        (self.image, self.mask) = (image.map(name), mask.map(name));
        self
    }

    /// What makes the picture of `seed` again.
    pub fn recipe(&self, seed: u64) -> Recipe {
        let mut request = self.request.raw(seed);
        for lora in &mut request.loras {
            lora.path = file_name(&lora.path).into();
        }
        Recipe {
            request,
            model: model_name(&self.options.model).to_owned(),
            loaded_refiner: self
                .options
                .refiner
                .as_deref()
                .map(|r| model_name(r).to_owned()),
            vae: self
                .options
                .vae
                .as_deref()
                .map(|vae| file_name(Path::new(vae)).to_owned()),
            dtype: self.output.dtype.clone(),
            activations: self.output.activations.clone(),
            image: self.image.clone(),
            mask: self.mask.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The settings of the whole run: those of the first picture, and how many.
    pub fn all(&self) -> Value {
        without_nulls(&Recipe {
            model: self.options.model.clone(),
            ..self.whole()
        })
    }

    /// [`Settings::all`] for strangers: no folder is named.
    pub fn public(&self) -> Value {
        without_nulls(&self.whole())
    }

    fn whole(&self) -> Recipe {
        let mut recipe = self.recipe(self.request.seed);
        recipe.request.samples = Some(self.request.samples as i64);
        recipe
    }

    /// The prompts as AUTOMATIC1111's program writes them: in their style, with a tag for
    /// each LoRA.
    fn texts(&self) -> (String, Option<String>) {
        let r = self.request;
        let negative = r.negative_prompt.as_deref();
        let (mut prompt, negative) = match &r.style {
            Some(style) => style.apply(&r.prompt, negative),
            None => (r.prompt.clone(), negative.map(str::to_owned)),
        };
        for lora in &r.loras {
            let name = lora.path.file_stem().and_then(|name| name.to_str());
            let name = name.unwrap_or_default();
            let (text, unet) = (lora.text_weight, lora.unet_weight);
            prompt += &match text == unet {
                true => format!(" <lora:{name}:{unet}>"),
                false => format!(" <lora:{name}:{text}:{unet}>"),
            };
        }
        (prompt, negative)
    }

    /// The text and the settings that the picture of `seed` carries. By the text
    /// AUTOMATIC1111's program draws the same or the nearest: it holds the style's words,
    /// tags of the LoRAs, and that program's names.
    pub fn parameters(&self, seed: u64) -> Parameters {
        let r = self.request;
        let (prompt, negative) = self.texts();
        let names = &self.output.names;
        let mut p = Parameters::new(&prompt, negative.as_deref())
            .with("Steps", r.steps)
            .with("Sampler", names.sampler);
        if let Some(schedule_type) = names.schedule_type {
            p = p.with("Schedule type", schedule_type);
        }
        p = p
            .with("CFG scale", r.guidance_scale)
            .with("Seed", seed)
            .with("Size", format!("{}x{}", r.width, r.height))
            .with("Model", model_name(&self.options.model));
        for (key, value) in &r.scheduler_options {
            if SAID_BY_NAMES.contains(&key.as_str()) && !value.is_array() {
                continue;
            }
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            p = p.with(&key.replace('_', " "), text);
        }
        if r.clip_skip > 0 {
            // That program counts from the last layer.
            p = p.with("Clip skip", r.clip_skip + 2);
        }
        match r.prompt_weighting.emphasis() {
            Some(emphasis) if r.prompt_weighting != Weighting::default() => {
                p = p.with("Emphasis", emphasis);
            }
            _ => {}
        }
        if r.image.is_some() {
            p = p.with("Denoising strength", r.strength);
        }
        if r.mask.is_some() {
            p = masking(p, &r.masking);
        }
        if r.guidance_rescale > 0.0 {
            p = p.with("CFG Rescale phi", r.guidance_rescale);
        }
        if r.cache_interval > 1 {
            p = p.with("Cache interval", r.cache_interval);
        }
        if r.rng != Rng::Cuda {
            // Its word for the default of this program.
            p = p.with("RNG", r.rng.name().to_uppercase());
        }
        if let Some(style) = &r.style {
            p = p.with("Style", &style.name);
        }
        if let Some(vae) = &self.options.vae {
            p = p.with("VAE", file_name(Path::new(vae)));
        }
        let refiner = self.options.refiner.as_deref().map(model_name);
        p = match (r.refinement, refiner) {
            (
                Refinement::Ensemble {
                    high_noise_fraction,
                },
                Some(name),
            ) => p
                .with("Refiner", name)
                .with("Refiner switch at", high_noise_fraction),
            (Refinement::SecondPass { strength }, Some(name)) => {
                p.with("Refiner", name).with("Refiner strength", strength)
            }
            _ => p,
        };
        p.with("Version", Parameters::VERSION)
            .with_settings(&without_nulls(&self.recipe(seed)))
    }
}

/// Options that a sampler's and a schedule type's name stand for.
const SAID_BY_NAMES: [&str; 7] = [
    "sigmas",
    "timesteps",
    "timestep_spacing",
    "schedule_type",
    "discard_next_to_last_sigma",
    "solver_type",
    "skip_prk_steps",
];

/// What was done with the mask, in AUTOMATIC1111's words.
fn masking(mut p: Parameters, masking: &Masking) -> Parameters {
    if masking.blur[0] == masking.blur[1] && masking.blur[0] > 0.0 {
        p = p.with("Mask blur", masking.blur[0]);
    }
    if masking.invert {
        p = p.with("Mask mode", "Inpaint not masked");
    }
    if let Some(padding) = masking.padding_crop {
        p = p
            .with("Inpaint area", "Only masked")
            .with("Masked area padding", padding);
    }
    match masking.content {
        MaskedContent::Original => p,
        other => p.with("Masked content", other.name().replace('_', " ")),
    }
}

/// Fields that say nothing are left out.
fn without_nulls(recipe: &Recipe) -> Value {
    let mut value = serde_json::to_value(recipe).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, field| !field.is_null());
    }
    value
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("")
}

/// The last part of a path without its extension.
pub fn model_name(model: &str) -> &str {
    const FILES: [&str; 6] = ["safetensors", "gguf", "ckpt", "pt", "pth", "bin"];
    let path = Path::new(model);
    let is_file = path
        .extension()
        .is_some_and(|end| FILES.iter().any(|known| end.eq_ignore_ascii_case(known)));
    let name = if is_file {
        path.file_stem()
    } else {
        path.file_name()
    };
    name.and_then(|name| name.to_str()).unwrap_or(model)
}

#[cfg(test)]
mod tests {
    use super::model_name;

    #[test]
    fn a_model_is_known_by_its_last_part() {
        for (model, name) in [
            ("demo", "demo"),
            ("/a/b/sd_xl_base_1.0.safetensors", "sd_xl_base_1.0"),
            ("xl/city96.GGUF", "city96"),
            ("/a/sdxl-1.0/", "sdxl-1.0"),
            ("random:sdxl-base", "random:sdxl-base"),
            ("..", ".."),
        ] {
            assert_eq!(model_name(model), name);
        }
    }
}
