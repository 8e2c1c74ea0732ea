//! What there is to choose from.

use super::extras::UPSCALERS;
use super::names::Loaded;
use super::refusal::SdapiError;
use crate::checkpoint::embedding::Embeddings;
use crate::checkpoint::lora;
use crate::pipeline::model_name;
use crate::schedule::automatic1111::{SAMPLERS, SCHEDULES, Sampler, Schedule};
use crate::server::http::App;
use crate::server::work::{Caller, Failure, Service, blocking};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(Debug, Serialize, ToSchema)]
struct SdapiSampler {
    name: &'static str,
    aliases: &'static [&'static str],
    /// `scheduler`: what Automatic stands for.
    #[schema(value_type = Object)]
    options: Map<String, Value>,
}

#[derive(Debug, Serialize, ToSchema)]
struct SdapiScheduler {
    name: &'static str,
    label: &'static str,
    aliases: &'static [&'static str],
    default_rho: f64,
    need_inner_model: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct SdapiModel {
    title: String,
    model_name: String,
    hash: Option<String>,
    sha256: Option<String>,
    /// No folder is named.
    filename: String,
    config: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct SdapiVae {
    model_name: String,
    filename: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct SdapiUpscaler {
    name: &'static str,
    model_name: Option<String>,
    model_path: Option<String>,
    model_url: Option<String>,
    scale: f64,
}

#[derive(Debug, Serialize, ToSchema)]
struct SdapiLora {
    name: String,
    alias: String,
    /// No folder is named.
    path: String,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

#[derive(Debug, Serialize, ToSchema)]
struct SdapiStyle {
    name: String,
    /// `{prompt}` is where the user's goes.
    prompt: String,
    negative_prompt: String,
}

/// A route that gives a value which depends on the service alone.
macro_rules! list {
    ($(#[$doc:meta])* $method:ident $name:ident $path:literal $body:ty = |$service:ident| $value:expr) => {
        $(#[$doc])*
        #[utoipa::path(
            $method, path = $path, tag = "AUTOMATIC1111",
            responses(
                (status = 200, body = $body),
                (status = 401, body = SdapiError, description = "No valid key"),
            ),
            security((), ("basic" = [])),
        )]
        async fn $name(State($service): State<Service>, _: Caller) -> Json<$body> {
            Json($value)
        }
    };
}

list! {
    /// The samplers.
    get samplers "/sdapi/v1/samplers" Vec<SdapiSampler> = |service| {
        let sampler = |row: &Sampler| SdapiSampler {
            name: row.label,
            aliases: row.aliases,
            options: row
                .automatic
                .filter(|name| *name != "uniform")
                .map(|name| ("scheduler".to_owned(), Value::from(name)))
                .into_iter()
                .collect(),
        };
        let fits = |row: &&Sampler| service.goes_with_model(row.label);
        SAMPLERS.iter().filter(fits).map(sampler).collect()
    }
}

list! {
    /// The schedules of noise levels.
    get schedulers "/sdapi/v1/schedulers" Vec<SdapiScheduler> = |_service| {
        let scheduler = |row: &Schedule| SdapiScheduler {
            name: row.name,
            label: row.label,
            aliases: row.aliases,
            default_rho: match row.name {
                "karras" => 7.0,
                "polyexponential" => 1.0,
                _ => -1.0,
            },
            need_inner_model: false,
        };
        SCHEDULES.iter().map(scheduler).collect()
    }
}

list! {
    /// The models, which `override_settings.sd_model_checkpoint` takes, and the first one's
    /// refiner, which only `refiner_checkpoint` takes.
    get models "/sdapi/v1/sd-models" Vec<SdapiModel> = |service| {
        let loaded = Loaded::of(&service);
        let model = |name: String| SdapiModel {
            title: name.clone(),
            model_name: name.clone(),
            hash: None,
            sha256: None,
            filename: name,
            config: None,
        };
        let names = service.setup.models().map(|options| model_name(&options.model).to_owned());
        names.chain(loaded.refiner()).map(model).collect()
    }
}

fn vae_list(service: &Service) -> Vec<SdapiVae> {
    let vae = |name: &str| SdapiVae {
        model_name: name.to_owned(),
        filename: name.to_owned(),
    };
    Loaded::of(service).vae().map(vae).into_iter().collect()
}

list! {
    /// The VAE in place of the model's own, if there is one.
    get vaes "/sdapi/v1/sd-vae" Vec<SdapiVae> = |service| vae_list(&service)
}

list! {
    /// The same, as Forge names it.
    get modules "/sdapi/v1/sd-modules" Vec<SdapiVae> = |service| vae_list(&service)
}

list! {
    /// Those of `extra-single-image`.
    get upscalers "/sdapi/v1/upscalers" Vec<SdapiUpscaler> = |_service| {
        UPSCALERS.map(|name| SdapiUpscaler {
            name,
            model_name: None,
            model_path: None,
            model_url: None,
            scale: 4.0,
        }).into()
    }
}

list! {
    /// Empty: there is no hires fix here.
    get latent_upscale_modes "/sdapi/v1/latent-upscale-modes" Vec<Value> = |_service| vec![]
}

list! {
    /// Empty.
    get hypernetworks "/sdapi/v1/hypernetworks" Vec<Value> = |_service| vec![]
}

list! {
    /// Empty.
    get face_restorers "/sdapi/v1/face-restorers" Vec<Value> = |_service| vec![]
}

list! {
    /// Empty.
    get realesrgan_models "/sdapi/v1/realesrgan-models" Vec<Value> = |_service| vec![]
}

list! {
    /// Empty: there are no scripts here.
    get scripts "/sdapi/v1/scripts" Value = |_service| json!({"txt2img": [], "img2img": []})
}

list! {
    /// Empty.
    get script_info "/sdapi/v1/script-info" Vec<Value> = |_service| vec![]
}

list! {
    /// The flags of that program that hold here.
    get cmd_flags "/sdapi/v1/cmd-flags" Value = |_service| json!({"api": true, "nowebui": true})
}

list! {
    /// The prompt templates.
    get prompt_styles "/sdapi/v1/prompt-styles" Vec<SdapiStyle> = |service| {
        let styles = service.styles.iter();
        styles
            .map(|style| SdapiStyle {
                name: style.full_name(),
                prompt: style.prompt.clone(),
                negative_prompt: style.negative_prompt.clone(),
            })
            .collect()
    }
}

list! {
    /// The host's memory in bytes, and no CUDA's.
    get memory "/sdapi/v1/memory" Value = |_service| json!({
        "ram": ram().unwrap_or_else(|| json!({"error": "unavailable"})),
        "cuda": {"error": "unavailable"},
    })
}

list! {
    /// Takes no time and changes nothing: there is one model.
    post refresh_checkpoints "/sdapi/v1/refresh-checkpoints" Value = |_service| Value::Null
}

list! {
    /// Changes nothing: the folder of adapters is read for every request.
    post refresh_loras "/sdapi/v1/refresh-loras" Value = |_service| Value::Null
}

list! {
    /// Changes nothing.
    post refresh_vae "/sdapi/v1/refresh-vae" Value = |_service| Value::Null
}

list! {
    /// Changes nothing: the model stays loaded.
    post unload_checkpoint "/sdapi/v1/unload-checkpoint" Value = |_service| json!({})
}

list! {
    /// Changes nothing.
    post reload_checkpoint "/sdapi/v1/reload-checkpoint" Value = |_service| json!({})
}

/// Says that the service is there; needs no key.
#[utoipa::path(
    get, path = "/internal/ping", tag = "AUTOMATIC1111",
    responses((status = 200, body = Object)),
)]
async fn ping() -> Json<Value> {
    Json(json!({}))
}

/// The adapters that a prompt may name.
#[utoipa::path(
    get, path = "/sdapi/v1/loras", tag = "AUTOMATIC1111",
    responses(
        (status = 200, body = Vec<SdapiLora>),
        (status = 401, body = SdapiError, description = "No valid key"),
        (status = 500, body = SdapiError, description = "The folder cannot be read"),
    ),
    security((), ("basic" = [])),
)]
async fn loras(State(service): State<Service>, _: Caller) -> Result<Json<Vec<SdapiLora>>, Failure> {
    let Some(folder) = service.setup.config.lora_dir.clone() else {
        return Ok(Json(vec![]));
    };
    let names = blocking(move || lora::names(&folder)).await??;
    let lora = |name: String| SdapiLora {
        alias: name.clone(),
        path: format!("{name}.safetensors"),
        name,
        metadata: Map::new(),
    };
    Ok(Json(names.into_iter().map(lora).collect()))
}

