//! Stability's REST API, version 1.

use crate::picture::Format;
use crate::pipeline::RawRequest;
use crate::server::auth::Caller;
use crate::server::body::Body;
use crate::server::failure::Failure;
use crate::server::lenient::{Integer, Number};
use crate::server::observe::RequestId;
use crate::server::order::{MaskOrder, Order, Size, within};
use crate::server::service::{Finished, Service};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const STEPS: (i64, i64) = (10, 150);
const DEFAULT_STEPS: i64 = 30;
const SAMPLES: (i64, i64) = (1, 10);
const CFG_SCALE: (f64, f64) = (0.0, 35.0);
const DEFAULT_CFG_SCALE: f64 = 7.0;
const SEEDS: (i64, i64) = (0, 4_294_967_295);
/// Influence of the picture where a request is silent, in either mode.
const IMAGE_STRENGTH: f64 = 0.35;
const STEP_SCHEDULE_START: f64 = 0.65;

/// The API's samplers and ours. DPM++ 2S is not the ancestral one.
const SAMPLERS: [(&str, &str); 10] = [
    ("DDIM", "DDIM"),
    ("DDPM", "DDPM"),
    ("K_DPMPP_2M", "DPM Multi"),
    ("K_DPMPP_2S_ANCESTRAL", "DPM Single"),
    ("K_DPM_2", "DPM2 Karras"),
    ("K_DPM_2_ANCESTRAL", "DPM2 a Karras"),
    ("K_EULER", "Euler"),
    ("K_EULER_ANCESTRAL", "Euler a"),
    ("K_HEUN", "Heun"),
    ("K_LMS", "LMS"),
];

/// A part of the prompt.
#[derive(Debug, Deserialize, ToSchema)]
struct TextPrompt {
    text: String,
    /// Below 0 it belongs to the negative prompt.
    #[serde(default)]
    #[schema(value_type = Option<f64>, default = 1)]
    weight: Option<Number>,
}

/// A request of this API: the fields that its routes share, and `$extra`.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($(#[$more:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        ///
        /// Numbers may come as text; unknown fields are ignored, and clip_guidance_preset.
        #[derive(Debug, Deserialize, ToSchema)]
        struct $name {
            $($(#[$more])* $field: $type,)*
            text_prompts: Vec<TextPrompt>,
            #[serde(default)]
            #[schema(value_type = Option<f64>, minimum = 0, maximum = 35, default = 7)]
            cfg_scale: Option<Number>,
            #[serde(default)]
            sampler: Option<String>,
            #[serde(default)]
            #[schema(value_type = Option<i64>, minimum = 1, maximum = 10, default = 1)]
            samples: Option<Integer>,
            /// 0 draws one.
            #[serde(default)]
            #[schema(value_type = Option<i64>, minimum = 0, maximum = 4294967295i64, default = 0)]
            seed: Option<Integer>,
            /// From 10 to 150, and what the operator allows.
            #[serde(default)]
            #[schema(value_type = Option<i64>, default = 30)]
            steps: Option<Integer>,
            #[serde(default)]
            style_preset: Option<String>,
        }

        impl $name {
            fn order(&self, service: &Service) -> Result<Order, Failure> {
                let (prompt, negative_prompt) = prompts(&self.text_prompts)?;
                let most = STEPS.1.min(service.limits.max_steps as i64);
                let silent = service.limits.default_steps.map_or(DEFAULT_STEPS, |n| n as i64);
                let cfg_scale = self.cfg_scale.map_or(DEFAULT_CFG_SCALE, |n| n.0);
                let seed = self.seed.map(|n| n.0);
                Ok(Order {
                    raw: RawRequest {
                        prompt: Some(prompt),
                        negative_prompt,
                        steps: match self.steps {
                            Some(Integer(n)) => within("steps", Some(n), STEPS.0.min(most), most)?,
                            None => Some(silent.min(most)),
                        },
                        guidance_scale: within("guidance_scale", Some(cfg_scale), CFG_SCALE.0, CFG_SCALE.1)?,
                        samples: within("samples", self.samples.map(|n| n.0), SAMPLES.0, SAMPLES.1)?,
                        seed: within("seed", seed, SEEDS.0, SEEDS.1)?.filter(|seed| *seed != 0),
                        scheduler: sampler(self.sampler.as_deref())?,
                        style: self.style_preset.clone().filter(|s| !s.trim().is_empty()),
                        ..Default::default()
                    },
                    format: Some(Format::Png),
                    ..Default::default()
                })
            }
        }
    };
}

