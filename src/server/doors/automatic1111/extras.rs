//! Pictures made larger, and what else that program does to a picture that is there.

use super::refusal::Refusals;
use crate::picture::{Fit, Format, MOST_SIDE, Picture};
use crate::server::doors::shared::Dressed;
use crate::server::http::App;
use crate::server::http::body::Body;
use crate::server::http::lenient::{Flag, Integer, Number};
use crate::server::work::{Caller, Failure, Service, blocking, within};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The upscalers that are here: none, which changes nothing, and Lanczos.
pub const UPSCALERS: [&str; 2] = ["None", "Lanczos"];
/// As that program allows it.
const MOST_FACTOR: f64 = 8.0;
/// Pictures of one request.
const MOST_PICTURES: usize = 16;

/// What both routes share. Faces are not restored here, and there is no second upscaler.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct Extras {
    /// 0 for a factor, 1 for a size.
    #[schema(value_type = i64, default = 0)]
    resize_mode: Option<Integer>,
    #[schema(value_type = f64, default = 2)]
    upscaling_resize: Option<Number>,
    #[schema(value_type = i64, default = 512)]
    upscaling_resize_w: Option<Integer>,
    #[schema(value_type = i64, default = 512)]
    upscaling_resize_h: Option<Integer>,
    /// What stands over a size is cut off; else all of the picture is inside of it.
    #[schema(value_type = bool, default = true)]
    upscaling_crop: Option<Flag>,
    /// One of `/sdapi/v1/upscalers`.
    #[schema(default = "None")]
    upscaler_1: Option<String>,
    #[schema(value_type = f64, default = 0)]
    extras_upscaler_2_visibility: Option<Number>,
    #[schema(value_type = f64, default = 0)]
    gfpgan_visibility: Option<Number>,
    #[schema(value_type = f64, default = 0)]
    codeformer_visibility: Option<Number>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct ExtrasSingle {
    #[serde(flatten)]
    extras: Extras,
    /// Base64 or a data URL.
    image: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct ExtrasBatch {
    #[serde(flatten)]
    extras: Extras,
    #[serde(rename = "imageList")]
    images: Vec<FileData>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct FileData {
    /// Base64 or a data URL.
    data: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ExtrasSingleAnswer {
    /// Empty.
    html_info: &'static str,
    /// PNG, base64.
    image: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ExtrasBatchAnswer {
    /// Empty.
    html_info: &'static str,
    /// PNG, base64.
    images: Vec<String>,
}

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(single))
        .routes(routes!(batch))
        .routes(routes!(interrogate))
}

/// Makes a picture larger.
#[utoipa::path(
    post, path = "/sdapi/v1/extra-single-image", tag = "AUTOMATIC1111",
    request_body = ExtrasSingle,
    responses((status = 200, body = ExtrasSingleAnswer), Refusals),
    security((), ("basic" = [])),
)]
async fn single(
    State(service): State<Service>,
    caller: Caller,
    Body(request, _share): Body<ExtrasSingle>,
) -> Result<Json<ExtrasSingleAnswer>, Failure> {
    let target = request.extras.target()?;
    let image = resized(&service, &caller, request.image, target).await?;
    Ok(Json(ExtrasSingleAnswer {
        html_info: "",
        image,
    }))
}

/// Makes several pictures larger.
#[utoipa::path(
    post, path = "/sdapi/v1/extra-batch-images", tag = "AUTOMATIC1111",
    request_body = ExtrasBatch,
    responses((status = 200, body = ExtrasBatchAnswer), Refusals),
    security((), ("basic" = [])),
)]
async fn batch(
    State(service): State<Service>,
    caller: Caller,
    Body(request, _share): Body<ExtrasBatch>,
) -> Result<Json<ExtrasBatchAnswer>, Failure> {
    let target = request.extras.target()?;
    let count = request.images.len();
    if count > MOST_PICTURES {
        let allowed = format!("at most {MOST_PICTURES} are taken at a time");
        let given = format!("{count} pictures");
        return Err(Failure::invalid("imageList", given, allowed));
    }
    let mut images = Vec::with_capacity(count);
    for file in request.images {
        images.push(resized(&service, &caller, file.data, target).await?);
    }
    Ok(Json(ExtrasBatchAnswer {
        html_info: "",
        images,
    }))
}

/// What there is none of, as that program says it.
#[derive(Debug, Serialize, ToSchema)]
pub struct SdapiMissing {
    pub detail: String,
}

/// Refused as that program refuses a model that it does not have: nothing here describes
/// pictures.
#[utoipa::path(
    post, path = "/sdapi/v1/interrogate", tag = "AUTOMATIC1111",
    responses((status = 404, body = SdapiMissing, description = "There is no such model here"), Refusals),
    security((), ("basic" = [])),
)]
async fn interrogate(_: Caller) -> impl IntoResponse {
    let detail = "Model not found".into();
    let body = Json(SdapiMissing { detail });
    (StatusCode::NOT_FOUND, Extension(Dressed), body)
}

/// What becomes of a picture's size.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    Same,
    Factor(f64),
    /// Inside of this, or over it and cut off.
    Size(usize, usize, bool),
}

