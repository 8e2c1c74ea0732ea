//! How far the caller's job is, and its early end.

use super::answer::timestamp;
use super::refusal::{Refusals, SdapiError};
use crate::server::http::lenient::Flag;
use crate::server::work::{Caller, Job, Service};
use axum::Json;
use axum::extract::{Query, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Deserialize, IntoParams)]
pub struct ProgressQuery {
    /// Leaves `current_image` out.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    skip_current_image: Option<Flag>,
}

/// How far the caller's job is.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct SdapiProgress {
    /// 0 to 1; 0 where nothing runs.
    progress: f64,
    /// Seconds.
    eta_relative: f64,
    state: SdapiState,
    /// The latest preview, a JPEG in base64.
    current_image: Option<String>,
    textinfo: Option<String>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct SdapiState {
    skipped: bool,
    interrupted: bool,
    stopping_generation: bool,
    job: String,
    /// Jobs of the caller that run or wait; above 0 while the model is being loaded.
    job_count: usize,
    job_timestamp: String,
    job_no: usize,
    /// Of all pictures of the job.
    sampling_step: usize,
    sampling_steps: usize,
}

/// How far the caller's job is.
#[utoipa::path(
    get, path = "/sdapi/v1/progress", tag = "AUTOMATIC1111",
    params(ProgressQuery),
    responses(
        (status = 200, body = SdapiProgress),
        (status = 400, body = SdapiError, description = "A parameter is not true or false"),
        (status = 401, body = SdapiError, description = "No valid key"),
    ),
    security((), ("basic" = [])),
)]
pub async fn progress(
    State(service): State<Service>,
    caller: Caller,
    Query(query): Query<ProgressQuery>,
) -> Json<SdapiProgress> {
    let waiting = service.waiting(&caller);
    let mut progress = match running(&service, &caller) {
        Some(job) => of(&job),
        None => SdapiProgress::default(),
    };
    progress.state.job_count += waiting;
    if query.skip_current_image == Some(Flag(true)) {
        progress.current_image = None;
    }
    if !service.is_ready() {
        progress.state.job_count += 1;
        progress.textinfo = Some("the model is being loaded".into());
    }
    Json(progress)
}

/// The caller's job that is being drawn.
fn running(service: &Service, caller: &Caller) -> Option<Arc<Job>> {
    let job = service.current(caller);
    job.filter(|job| !job.snapshot().state.is_final())
}

fn of(job: &Job) -> SdapiProgress {
    /// Of a job that has begun, as in that program.
    const BEGUN: f64 = 0.01;
    let snapshot = job.snapshot();
    let share = snapshot.step as f64 / snapshot.steps.max(1) as f64;
    let progress = (BEGUN + share).min(1.0);
    let elapsed = job.running_for().as_secs_f64();
    let stopped = job.is_ending();
    let preview = snapshot.preview;
    SdapiProgress {
        progress,
        eta_relative: elapsed / progress - elapsed,
        state: SdapiState {
            skipped: false,
            interrupted: stopped,
            stopping_generation: stopped,
            job: match job.route.rsplit('/').next() {
                Some("img2img") => "scripts_img2img".into(),
                _ => "scripts_txt2img".into(),
            },
            job_count: 1,
            job_timestamp: timestamp(job.created),
            job_no: 0,
            sampling_step: snapshot.step,
            sampling_steps: snapshot.steps,
        },
        current_image: preview.map(|preview| STANDARD.encode(&preview.jpeg)),
        textinfo: None,
    }
}

/// Stops the caller's job that is being drawn after its step. Its request is answered
/// with what there is of its pictures, and pays for the share of its steps that were
/// done.
#[utoipa::path(
    post, path = "/sdapi/v1/interrupt", tag = "AUTOMATIC1111",
    responses((status = 200, body = Object), Refusals),
    security((), ("basic" = [])),
)]
pub async fn interrupt(State(service): State<Service>, caller: Caller) -> Json<Value> {
    if let Some(job) = running(&service, &caller) {
        job.finish();
    }
    Json(json!({}))
}

/// Ends the pictures of the caller's job that are being drawn, as interrupt does, and
/// goes on with its others.
#[utoipa::path(
    post, path = "/sdapi/v1/skip", tag = "AUTOMATIC1111",
    responses((status = 200, body = Object), Refusals),
    security((), ("basic" = [])),
)]
pub async fn skip(State(service): State<Service>, caller: Caller) -> Json<Value> {
    if let Some(job) = running(&service, &caller) {
        job.skip();
    }
    Json(json!({}))
}
