//! Jobs: the service's own API, for those who do not want to wait on one request.

use super::sdxl_torch::{NAMES, Refused};
use super::shared::format;
use crate::picture::Format;
use crate::pipeline::RawRequest;
use crate::server::http::App;
use crate::server::http::Client;
use crate::server::http::RequestId;
use crate::server::http::body::Body;
use crate::server::http::lenient::{Flag, Integer, Number, Seed};
use crate::server::work::{
    Caller, Failure, Job, MaskOrder, Order, Preview, Service, Size, Snapshot, State as JobState,
    blocking,
};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{iter, unfold};
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Previews over a run, where they are asked for.
const PREVIEWS: usize = 10;

/// What to draw, by the names of the `sdxl-torch` API; more may be asked for.
///
/// Numbers may come as text, and booleans as yes and no; unknown fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub struct JobRequest {
    /// Which of the service's models draws, as `/v1/info` lists them; the first where silent.
    #[serde(default)]
    model: Option<String>,
    /// What to paint; `(a:1.3)` weighs.
    prompt: String,
    /// For the second text encoder.
    #[serde(default)]
    prompt_2: Option<String>,
    /// Null and "" differ: null gives zero embeddings on the base.
    #[serde(default)]
    negative_prompt: Option<String>,
    #[serde(default)]
    negative_prompt_2: Option<String>,
    /// A prompt template.
    #[serde(default)]
    style: Option<String>,
    /// default, no-norm, comfy or off.
    #[serde(default)]
    prompt_weighting: Option<String>,
    /// Whether curly quotes, full-width letters and the like in prompts are made
    /// plain; they are where nothing is said.
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    normalise_prompt: Option<Flag>,
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    clip_skip: Option<Integer>,
    /// Pictures; picture i uses seed + i.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    samples: Option<Integer>,
    #[serde(default)]
    scheduler: Option<String>,
    /// diffusers' keys, or the short ones that `calotype schedulers` lists.
    #[serde(default)]
    #[schema(value_type = Object)]
    scheduler_options: Map<String, Value>,
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    num_inference_steps: Option<Integer>,
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    guidance_scale: Option<Number>,
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    guidance_rescale: Option<Number>,
    /// Steps from one that runs the whole UNet to the next: above 1 faster, and another
    /// picture; as far as the operator allows.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 1, default = 1)]
    cache_interval: Option<Integer>,
    /// How much of a picture is drawn anew.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    strength: Option<Number>,
    /// Share of the noise schedule given to the base, the rest to the refiner.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    high_noise_fraction: Option<Number>,
    /// Makes the refiner a pass of its own over the finished picture.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    refiner_strength: Option<Number>,
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    refiner: Option<Flag>,
    /// -1 draws one, which the job names.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    seed: Option<Seed>,
    /// cpu (torch's) or cuda.
    #[serde(default)]
    rng: Option<String>,
    /// Pixels, a multiple of 8; the model's native size where silent.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    img_width: Option<Integer>,
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    img_height: Option<Integer>,
    /// Base64, a data URL, or a URL of a host that the operator allows.
    #[serde(default)]
    image: Option<String>,
    /// Of the picture's size, white where it is painted anew.
    #[serde(default)]
    mask: Option<String>,
    /// Black is painted anew.
    #[serde(default)]
    #[schema(value_type = Option<bool>, default = false)]
    mask_invert: Option<Flag>,
    /// Standard deviation in pixels of the Gaussian that softens the mask.
    #[serde(default)]
    #[schema(value_type = Option<f64>, default = 0)]
    mask_blur: Option<Number>,
    /// Lays the original over the result where the mask keeps it, through its soft edge.
    #[serde(default)]
    #[schema(value_type = Option<bool>, default = false)]
    keep_unmasked: Option<Flag>,
    /// Draws only the part that the mask paints, and so many pixels around it, at the
    /// full size, and puts it back into the original.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    padding_mask_crop: Option<Integer>,
    /// How the picture is brought to the size: stretch, crop or pad.
    #[serde(default)]
    fit: Option<String>,
    /// png, jpeg or webp.
    #[serde(default)]
    #[schema(default = "png")]
    format: Option<String>,
    /// Whether the events bring previews.
    #[serde(default)]
    #[schema(value_type = Option<bool>, default = false)]
    previews: Option<Flag>,
}

