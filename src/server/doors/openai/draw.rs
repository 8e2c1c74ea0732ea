//! Pictures from text, over pictures, and variations of them.

use super::answer::{now, own_format};
use super::models;
use super::stream;
use super::types::{
    Edit, ErrorBody, Generation, ImagesResponse, OpenAiImage, Shared, TokenUsage, Variation,
};
use crate::picture::{Format, MaskReading};
use crate::pipeline::RawRequest;
use crate::server::doors::shared::format;
use crate::server::http::Client;
use crate::server::http::RequestId;
use crate::server::http::body::Body;
use crate::server::work::{
    Caller, Failure, Finished, Made, MaskOrder, Order, Service, Size, within,
};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The most pictures of one request in this API; the operator may allow fewer.
const MOST: i64 = 10;
const MOST_PARTIAL: i64 = 3;
/// How much of a picture is drawn anew where the request is silent.
const OVER: f64 = 0.6;
const INPAINT: f64 = 0.9;

/// Draws pictures from text.
#[utoipa::path(
    post, path = "/v1/images/generations", tag = "OpenAI",
    request_body(content((Generation = "application/json"))),
    responses(
        (status = 200, description = "Pictures; events where stream is true",
         content((ImagesResponse = "application/json"), (stream::StreamEvent = "text/event-stream"))),
        (status = "4XX", body = ErrorBody, description = "The request is refused"),
        (status = "5XX", body = ErrorBody, description = "Not now, or not at all"),
    ),
    security((), ("bearer" = [])),
)]
pub async fn generations(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    client: Client,
    Body(request, _share): Body<Generation>,
) -> Result<Response, Failure> {
    let shared = request.shared(&request.prompt);
    let order = order(&shared)?;
    let door = Door {
        service: &service,
        caller: &caller,
        id: &id,
        client: &client,
        route: "/v1/images/generations",
        event: "image_generation",
    };
    door.draw(&shared, order).await
}

/// Draws over a picture, or a part of it anew.
#[utoipa::path(
    post, path = "/v1/images/edits", tag = "OpenAI",
    request_body(content((Edit = "multipart/form-data"), (Edit = "application/json"))),
    responses(
        (status = 200, description = "Pictures; events where stream is true",
         content((ImagesResponse = "application/json"), (stream::StreamEvent = "text/event-stream"))),
        (status = "4XX", body = ErrorBody, description = "The request is refused"),
        (status = "5XX", body = ErrorBody, description = "Not now, or not at all"),
    ),
    security((), ("bearer" = [])),
)]
pub async fn edits(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    client: Client,
    Body(request, _share): Body<Edit>,
) -> Result<Response, Failure> {
    let shared = request.shared(&request.prompt);
    let by_url = request
        .images
        .iter()
        .flatten()
        .map(|image| &image.image_url);
    let images: Vec<&String> = match &request.image {
        Some(images) => images.texts().iter().chain(by_url).collect(),
        None => by_url.collect(),
    };
    let mut order = order_over(&shared, &images)?;
    order.mask = request.mask.clone().map(|text| MaskOrder {
        text,
        reading: MaskReading::Transparent,
        ..Default::default()
    });
    order.raw.keep_unmasked = order.mask.is_some().then_some(true);
    let silent = if order.mask.is_some() { INPAINT } else { OVER };
    order.raw.strength.get_or_insert(silent);
    let door = Door {
        service: &service,
        caller: &caller,
        id: &id,
        client: &client,
        route: "/v1/images/edits",
        event: "image_edit",
    };
    door.draw(&shared, order).await
}

/// Draws over a picture without a prompt; events, if any, are named as an edit's.
#[utoipa::path(
    post, path = "/v1/images/variations", tag = "OpenAI",
    request_body(content((Variation = "multipart/form-data"), (Variation = "application/json"))),
    responses(
        (status = 200, description = "Pictures; events where stream is true",
         content((ImagesResponse = "application/json"), (stream::StreamEvent = "text/event-stream"))),
        (status = "4XX", body = ErrorBody, description = "The request is refused"),
        (status = "5XX", body = ErrorBody, description = "Not now, or not at all"),
    ),
    security((), ("bearer" = [])),
)]
pub async fn variations(
    State(service): State<Service>,
    caller: Caller,
    id: RequestId,
    client: Client,
    Body(request, _share): Body<Variation>,
) -> Result<Response, Failure> {
    let shared = request.shared("");
    let images: Vec<&String> = request.image.texts().iter().collect();
    let mut order = order_over(&shared, &images)?;
    order.raw.strength.get_or_insert(OVER);
    let door = Door {
        service: &service,
        caller: &caller,
        id: &id,
        client: &client,
        route: "/v1/images/variations",
        event: "image_edit",
    };
    door.draw(&shared, order).await
}

/// An order that starts from the one of `images`, and takes its size where silent.
fn order_over(shared: &Shared<'_>, images: &[&String]) -> Result<Order, Failure> {
    let mut order = order(shared)?;
    if order.size == Size::Native {
        order.size = Size::Picture;
    }
    order.image = match images {
        [text] => Some((*text).clone()),
        [] => {
            let allowed = "this field is required";
            return Err(Failure::invalid("image", "missing", allowed));
        }
        several => {
            let count = format!("{} pictures", several.len());
            let allowed = "send one: this service draws over a single picture";
            return Err(Failure::invalid("image", count, allowed));
        }
    };
    Ok(order)
}

