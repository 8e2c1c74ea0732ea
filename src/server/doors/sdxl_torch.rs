//! The `sdxl-torch` API and its siblings.

use super::names::Names;
use super::shared::put_headers;
use crate::error::Field;
use crate::picture::Format;
use crate::pipeline::RawRequest;
use crate::server::config::Limits;
use crate::server::http::body::Body;
use crate::server::http::lenient::{Flag, Integer, Number};
use crate::server::http::{App, RequestId};
use crate::server::work::{Caller, Failure, Finished, MaskOrder, Order, Service, Size, within};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What this API calls 1024 pixels is the model's native size.
const API_SIDE: i64 = 1024;
const SAMPLES: (i64, i64) = (1, 4);
const GUIDANCE: (f64, f64) = (1.0, 25.0);
const STRENGTH: (f64, f64) = (0.1, 1.0);
const SEEDS: (i64, i64) = (-1, 999_999_999_999_999);
/// Where `strength` is silent.
const IMG2IMG_STRENGTH: f64 = 0.2;
const INPAINT_STRENGTH: f64 = 0.9;

/// A request of this API: the fields that its routes share, and `$extra`.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($(#[$more:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        ///
        /// Numbers may come as text, and booleans as yes and no; unknown fields are ignored.
        #[derive(Debug, Deserialize, ToSchema)]
        pub struct $name {
            $($(#[$more])* $field: $type,)*
            /// What to paint; `(a:1.3)` weighs.
            prompt: String,
            /// Null and "" differ: null gives zero embeddings on the base.
            #[serde(default)]
            negative_prompt: Option<String>,
            /// Another spelling of negative_prompt.
            #[serde(default, rename = "negativePrompt")]
            #[schema(deprecated)]
            negative_prompt_camel: Option<String>,
            /// A prompt template.
            #[serde(default)]
            #[schema(default = "base")]
            style: Option<String>,
            /// Pictures; picture i uses seed + i.
            #[serde(default)]
            #[schema(value_type = Option<i64>, minimum = 1, maximum = 4, default = 1)]
            samples: Option<Integer>,
            #[serde(default)]
            #[schema(default = "UniPC")]
            scheduler: Option<String>,
            /// From 20 to 100, unless the operator says otherwise.
            #[serde(default)]
            #[schema(value_type = Option<i64>, default = 25)]
            num_inference_steps: Option<Integer>,
            /// 1 switches guidance off.
            #[serde(default)]
            #[schema(value_type = Option<f64>, minimum = 1, maximum = 25, default = 7.5)]
            guidance_scale: Option<Number>,
            /// How much of a picture is drawn anew.
            #[serde(default)]
            #[schema(value_type = Option<f64>, minimum = 0.1, maximum = 1)]
            strength: Option<Number>,
            /// Share of the noise schedule given to the base, the rest to the refiner.
            #[serde(default)]
            #[schema(value_type = Option<f64>, minimum = 0, maximum = 1, default = 0.8)]
            high_noise_fraction: Option<Number>,
            /// -1 draws one, which the reply names.
            #[serde(default)]
            #[schema(value_type = Option<i64>, minimum = -1, maximum = 999999999999999i64, default = -1)]
            seed: Option<Integer>,
            /// No effect where high_noise_fraction is 1.
            #[serde(default)]
            #[schema(value_type = Option<bool>, default = true)]
            refiner: Option<Flag>,
            /// True: JSON with the picture in base64; false: the picture's bytes.
            #[serde(default)]
            #[schema(value_type = Option<bool>, default = true)]
            base64: Option<Flag>,
        }

        impl $name {
            /// What was asked for, within this API's ranges; without a size.
            fn raw(&self, limits: &Limits) -> Result<RawRequest, Failure> {
                let steps = self.num_inference_steps.map(|n| n.0);
                let (least, most) = limits.api_steps;
                let negative = self.negative_prompt.as_ref();
                Ok(RawRequest {
                    prompt: Some(self.prompt.clone()),
                    negative_prompt: negative.or(self.negative_prompt_camel.as_ref()).cloned(),
                    style: self.style.clone().filter(|style| !style.trim().is_empty()),
                    scheduler: self.scheduler.clone().filter(|name| !name.trim().is_empty()),
                    samples: within("samples", self.samples.map(|n| n.0), SAMPLES.0, SAMPLES.1)?,
                    steps: within("steps", steps, least as i64, most as i64)?,
                    guidance_scale: within("guidance_scale", self.guidance_scale.map(|n| n.0), GUIDANCE.0, GUIDANCE.1)?,
                    strength: within("strength", self.strength.map(|n| n.0), STRENGTH.0, STRENGTH.1)?,
                    high_noise_fraction: within("high_noise_fraction", self.high_noise_fraction.map(|n| n.0), 0.0, 1.0)?,
                    seed: within("seed", self.seed.map(|n| n.0), SEEDS.0, SEEDS.1)?.map(i128::from),
                    refiner: self.refiner.map(|flag| flag.0),
                    ..Default::default()
                })
            }

            /// Whether the answer is JSON. One body of bytes holds one picture.
            fn base64(&self) -> Result<bool, Failure> {
                let base64 = self.base64.is_none_or(|flag| flag.0);
                match (base64, self.samples) {
                    (false, Some(Integer(2..))) => Err(Failure::invalid(
                        "base64",
                        "false",
                        "several samples do not fit into one picture's bytes; send base64 true",
                    )),
                    _ => Ok(base64),
                }
            }
        }
    };
}