impl JobRequest {
    fn order(self) -> Result<Order, Failure> {
        let whole = |n: Option<Integer>| n.map(|n| n.0);
        let number = |n: Option<Number>| n.map(|n| n.0);
        let said = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let image = said(self.image);
        let size = match (self.img_width, self.img_height) {
            (None, None) if image.is_some() => Size::Picture,
            (None, None) => Size::Native,
            (w, h) => {
                let side = |field, n: Option<Integer>| {
                    n.map(|n| n.0).ok_or_else(|| {
                        Failure::invalid(field, "missing", "give both sides, or neither")
                    })
                };
                Size::Exact(side("width", w)?, side("height", h)?)
            }
        };
        Ok(Order {
            quality: None,
            model: said(self.model),
            size,
            image,
            mask: said(self.mask).map(|text| MaskOrder {
                text,
                invert: self.mask_invert == Some(Flag(true)),
                blur: [number(self.mask_blur).unwrap_or(0.0); 2],
                ..Default::default()
            }),
            format: Some(format("format", self.format.as_deref())?),
            previews: match self.previews {
                Some(Flag(true)) => PREVIEWS,
                _ => 0,
            },
            raw: RawRequest {
                prompt: Some(self.prompt),
                prompt_2: self.prompt_2,
                negative_prompt: self.negative_prompt,
                negative_prompt_2: self.negative_prompt_2,
                style: said(self.style),
                prompt_weighting: said(self.prompt_weighting),
                normalise_prompt: self.normalise_prompt.map(|flag| flag.0),
                clip_skip: whole(self.clip_skip),
                samples: whole(self.samples),
                scheduler: said(self.scheduler),
                scheduler_options: self.scheduler_options,
                steps: whole(self.num_inference_steps),
                guidance_scale: number(self.guidance_scale),
                guidance_rescale: number(self.guidance_rescale),
                cache_interval: whole(self.cache_interval),
                strength: number(self.strength),
                high_noise_fraction: number(self.high_noise_fraction),
                refiner_strength: number(self.refiner_strength),
                refiner: self.refiner.map(|flag| flag.0),
                seed: self.seed.map(|n| n.0),
                rng: said(self.rng),
                fit: said(self.fit),
                keep_unmasked: self.keep_unmasked.map(|flag| flag.0),
                padding_mask_crop: whole(self.padding_mask_crop),
                ..Default::default()
            },
        })
    }
}

/// The path below which links for this client lead.
fn below(service: &Service, client: &Client) -> String {
    client.path(service.setup.config.public_url.as_ref())
}

/// A job as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobView {
    id: String,
    /// queued, running, done, failed or cancelled.
    status: &'static str,
    /// In the queue, from 1; 0 once it runs.
    position: usize,
    /// UNet steps done.
    step: usize,
    /// UNet steps in all; 0 before it runs.
    steps: usize,
    /// Credits.
    cost: i64,
    /// Of the first picture.
    seed: u64,
    /// Unix time.
    created: u64,
    links: Links,
    /// Once it is done.
    images: Vec<JobImage>,
    /// Wall time of drawing, once it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    seconds: Option<f64>,
    /// The request as it was carried out, once it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, value_type = Object)]
    settings: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    error: Option<String>,
    /// The kind of the error, a stable word; see docs/errors.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, value_type = String)]
    code: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Links {
    #[serde(rename = "self")]
    itself: String,
    events: String,
}

/// One server-sent event.
#[derive(ToSchema)]
#[allow(dead_code, reason = "read by utoipa alone")]
struct JobEvent {
    /// queued, step, preview, done, failed or cancelled.
    event: String,
    /// JSON: `{position}`, `{step, steps}`, `{index, image}`, or the job.
    data: String,
}

