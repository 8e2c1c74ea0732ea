//! Hugging Face's text-to-image and image-to-image tasks, as its InferenceClient
//! asks an endpoint for them.

use super::names::Names;
use super::shared::{put_headers, size};
use crate::error::Field;
use crate::picture::Format;
use crate::pipeline::RawRequest;
use crate::server::http::accept::accepted;
use crate::server::http::body;
use crate::server::http::lenient::{Flag, Integer, Number, Seed};
use crate::server::http::{App, RequestId};
use crate::server::work::{Caller, Failure, MaskOrder, Order, Size};
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Where a picture to start from comes without a strength.
const STRENGTH: f64 = 0.6;

/// What a task is given.
///
/// Numbers may come as text, and booleans as yes and no; unknown fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TaskRequest {
    /// What to paint; with parameters.prompt, the picture to start from: base64, a
    /// data URL, or a URL of a host that the operator allows.
    inputs: String,
    #[serde(default)]
    parameters: Option<TaskParameters>,
}

/// How a task is done.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct TaskParameters {
    /// What to paint over the picture in inputs.
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    negative_prompt: Option<String>,
    /// Pixels, a multiple of 8; the model's native size where silent, which 1024
    /// stands for on a model of another size.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    height: Option<Integer>,
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    width: Option<Integer>,
    /// Of image-to-image; the picture's size where silent.
    #[serde(default)]
    target_size: Option<TargetSize>,
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 1)]
    num_inference_steps: Option<Integer>,
    /// 1 switches guidance off.
    #[serde(default)]
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 100)]
    guidance_scale: Option<Number>,
    /// A name of the service's, or diffusers' class.
    #[serde(default)]
    scheduler: Option<String>,
    /// -1 draws one, which the header x-seed-value names.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = -1, default = -1)]
    seed: Option<Seed>,
    /// Of image-to-image: how much of the picture is drawn anew.
    #[serde(default)]
    #[schema(value_type = Option<f64>, exclusive_minimum = 0, maximum = 1, default = 0.6)]
    strength: Option<Number>,
    /// Of the picture's size, white where it is painted anew.
    #[serde(default)]
    mask_image: Option<String>,
    /// A prompt template.
    #[serde(default)]
    style: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    refiner: Option<Flag>,
    /// Share of the noise schedule given to the base, the rest to the refiner.
    #[serde(default)]
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 1)]
    high_noise_fraction: Option<Number>,
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 0)]
    clip_skip: Option<Integer>,
}

/// Pixels, multiples of 8.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
pub struct TargetSize {
    #[schema(value_type = i64)]
    height: Integer,
    #[schema(value_type = i64)]
    width: Integer,
}

/// A picture for a client that accepts JSON.
#[derive(Debug, Serialize, ToSchema)]
struct TaskPictures {
    data: Vec<TaskPicture>,
    seed: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct TaskPicture {
    /// A PNG file in base64.
    b64_json: String,
}

/// Why a task was refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskError {
    /// Names the field, its value and what is allowed.
    error: String,
    /// The kind of the error, a stable word; see docs/errors.md.
    #[schema(value_type = String)]
    code: &'static str,
    /// Seconds until the model is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    estimated_time: Option<f64>,
}

/// Why a task is refused.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "read by utoipa alone")]
enum Refusals {
    /// The body cannot be read, or a parameter is of the wrong type or out of range.
    #[response(status = 400)]
    Invalid(TaskError),
    /// No valid key.
    #[response(status = 401)]
    Unauthorized(TaskError),
    /// Not enough credits; nothing is charged.
    #[response(status = 402)]
    Credits(TaskError),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(TaskError),
    /// The queue is full.
    #[response(status = 429)]
    QueueFull(TaskError),
    /// Processing failed; nothing is charged.
    #[response(status = 500)]
    Internal(TaskError),
    /// The model is being loaded, or the service shuts down.
    #[response(status = 503)]
    Unavailable(TaskError),
    /// It took too long, and was stopped.
    #[response(status = 504)]
    TimedOut(TaskError),
}

/// What this API calls fields.
pub const NAMES: Names = Names(&[
    (Field::Prompt, "inputs"),
    (Field::Image, "inputs"),
    (Field::Mask, "parameters.mask_image"),
    (Field::Steps, "parameters.num_inference_steps"),
    (Field::Width, "parameters.width"),
    (Field::Height, "parameters.height"),
    (Field::Size, "parameters.width x parameters.height"),
    (Field::NegativePrompt, "parameters.negative_prompt"),
    (Field::GuidanceScale, "parameters.guidance_scale"),
    (Field::Scheduler, "parameters.scheduler"),
    (Field::Seed, "parameters.seed"),
    (Field::Strength, "parameters.strength"),
    (Field::Style, "parameters.style"),
    (Field::HighNoiseFraction, "parameters.high_noise_fraction"),
    (Field::ClipSkip, "parameters.clip_skip"),
    (Field::LoraTag, "a LoRA tag of inputs"),
    (Field::Loras, "the LoRA tags of inputs"),
]);