request! {
    /// Text to image.
    TextToImage {
        /// Pixels: the model's native size, which 1024 stands for.
        #[serde(default)]
        #[schema(value_type = Option<i64>, default = 1024)]
        img_width: Option<Integer>,
        #[serde(default)]
        #[schema(value_type = Option<i64>, default = 1024)]
        img_height: Option<Integer>,
    }
}
request! {
    /// Image to image: the size comes from the picture.
    ImageToImage {
        /// Base64, a data URL, or a URL of a host that the operator allows.
        image: String,
    }
}
request! {
    /// Inpainting: the size comes from the picture.
    Inpaint {
        /// Base64, a data URL, or a URL of a host that the operator allows.
        image: String,
        /// Of the picture's size, white where it is painted anew.
        mask: String,
    }
}

/// One picture in base64, or several.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Images {
    One(String),
    Several(Vec<String>),
}

/// What a request with `base64` comes to.
#[derive(Debug, Serialize, ToSchema)]
struct Reply {
    /// JPEG files in base64: text for one sample, a list for several.
    image: Images,
    status: &'static str,
    /// Seconds.
    infer_time: f64,
    /// Of the first picture.
    seed: u64,
    seeds: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

/// Why a request was refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refused {
    /// Names the field, its value and what is allowed.
    pub error: String,
    /// The kind of the error, a stable word; see docs/errors.md.
    #[schema(value_type = String)]
    pub code: &'static str,
    /// For the service's log; with status 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub request_id: Option<String>,
}

/// Credits of a key.
#[derive(Debug, Serialize, ToSchema)]
struct Credits {
    /// Null where the service has no keys.
    credits: Option<i64>,
}

/// What this API and that of the jobs call fields.
pub const NAMES: Names = Names(&[
    (Field::Steps, "num_inference_steps"),
    (Field::Width, "img_width"),
    (Field::Height, "img_height"),
    (Field::Size, "img_width x img_height"),
    (Field::LoraTag, "a LoRA tag of prompt"),
    (Field::Loras, "the LoRA tags of prompt"),
]);