impl Extras {
    fn target(&self) -> Result<Target, Failure> {
        for (field, value) in [
            (
                "extras_upscaler_2_visibility",
                self.extras_upscaler_2_visibility,
            ),
            ("gfpgan_visibility", self.gfpgan_visibility),
            ("codeformer_visibility", self.codeformer_visibility),
        ] {
            if let Some(value) = value.map(|n| n.0).filter(|n| *n != 0.0) {
                return Err(Failure::invalid(field, value, "must be 0: it is not here"));
            }
        }
        let name = self.upscaler_1.as_deref().unwrap_or(UPSCALERS[0]);
        let known = UPSCALERS.iter().position(|u| u.eq_ignore_ascii_case(name));
        match known {
            None => {
                let allowed = format!("choose one of {}", UPSCALERS.join(", "));
                return Err(Failure::invalid("upscaler_1", format!("{name:?}"), allowed));
            }
            Some(0) => return Ok(Target::Same),
            Some(_) => {}
        }
        let whole = |n: Option<Integer>| n.map(|n| n.0);
        let side = |field, n| {
            let side = within(field, whole(n), 1, MOST_SIDE as i64)?;
            Ok::<_, Failure>(usize::try_from(side.unwrap_or(512)).unwrap_or(MOST_SIDE))
        };
        match within("resize_mode", whole(self.resize_mode), 0, 1)? {
            Some(1) => Ok(Target::Size(
                side("upscaling_resize_w", self.upscaling_resize_w)?,
                side("upscaling_resize_h", self.upscaling_resize_h)?,
                self.upscaling_crop.is_none_or(|flag| flag.0),
            )),
            _ => {
                let factor = self.upscaling_resize.map(|n| n.0);
                let factor = within("upscaling_resize", factor, 1.0, MOST_FACTOR)?;
                Ok(Target::Factor(factor.unwrap_or(2.0)))
            }
        }
    }
}

impl Target {
    /// Width and height, and how they are reached.
    fn of(self, (width, height): (usize, usize)) -> (usize, usize, Fit) {
        let (w, h) = (width as f64, height as f64);
        let by = |factor: f64| {
            // As that program does, whose `int` cuts off.
            let side = |n: f64| ((n * factor + 1e-9) as usize).max(1);
            (side(w), side(h), Fit::Stretch)
        };
        match self {
            Target::Same => (width, height, Fit::Stretch),
            Target::Factor(factor) => by(factor),
            Target::Size(to_w, to_h, true) => (to_w, to_h, Fit::Crop),
            Target::Size(to_w, to_h, false) => by((to_w as f64 / w).min(to_h as f64 / h)),
        }
    }
}

/// A picture at its new size, as a PNG in base64: in turn with others, and for who could
/// pay for a picture.
async fn resized(
    service: &Service,
    caller: &Caller,
    text: String,
    target: Target,
) -> Result<String, Failure> {
    let owner = caller.owner();
    let least = service.setup.config.price.minimum;
    service.require_credits(owner, least).await?;
    let turn = service.decoders.turn(owner).await;
    let service = service.clone();
    blocking(move || {
        let _turn = turn;
        let bytes = service.sources.bytes("image", &text)?;
        let (width, height, fit) = target.of(service.sources.size("image", &bytes)?);
        let most = service.setup.config.max_input_pixels;
        if width.saturating_mul(height) > most {
            let (size, allowed) = (
                format!("{width}x{height}"),
                format!("must be at most {most} pixels in all"),
            );
            return Err(Failure::invalid("upscaling_resize", size, allowed));
        }
        let picture = Picture::from_bytes("image", &bytes)?;
        // As it is turned.
        let (width, height, fit) = match target.of((picture.width, picture.height)) {
            (w, h, _) if w.saturating_mul(h) > most => (width, height, fit),
            size => size,
        };
        let picture = picture.resized(width, height, fit)?;
        Ok(STANDARD.encode(Format::Png.encode(&picture, None)?))
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target(value: serde_json::Value) -> Result<Target, Failure> {
        serde_json::from_value::<Extras>(value).unwrap().target()
    }

    #[test]
    fn sizes_are_that_programs() {
        for (value, wanted) in [
            (json!({}), (30, 20)),
            (json!({"upscaler_1": "Lanczos"}), (60, 40)),
            (
                json!({"upscaler_1": "lanczos", "upscaling_resize": 1.5}),
                (45, 30),
            ),
            (
                json!({"upscaler_1": "Lanczos", "resize_mode": 1}),
                (512, 512),
            ),
            (
                json!({"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_crop": false,
                       "upscaling_resize_w": 90, "upscaling_resize_h": 90}),
                (90, 60),
            ),
        ] {
            let (width, height, _) = target(value.clone()).unwrap().of((30, 20));
            assert_eq!((width, height), wanted, "{value}");
        }
    }

    #[test]
    fn what_is_not_here_is_refused() {
        for value in [
            json!({"upscaler_1": "R-ESRGAN 4x+"}),
            json!({"gfpgan_visibility": 0.5}),
            json!({"codeformer_visibility": 1}),
            json!({"extras_upscaler_2_visibility": 1}),
            json!({"upscaler_1": "Lanczos", "upscaling_resize": 9}),
            json!({"upscaler_1": "Lanczos", "resize_mode": 2}),
        ] {
            assert!(target(value.clone()).is_err(), "{value}");
        }
    }
}