/// A failure as this API words it.
pub fn refusal(failure: Failure, _request_id: &str) -> (StatusCode, Value) {
    let status = match failure {
        Failure::Credits { .. } => StatusCode::PAYMENT_REQUIRED,
        Failure::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
        ref other => other.status(),
    };
    let estimated_time = match failure {
        Failure::Unavailable(_) => failure.retry_after().map(|seconds| seconds as f64),
        _ => None,
    };
    (
        status,
        json!(TaskError {
            error: failure.message(&NAMES),
            code: failure.code().as_str(),
            estimated_time
        }),
    )
}

impl TaskRequest {
    /// A picture that came alone: it is drawn over without words.
    fn of_picture(bytes: &[u8]) -> Self {
        Self {
            inputs: STANDARD.encode(bytes),
            parameters: Some(TaskParameters {
                prompt: Some(String::new()),
                ..Default::default()
            }),
        }
    }

    fn order(self, native: (usize, usize)) -> Order {
        let given = self.parameters.unwrap_or_default();
        let starts_from_picture =
            given.prompt.is_some() || given.target_size.is_some() || is_picture_text(&self.inputs);
        let (prompt, image) = match starts_from_picture {
            true => (given.prompt.unwrap_or_default(), Some(self.inputs)),
            false => (self.inputs, None),
        };
        let sides = match given.target_size {
            Some(TargetSize { width, height }) => (Some(width), Some(height)),
            None => (given.width, given.height),
        };
        let whole = |n: Option<Integer>| n.map(|n| n.0);
        let number = |n: Option<Number>| n.map(|n| n.0);
        let said = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        Order {
            size: match (sides, &image) {
                ((None, None), Some(_)) => Size::Picture,
                ((width, height), _) => size(width, height, native),
            },
            mask: said(given.mask_image).map(|text| MaskOrder {
                text,
                stretch: true,
                ..Default::default()
            }),
            raw: RawRequest {
                prompt: Some(prompt),
                negative_prompt: given.negative_prompt,
                style: said(given.style),
                scheduler: said(given.scheduler),
                steps: whole(given.num_inference_steps),
                guidance_scale: number(given.guidance_scale),
                seed: given.seed.map(|n| n.0),
                strength: number(given.strength).or(image.is_some().then_some(STRENGTH)),
                refiner: given.refiner.map(|flag| flag.0),
                high_noise_fraction: number(given.high_noise_fraction),
                clip_skip: whole(given.clip_skip),
                ..Default::default()
            },
            image,
            ..Default::default()
        }
    }
}

/// Whether text is a picture: InferenceClient sends one without a prompt too.
fn is_picture_text(text: &str) -> bool {
    /// Characters of base64: no sentence is as long without a space.
    const HEAD: usize = 64;
    let head = text.as_bytes().get(..HEAD);
    let bytes = head.and_then(|head| STANDARD.decode(head).ok());
    text.starts_with("data:image/")
        || bytes.is_some_and(|bytes| image::guess_format(&bytes).is_ok())
}

/// What the answer is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Bytes(Format),
    Json,
}

impl Answer {
    fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        let accepted = accepted(headers);
        let known = |media: &String| match media.as_str() {
            "image/png" | "image/*" | "*/*" => Some(Answer::Bytes(Format::Png)),
            "image/jpeg" | "image/jpg" => Some(Answer::Bytes(Format::Jpeg)),
            "image/webp" => Some(Answer::Bytes(Format::Webp)),
            "application/json" => Some(Answer::Json),
            _ => None,
        };
        accepted.iter().find_map(known).ok_or_else(|| {
            let allowed = "choose one of image/png, image/jpeg, image/webp, application/json";
            Failure::invalid("Accept", accepted.join(", "), allowed)
        })
    }

    fn format(self) -> Format {
        match self {
            Answer::Bytes(format) => format,
            Answer::Json => Format::Png,
        }
    }
}

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(task))
        .routes(routes!(task_of_model))
        .routes(routes!(task_of_owned_model))
}

