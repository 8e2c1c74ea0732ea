//! txt2img and img2img.

use super::answer::{Asked, FIRST_LAYER, SdapiAnswer, answer};
use super::names::Loaded;
use super::refusal::Refusals;
use super::types::SdapiRequest;
use crate::error::Field;
use crate::picture::{Format, MaskReading};
use crate::pipeline::request::{SIZE_STEP, SIZES};
use crate::pipeline::{Preset, RawRequest};
use crate::schedule::automatic1111;
use crate::server::doors::shared;
use crate::server::http::RequestId;
use crate::server::http::body::{self, Body};
use crate::server::http::lenient::{Flag, Integer, Number};
use crate::server::work::{Caller, Failure, MaskOrder, Order, Service, Size, same, within};
use crate::text::Weighting;
use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value};

/// Of that program, where a request is silent.
const CFG_SCALE: f64 = 7.0;
const DENOISING_STRENGTH: f64 = 0.75;
const MASK_BLUR: f64 = 4.0;
const REFINER_SWITCH_AT: f64 = 0.8;
/// Previews over a run, for `progress`.
const PREVIEWS: usize = 10;

/// Draws pictures from text.
#[utoipa::path(
    post, path = "/sdapi/v1/txt2img", tag = "AUTOMATIC1111",
    request_body = SdapiRequest,
    responses((status = 200, body = SdapiAnswer), Refusals),
    security((), ("basic" = [])),
)]
pub async fn text_to_image(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    Body(sent, _share): Body<Map<String, Value>>,
) -> Result<Json<SdapiAnswer>, Failure> {
    let (request, asked) = read(sent)?;
    let mut work = Work::new(&service, request, asked)?;
    work.order.size = match work.size()? {
        Some((width, height)) => Size::Scaled(width, height),
        None => Size::Native,
    };
    work.draw(&caller, &id, "/sdapi/v1/txt2img").await
}

/// Draws over a picture, or over a part of it.
#[utoipa::path(
    post, path = "/sdapi/v1/img2img", tag = "AUTOMATIC1111",
    request_body = SdapiRequest,
    responses((status = 200, body = SdapiAnswer), Refusals),
    security((), ("basic" = [])),
)]
pub async fn image_to_image(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    Body(sent, _share): Body<Map<String, Value>>,
) -> Result<Json<SdapiAnswer>, Failure> {
    let (request, asked) = read(sent)?;
    let mut work = Work::new(&service, request, asked)?;
    work.order.size = match work.size()? {
        Some((width, height)) => Size::Scaled(width, height),
        None => Size::Picture,
    };
    work.start_picture()?;
    work.draw(&caller, &id, "/sdapi/v1/img2img").await
}

/// The request, and what of it the answer repeats.
fn read(sent: Map<String, Value>) -> Result<(SdapiRequest, Asked), Failure> {
    let mut echo = sent.clone();
    let request: SdapiRequest = body::parse(Value::Object(sent))?;
    if !on(request.include_init_images) {
        for name in ["init_images", "mask"] {
            echo.entry(name)
                .and_modify(|picture| *picture = Value::Null);
        }
    }
    let asked = Asked {
        echo,
        prompt: request.prompt.clone().unwrap_or_default(),
        negative_prompt: request.negative_prompt.clone().unwrap_or_default(),
        styles: request.styles.clone().unwrap_or_default(),
        batch_size: whole(request.batch_size).unwrap_or(1),
        send_images: request.send_images.is_none_or(|flag| flag.0),
        ..Default::default()
    };
    Ok((request, asked))
}

fn whole(value: Option<Integer>) -> Option<i64> {
    value.map(|n| n.0)
}

fn number(value: Option<Number>) -> Option<f64> {
    value.map(|n| n.0)
}

fn on(value: Option<Flag>) -> bool {
    value.is_some_and(|flag| flag.0)
}

/// A text that says something; clients write None too.
fn said(text: Option<&str>) -> Option<&str> {
    let text = text.map(str::trim);
    text.filter(|text| !text.is_empty() && !text.eq_ignore_ascii_case("none"))
}

