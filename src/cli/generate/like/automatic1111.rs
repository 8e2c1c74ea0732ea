//! What AUTOMATIC1111's program says of a picture, in this program's terms.

use super::Read;
use calotype::picture::Parameters;
use calotype::pipeline::request::{CLIP_SKIP, SIZE_STEP};
use calotype::pipeline::{RawRequest, model_name};
use calotype::schedule::automatic1111::{self, Wish};
use calotype::text::Weighting;
use calotype::{Error, Result};
use std::str::FromStr;

/// Pairs that are read, and that say nothing of the pixels: hashes and labels, guidance
/// of models that are not SDXL, and what the prompt says already.
const READ: [&str; 34] = [
    "Steps",
    "Sampler",
    "Schedule type",
    "Scheduler",
    "Schedule max sigma",
    "Schedule min sigma",
    "Discard penultimate sigma",
    "CFG scale",
    "CFG Rescale phi",
    "Cache interval",
    "Seed",
    "Size",
    "RNG",
    "Clip skip",
    "Emphasis",
    "Eta",
    "Eta DDIM",
    "Model",
    "VAE",
    "Refiner",
    "Refiner switch at",
    "Denoising strength",
    "Model hash",
    "VAE hash",
    "Lora hashes",
    "Hashes",
    "Version",
    "User",
    "Created Date",
    "Civitai resources",
    "Civitai metadata",
    "Distilled CFG Scale",
    "Guidance",
    "Style",
];

/// Beginnings of other pairs' names, and why they are left out.
const LEFT_OUT: [(&str, &str); 9] = [
    ("Hires ", "there is no hires fix here"),
    ("Variation seed", "seeds are not mixed here"),
    ("Seed resize", "noise of another size is not drawn here"),
    ("ENSD", "later steps' noise has the picture's own seed here"),
    ("ControlNet", "there is no ControlNet here"),
    ("ADetailer", "there is no ADetailer here"),
    ("TI", "textual inversions are not loaded here"),
    ("Mask", NO_MASK),
    ("Inpaint", NO_MASK),
];

/// Why pairs about a mask are left out.
const NO_MASK: &str = "it was painted within a mask, which is given by --mask";

/// Pairs that are read where there is a mask.
const MASK: [&str; 5] = [
    "Mask blur",
    "Mask mode",
    "Masked content",
    "Inpaint area",
    "Masked area padding",
];

/// What the flags start from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Start {
    pub picture: bool,
    pub mask: bool,
}

/// Why any other pair is left out.
const UNKNOWN: &str = "it is not known here";

/// Of that program, where its text is silent.
const SAMPLER: &str = "Euler";

/// The recipe, under what the flags say in `given`.
///
/// # Errors
/// Where a sampler that the flags do not replace is not here, or a size cannot be drawn.
pub(super) fn read(parameters: &Parameters, given: &RawRequest, start: Start) -> Result<Read> {
    let mut text = Text {
        parameters,
        notes: Vec::new(),
    };
    let mut read = Read::default();
    let sampling = match &given.scheduler {
        Some(_) => None,
        None => Some(text.sampling()?),
    };
    if let Some(sampling) = sampling {
        read.automatic = sampling.automatic;
        read.recipe.request.scheduler = Some(sampling.name);
        read.recipe.request.scheduler_options = sampling.options;
    }
    let (width, height) = text.size(given)?;
    let refiner = parameters.get("Refiner").map(stem);
    let request = RawRequest {
        prompt: Some(parameters.prompt.clone()),
        negative_prompt: Some(parameters.negative_prompt.clone().unwrap_or_default()),
        steps: text.number("Steps"),
        guidance_scale: text.number("CFG scale"),
        guidance_rescale: text.number("CFG Rescale phi"),
        cache_interval: text.number("Cache interval"),
        seed: text.number("Seed"),
        rng: Some(text.rng().into()),
        width,
        height,
        clip_skip: text.clip_skip(),
        prompt_weighting: text.weighting(),
        strength: text.strength(start.picture),
        strength_steps: start.picture.then(|| "webui".into()),
        // As its own first choice; the size is the text's.
        fit: start.picture.then(|| "stretch".into()),
        refiner: refiner.as_ref().map(|_| true),
        high_noise_fraction: refiner
            .as_ref()
            .and_then(|_| text.number("Refiner switch at")),
        ..read.recipe.request
    };
    read.recipe.request = match start.mask {
        true => text.masking(request),
        false => request,
    };
    read.recipe.loaded_refiner = refiner;
    read.recipe.model = parameters.get("Model").unwrap_or_default().to_owned();
    read.vae = text.vae();
    text.left_out(start.mask);
    read.notes = text.notes;
    Ok(read)
}