/// Draws a picture from text, or over a picture.
///
/// inputs is text, or a picture where parameters.prompt is given. A picture's bytes
/// as the body, without any JSON, are drawn over without words.
#[utoipa::path(
    post, path = "/", tag = "Hugging Face",
    params(("Accept" = Option<String>, Header, description = "image/png (default), image/jpeg, image/webp, or application/json")),
    request_body(content((TaskRequest = "application/json"), (String = "image/png"), (String = "image/jpeg"))),
    responses(
        (status = 200, description = "The picture, as Accept asks for it",
         content((String = "image/png"), (String = "image/jpeg"), (String = "image/webp"), (TaskPictures = "application/json"))),
        Refusals,
    ),
    security((), ("bearer" = [])),
)]
async fn task(
    State(app): State<App>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Failure> {
    carry_out(app, caller, id, headers, (None, request)).await
}

/// A request, of the model that its path names.
async fn carry_out(
    app: App,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    (name, request): (Option<String>, Request),
) -> Result<Response, Failure> {
    let answer = Answer::of(&headers)?;
    let (request, _share) = body::admitted(request, &app).await?;
    let service = app.service;
    let bytes = body::bytes(request).await?;
    let request = match image::guess_format(&bytes) {
        Ok(_) => TaskRequest::of_picture(&bytes),
        Err(_) => body::parse(body::json(&bytes)?)?,
    };
    let named = name.and_then(|name| service.if_known(&name));
    let (_, model) = service.pick(named.as_deref())?;
    let mut order = request.order(model.native);
    order.model = named;
    order.format = Some(answer.format());
    let ticket = service.submit(&caller, order, "/", &id.0, false).await?;
    let finished = ticket.drawn().await?;
    let made = finished.drawn.pictures.first().ok_or(Failure::Internal)?;
    let mut response = match answer {
        Answer::Bytes(format) => {
            let media = HeaderValue::from_static(format.media_type());
            ([(header::CONTENT_TYPE, media)], made.bytes.clone()).into_response()
        }
        Answer::Json => Json(TaskPictures {
            data: vec![TaskPicture {
                b64_json: STANDARD.encode(&made.bytes),
            }],
            seed: made.seed,
        })
        .into_response(),
    };
    put_headers(&mut response, &finished);
    Ok(response)
}

/// The same by one of the service's models; any other name means the first.
#[utoipa::path(
    post, path = "/models/{name}", tag = "Hugging Face",
    params(
        ("name" = String, Path, description = "A model of `/v1/info`, or any"),
        ("Accept" = Option<String>, Header, description = "image/png (default), image/jpeg, image/webp, or application/json"),
    ),
    request_body(content((TaskRequest = "application/json"), (String = "image/png"), (String = "image/jpeg"))),
    responses(
        (status = 200, description = "The picture, as Accept asks for it",
         content((String = "image/png"), (String = "image/jpeg"), (String = "image/webp"), (TaskPictures = "application/json"))),
        Refusals,
    ),
    security((), ("bearer" = [])),
)]
async fn task_of_model(
    State(app): State<App>,
    Path(name): Path<String>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Failure> {
    carry_out(app, caller, id, headers, (Some(name), request)).await
}

/// The same by a model's full name, of which the last part counts.
#[utoipa::path(
    post, path = "/models/{owner}/{name}", tag = "Hugging Face",
    params(
        ("owner" = String, Path, description = "Any"),
        ("name" = String, Path, description = "A model of `/v1/info`, or any"),
        ("Accept" = Option<String>, Header, description = "image/png (default), image/jpeg, image/webp, or application/json"),
    ),
    request_body(content((TaskRequest = "application/json"), (String = "image/png"), (String = "image/jpeg"))),
    responses(
        (status = 200, description = "The picture, as Accept asks for it",
         content((String = "image/png"), (String = "image/jpeg"), (String = "image/webp"), (TaskPictures = "application/json"))),
        Refusals,
    ),
    security((), ("bearer" = [])),
)]
async fn task_of_owned_model(
    State(app): State<App>,
    Path(names): Path<(String, String)>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Failure> {
    carry_out(app, caller, id, headers, (Some(names.1), request)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(body: Value) -> Order {
        let request: TaskRequest = body::parse(body).unwrap();
        request.order((1024, 1024))
    }

    #[test]
    fn a_prompt_among_the_parameters_makes_inputs_a_picture() {
        let text = order(json!({ "inputs": "a red circle" }));
        assert_eq!(text.raw.prompt.as_deref(), Some("a red circle"));
        assert_eq!((text.image, text.size), (None, Size::Native));

        let picture = order(json!({ "inputs": "AAAA", "parameters": { "prompt": "a" } }));
        assert_eq!(picture.raw.prompt.as_deref(), Some("a"));
        assert_eq!(picture.image.as_deref(), Some("AAAA"));
        assert_eq!(picture.size, Size::Picture);

        let png = STANDARD.encode([b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 60]].concat());
        let picture = order(json!({ "inputs": png, "parameters": { "guidance_scale": 3 } }));
        assert_eq!(picture.raw.prompt.as_deref(), Some(""));
        assert_eq!(picture.image, Some(png));
    }

    #[test]
    fn a_silent_side_is_the_native_one() {
        let of = |w: Option<i64>, h: Option<i64>, native| {
            size(w.map(Integer), h.map(Integer), (native, native))
        };
        assert_eq!(of(None, None, 128), Size::Native);
        assert_eq!(of(Some(512), None, 1024), Size::Scaled(512, 1024));
        assert_eq!(of(None, Some(128), 128), Size::Scaled(128, 128));
        assert_eq!(of(None, Some(768), 128), Size::Scaled(1024, 768));
    }
}