/// A request that becomes an order.
struct Work<'a> {
    service: &'a Service,
    request: SdapiRequest,
    asked: Asked,
    order: Order,
}

impl<'a> Work<'a> {
    /// All but sizes and pictures.
    fn new(service: &'a Service, request: SdapiRequest, asked: Asked) -> Result<Self, Failure> {
        refuse(&request)?;
        let model = service.model()?;
        let preset = service.preset(&model);
        let mut work = Self {
            service,
            request,
            asked,
            order: Order {
                previews: PREVIEWS,
                ..Default::default()
            },
        };
        work.sampling(&preset)?;
        work.texts()?;
        work.numbers(&preset)?;
        work.refiner()?;
        work.settings()?;
        work.note_ignored();
        Ok(work)
    }

    fn warn(&mut self, warning: impl Into<String>) {
        self.asked.warnings.push(warning.into());
    }

    fn sampling(&mut self, preset: &Preset) -> Result<(), Failure> {
        let request = &self.request;
        let name = said(request.sampler_name.as_deref());
        let sampler = name.or(said(request.sampler_index.as_deref()));
        let scheduler = said(request.scheduler.as_deref());
        let mut sampling = automatic1111::choose(sampler, scheduler, preset.wish())?;
        preset.fit_schedule(&sampling.name, &mut sampling.options);
        if let Some(eta) = number(request.eta) {
            sampling.set_eta(eta);
        }
        self.asked.sampler = sampling.label;
        self.asked.warnings.extend(sampling.warnings);
        self.order.raw.scheduler = Some(sampling.name);
        self.order.raw.scheduler_options = sampling.options;
        Ok(())
    }

    /// Prompts and styles. The pipeline takes the last style; those before it are laid
    /// around the texts here.
    fn texts(&mut self) -> Result<(), Failure> {
        let mut prompt = self.asked.prompt.clone();
        // Silence is an empty prompt in that program.
        let mut negative = Some(self.asked.negative_prompt.clone());
        let styles: Vec<_> = self
            .asked
            .styles
            .iter()
            .filter_map(|s| said(Some(s)))
            .collect();
        if let Some((last, first)) = styles.split_last() {
            for name in first {
                let style = self.service.styles.find(name)?;
                (prompt, negative) = style.apply(&prompt, negative.as_deref());
            }
            self.order.raw.style = Some((*last).to_owned());
        }
        self.order.raw.prompt = Some(prompt);
        self.order.raw.negative_prompt = negative;
        Ok(())
    }

    fn numbers(&mut self, preset: &Preset) -> Result<(), Failure> {
        let most = self.service.limits.max_samples as i64;
        let request = &self.request;
        let batch = within("batch_size", whole(request.batch_size), 1, most)?.unwrap_or(1);
        let batches = within("n_iter", whole(request.n_iter), 1, most)?.unwrap_or(1);
        let cfg_scale = match preset.guidance_scale == Preset::default().guidance_scale {
            true => CFG_SCALE,
            // The checkpoint asks for another.
            false => preset.guidance_scale,
        };
        self.order.raw = RawRequest {
            samples: Some(batch * batches),
            steps: whole(request.steps),
            guidance_scale: Some(number(request.cfg_scale).unwrap_or(cfg_scale)),
            seed: request.seed.map(|n| n.0),
            rng: Some("cuda".into()),
            ..std::mem::take(&mut self.order.raw)
        };
        Ok(())
    }

    fn refiner(&mut self) -> Result<(), Failure> {
        let raw = &mut self.order.raw;
        let Some(name) = said(self.request.refiner_checkpoint.as_deref()) else {
            raw.refiner = Some(false);
            return Ok(());
        };
        match Loaded::of(self.service).refiner() {
            Some(loaded) if same(name, &loaded) => {
                raw.refiner = Some(true);
                let at = number(self.request.refiner_switch_at);
                raw.high_noise_fraction = Some(at.unwrap_or(REFINER_SWITCH_AT));
                Ok(())
            }
            Some(loaded) => {
                let allowed = format!("is not loaded; the refiner here is {loaded:?}");
                Err(Failure::invalid(
                    "refiner_checkpoint",
                    format!("{name:?}"),
                    allowed,
                ))
            }
            None => {
                let allowed = "no refiner is loaded; leave the field out";
                Err(Failure::invalid(
                    "refiner_checkpoint",
                    format!("{name:?}"),
                    allowed,
                ))
            }
        }
    }