/// A failure as this API words it.
pub fn refusal(failure: Failure, request_id: &str) -> (StatusCode, Value) {
    let status = failure.status();
    let internal = status.is_server_error() && failure.retry_after().is_none();
    let refused = Refused {
        error: failure.message(&NAMES),
        code: failure.code().as_str(),
        request_id: internal.then(|| request_id.to_owned()),
    };
    (status, json!(refused))
}

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(text_to_image))
        .routes(routes!(text_to_image_alias))
        .routes(routes!(image_to_image))
        .routes(routes!(inpaint))
        .routes(routes!(credits))
}

/// Draws pictures from text.
#[utoipa::path(
    post, path = "/v1/sdxl-torch", tag = "sdxl-torch",
    request_body(content((TextToImage = "application/json"), (TextToImage = "multipart/form-data"))),
    responses(
        (status = 200, content((Reply = "application/json"), (String = "image/jpeg")),
         description = "JSON with base64, the picture's bytes without"),
        Refusals,
    ),
    security((), ("x-api-key" = [])),
)]
async fn text_to_image(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    Body(request, _share): Body<TextToImage>,
) -> Result<Response, Failure> {
    let order = Order {
        raw: request.raw(&service.limits)?,
        size: size(request.img_width, request.img_height, &service)?,
        format: Some(Format::Jpeg),
        ..Default::default()
    };
    let base64 = request.base64()?;
    draw(&service, &caller, &id, order, "/v1/sdxl-torch", base64).await
}

/// Another name of `/v1/sdxl-torch`.
#[utoipa::path(
    post, path = "/v1/sdxl1.0-txt2img", tag = "sdxl-torch",
    request_body(content((TextToImage = "application/json"), (TextToImage = "multipart/form-data"))),
    responses(
        (status = 200, content((Reply = "application/json"), (String = "image/jpeg")),
         description = "JSON with base64, the picture's bytes without"),
        Refusals,
    ),
    security((), ("x-api-key" = [])),
)]
async fn text_to_image_alias(
    state: State<Service>,
    caller: Caller,
    id: RequestId,
    body: Body<TextToImage>,
) -> Result<Response, Failure> {
    text_to_image(state, caller, id, body).await
}

/// Draws over a picture.
#[utoipa::path(
    post, path = "/v1/sdxl-img2img", tag = "sdxl-torch",
    request_body(content((ImageToImage = "application/json"), (ImageToImage = "multipart/form-data"))),
    responses(
        (status = 200, content((Reply = "application/json"), (String = "image/jpeg")),
         description = "JSON with base64, the picture's bytes without"),
        Refusals,
    ),
    security((), ("x-api-key" = [])),
)]
async fn image_to_image(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    Body(request, _share): Body<ImageToImage>,
) -> Result<Response, Failure> {
    let mut order = Order {
        raw: request.raw(&service.limits)?,
        size: Size::Picture,
        format: Some(Format::Jpeg),
        ..Default::default()
    };
    order.raw.strength.get_or_insert(IMG2IMG_STRENGTH);
    let base64 = request.base64()?;
    order.image = Some(request.image);
    draw(&service, &caller, &id, order, "/v1/sdxl-img2img", base64).await
}

/// Paints a part of a picture anew.
#[utoipa::path(
    post, path = "/v1/sdxl-inpaint", tag = "sdxl-torch",
    request_body(content((Inpaint = "application/json"), (Inpaint = "multipart/form-data"))),
    responses(
        (status = 200, content((Reply = "application/json"), (String = "image/jpeg")),
         description = "JSON with base64, the picture's bytes without"),
        Refusals,
    ),
    security((), ("x-api-key" = [])),
)]
async fn inpaint(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    Body(request, _share): Body<Inpaint>,
) -> Result<Response, Failure> {
    let mut order = Order {
        raw: request.raw(&service.limits)?,
        size: Size::Picture,
        format: Some(Format::Jpeg),
        ..Default::default()
    };
    order.raw.strength.get_or_insert(INPAINT_STRENGTH);
    let base64 = request.base64()?;
    order.image = Some(request.image);
    order.mask = Some(MaskOrder {
        text: request.mask,
        ..Default::default()
    });
    draw(&service, &caller, &id, order, "/v1/sdxl-inpaint", base64).await
}

