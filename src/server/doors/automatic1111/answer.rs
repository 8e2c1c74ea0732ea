//! What txt2img and img2img answer.

use super::names::Loaded;
use crate::picture::Parameters;
use crate::pipeline::Request;
use crate::server::work::{Drawn, Failure, Job, Prepared, Service};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// Pictures and how they came about.
#[derive(Debug, Serialize, ToSchema)]
pub struct SdapiAnswer {
    /// Base64, without a grid; of an interrupted job what there was of them.
    pub images: Vec<String>,
    /// The request, with what it was silent about filled in; without its pictures.
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
    /// A JSON object as text: `seed`, `all_seeds`, `infotexts`, `warnings` and more.
    pub info: String,
}

/// What a request said that its job does not.
#[derive(Debug, Default)]
pub struct Asked {
    /// For `parameters`.
    pub echo: Map<String, Value>,
    pub sampler: String,
    /// As sent, before any style.
    pub prompt: String,
    pub negative_prompt: String,
    pub styles: Vec<String>,
    pub batch_size: i64,
    pub send_images: bool,
    pub warnings: Vec<String>,
}

/// `info`, by that program's names.
#[derive(Debug, Serialize)]
struct Info<'a> {
    prompt: &'a str,
    all_prompts: Vec<String>,
    negative_prompt: &'a str,
    all_negative_prompts: Vec<String>,
    seed: u64,
    all_seeds: Vec<u64>,
    subseed: i64,
    all_subseeds: Vec<i64>,
    subseed_strength: f64,
    width: usize,
    height: usize,
    sampler_name: &'a str,
    cfg_scale: f64,
    steps: usize,
    batch_size: i64,
    restore_faces: bool,
    face_restoration_model: Option<&'a str>,
    sd_model_name: &'a str,
    sd_model_hash: Option<&'a str>,
    sd_vae_name: Option<&'a str>,
    sd_vae_hash: Option<&'a str>,
    seed_resize_from_w: i64,
    seed_resize_from_h: i64,
    denoising_strength: Option<f64>,
    extra_generation_params: Map<String, Value>,
    index_of_first_image: usize,
    infotexts: Vec<&'a str>,
    styles: &'a [String],
    job_timestamp: String,
    clip_skip: usize,
    is_using_inpainting_conditioning: bool,
    version: &'a str,
    /// Stopped before its end.
    interrupted: bool,
    /// What was left out of the request, and other things to know.
    warnings: Vec<String>,
}

/// The answer for a job; without `drawn` it was interrupted.
///
/// # Errors
/// The job is of an earlier run.
pub fn answer(
    service: &Service,
    asked: Asked,
    job: &Job,
    drawn: Option<&Drawn>,
) -> Result<SdapiAnswer, Failure> {
    let prepared = job.prepared()?;
    let pictures = drawn.map_or(&[][..], |drawn| &drawn.pictures);
    let images = match asked.send_images {
        true => pictures
            .iter()
            .map(|made| STANDARD.encode(&made.bytes))
            .collect(),
        false => Vec::new(),
    };
    let info = info(service, &asked, (job, &prepared), drawn);
    Ok(SdapiAnswer {
        images,
        info: json!(info).to_string(),
        parameters: parameters(asked, &prepared.request),
    })
}

fn info<'a>(
    service: &'a Service,
    asked: &'a Asked,
    (job, prepared): (&'a Job, &'a Prepared),
    drawn: Option<&'a Drawn>,
) -> Info<'a> {
    let request = &prepared.request;
    let loaded = Loaded::of(service);
    let count = request.samples;
    let negative = request.negative_prompt.as_deref();
    let (styled, styled_negative) = match &request.style {
        Some(style) => style.apply(&request.prompt, negative),
        None => (request.prompt.clone(), negative.map(str::to_owned)),
    };
    let mut warnings = asked.warnings.clone();
    warnings.extend(
        drawn
            .map_or(&prepared.warnings, |d| &d.warnings)
            .iter()
            .cloned(),
    );
    let pictures = drawn.map_or(&[][..], |drawn| &drawn.pictures);
    Info {
        prompt: &asked.prompt,
        all_prompts: vec![styled; count],
        negative_prompt: &asked.negative_prompt,
        all_negative_prompts: vec![styled_negative.unwrap_or_default(); count],
        seed: request.seed,
        all_seeds: request.seeds(),
        subseed: -1,
        all_subseeds: vec![-1; count],
        subseed_strength: 0.0,
        width: request.width,
        height: request.height,
        sampler_name: &asked.sampler,
        cfg_scale: request.guidance_scale,
        steps: request.steps,
        batch_size: asked.batch_size,
        restore_faces: false,
        face_restoration_model: None,
        sd_model_name: loaded.model(),
        sd_model_hash: None,
        sd_vae_name: loaded.vae(),
        sd_vae_hash: None,
        seed_resize_from_w: -1,
        seed_resize_from_h: -1,
        denoising_strength: prepared.over_picture.then_some(request.strength),
        extra_generation_params: Map::new(),
        index_of_first_image: 0,
        infotexts: pictures.iter().map(|made| made.infotext.as_str()).collect(),
        styles: &asked.styles,
        job_timestamp: timestamp(job.created),
        clip_skip: request.clip_skip + FIRST_LAYER,
        is_using_inpainting_conditioning: false,
        version: Parameters::VERSION,
        interrupted: drawn.is_none_or(|drawn| drawn.interrupted),
        warnings,
    }
}

/// SDXL's text is read from the layer before the last, which that program counts as 2.
pub const FIRST_LAYER: usize = 2;

fn parameters(asked: Asked, request: &Request) -> Map<String, Value> {
    let batches = request.samples as i64 / asked.batch_size.max(1);
    let filled = [
        ("prompt", json!(asked.prompt)),
        ("negative_prompt", json!(asked.negative_prompt)),
        ("styles", json!(asked.styles)),
        ("seed", json!(-1)),
        ("sampler_name", json!(asked.sampler)),
        ("scheduler", json!("Automatic")),
        ("batch_size", json!(asked.batch_size)),
        ("n_iter", json!(batches)),
        ("steps", json!(request.steps)),
        ("cfg_scale", json!(request.guidance_scale)),
        ("width", json!(request.width)),
        ("height", json!(request.height)),
    ];
    let mut parameters = asked.echo;
    for (name, value) in filled {
        let said = parameters.get(name).is_some_and(|old| !old.is_null());
        if !said {
            parameters.insert(name.to_owned(), value);
        }
    }
    parameters
}

/// `20240131235959`, in UTC.
pub fn timestamp(time: SystemTime) -> String {
    const DAY: u64 = 86_400;
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let (mut days, second) = (seconds / DAY, seconds % DAY);
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!(
        "{year}{month:02}{:02}{hour:02}{minute:02}{:02}",
        days + 1,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_as_webui_does() {
        for (seconds, text) in [
            (0, "19700101000000"),
            (951_782_400, "20000229000000"),
            (1_709_251_199, "20240229235959"),
            (1_735_689_599, "20241231235959"),
            (1_735_689_600, "20250101000000"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(timestamp(time), text);
        }
    }
}