    fn settings(&mut self) -> Result<(), Failure> {
        self.order.raw.clip_skip = clip_skip("clip_skip", whole(self.request.clip_skip))?;
        self.order.format = Some(Format::Png);
        for (key, value) in self.request.override_settings.take().unwrap_or_default() {
            if !value.is_null() {
                self.setting(&key, &value)?;
            }
        }
        Ok(())
    }

    fn setting(&mut self, key: &str, value: &Value) -> Result<(), Failure> {
        let loaded = Loaded::of(self.service);
        let field = format!("override_settings.{key}");
        let text = value.as_str().unwrap_or_default();
        match key {
            "CLIP_stop_at_last_layers" => {
                let layers = serde_json::from_value::<Integer>(value.clone());
                let layers = layers
                    .map_err(|_| Failure::invalid(&field, value, "must be a whole number"))?;
                self.order.raw.clip_skip = clip_skip(&field, Some(layers.0))?;
            }
            "samples_format" => {
                self.order.format = Some(shared::format(&field, Some(text))?);
            }
            "emphasis" => match Weighting::of_emphasis(text) {
                Some(mode) => self.order.raw.prompt_weighting = Some(mode.name().into()),
                None => self.warn(format!(
                    "{field} {value} has no effect here; Original, No norm and None have"
                )),
            },
            "randn_source" => {
                let rng = match text.to_lowercase().as_str() {
                    "cpu" => "cpu",
                    "gpu" | "nv" => "cuda",
                    _ => return Err(Failure::invalid(field, value, "choose GPU, NV or CPU")),
                };
                self.order.raw.rng = Some(rng.into());
            }
            // As that program does with one that it has not.
            "sd_model_checkpoint" if self.service.if_known(text).is_some() => {
                self.order.model = Some(text.to_owned());
            }
            "sd_model_checkpoint" if !text.is_empty() && !same(text, loaded.model()) => {
                let name = loaded.model();
                self.warn(format!("{text:?} is not loaded; {name:?} draws"));
            }
            "sd_vae" if !loaded.is_vae(text) => {
                self.warn(format!(
                    "VAE {text:?} is not loaded; the loaded one is used"
                ));
            }
            "sd_model_checkpoint" | "sd_vae" => {}
            _ => self.warn(format!("{field} has no effect here")),
        }
        Ok(())
    }

    /// Says what is left out.
    fn note_ignored(&mut self) {
        let request = &self.request;
        let above = |value: Option<Number>| number(value).is_some_and(|n| n > 0.0);
        let mut ignored = vec![];
        for (field, asked) in [
            ("tiling", on(request.tiling)),
            ("restore_faces", on(request.restore_faces)),
            ("subseed_strength", above(request.subseed_strength)),
            ("s_churn", above(request.s_churn)),
        ] {
            if asked {
                ignored.push(format!("{field} has no effect here"));
            }
        }
        for (name, script) in request.alwayson_scripts.iter().flatten() {
            if switched_on(script) {
                ignored.push(format!("the script {name:?} is not here; it did not run"));
            }
        }
        ignored.into_iter().for_each(|warning| self.warn(warning));
    }

    /// Width and height; of one that is silent, the other's.
    fn size(&self) -> Result<Option<(i64, i64)>, Failure> {
        let step = SIZE_STEP as i64;
        // What is too small is refused as it was sent, not as rounded.
        let least = *SIZES.start() as i64;
        let side = |value: Option<Integer>| {
            whole(value).map(|n| match n >= least {
                true => n / step * step,
                false => n,
            })
        };
        let (width, height) = (side(self.request.width), side(self.request.height));
        Ok(width.or(height).zip(height.or(width)))
    }