request! {
    /// Text to image.
    StabilityText {
        /// Pixels; the model's native size where silent.
        #[serde(default)]
        #[schema(value_type = Option<i64>)]
        width: Option<Integer>,
        #[serde(default)]
        #[schema(value_type = Option<i64>)]
        height: Option<Integer>,
    }
}
request! {
    /// Image to image: the size comes from the picture.
    StabilityImage {
        /// A file, base64 or a data URL.
        init_image: String,
        /// IMAGE_STRENGTH or STEP_SCHEDULE.
        #[serde(default)]
        #[schema(default = "IMAGE_STRENGTH")]
        init_image_mode: Option<String>,
        /// How much the picture says, from 0 to 1.
        #[serde(default)]
        #[schema(value_type = Option<f64>, minimum = 0, maximum = 1, default = 0.35)]
        image_strength: Option<Number>,
        /// The share of the steps that is left out, from 0 to 1.
        #[serde(default)]
        #[schema(value_type = Option<f64>, minimum = 0, maximum = 1, default = 0.65)]
        step_schedule_start: Option<Number>,
    }
}
request! {
    /// A part of a picture painted anew.
    StabilityMask {
        /// A file, base64 or a data URL.
        init_image: String,
        /// MASK_IMAGE_WHITE, MASK_IMAGE_BLACK or INIT_IMAGE_ALPHA: what is painted anew.
        mask_source: String,
        /// Of the picture's size.
        #[serde(default)]
        mask_image: Option<String>,
    }
}

/// What was made.
#[derive(Debug, Serialize, ToSchema)]
struct Artifacts {
    artifacts: Vec<Artifact>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    /// A PNG file.
    base64: String,
    seed: u64,
    finish_reason: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct StabilityEngine {
    id: String,
    name: String,
    description: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// Credits of a key; null where the service has no keys.
#[derive(Debug, Serialize, ToSchema)]
struct StabilityBalance {
    credits: Option<i64>,
}

/// Why a request was refused.
#[derive(Debug, Serialize, ToSchema)]
struct StabilityError {
    /// Of the request.
    id: String,
    /// Its kind.
    name: &'static str,
    message: String,
}

/// A failure as this API words it.
pub fn refusal(failure: Failure, request_id: &str) -> (StatusCode, Value) {
    let (status, name) = match &failure {
        Failure::Credits { .. } => (StatusCode::PAYMENT_REQUIRED, "insufficient_balance"),
        other => {
            let name = match other.status().as_u16() {
                400 => "invalid_prompts_or_parameters",
                401 => "unauthorized",
                403 => "permission_denied",
                404 => "not_found",
                405 => "method_not_allowed",
                413 => "payload_too_large",
                429 => "rate_limit_exceeded",
                503 => "service_unavailable",
                _ => "server_error",
            };
            (other.status(), name)
        }
    };
    let failure = failure.renamed(|field| own_name(field).to_owned());
    let error = StabilityError {
        id: request_id.to_owned(),
        name,
        message: failure.to_string(),
    };
    (status, json!(error))
}

/// What this API calls a field.
fn own_name(field: &str) -> &str {
    match field {
        "guidance_scale" => "cfg_scale",
        "scheduler" => "sampler",
        "style" => "style_preset",
        "image" => "init_image",
        "mask" => "mask_image",
        "strength" => "image_strength",
        other => other,
    }
}

pub fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(text_to_image))
        .routes(routes!(image_to_image))
        .routes(routes!(masking))
        .routes(routes!(engines))
        .routes(routes!(balance))
}

/// Draws pictures from text.
#[utoipa::path(
    post, path = "/v1/generation/{engine}/text-to-image", tag = "Stability",
    params(("engine" = String, Path, description = "Any name")),
    request_body = StabilityText,
    responses(
        (status = 200, content((Artifacts = "application/json"), (String = "image/png")),
         description = "Pictures; with Accept: image/png the bytes of one"),
        Refusals,
    ),
    security((), ("bearer" = [])),
)]
async fn text_to_image(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    Body(request): Body<StabilityText>,
) -> Result<Response, Failure> {
    let mut order = request.order(&service)?;
    order.size = match (request.width, request.height) {
        (None, None) => Size::Native,
        (Some(Integer(w)), Some(Integer(h))) => Size::Scaled(w, h),
        (w, _) => {
            let field = if w.is_none() { "width" } else { "height" };
            return Err(Failure::invalid(
                field,
                "missing",
                "give both sides, or neither",
            ));
        }
    };
    draw(&service, &caller, &id, &headers, order).await
}