/// A result.
#[derive(Debug, Serialize, ToSchema)]
struct JobImage {
    /// Needs no key.
    url: String,
    seed: u64,
}

impl JobView {
    /// With links below the path `below`; see [`Client::path`].
    pub fn new(job: &Job, snapshot: &Snapshot, below: &str) -> Self {
        let path = format!("{below}/v1/jobs/{}", job.id);
        let created = job.created.duration_since(UNIX_EPOCH);
        let mut view = Self {
            id: job.id.clone(),
            status: snapshot.state.name(),
            position: snapshot.position,
            step: snapshot.step,
            steps: snapshot.steps,
            cost: job.cost,
            seed: job.seed,
            created: created.map_or(0, |since| since.as_secs()),
            links: Links {
                events: format!("{path}/events"),
                itself: path,
            },
            images: Vec::new(),
            seconds: None,
            settings: None,
            warnings: Vec::new(),
            error: None,
            code: None,
        };
        match &snapshot.state {
            JobState::Done(drawn) => {
                let files = drawn.pictures.iter();
                view.images = files
                    .filter_map(|made| {
                        let url = format!("{below}/v1/results/{}", made.file.as_ref()?);
                        Some(JobImage {
                            url,
                            seed: made.seed,
                        })
                    })
                    .collect();
                view.seconds = Some(drawn.total);
                view.settings = Some(drawn.settings.clone());
                view.warnings = drawn.warnings.clone();
            }
            JobState::Failed(failure) => {
                view.error = Some(failure.message(&NAMES));
                view.code = Some(failure.code().as_str());
            }
            _ => {}
        }
        view
    }
}

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(submit))
        .routes(routes!(look, cancel))
        .routes(routes!(events))
        .routes(routes!(result))
}

/// Queues a job.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs",
    request_body(content((JobRequest = "application/json"), (JobRequest = "multipart/form-data"))),
    responses(
        (status = 202, body = JobView, description = "Queued"),
        (status = 400, body = Refused, description = "A field is missing, of the wrong type or out of range"),
        (status = 401, body = Refused, description = "No valid key"),
        (status = 406, body = Refused, description = "Not enough credits"),
        (status = 413, body = Refused, description = "The body is too large"),
        (status = 429, body = Refused, description = "The queue is full"),
        (status = 503, body = Refused, description = "The model is being loaded, or the service shuts down"),
    ),
    security((), ("x-api-key" = [])),
)]
async fn submit(
    State(service): State<Service>,
    caller: Caller,
    client: Client,
    id: RequestId,
    Body(request, _share): Body<JobRequest>,
) -> Result<Response, Failure> {
    let order = request.order()?;
    let ticket = service
        .submit(&caller, order, "/v1/jobs", &id.0, true)
        .await?;
    let job = ticket.release().ok_or(Failure::Internal)?;
    let view = JobView::new(&job, &job.snapshot(), &below(&service, &client));
    let location = HeaderValue::from_str(&view.links.itself).map_err(Failure::internal)?;
    Ok((
        StatusCode::ACCEPTED,
        [(header::LOCATION, location)],
        Json(view),
    )
        .into_response())
}