/// The credits that a key has left.
#[utoipa::path(
    get, path = "/v1/get-user-credits", tag = "sdxl-torch",
    responses(
        (status = 200, body = Credits),
        (status = 401, body = Refused, description = "No valid key"),
    ),
    security((), ("x-api-key" = [])),
)]
async fn credits(State(service): State<Service>, caller: Caller) -> Result<Json<Credits>, Failure> {
    let credits = service.credits(&caller).await?;
    Ok(Json(Credits { credits }))
}

/// The native size, by its own numbers or as 1024; others if the operator says so.
fn size(
    width: Option<Integer>,
    height: Option<Integer>,
    service: &Service,
) -> Result<Size, Failure> {
    let native = service.model()?.native;
    let side = |field, given: Option<Integer>, native: usize| match given {
        None | Some(Integer(API_SIDE)) => Ok(native as i64),
        Some(Integer(pixels)) if pixels == native as i64 || service.limits.api_any_size => {
            Ok(pixels)
        }
        Some(Integer(pixels)) => {
            let allowed = match native as i64 {
                API_SIDE => format!("must be {API_SIDE}"),
                native => format!("must be {native}, this model's size, or {API_SIDE} for it"),
            };
            Err(Failure::invalid(field, pixels, allowed))
        }
    };
    Ok(Size::Exact(
        side("width", width, native.0)?,
        side("height", height, native.1)?,
    ))
}

async fn draw(
    service: &Service,
    caller: &Caller,
    id: &RequestId,
    mut order: Order,
    route: &'static str,
    base64: bool,
) -> Result<Response, Failure> {
    let model = service.model()?;
    let (least, most) = service.limits.api_steps;
    let steps = service.preset(&model).steps.clamp(least, most);
    order.raw.steps.get_or_insert(steps as i64);
    let ticket = service.submit(caller, order, route, &id.0, false).await?;
    let finished = ticket.drawn().await?;
    let mut response = match base64 {
        true => Json(reply(&finished)).into_response(),
        false => {
            let made = finished.drawn.pictures.first().ok_or(Failure::Internal)?;
            let media = HeaderValue::from_static(Format::Jpeg.media_type());
            ([(header::CONTENT_TYPE, media)], made.bytes.clone()).into_response()
        }
    };
    put_headers(&mut response, &finished);
    Ok(response)
}

fn reply(finished: &Finished) -> Reply {
    let drawn = &finished.drawn;
    let mut images: Vec<String> = drawn
        .pictures
        .iter()
        .map(|made| STANDARD.encode(&made.bytes))
        .collect();
    let image = match images.len() {
        1 => Images::One(images.remove(0)),
        _ => Images::Several(images),
    };
    Reply {
        image,
        status: "success",
        infer_time: drawn.total,
        seed: finished.job.seed,
        seeds: drawn.pictures.iter().map(|made| made.seed).collect(),
        warnings: drawn.warnings.clone(),
    }
}

/// Why a route that draws refuses.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "read by utoipa alone")]
pub enum Refusals {
    /// The body is not JSON, a field is missing, of the wrong type or out of range.
    #[response(status = 400)]
    Invalid(Refused),
    /// No valid key.
    #[response(status = 401)]
    Unauthorized(Refused),
    /// Not enough credits; nothing is charged.
    #[response(status = 406)]
    Credits(Refused),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(Refused),
    /// The queue is full.
    #[response(status = 429)]
    QueueFull(Refused),
    /// Processing failed; nothing is charged.
    #[response(status = 500)]
    Internal(Refused),
    /// The model is being loaded, or the service shuts down.
    #[response(status = 503)]
    Unavailable(Refused),
}
