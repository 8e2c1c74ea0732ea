//! Pictures from text, over pictures and parts of them; engines and the account.

use super::refusal::Refusals;
use super::types::{
    Account, Artifact, Artifacts, Engine, StabilityBalance, StabilityError, StabilityImageToImage,
    StabilityMasking, StabilityTextToImage,
};
use crate::picture::Format;
use crate::pipeline::{LoadOptions, Preset, model_name};
use crate::server::doors::shared::{put_headers, size};
use crate::server::http::accept::accepted;
use crate::server::http::body::Body;
use crate::server::http::{App, RequestId};
use crate::server::work::{Caller, Failure, Finished, Made, Model, Order, Service, Size};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Where a request, the operator and the model are silent.
const STEPS: usize = 30;
const CFG_SCALE: f64 = 7.0;
const SUCCESS: &str = "SUCCESS";

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(text_to_image))
        .routes(routes!(image_to_image))
        .routes(routes!(masking))
        .routes(routes!(engines))
        .routes(routes!(balance))
        .routes(routes!(account))
}

/// Draws pictures from text.
#[utoipa::path(
    post, path = "/v1/generation/{engine_id}/text-to-image", tag = "Stability",
    params(
        ("engine_id" = String, Path, description = "One of the engines, or any, which means the first"),
        ("Accept" = Option<String>, Header, description = "application/json (default), or image/png for one picture's bytes"),
    ),
    request_body(content((StabilityTextToImage = "application/json"), (StabilityTextToImage = "multipart/form-data"))),
    responses(
        (status = 200, content((Artifacts = "application/json"), (String = "image/png")),
         description = "The pictures; image/png comes with the headers Seed and Finish-Reason"),
        Refusals,
    ),
    security((), ("bearer" = [])),
)]
async fn text_to_image(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    Path(engine): Path<String>,
    Body(request, _share): Body<StabilityTextToImage>,
) -> Result<Response, Failure> {
    let (width, height) = request.sides()?;
    let named = service.if_known(&engine);
    let (_, model) = service.pick(named.as_deref())?;
    let order = Order {
        raw: request.raw(&defaults(&service, &model))?,
        size: size(width, height, model.native),
        model: named,
        ..Default::default()
    };
    let route = "/v1/generation/{engine_id}/text-to-image";
    draw(&service, &caller, &id, &headers, order, route).await
}

/// Draws over a picture.
#[utoipa::path(
    post, path = "/v1/generation/{engine_id}/image-to-image", tag = "Stability",
    params(
        ("engine_id" = String, Path, description = "One of the engines, or any, which means the first"),
        ("Accept" = Option<String>, Header, description = "application/json (default), or image/png for one picture's bytes"),
    ),
    request_body(content((StabilityImageToImage = "multipart/form-data"), (StabilityImageToImage = "application/json"))),
    responses(
        (status = 200, content((Artifacts = "application/json"), (String = "image/png")),
         description = "The pictures; image/png comes with the headers Seed and Finish-Reason"),
        Refusals,
    ),
    security((), ("bearer" = [])),
)]
async fn image_to_image(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    Path(engine): Path<String>,
    Body(request, _share): Body<StabilityImageToImage>,
) -> Result<Response, Failure> {
    let named = service.if_known(&engine);
    let (_, model) = service.pick(named.as_deref())?;
    let mut order = Order {
        raw: request.raw(&defaults(&service, &model))?,
        size: Size::Picture,
        model: named,
        ..Default::default()
    };
    order.raw.strength = Some(request.strength(order.raw.steps)?);
    order.image = Some(request.init_image);
    let route = "/v1/generation/{engine_id}/image-to-image";
    draw(&service, &caller, &id, &headers, order, route).await
}

/// Paints a part of a picture anew.
#[utoipa::path(
    post, path = "/v1/generation/{engine_id}/image-to-image/masking", tag = "Stability",
    params(
        ("engine_id" = String, Path, description = "One of the engines, or any, which means the first"),
        ("Accept" = Option<String>, Header, description = "application/json (default), or image/png for one picture's bytes"),
    ),
    request_body(content((StabilityMasking = "multipart/form-data"), (StabilityMasking = "application/json"))),
    responses(
        (status = 200, content((Artifacts = "application/json"), (String = "image/png")),
         description = "The pictures; image/png comes with the headers Seed and Finish-Reason"),
        Refusals,
    ),
    security((), ("bearer" = [])),
)]
async fn masking(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    headers: HeaderMap,
    Path(engine): Path<String>,
    Body(request, _share): Body<StabilityMasking>,
) -> Result<Response, Failure> {
    let named = service.if_known(&engine);
    let (_, model) = service.pick(named.as_deref())?;
    let mut order = Order {
        raw: request.raw(&defaults(&service, &model))?,
        size: Size::Picture,
        model: named,
        ..Default::default()
    };
    // What is masked is replaced entirely.
    order.raw.strength = Some(1.0);
    order.mask = Some(request.mask()?);
    order.raw.keep_unmasked = Some(true);
    order.image = Some(request.init_image);
    let route = "/v1/generation/{engine_id}/image-to-image/masking";
    draw(&service, &caller, &id, &headers, order, route).await
}