/// A name as that program writes it: `folder/NAME.safetensors [hash]`.
fn stem(name: &str) -> String {
    let title = name.split(" [").next().unwrap_or_default();
    let file = title.rsplit(['/', '\\']).next().unwrap_or_default();
    model_name(file.trim()).to_owned()
}

struct Text<'a> {
    parameters: &'a Parameters,
    notes: Vec<String>,
}

impl Text<'_> {
    /// The pair's value where it says something.
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.parameters.get(name).map(str::trim);
        value.filter(|value| !value.is_empty())
    }

    fn number<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let value = self.get(name)?;
        let number = value.parse().ok();
        if number.is_none() {
            let why = "it is no number that fits";
            self.notes.push(left_out(&[(name, value)], why));
        }
        number
    }

    fn sampling(&mut self) -> Result<automatic1111::Sampling> {
        let name = self.get("Sampler").map(str::to_owned);
        let kind = self.get("Schedule type").or(self.get("Scheduler"));
        let kind = kind.map(str::to_owned);
        if name.is_none() {
            self.notes
                .push(format!("names no sampler; {SAMPLER} draws"));
        }
        let name = name.as_deref().unwrap_or(SAMPLER);
        let sampling = automatic1111::choose(Some(name), kind.as_deref(), Wish::default());
        let mut sampling = sampling.map_err(|error| {
            let allowed = match &error {
                Error::Invalid { allowed, .. } => allowed.as_str(),
                _ => "not known here",
            };
            let allowed = format!("{allowed} Or choose another by --scheduler");
            Error::invalid("Sampler", format!("{name:?}"), allowed)
        })?;
        for (pair, option) in [
            ("Schedule max sigma", "sigma_max"),
            ("Schedule min sigma", "sigma_min"),
        ] {
            // 0 is silence there.
            if let Some(level) = self.number::<f64>(pair).filter(|level| *level != 0.0) {
                match sampling.has(option) {
                    true => drop(sampling.options.insert(option.into(), level.into())),
                    false => sampling.warnings.push(format!("{pair} has no effect here")),
                }
            }
        }
        let discards = "discard_next_to_last_sigma";
        if self
            .get("Discard penultimate sigma")
            .is_some_and(|v| v.eq_ignore_ascii_case("true"))
        {
            match sampling.options.contains_key("schedule_type") {
                true => drop(sampling.options.insert(discards.into(), true.into())),
                false => sampling
                    .warnings
                    .push("Discard penultimate sigma has no effect here".into()),
            }
        }
        if let Some(eta) = self.number("Eta").or_else(|| self.number("Eta DDIM")) {
            sampling.set_eta(eta);
        }
        self.notes.append(&mut sampling.warnings);
        if let Some(why) = sampling.differs {
            let label = &sampling.label;
            self.notes.push(format!(
                "was drawn with {label}, with which another picture of the kind is drawn here: {why}"
            ));
        }
        Ok(sampling)
    }

    /// Width and height, which that program's latents round down.
    fn size(&mut self, given: &RawRequest) -> Result<(Option<i64>, Option<i64>)> {
        let Some(size) = self.get("Size").map(str::to_owned) else {
            return Ok((None, None));
        };
        let sides = size.split_once('x').and_then(|(width, height)| {
            let side = |text: &str| text.trim().parse::<i64>().ok();
            side(width).zip(side(height))
        });
        let Some((width, height)) = sides else {
            self.notes
                .push(left_out(&[("Size", &size)], "it is no size"));
            return Ok((None, None));
        };
        let step = SIZE_STEP as i64;
        let down = |side: i64| side.div_euclid(step) * step;
        let rounded = (
            given.width.unwrap_or(down(width)),
            given.height.unwrap_or(down(height)),
        );
        let wanted = (given.width.unwrap_or(width), given.height.unwrap_or(height));
        if rounded != wanted {
            self.notes.push(format!(
                "is {size} in its text; sizes are multiples of {step}, so that {}x{} is drawn",
                rounded.0, rounded.1
            ));
        }
        let drawn = |side: i64| calotype::pipeline::request::SIZES.contains(&(side as usize));
        if !drawn(rounded.0) || !drawn(rounded.1) {
            let allowed = "too small or too large to be drawn; give --width and --height";
            return Err(Error::invalid("Size", size, allowed));
        }
        Ok((Some(rounded.0), Some(rounded.1)))
    }

    fn rng(&mut self) -> &'static str {
        match self.get("RNG").map(str::to_lowercase).as_deref() {
            Some("cpu") => "cpu",
            // Its default.
            None | Some("gpu" | "nv" | "cuda") => "cuda",
            Some(other) => {
                let note = left_out(&[("RNG", other)], "its noise is not drawn here; CUDA's is");
                self.notes.push(note);
                "cuda"
            }
        }
    }

    /// That program counts from the last layer; SDXL is never below 2 there.
    fn clip_skip(&mut self) -> Option<i64> {
        let layers: i64 = self.number("Clip skip")?;
        let skipped = (layers - 2).max(0);
        if !CLIP_SKIP.contains(&(skipped as usize)) {
            let why = "there are not so many layers";
            let value = layers.to_string();
            self.notes.push(left_out(&[("Clip skip", &value)], why));
            return None;
        }
        Some(skipped)
    }

    fn weighting(&mut self) -> Option<String> {
        let emphasis = self.get("Emphasis")?;
        match Weighting::of_emphasis(emphasis) {
            Some(mode) => Some(mode.name().into()),
            None => {
                let why = "prompts are weighed as by Original here";
                self.notes.push(left_out(&[("Emphasis", emphasis)], why));
                None
            }
        }
    }

    fn strength(&mut self, starts: bool) -> Option<f64> {
        let value = self.get("Denoising strength")?.to_owned();
        if starts {
            return self.number("Denoising strength");
        }
        let hires = |(name, _): &(String, String)| name.starts_with("Hires ");
        if !self.parameters.pairs.iter().any(hires) {
            let why = "it started from a picture, which is given by --image; without one it is \
                       drawn from text alone";
            self.notes
                .push(left_out(&[("Denoising strength", &value)], why));
        }
        None
    }

    /// What that program does with a mask, by its defaults where the text is silent.
    fn masking(&mut self, request: RawRequest) -> RawRequest {
        let is = |text: &Self, name: &str, value: &str| {
            text.get(name)
                .is_some_and(|said| said.eq_ignore_ascii_case(value))
        };
        let blur: Option<f64> = self.number("Mask blur");
        let content = self.get("Masked content").unwrap_or("original");
        RawRequest {
            masked_content: Some(content.to_lowercase().replace(' ', "_")),
            mask_blur: Some([blur.unwrap_or(0.0); 2]),
            mask_invert: Some(is(self, "Mask mode", "Inpaint not masked")),
            keep_unmasked: Some(true),
            padding_mask_crop: match is(self, "Inpaint area", "Only masked") {
                true => Some(self.number("Masked area padding").unwrap_or(32)),
                false => None,
            },
            ..request
        }
    }

    /// The VAE that was loaded in the place of the model's own.
    fn vae(&self) -> Option<String> {
        let named = |name: &str| {
            let automatic = ["automatic", "none", "built-in"];
            !automatic.contains(&name.to_lowercase().as_str())
        };
        let module = self.parameters.pairs.iter().find(|(name, value)| {
            name.starts_with("Module ") && value.to_lowercase().contains("vae")
        });
        let forge = module.map(|(_, value)| value.as_str());
        self.get("VAE")
            .or(forge)
            .filter(|name| named(name))
            .map(stem)
    }

    /// Names every pair that is not read, those of a kind together.
    fn left_out(&mut self, masked: bool) {
        let known = |name: &str| {
            READ.iter().any(|own| own.eq_ignore_ascii_case(name))
                || name.starts_with("Module ")
                || (masked && MASK.contains(&name))
        };
        let reason = |name: &str| {
            let kind = LEFT_OUT.iter().find(|(begins, _)| match *begins {
                "TI" => ["TI", "TI hashes"].contains(&name),
                begins => name.starts_with(begins),
            });
            kind.map_or(UNKNOWN, |(_, why)| *why)
        };
        let silent = |name: &str, value: &str| name == "ENSD" && value.trim() == "0";
        let mut kinds: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
        for (name, value) in &self.parameters.pairs {
            if known(name) || silent(name, value) {
                continue;
            }
            let (why, pair) = (reason(name), (name.as_str(), value.as_str()));
            match kinds.iter_mut().find(|(kind, _)| *kind == why) {
                Some((_, pairs)) => pairs.push(pair),
                None => kinds.push((why, vec![pair])),
            }
        }
        let notes = kinds.iter().map(|(why, pairs)| left_out(pairs, why));
        self.notes.extend(notes);
    }
}