    /// What img2img adds.
    fn start_picture(&mut self) -> Result<(), Failure> {
        let mut images = self.request.init_images.take().unwrap_or_default();
        let count = images.len();
        let image = match (images.pop(), count) {
            (Some(image), 1) => image,
            (None, _) => {
                let allowed = "send one picture as base64";
                return Err(Failure::invalid("init_images", "missing", allowed));
            }
            (Some(_), _) => {
                let allowed = "one request draws over one picture; send a request for each";
                return Err(Failure::invalid(
                    "init_images",
                    format!("{count} pictures"),
                    allowed,
                ));
            }
        };
        self.order.image = Some(image);
        let strength = number(self.request.denoising_strength);
        self.order.raw.strength = Some(strength.unwrap_or(DENOISING_STRENGTH));
        self.order.raw.strength_steps = Some("webui".into());
        let fit = match whole(self.request.resize_mode) {
            None | Some(0 | 3) => "stretch",
            Some(1) => "crop",
            Some(2) => "pad",
            Some(other) => {
                let allowed = "choose 0 (stretch), 1 (crop), 2 (pad) or 3 (stretch)";
                return Err(Failure::invalid("resize_mode", other, allowed));
            }
        };
        self.order.raw.fit = Some(fit.into());
        self.mask()
    }

    /// The mask, by that program's own rules and defaults.
    fn mask(&mut self) -> Result<(), Failure> {
        let text = self.request.mask.take();
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
            return Ok(());
        };
        let request = &self.request;
        let both = number(request.mask_blur);
        let blur = |one| both.or(number(one)).unwrap_or(MASK_BLUR);
        self.order.mask = Some(MaskOrder {
            text,
            reading: MaskReading::AlphaOrLuma,
            invert: on(request.inpainting_mask_invert),
            blur: [blur(request.mask_blur_x), blur(request.mask_blur_y)],
            stretch: true,
        });
        let raw = &mut self.order.raw;
        raw.masked_content = Some(masked_content(whole(request.inpainting_fill))?.into());
        raw.keep_unmasked = Some(true);
        if request.inpaint_full_res.is_none_or(|flag| flag.0) {
            let padding = whole(request.inpaint_full_res_padding);
            raw.padding_mask_crop = Some(padding.unwrap_or(0));
        }
        Ok(())
    }

    async fn draw(
        self,
        caller: &Caller,
        id: &RequestId,
        route: &'static str,
    ) -> Result<Json<SdapiAnswer>, Failure> {
        let service = self.service;
        let ticket = service
            .submit(caller, self.order, route, &id.0, false)
            .await?;
        let job = ticket.job().cloned().ok_or(Failure::Internal)?;
        let drawn = match ticket.drawn().await {
            Ok(finished) => Some(finished.drawn),
            // Its clients ask for an end by `interrupt`, and want an answer all the same.
            Err(Failure::Cancelled) => None,
            Err(failure) => return Err(failure),
        };
        answer(service, self.asked, &job, drawn.as_deref()).map(Json)
    }
}

/// Refuses what would make another picture than the one that was asked for.
fn refuse(request: &SdapiRequest) -> Result<(), Failure> {
    if on(request.enable_hr) {
        let allowed =
            "there is no hires fix here; send false, and the size itself as width and height";
        return Err(Failure::invalid("enable_hr", "true", allowed));
    }
    for (name, script) in request.alwayson_scripts.iter().flatten() {
        if name.eq_ignore_ascii_case("controlnet") && has_unit(script) {
            let allowed = "there is no ControlNet here; leave it out, or disable its units";
            let field = Field::Named(format!("alwayson_scripts.{name}"));
            return Err(Failure::invalid(field, "enabled", allowed));
        }
    }
    match said(request.script_name.as_deref()) {
        Some(name) => {
            let allowed = "there are no scripts here; leave the field out";
            Err(Failure::invalid(
                "script_name",
                format!("{name:?}"),
                allowed,
            ))
        }
        None => Ok(()),
    }
}