/// The engines: the service's models.
#[utoipa::path(
    get, path = "/v1/engines/list", tag = "Stability",
    responses(
        (status = 200, body = Vec<Engine>),
        (status = 401, body = StabilityError, description = "No valid key"),
    ),
    security((), ("bearer" = [])),
)]
async fn engines(State(service): State<Service>, _caller: Caller) -> Json<Vec<Engine>> {
    let engine = |options: &LoadOptions| {
        let name = model_name(&options.model).to_owned();
        Engine {
            id: name.clone(),
            name,
            description: "A model that this service draws with",
            kind: "PICTURE",
        }
    };
    Json(service.setup.models().map(engine).collect())
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

/// Whose the key is.
#[utoipa::path(
    get, path = "/v1/user/account", tag = "Stability",
    responses(
        (status = 200, body = Account),
        (status = 401, body = StabilityError, description = "No valid key"),
    ),
    security((), ("bearer" = [])),
)]
async fn account(caller: Caller) -> Json<Account> {
    Json(Account {
        id: caller.key.map_or_else(|| "anybody".into(), |key| key.name),
        email: "",
        organizations: [],
        profile_picture: (),
    })
}

/// This API's defaults, unless the operator or the model asks for others.
fn defaults(service: &Service, model: &Model) -> Preset {
    let mut preset = service.preset(model);
    if model.preset.is_plain() {
        preset.guidance_scale = CFG_SCALE;
        if service.limits.default_steps.is_none() {
            preset.steps = STEPS.min(service.limits.max_steps);
        }
    }
    preset
}

/// Whether the answer is a picture's bytes.
fn wants_bytes(headers: &HeaderMap) -> Result<bool, Failure> {
    let accepted = accepted(headers);
    let known = |media: &String| match media.as_str() {
        "application/json" | "application/*" | "*/*" => Some(false),
        "image/png" | "image/*" => Some(true),
        _ => None,
    };
    accepted.iter().find_map(known).ok_or_else(|| {
        let allowed = "choose one of application/json, image/png";
        Failure::invalid("Accept", accepted.join(", "), allowed)
    })
}

async fn draw(
    service: &Service,
    caller: &Caller,
    id: &RequestId,
    headers: &HeaderMap,
    mut order: Order,
    route: &'static str,
) -> Result<Response, Failure> {
    let bytes = wants_bytes(headers)?;
    if let (true, Some(samples @ 2..)) = (bytes, order.raw.samples) {
        let allowed = "one picture's bytes are one sample; accept application/json for more";
        return Err(Failure::invalid("samples", samples, allowed));
    }
    order.format = Some(Format::Png);
    let ticket = service.submit(caller, order, route, &id.0, false).await?;
    let finished = ticket.drawn().await?;
    let mut response = match bytes {
        true => picture(&finished)?,
        false => Json(artifacts(&finished)).into_response(),
    };
    put_headers(&mut response, &finished);
    Ok(response)
}

fn picture(finished: &Finished) -> Result<Response, Failure> {
    const SEED: HeaderName = HeaderName::from_static("seed");
    const FINISH_REASON: HeaderName = HeaderName::from_static("finish-reason");
    let made = finished.drawn.pictures.first().ok_or(Failure::Internal)?;
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(Format::Png.media_type()),
        ),
        (SEED, HeaderValue::from(made.seed)),
        (FINISH_REASON, HeaderValue::from_static(SUCCESS)),
    ];
    Ok((headers, made.bytes.clone()).into_response())
}

fn artifacts(finished: &Finished) -> Artifacts {
    let pictures = finished.drawn.pictures.iter();
    let artifact = |made: &Made| Artifact {
        base64: STANDARD.encode(&made.bytes),
        seed: made.seed,
        finish_reason: SUCCESS,
    };
    Artifacts {
        artifacts: pictures.map(artifact).collect(),
    }
}
