//! What Fooocus says of a picture, as JSON under `parameters`, in this program's terms
//! (its `modules/meta_parser.py` and `modules/async_worker.py`).

use super::Read;
use super::automatic1111::left_out;
use calotype::pipeline::request::SIZE_STEP;
use calotype::pipeline::{RawRequest, model_name};
use calotype::schedule::automatic1111::{self, Wish};
use calotype::{Error, Result};
use serde_json::{Map, Value};

/// Keys that are read, and that say nothing of the pixels beside those.
const READ: [&str; 29] = [
    "prompt",
    "negative_prompt",
    "full_prompt",
    "full_negative_prompt",
    "styles",
    "steps",
    "seed",
    "resolution",
    "guidance_scale",
    "sampler",
    "scheduler",
    "clip_skip",
    "loras",
    "base_model",
    "refiner_model",
    "vae",
    "base_model_hash",
    "refiner_model_hash",
    "refiner_switch",
    "refiner_swap_method",
    "overwrite_switch",
    "performance",
    "created_by",
    "metadata_scheme",
    "version",
    "image_number",
    "user",
    "prompt_expansion",
    "log_positive_prompt",
];

/// Whether a JSON object is Fooocus'.
pub(super) fn is_fooocus(object: &Map<String, Value>) -> bool {
    let text = |key: &str| object.get(key).is_some_and(Value::is_string);
    text("prompt") && (object.contains_key("seed") || object.contains_key("steps"))
}

/// The recipe, under what the flags say in `given`.
///
/// # Errors
/// Where a sampler that the flags do not replace is not here.
pub(super) fn read(object: &Map<String, Value>, given: &RawRequest) -> Result<Read> {
    let mut json = Json {
        object,
        notes: vec![
            "was drawn by Fooocus, which guides in ways of its own (sharpness, ADM guidance): \
             this picture is of the kind, not the same"
                .into(),
        ],
    };
    let mut read = Read::default();
    if given.scheduler.is_none()
        && let Some(sampling) = json.sampling()?
    {
        read.recipe.request.scheduler = Some(sampling.name);
        read.recipe.request.scheduler_options = sampling.options;
    }
    let (width, height) = json.resolution();
    read.recipe.request = RawRequest {
        prompt: Some(json.prompt() + &json.lora_tags()),
        negative_prompt: Some(json.texts("full_negative_prompt", "negative_prompt")),
        // Its prompts are ComfyUI's, and so is its noise.
        prompt_weighting: Some("comfy".into()),
        rng: Some("cpu".into()),
        steps: json.number("steps"),
        seed: json.number("seed"),
        guidance_scale: json.number("guidance_scale"),
        clip_skip: json.number("clip_skip").map(|n: i64| (n - 2).max(0)),
        width,
        height,
        ..read.recipe.request
    };
    read.recipe.model = json.name("base_model").unwrap_or_default();
    read.recipe.loaded_refiner = json.name("refiner_model");
    if read.recipe.loaded_refiner.is_some() {
        read.recipe.request.refiner = Some(true);
        read.recipe.request.high_noise_fraction = json.number("refiner_switch");
    }
    read.vae = json.name("vae").filter(|name| !name.starts_with("Default"));
    json.left_out();
    read.notes = json.notes;
    Ok(read)
}

struct Json<'a> {
    object: &'a Map<String, Value>,
    notes: Vec<String>,
}