/// Draws over a picture.
#[utoipa::path(
    post, path = "/v1/generation/{engine}/image-to-image", tag = "Stability",
    params(("engine" = String, Path, description = "Any name")),
    request_body(content((StabilityImage = "multipart/form-data"))),
    responses(
        (status = 200, content((Artifacts = "application/json"), (String = "image/png")),
         description = "Pictures; with Accept: image/png the bytes of one"),
        Refusals,
    ),
    security((), ("bearer" = [])),
)]
async fn image_to_image(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    Body(request): Body<StabilityImage>,
) -> Result<Response, Failure> {
    let mut order = request.order(&service)?;
    order.size = Size::Picture;
    let said = match request.init_image_mode.as_deref() {
        None | Some("IMAGE_STRENGTH") => request.image_strength.map_or(IMAGE_STRENGTH, |n| n.0),
        Some("STEP_SCHEDULE") => {
            let start = request.step_schedule_start.map(|n| n.0);
            start.unwrap_or(STEP_SCHEDULE_START)
        }
        Some(other) => {
            let allowed = "choose one of IMAGE_STRENGTH, STEP_SCHEDULE";
            return Err(Failure::invalid(
                "init_image_mode",
                format!("{other:?}"),
                allowed,
            ));
        }
    };
    within("image_strength", Some(said), 0.0, 1.0)?;
    // At 1 nothing would be drawn.
    order.raw.strength = Some((1.0 - said).max(0.01));
    order.image = Some(request.init_image);
    draw(&service, &caller, &id, &headers, order).await
}

/// Paints a part of a picture anew.
#[utoipa::path(
    post, path = "/v1/generation/{engine}/image-to-image/masking", tag = "Stability",
    params(("engine" = String, Path, description = "Any name")),
    request_body(content((StabilityMask = "multipart/form-data"))),
    responses(
        (status = 200, content((Artifacts = "application/json"), (String = "image/png")),
         description = "Pictures; with Accept: image/png the bytes of one"),
        Refusals,
    ),
    security((), ("bearer" = [])),
)]
async fn masking(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    Body(request): Body<StabilityMask>,
) -> Result<Response, Failure> {
    let mut order = request.order(&service)?;
    order.size = Size::Picture;
    let (from_alpha, invert) = match request.mask_source.as_str() {
        "MASK_IMAGE_WHITE" => (false, false),
        "MASK_IMAGE_BLACK" => (false, true),
        "INIT_IMAGE_ALPHA" => (true, false),
        other => {
            let allowed = "choose one of MASK_IMAGE_WHITE, MASK_IMAGE_BLACK, INIT_IMAGE_ALPHA";
            return Err(Failure::invalid(
                "mask_source",
                format!("{other:?}"),
                allowed,
            ));
        }
    };
    let text = match (from_alpha, request.mask_image) {
        (true, _) => request.init_image.clone(),
        (false, Some(mask)) => mask,
        (false, None) => {
            let allowed = "send a mask, or mask_source INIT_IMAGE_ALPHA";
            return Err(Failure::invalid("mask", "missing", allowed));
        }
    };
    order.mask = Some(MaskOrder {
        text,
        from_alpha,
        invert,
        ..Default::default()
    });
    order.raw.strength = Some(1.0);
    order.image = Some(request.init_image);
    draw(&service, &caller, &id, &headers, order).await
}

/// Lists the engine.
#[utoipa::path(
    get, path = "/v1/engines/list", tag = "Stability",
    responses(
        (status = 200, body = Vec<StabilityEngine>),
        (status = 401, body = StabilityError, description = "No valid key"),
        (status = 503, body = StabilityError, description = "The model is being loaded"),
    ),
    security((), ("bearer" = [])),
)]
async fn engines(
    State(service): State<Service>,
    _: Caller,
) -> Result<Json<Vec<StabilityEngine>>, Failure> {
    let model = service.model()?;
    Ok(Json(vec![StabilityEngine {
        id: model.name.clone(),
        name: model.name,
        description: "The model that this service has loaded",
        kind: "PICTURE",
    }]))
}