/// `says "Steps: 3", which is left out: why`, with long values cut.
pub(super) fn left_out(pairs: &[(&str, &str)], why: &str) -> String {
    const MOST: usize = 40;
    let short = |value: &str| match value.chars().count() > MOST {
        true => value.chars().take(MOST - 3).collect::<String>() + "...",
        false => value.to_owned(),
    };
    let said: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}: {}", short(value).replace('\n', " ")))
        .collect();
    format!("says {:?}, which is left out: {why}", said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, given: RawRequest, picture: bool) -> Read {
        read(
            &Parameters::parse(text),
            &given,
            Start {
                picture,
                mask: false,
            },
        )
        .unwrap()
    }

    const TEXT: &str = "a red circle\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 5";

    #[test]
    fn what_is_not_honoured_is_named() {
        for (pairs, noted) in [
            (
                "Variation seed: 9, Variation seed strength: 0.4",
                vec!["Variation seed strength: 0.4"],
            ),
            (
                "Hires upscale: 2, Hires steps: 3, Denoising strength: 0.7",
                vec!["Hires steps: 3"],
            ),
            (
                "Denoising strength: 0.4, Mask blur: 4",
                vec!["Denoising strength: 0.4", "Mask blur: 4"],
            ),
            ("ENSD: 31337", vec!["ENSD: 31337"]),
            ("Schedule type: Restless", vec!["\"Restless\" is unknown"]),
            ("Emphasis: Ignore", vec!["Emphasis: Ignore"]),
            ("Clip skip: 40", vec!["Clip skip: 40"]),
            (
                "ControlNet 0: \"Module: canny, Model: x\"",
                vec!["ControlNet 0: Module: canny"],
            ),
            (
                "ADetailer model: face, ADetailer version: 24",
                vec!["ADetailer version: 24"],
            ),
            ("TI hashes: \"a: 1f\"", vec!["TI hashes: a: 1f"]),
            ("Token merging ratio: 0.5", vec!["Token merging ratio: 0.5"]),
            ("Size: 540x960", vec!["536x960 is drawn"]),
            ("RNG: std_default", vec!["RNG: std_default"]),
            ("Size: big", vec!["Size: big"]),
            // Nothing that changes the picture, or all of it honoured.
            (
                "Emphasis: No norm, Clip skip: 3, Size: 64x128, RNG: NV",
                vec![],
            ),
            (
                "Model hash: 1f, Lora hashes: \"a: 1\", Version: v1.10.1, ENSD: 0",
                vec![],
            ),
            (
                "Distilled CFG Scale: 3.5, Module 1: sdxl_vae, Schedule type: SGM Uniform",
                vec![],
            ),
        ] {
            let read = of(&format!("{TEXT}, {pairs}"), RawRequest::default(), false);
            assert_eq!(
                read.notes.is_empty(),
                noted.is_empty(),
                "{pairs}: {:?}",
                read.notes
            );
            for part in noted {
                assert!(
                    read.notes.iter().any(|note| note.contains(part)),
                    "{:?}",
                    read.notes
                );
            }
        }
        let eta = TEXT.replace("Euler", "Euler a") + ", Eta: 0.2";
        let notes = of(&eta, RawRequest::default(), false).notes;
        assert_eq!(notes, ["eta 0.2 has no effect: Euler a draws with 1"]);
        let vae = of(
            &format!("{TEXT}, VAE: x/sdxl.safetensors"),
            RawRequest::default(),
            false,
        );
        assert_eq!(vae.vae.as_deref(), Some("sdxl"));
    }

    #[test]
    fn values_are_this_programs() {
        let text = "a\nNegative prompt: b\nSteps: 6, Sampler: DPM2 a, Schedule type: Automatic, \
            CFG scale: 5.5, Seed: 7, Size: 544x960, Denoising strength: 0.4, Clip skip: 3, \
            Emphasis: No norm, RNG: CPU, Refiner: xl/refiner.safetensors [74], \
            Refiner switch at: 0.7, Schedule min sigma: 0.1";
        let read = of(text, RawRequest::default(), true);
        assert_eq!(read.notes, [""; 0]);
        assert!(read.automatic);
        let request = read.recipe.request;
        assert_eq!(request.scheduler.as_deref(), Some("DPM2 a"));
        assert_eq!(request.scheduler_options["schedule_type"], "karras");
        assert_eq!(request.scheduler_options["sigma_min"], 0.1);
        assert_eq!((request.width, request.height), (Some(544), Some(960)));
        assert_eq!(request.strength, Some(0.4));
        assert_eq!(request.clip_skip, Some(1));
        assert_eq!(request.prompt_weighting.as_deref(), Some("no-norm"));
        assert_eq!(request.rng.as_deref(), Some("cpu"));
        assert_eq!(
            (request.refiner, request.high_noise_fraction),
            (Some(true), Some(0.7))
        );
        assert_eq!(read.recipe.loaded_refiner.as_deref(), Some("refiner"));
    }

    #[test]
    fn a_mask_is_that_programs() {
        let text = format!(
            "{TEXT}, Denoising strength: 0.5, Mask blur: 4, Inpaint area: Only masked, \
             Mask mode: Inpaint not masked, Masked content: latent noise"
        );
        let start = Start {
            picture: true,
            mask: true,
        };
        let read = read(&Parameters::parse(&text), &RawRequest::default(), start).unwrap();
        assert_eq!(read.notes, [""; 0]);
        let request = read.recipe.request;
        assert_eq!(request.mask_blur, Some([4.0, 4.0]));
        assert_eq!(request.mask_invert, Some(true));
        assert_eq!(request.masked_content.as_deref(), Some("latent_noise"));
        assert_eq!(request.padding_mask_crop, Some(32));
        assert_eq!(request.keep_unmasked, Some(true));
        assert_eq!(request.strength_steps.as_deref(), Some("webui"));
    }

    #[test]
    fn flags_replace_what_is_not_here() {
        let text = TEXT.replace("Euler", "DPM adaptive") + ", Size: 16x16";
        let parameters = Parameters::parse(&text);
        let error = read(&parameters, &RawRequest::default(), Start::default()).unwrap_err();
        assert!(
            error.to_string().starts_with("Sampler is \"DPM adaptive\""),
            "{error}"
        );
        let mut given = RawRequest {
            scheduler: Some("Heun".into()),
            ..Default::default()
        };
        let error = read(&parameters, &given, Start::default()).unwrap_err();
        assert!(error.to_string().starts_with("Size is 16x16"), "{error}");
        (given.width, given.height) = (Some(64), Some(64));
        assert_eq!(
            read(&parameters, &given, Start::default()).unwrap().notes,
            [""; 0]
        );
    }
}