/// How a job stands.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = JobView),
        (status = 401, body = Refused, description = "No valid key"),
        (status = 404, body = Refused, description = "No such job, or another key's"),
    ),
    security((), ("x-api-key" = [])),
)]
async fn look(
    State(service): State<Service>,
    caller: Caller,
    client: Client,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Failure> {
    let job = service.job(&caller, &id)?;
    Ok(Json(JobView::new(
        &job,
        &job.snapshot(),
        &below(&service, &client),
    )))
}

/// Cancels a job; a running one stops at its next step. Nothing is charged.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = JobView, description = "As it ended: one that was done before stays done"),
        (status = 401, body = Refused, description = "No valid key"),
        (status = 404, body = Refused, description = "No such job, or another key's"),
    ),
    security((), ("x-api-key" = [])),
)]
async fn cancel(
    State(service): State<Service>,
    caller: Caller,
    client: Client,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Failure> {
    let job = service.job(&caller, &id)?;
    service.stop_job(&job, Failure::Cancelled);
    // A step at the most.
    let _ = job.finished().await;
    Ok(Json(JobView::new(
        &job,
        &job.snapshot(),
        &below(&service, &client),
    )))
}

/// What happens to a job, as server-sent events: queued, step, preview, and done,
/// failed or cancelled with the job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = JobEvent, content_type = "text/event-stream"),
        (status = 401, body = Refused, description = "No valid key"),
        (status = 404, body = Refused, description = "No such job, or another key's"),
    ),
    security((), ("x-api-key" = [])),
)]
async fn events(
    State(service): State<Service>,
    caller: Caller,
    client: Client,
    Path(id): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let job = service.job(&caller, &id)?;
    let told = Told {
        below: below(&service, &client),
        ..Default::default()
    };
    let start = Some((job.watch(), job, told));
    let stream = unfold(start, async |state| {
        let (mut watch, job, mut told) = state?;
        if told.began && watch.changed().await.is_err() {
            return None;
        }
        told.began = true;
        let snapshot = watch.borrow_and_update().clone();
        let events = told.news(&job, &snapshot);
        let rest = (!snapshot.state.is_final()).then_some((watch, job, told));
        Some((iter(events.into_iter().map(Ok)), rest))
    });
    let stream = stream.flatten();
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// What a listener has heard.
#[derive(Default)]
struct Told {
    /// Where links lead.
    below: String,
    began: bool,
    position: Option<usize>,
    step: Option<usize>,
    /// Held, so that no other takes its place in memory.
    preview: Option<Arc<Preview>>,
}

impl Told {
    /// What is new in `snapshot`.
    fn news(&mut self, job: &Arc<Job>, snapshot: &Snapshot) -> Vec<Event> {
        let mut events = Vec::new();
        match &snapshot.state {
            JobState::Queued
                if self.position.replace(snapshot.position) != Some(snapshot.position) =>
            {
                events.push(event("queued", &json!({ "position": snapshot.position })));
            }
            JobState::Running => {
                if self.step.replace(snapshot.step) != Some(snapshot.step) && snapshot.steps > 0 {
                    let data = json!({ "step": snapshot.step, "steps": snapshot.steps });
                    events.push(event("step", &data));
                }
                let last = self.preview.as_ref();
                if let Some(preview) = &snapshot.preview
                    && !last.is_some_and(|last| Arc::ptr_eq(last, preview))
                {
                    self.preview = Some(preview.clone());
                    let image = STANDARD.encode(&preview.jpeg);
                    let image = format!("data:image/jpeg;base64,{image}");
                    let data = json!({ "index": preview.index, "image": image });
                    events.push(event("preview", &data));
                }
            }
            JobState::Queued => {}
            JobState::Done(_) | JobState::Failed(_) => {
                let view = JobView::new(job, snapshot, &self.below);
                events.push(event(snapshot.state.name(), &view));
            }
        }
        events
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    // Plain data always has a JSON form.
    let data = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).data(data)
}

/// A result; its name is a secret of its own, so no key is asked for.
#[utoipa::path(
    get, path = "/v1/results/{name}", tag = "jobs",
    params(("name" = String, Path, description = "As the job's images name it")),
    responses(
        (status = 200, content((String = "image/png"), (String = "image/jpeg"), (String = "image/webp"))),
        (status = 404, body = Refused, description = "No such result, or it is kept no longer"),
    ),
)]
async fn result(
    State(service): State<Service>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    let format = Format::of_path(std::path::Path::new(&name)).ok();
    let found = blocking(move || service.store.read(&name)).await?;
    let (Some(bytes), Some(format)) = (found, format) else {
        let message = "there is no such result, or it is kept no longer";
        return Err(Failure::NotFound(message.into()));
    };
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(format.media_type()),
        ),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, max-age=3600"),
        ),
    ];
    Ok((headers, bytes).into_response())
}