fn order(shared: &Shared<'_>) -> Result<Order, Failure> {
    let text = |text: Option<&str>| text.map(str::to_owned).filter(|t| !t.trim().is_empty());
    let style = text(shared.style).filter(|style| !["vivid", "natural"].contains(&&**style));
    let drawn_as = format("output_format", shared.output_format)?;
    let partial = within("partial_images", shared.partial_images, 0, MOST_PARTIAL)?;
    Ok(Order {
        raw: RawRequest {
            prompt: Some(shared.prompt.to_owned()),
            negative_prompt: shared.negative_prompt.map(str::to_owned),
            samples: within("samples", shared.n, 1, MOST)?,
            style,
            seed: shared.seed,
            steps: shared.steps,
            guidance_scale: shared.guidance_scale,
            scheduler: text(shared.scheduler),
            strength: shared.strength,
            refiner: shared.refiner,
            high_noise_fraction: shared.high_noise_fraction,
            ..Default::default()
        },
        size: size(shared.size)?,
        quality: quality(shared, drawn_as)?,
        format: Some(drawn_as),
        // The last one would be the picture.
        previews: match (shared.stream, partial) {
            (true, Some(n @ 1..)) => n as usize + 1,
            _ => 0,
        },
        ..Default::default()
    })
}

/// The quality of a JPEG; the other formats lose nothing here.
fn quality(shared: &Shared<'_>, format: Format) -> Result<Option<u8>, Failure> {
    let given = within("output_compression", shared.output_compression, 0, 100)?;
    match (given, format) {
        (Some(given), Format::Png | Format::Webp) if given < 100 => {
            let name = own_format(format);
            let allowed = format!("must be 100 for {name}, which is lossless here; choose jpeg");
            Err(Failure::invalid("output_compression", given, allowed))
        }
        // Encoders begin at 1.
        (given, _) => Ok(given.and_then(|given| u8::try_from(given.max(1)).ok())),
    }
}

fn size(text: Option<&str>) -> Result<Size, Failure> {
    let Some(text) = text
        .map(str::trim)
        .filter(|t| !t.is_empty() && *t != "auto")
    else {
        return Ok(Size::Native);
    };
    let sides = text.split_once(['x', 'X', '×']);
    let sides = sides.and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
    match sides {
        Some((w, h)) => Ok(Size::Scaled(w, h)),
        None => {
            let allowed = "must be auto or WIDTHxHEIGHT, such as 1024x1024";
            Err(Failure::invalid("size", format!("{text:?}"), allowed))
        }
    }
}

/// One request on its way through this door.
struct Door<'a> {
    service: &'a Service,
    caller: &'a Caller,
    id: &'a RequestId,
    client: &'a Client,
    route: &'static str,
    /// How its events are called.
    event: &'static str,
}

impl Door<'_> {
    async fn draw(&self, shared: &Shared<'_>, mut order: Order) -> Result<Response, Failure> {
        order.model = models::named(self.service, shared.model);
        if let Some(other) = shared
            .background
            .filter(|b| !["", "auto", "opaque"].contains(b))
        {
            let allowed = "must be auto or opaque: this service draws no transparency";
            let given = format!("{other:?}");
            return Err(Failure::invalid("background", given, allowed));
        }
        let url = match shared.response_format {
            // That API's own models of these names answer so, gpt-image-1 in base64.
            None | Some("") => shared.model.is_some_and(|name| name.starts_with("dall-e")),
            Some("b64_json") => false,
            Some("url") => true,
            Some(other) => {
                let allowed = "choose one of url, b64_json";
                return Err(Failure::invalid(
                    "response_format",
                    format!("{other:?}"),
                    allowed,
                ));
            }
        };
        let kept = url && !shared.stream;
        // Before anything is drawn and paid for.
        let base = kept.then(|| self.base()).transpose()?;
        let ticket = self
            .service
            .submit(self.caller, order, self.route, &self.id.0, kept)
            .await?;
        if shared.stream {
            let partial = shared.partial_images.unwrap_or(0) as usize;
            return Ok(stream::events(ticket, partial, self.event).into_response());
        }
        let finished = ticket.drawn().await?;
        Ok(Json(response(&finished, base.as_deref())?).into_response())
    }

    /// The address that the client sees, for links.
    fn base(&self) -> Result<String, Failure> {
        let public = self.service.setup.config.public_url.as_ref();
        let missing = || Failure::Body("a Host header is needed for links".into());
        self.client.base(public).ok_or_else(missing)
    }
}

/// Pictures in base64, or by their addresses below `base`.
fn response(finished: &Finished, base: Option<&str>) -> Result<ImagesResponse, Failure> {
    let prepared = finished.job.prepared()?;
    let request = &prepared.request;
    let image = |made: &Made| OpenAiImage {
        b64_json: base.is_none().then(|| STANDARD.encode(&made.bytes)),
        url: base
            .zip(made.file.as_ref())
            .map(|(base, file)| format!("{base}/v1/results/{file}")),
        revised_prompt: request.prompt.clone(),
        seed: made.seed,
    };
    Ok(ImagesResponse {
        created: now(),
        data: finished.drawn.pictures.iter().map(image).collect(),
        output_format: own_format(prepared.format),
        size: format!("{}x{}", request.width, request.height),
        quality: "auto",
        background: "opaque",
        usage: TokenUsage::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_words_or_two_numbers() {
        assert_eq!(size(None).unwrap(), Size::Native);
        assert_eq!(size(Some("auto")).unwrap(), Size::Native);
        assert_eq!(size(Some("1536x1024")).unwrap(), Size::Scaled(1536, 1024));
        for wrong in ["big", "1024", "x", "10x-", "1e3x1e3"] {
            let message = size(Some(wrong)).unwrap_err().to_string();
            assert!(message.starts_with("size is \""), "{message}");
        }
    }
}