/// The credits that a key has left.
#[utoipa::path(
    get, path = "/v1/user/balance", tag = "Stability",
    responses(
        (status = 200, body = StabilityBalance),
        (status = 401, body = StabilityError, description = "No valid key"),
    ),
    security((), ("bearer" = [])),
)]
async fn balance(
    State(service): State<Service>,
    caller: Caller,
) -> Result<Json<StabilityBalance>, Failure> {
    let credits = service.credits(&caller).await?;
    Ok(Json(StabilityBalance { credits }))
}

/// The prompt and the negative prompt.
fn prompts(parts: &[TextPrompt]) -> Result<(String, Option<String>), Failure> {
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    for part in parts {
        let weight = part.weight.map_or(1.0, |n| n.0);
        let side = if weight < 0.0 {
            &mut negative
        } else {
            &mut positive
        };
        side.push(weighted(&part.text, weight.abs()));
    }
    if positive.is_empty() {
        let allowed = "needs a text whose weight is not negative";
        return Err(Failure::invalid("text_prompts", parts.len(), allowed));
    }
    let negative = (!negative.is_empty()).then(|| negative.join(", "));
    Ok((positive.join(", "), negative))
}

/// `text` in the weighted grammar; as it is at weight 1.
fn weighted(text: &str, weight: f64) -> String {
    if weight == 1.0 {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if "()[]\\".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    format!("({escaped}:{weight})")
}

fn sampler(name: Option<&str>) -> Result<Option<String>, Failure> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let known = SAMPLERS.iter().find(|(own, _)| *own == name);
    match known {
        Some((_, ours)) => Ok(Some((*ours).to_owned())),
        None => {
            let names = SAMPLERS.map(|(own, _)| own);
            Err(crate::Error::unknown("scheduler", name, names).into())
        }
    }
}

async fn draw(
    service: &Service,
    caller: &Caller,
    id: &RequestId,
    headers: &HeaderMap,
    order: Order,
) -> Result<Response, Failure> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let bytes = accept.is_some_and(|accept| accept.trim().starts_with("image/png"));
    if bytes && order.raw.samples.is_some_and(|n| n > 1) {
        let allowed = "one picture fits into an image/png answer; accept application/json";
        return Err(Failure::invalid(
            "samples",
            order.raw.samples.unwrap_or(1),
            allowed,
        ));
    }
    let route = "/v1/generation";
    let ticket = service.submit(caller, order, route, &id.0, false).await?;
    let finished = ticket.drawn().await?;
    match bytes {
        true => png(&finished),
        false => Ok(Json(artifacts(&finished)).into_response()),
    }
}

fn artifacts(finished: &Finished) -> Artifacts {
    let pictures = finished.drawn.pictures.iter();
    let artifacts = pictures.map(|made| Artifact {
        base64: STANDARD.encode(&made.bytes),
        seed: made.seed,
        finish_reason: "SUCCESS",
    });
    Artifacts {
        artifacts: artifacts.collect(),
    }
}

fn png(finished: &Finished) -> Result<Response, Failure> {
    let made = finished.drawn.pictures.first().ok_or(Failure::Internal)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("image/png")),
        (
            HeaderName::from_static("seed"),
            HeaderValue::from(made.seed),
        ),
        (
            HeaderName::from_static("finish-reason"),
            HeaderValue::from_static("SUCCESS"),
        ),
    ];
    Ok((headers, made.bytes.clone()).into_response())
}

/// Why a route that draws refuses.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "read by utoipa alone")]
enum Refusals {
    /// The request is refused.
    #[response(status = "4XX")]
    Refused(StabilityError),
    /// Not now, or not at all.
    #[response(status = "5XX")]
    Failed(StabilityError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule;

    #[test]
    fn weights_make_two_prompts() {
        let part = |text: &str, weight: f64| TextPrompt {
            text: text.into(),
            weight: Some(Number(weight)),
        };
        let parts = [
            part("a (red) circle", 1.0),
            part("a [bar]", 0.5),
            part("blur", -1.0),
            part("text", -0.5),
        ];
        let (positive, negative) = prompts(&parts).unwrap();
        assert_eq!(positive, r"a (red) circle, (a \[bar\]:0.5)");
        assert_eq!(negative.as_deref(), Some("blur, (text:0.5)"));
        assert!(prompts(&parts[2..]).is_err());
    }

    #[test]
    fn every_sampler_is_one_of_ours() {
        for (own, ours) in SAMPLERS {
            assert_eq!(schedule::canonical_name(ours).unwrap(), ours, "{own}");
        }
        let message = sampler(Some("K_EULR")).unwrap_err().to_string();
        assert!(message.contains("K_EULER"), "{message}");
    }
}