impl Json<'_> {
    fn text(&self, key: &str) -> Option<String> {
        let text = match self.object.get(key)? {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some(text).filter(|text| !text.trim().is_empty())
    }

    /// Numbers may be text.
    fn number<T: std::str::FromStr>(&mut self, key: &str) -> Option<T> {
        let value = self.text(key)?;
        let number = value.trim().parse().ok();
        if number.is_none() {
            let why = "it is no number that fits";
            self.notes.push(left_out(&[(key, &value)], why));
        }
        number
    }

    /// A model's name without its folder.
    fn name(&self, key: &str) -> Option<String> {
        let name = self.text(key).filter(|name| name != "None")?;
        let file = name.rsplit(['/', '\\']).next().unwrap_or_default();
        Some(model_name(file).to_owned())
    }

    /// Styles and the rest of it are prompts of their own, whose states it lays one
    /// behind another, as `BREAK` does.
    fn texts(&self, full: &str, plain: &str) -> String {
        let list = self.object.get(full).and_then(Value::as_array);
        let texts: Vec<&str> = list
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter(|text| !text.trim().is_empty())
            .collect();
        match texts.is_empty() {
            true => self.text(plain).unwrap_or_default(),
            false => texts.join(" BREAK "),
        }
    }

    fn prompt(&mut self) -> String {
        let styles = self.text("styles").filter(|styles| styles != "[]");
        if let Some(styles) = styles
            && !self.object.contains_key("full_prompt")
        {
            let why = "it does not say their words; give one by --style";
            self.notes.push(left_out(&[("styles", &styles)], why));
        }
        self.texts("full_prompt", "prompt")
    }

    /// Of `[[name, weight, hash], …]`, or of `lora_combined_1: name : weight`.
    fn lora_tags(&self) -> String {
        let listed = self.object.get("loras").and_then(Value::as_array);
        let mut loras: Vec<(String, String)> = listed
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let name = entry.get(0)?.as_str()?.to_owned();
                Some((name, entry.get(1)?.as_f64()?.to_string()))
            })
            .collect();
        if loras.is_empty() {
            let combined = self.object.iter().filter_map(|(key, value)| {
                let text = value
                    .as_str()
                    .filter(|_| key.starts_with("lora_combined_"))?;
                let (name, weight) = text.rsplit_once(" : ")?;
                Some((name.trim().to_owned(), weight.trim().to_owned()))
            });
            loras.extend(combined);
        }
        let tags = loras.iter().map(|(name, weight)| {
            let name = name.strip_suffix(".safetensors").unwrap_or(name);
            format!(" <lora:{name}:{weight}>")
        });
        tags.collect()
    }

    fn sampling(&mut self) -> Result<Option<automatic1111::Sampling>> {
        let Some(name) = self.text("sampler") else {
            self.notes
                .push("names no sampler; the default draws".into());
            return Ok(None);
        };
        let scheduler = self.text("scheduler");
        let chosen = automatic1111::choose(Some(&name), scheduler.as_deref(), Wish::default());
        let mut sampling = chosen.map_err(|_| {
            let allowed = "not here; choose another by --scheduler";
            Error::invalid("sampler", format!("{name:?}"), allowed)
        })?;
        if !name.starts_with("dpm_2") {
            // ComfyUI leaves a level out for those alone.
            sampling.options.remove("discard_next_to_last_sigma");
        }
        self.notes.append(&mut sampling.warnings);
        Ok(Some(sampling))
    }

    /// `(1152, 896)`, rounded down to what can be drawn.
    fn resolution(&mut self) -> (Option<i64>, Option<i64>) {
        let Some(text) = self.text("resolution") else {
            return (None, None);
        };
        let plain = text.trim().trim_matches(['(', ')', '[', ']']);
        let sides = plain.split_once([',', 'x']).and_then(|(width, height)| {
            let side = |text: &str| text.trim().parse::<i64>().ok();
            side(width).zip(side(height))
        });
        let Some((width, height)) = sides else {
            self.notes
                .push(left_out(&[("resolution", &text)], "it is no size"));
            return (None, None);
        };
        let step = SIZE_STEP as i64;
        let down = |side: i64| side.div_euclid(step) * step;
        (Some(down(width)), Some(down(height)))
    }

    fn left_out(&mut self) {
        let known = |key: &str| READ.contains(&key) || key.starts_with("lora_combined_");
        let others: Vec<(&str, String)> = self
            .object
            .keys()
            .filter(|key| !known(key))
            .filter_map(|key| Some((key.as_str(), self.text(key)?)))
            .collect();
        let pairs: Vec<(&str, &str)> = others.iter().map(|(k, v)| (*k, v.as_str())).collect();
        if !pairs.is_empty() {
            self.notes.push(left_out(&pairs, "it is not known here"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_log_of_fooocus_is_understood() {
        let json = json!({
            "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernautXL_v8Rundiffusion",
            "base_model_hash": "aeb7e9e689", "clip_skip": 2, "created_by": "me",
            "full_negative_prompt": ["blurry", "text, frame"],
            "full_prompt": ["cinematic still a red circle . film grain", "a red circle, sharp"],
            "guidance_scale": 4.5, "loras": [["sd_xl_offset", 0.1, "4852686128"]],
            "lora_combined_1": "sd_xl_offset : 0.1", "metadata_scheme": "fooocus",
            "negative_prompt": "blurry", "performance": "Speed", "prompt": "a red circle",
            "refiner_model": "None", "refiner_switch": 0.5, "resolution": "(1152, 896)",
            "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "5", "sharpness": 2.0,
            "steps": 30, "styles": "['Fooocus Cinematic']", "vae": "Default (model)",
            "version": "Fooocus v2.5.5",
        });
        let object = json.as_object().unwrap();
        assert!(is_fooocus(object));
        let read = read(object, &RawRequest::default()).unwrap();
        let request = &read.recipe.request;
        assert_eq!(
            request.prompt.as_deref(),
            Some(
                "cinematic still a red circle . film grain BREAK a red circle, sharp \
                 <lora:sd_xl_offset:0.1>"
            )
        );
        assert_eq!(
            request.negative_prompt.as_deref(),
            Some("blurry BREAK text, frame")
        );
        assert_eq!((request.width, request.height), (Some(1152), Some(896)));
        assert_eq!((request.steps, request.seed), (Some(30), Some(5)));
        assert_eq!(request.scheduler_options["schedule_type"], "karras");
        assert_eq!((request.clip_skip, request.refiner), (Some(0), None));
        assert_eq!(
            (read.recipe.model.as_str(), &read.vae),
            ("juggernautXL_v8Rundiffusion", &None)
        );
        assert_eq!(read.notes.len(), 2, "{:?}", read.notes);
        assert!(read.notes[1].contains("sharpness: 2"), "{:?}", read.notes);
    }
}