/// The textual inversions that a prompt may name; `skipped` are those that cannot be read.
#[utoipa::path(
    get, path = "/sdapi/v1/embeddings", tag = "AUTOMATIC1111",
    responses(
        (status = 200, body = Object),
        (status = 401, body = SdapiError, description = "No valid key"),
        (status = 500, body = SdapiError, description = "The folder cannot be read"),
    ),
    security((), ("basic" = [])),
)]
async fn embeddings(State(service): State<Service>, _: Caller) -> Result<Json<Value>, Failure> {
    let paths = service.setup.load.embeddings.clone();
    let all = blocking(move || Embeddings::list(&paths).map(|all| all.sizes())).await??;
    let (mut loaded, mut skipped) = (Map::new(), Map::new());
    for (name, size) in all {
        let (vectors, shape) = size.unwrap_or_default();
        let about = json!({
            "step": null,
            "sd_checkpoint": null,
            "sd_checkpoint_name": null,
            "shape": shape,
            "vectors": vectors,
        });
        match size {
            Some(_) => loaded.insert(name, about),
            None => skipped.insert(name, about),
        };
    }
    Ok(Json(json!({"loaded": loaded, "skipped": skipped})))
}

/// Used by this process, and in all, from Linux' own files.
fn ram() -> Option<Value> {
    let of = |path: &str, name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kilobytes * 1024)
    };
    let used = of("/proc/self/status", "VmRSS:")?;
    let total = of("/proc/meminfo", "MemTotal:")?;
    let free = of("/proc/meminfo", "MemAvailable:")?;
    Some(json!({"free": free, "used": used, "total": total}))
}

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(samplers))
        .routes(routes!(schedulers))
        .routes(routes!(models))
        .routes(routes!(vaes))
        .routes(routes!(modules))
        .routes(routes!(upscalers))
        .routes(routes!(latent_upscale_modes))
        .routes(routes!(loras))
        .routes(routes!(embeddings))
        .routes(routes!(hypernetworks))
        .routes(routes!(face_restorers))
        .routes(routes!(realesrgan_models))
        .routes(routes!(prompt_styles))
        .routes(routes!(scripts))
        .routes(routes!(script_info))
        .routes(routes!(cmd_flags))
        .routes(routes!(memory))
        .routes(routes!(refresh_checkpoints))
        .routes(routes!(refresh_loras))
        .routes(routes!(refresh_vae))
        .routes(routes!(unload_checkpoint))
        .routes(routes!(reload_checkpoint))
        .routes(routes!(ping))
}