/// The pipeline's count for that program's: 1 and 2 are SDXL's own layer, as they are
/// there.
fn clip_skip(field: &str, layers: Option<i64>) -> Result<Option<i64>, Failure> {
    let layers = within(field, layers, 0, 12)?;
    Ok(layers.map(|n| (n - FIRST_LAYER as i64).max(0)))
}

/// The pipeline's name for `inpainting_fill`.
fn masked_content(fill: Option<i64>) -> Result<&'static str, Failure> {
    match fill {
        None | Some(0) => Ok("fill"),
        Some(1) => Ok("original"),
        Some(2) => Ok("latent_noise"),
        Some(3) => Ok("latent_nothing"),
        Some(other) => {
            let allowed = "choose 0 (fill), 1 (original), 2 (latent noise) or 3 (latent nothing)";
            Err(Failure::invalid("inpainting_fill", other, allowed))
        }
    }
}

/// Whether the arguments of a script say that it is to run: some clients send those of
/// every script that they know, with false first.
fn switched_on(script: &Value) -> bool {
    let args = script.get("args").and_then(Value::as_array);
    match args.and_then(|args| args.first()) {
        Some(Value::Bool(first)) => *first,
        Some(Value::Object(unit)) => unit.get("enabled") != Some(&Value::Bool(false)),
        Some(_) => true,
        None => false,
    }
}

/// Whether one of ControlNet's units is to work: they are, unless they say otherwise.
fn has_unit(script: &Value) -> bool {
    let units = script.get("args").and_then(Value::as_array);
    let works = |unit: &Value| unit.is_object() && unit.get("enabled") != Some(&false.into());
    units.into_iter().flatten().any(works)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn control_nets_that_are_asked_for_are_refused() {
        for (units, wanted) in [
            (json!([]), false),
            (
                json!([{"enabled": false}, {"enabled": false, "model": "canny"}]),
                false,
            ),
            (json!([{"enabled": false}, {"enabled": true}]), true),
            (json!([{"model": "canny"}]), true),
            (json!([null, false]), false),
        ] {
            assert_eq!(has_unit(&json!({ "args": units })), wanted, "{units}");
            let scripts = json!({ "ControlNet": { "args": units } });
            let request = json!({ "prompt": "a", "alwayson_scripts": scripts });
            let request = serde_json::from_value(request).unwrap();
            assert_eq!(refuse(&request).is_err(), wanted, "{units}");
        }
    }

    #[test]
    fn scripts_that_are_switched_off_are_no_news() {
        for (script, wanted) in [
            (json!({}), false),
            (json!({"args": []}), false),
            (json!({"args": [false]}), false),
            (json!({"args": [true, {"ad_model": "face"}]}), true),
            (json!({"args": [{"enabled": false}]}), false),
            (json!({"args": [{"module": "canny"}]}), true),
        ] {
            assert_eq!(switched_on(&script), wanted, "{script}");
        }
    }

    #[test]
    fn layers_are_counted_as_webui_counts_them_for_sdxl() {
        for (layers, skip) in [(0, 0), (1, 0), (2, 0), (3, 1), (12, 10)] {
            assert_eq!(clip_skip("c", Some(layers)).unwrap(), Some(skip));
        }
        assert_eq!(clip_skip("c", None).unwrap(), None);
        assert!(clip_skip("c", Some(13)).is_err());
    }

    #[test]
    fn pictures_are_not_repeated_unless_asked_for() {
        let sent = |value: Value| match value {
            Value::Object(map) => read(map).unwrap().1.echo,
            _ => unreachable!(),
        };
        let echo = sent(json!({"init_images": ["aa"], "mask": "bb", "seed": "3"}));
        assert_eq!(
            json!(echo),
            json!({"init_images": null, "mask": null, "seed": "3"})
        );
        let echo = sent(json!({"init_images": ["aa"], "include_init_images": 1}));
        assert_eq!(echo["init_images"], json!(["aa"]));
    }
}
