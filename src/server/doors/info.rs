//! What the service can do, for its page and for whoever asks.

use crate::pipeline::model_name;
use crate::pipeline::request::{GUIDANCE_MOST, SIZE_STEP, SIZES};
use crate::schedule;
use crate::server::http::App;
use crate::server::work::{Failure, Service};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What the service can do.
#[derive(Debug, Serialize, ToSchema)]
struct Info {
    name: &'static str,
    version: &'static str,
    /// That draws where a request names none.
    model: String,
    /// All that a request may name.
    models: Vec<String>,
    /// Whether it draws now.
    ready: bool,
    /// Null until the model is loaded.
    native: Option<Pixels>,
    /// Whether a refiner is loaded.
    refiner: bool,
    requires_key: bool,
    schedulers: Vec<SchedulerName>,
    styles: Vec<StyleName>,
    /// Common ones.
    sizes: Vec<Pixels>,
    limits: InfoLimits,
    defaults: Defaults,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
struct Pixels {
    width: usize,
    height: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct SchedulerName {
    name: &'static str,
    aliases: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct StyleName {
    name: String,
    /// Empty for none.
    family: String,
}

/// Least and most.
#[derive(Debug, Serialize, ToSchema)]
struct InfoLimits {
    steps: [usize; 2],
    samples: [usize; 2],
    cache_interval: [usize; 2],
    guidance_scale: [f64; 2],
    strength: [f64; 2],
    side: [usize; 2],
    side_step: usize,
    max_pixels: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct Defaults {
    scheduler: &'static str,
    steps: usize,
    guidance_scale: f64,
    strength: f64,
    high_noise_fraction: f64,
    samples: usize,
    style: &'static str,
}

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(info))
}

/// The model, the schedulers and styles, limits and defaults.
#[utoipa::path(get, path = "/v1/info", tag = "service", responses((status = 200, body = Info)))]
async fn info(State(service): State<Service>) -> Result<Json<Info>, Failure> {
    let model = service.known_model();
    let native = model.map(|model| model.native);
    let preset = model.map_or_else(Default::default, |model| service.preset(model));
    let limits = &service.limits;
    let max_pixels = limits.most_pixels(native.unwrap_or((1024, 1024)));
    Ok(Json(Info {
        name: "calotype",
        version: env!("CARGO_PKG_VERSION"),
        model: service.model_name().to_owned(),
        models: service
            .setup
            .models()
            .map(|options| model_name(&options.model).to_owned())
            .collect(),
        ready: service.is_ready(),
        native: native.map(|(width, height)| Pixels { width, height }),
        refiner: model.is_some_and(|model| model.refiner),
        requires_key: service.ledger.is_some(),
        schedulers: fitting(preset.training.as_ref())
            .into_iter()
            .map(|s| SchedulerName {
                name: s.name,
                aliases: s.aliases.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        styles: service
            .styles
            .iter()
            .map(|style| StyleName {
                name: style.name.clone(),
                family: style.family.clone(),
            })
            .collect(),
        sizes: native.map_or_else(Vec::new, |native| sizes(native, max_pixels)),
        limits: InfoLimits {
            steps: [1, limits.max_steps],
            samples: [1, limits.max_samples],
            cache_interval: [1, limits.max_cache_interval],
            guidance_scale: [0.0, GUIDANCE_MOST],
            strength: [0.01, 1.0],
            side: [*SIZES.start(), *SIZES.end()],
            side_step: SIZE_STEP,
            max_pixels,
        },
        defaults: Defaults {
            scheduler: preset.scheduler,
            steps: preset.steps,
            guidance_scale: preset.guidance_scale,
            strength: 0.3,
            high_noise_fraction: 0.8,
            samples: 1,
            style: "base",
        },
    }))
}

/// The schedulers that go with the model, or all before it is known.
fn fitting(training: Option<&schedule::Config>) -> Vec<schedule::SchedulerInfo> {
    training.map_or_else(schedule::list, schedule::list_for)
}

/// SDXL's training buckets, for a model of `native` pixels: about its area each.
fn sizes(native: (usize, usize), most: usize) -> Vec<Pixels> {
    /// Of a model of 1024 pixels.
    const BUCKETS: [(usize, usize); 9] = [
        (1024, 1024),
        (1152, 896),
        (896, 1152),
        (1216, 832),
        (832, 1216),
        (1344, 768),
        (768, 1344),
        (1536, 640),
        (640, 1536),
    ];
    let side =
        |n: usize, native: usize| (n * native / 1024 / SIZE_STEP * SIZE_STEP).max(*SIZES.start());
    let mut sizes: Vec<Pixels> = Vec::new();
    for (w, h) in BUCKETS {
        let size = Pixels {
            width: side(w, native.0),
            height: side(h, native.1),
        };
        if size.width * size.height <= most && !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    sizes
}
