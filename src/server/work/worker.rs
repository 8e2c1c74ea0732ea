//! The thread that holds the models and the device, and draws one job after another.

use super::failure::Failure;
use super::job::{Drawn, Job, Made, Preview};
use super::order::Prepared;
use super::{Model, Service};
use crate::picture::{Format, Picture};
use crate::pipeline::{Event, Models, Observer, Output, RawRequest, Settings};
use crate::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Loads the model, draws what the queue brings, and returns when that is stopped.
///
/// # Errors
/// The model cannot be loaded at the start.
pub fn work(service: &Service) -> Result<()> {
    let mut models = match load(service) {
        // Asked to stop before it could draw.
        Err(Error::Cancelled) => return Ok(()),
        loaded => loaded?,
    };
    while let Some(job) = service.queue.next() {
        service.set_current(Some(job.clone()));
        job.begins();
        let drawn = catch_unwind(AssertUnwindSafe(|| draw(service, &mut models, &job)));
        let sound = match drawn {
            Ok(Ok(drawn)) => {
                service.finish(&job, Ok(drawn));
                true
            }
            Ok(Err(error)) => {
                let sound = !matches!(error, Error::Adapter { .. });
                service.finish(&job, Err(why(service, &job, error)));
                sound
            }
            // The panic has said where it was on stderr.
            Err(_) => {
                service.finish(&job, Err(Failure::internal("a panic while drawing")));
                false
            }
        };
        service.set_current(None);
        service.queue.took(job.running_for().as_secs_f64());
        if !sound {
            models = match again(service, models) {
                Err(Error::Cancelled) => return Ok(()),
                loaded => loaded?,
            };
        }
    }
    Ok(())
}

fn load(service: &Service) -> Result<Models> {
    let mut observer = Observer {
        events: &mut |event| tracing::debug!("{event:?}"),
        cancel: &service.loading,
        trace: None,
        preview_every: 0,
    };
    let options = service.setup.models().cloned().collect();
    let mut models = Models::open(options, &mut observer)?;
    if service.setup.config.warm_up {
        let raw = RawRequest {
            prompt: Some("warm".into()),
            steps: Some(1),
            seed: Some(0),
            ..Default::default()
        };
        let pipeline = models.pipeline(0, &mut observer)?;
        let request = pipeline.resolve(raw, &service.styles)?;
        match models.generate(0, &request, &mut observer) {
            // Every request is told so; what they ask for may help.
            Err(error) if error.is_not_finite() => tracing::error!("warming up: {error}"),
            warmed => drop(warmed?),
        }
    }
    service.metrics.holds(models.device_bytes());
    let known = models.facts().map(|facts| Model {
        name: facts.name.clone(),
        native: facts.native,
        preset: facts.preset.clone(),
        refiner: facts.has_refiner,
        loaded: SystemTime::now(),
    });
    service.loaded(known.collect());
    service.set_ready(true);
    tracing::info!("ready: {}", service.model_name());
    Ok(models)
}

/// Loads the models once more after the device failed, until it works or the service
/// stops.
fn again(service: &Service, broken: Models) -> Result<Models> {
    service.set_ready(false);
    drop(broken);
    let mut pause = Duration::from_secs(1);
    loop {
        match load(service) {
            Err(error) if pause < Duration::from_secs(64) && !service.loading.is_cancelled() => {
                tracing::error!("{error}; trying again in {} s", pause.as_secs());
                std::thread::sleep(pause);
                pause *= 2;
            }
            result => return result,
        }
    }
}

fn draw(service: &Service, models: &mut Models, job: &Arc<Job>) -> Result<Drawn> {
    let start = Instant::now();
    let prepared = &job
        .prepared()
        .map_err(|_| Error::internal(&job.id, "a job of an earlier run"))?;
    let mut observer = Observer {
        events: &mut |event| tell(job, event),
        cancel: &job.cancel,
        trace: None,
        preview_every: prepared.preview_every,
    };
    let output = models.generate(prepared.model, &prepared.request, &mut observer)?;
    service.metrics.holds(models.device_bytes());
    let waited = job.waited().as_secs_f64();
    let steps = job.snapshot().steps;
    let count = output.pictures.len();
    service.metrics.drawn(count, steps, waited, &output.seconds);
    let settings = Settings::new(models.options(prepared.model), &prepared.request, &output);
    let mut pictures = encode(&settings, &output, prepared)?;
    if job.kept {
        keep(service, job, prepared.format, &mut pictures)?;
    }
    let warnings = [prepared.warnings.clone(), output.warnings.clone()].concat();
    Ok(Drawn {
        pictures,
        interrupted: output.interrupted,
        total: start.elapsed().as_secs_f64(),
        settings: settings.public(),
        warnings,
        remaining: None,
    })
}

fn tell(job: &Job, event: Event) {
    match event {
        Event::Step { index, total } => job.steps(index, total),
        Event::Preview { index, picture } => match Format::Jpeg.encode(&picture, None) {
            Ok(jpeg) => job.preview(Preview { index, jpeg }),
            Err(error) => tracing::warn!("no preview: {error}"),
        },
        _ => {}
    }
}

fn encode(settings: &Settings<'_>, output: &Output, prepared: &Prepared) -> Result<Vec<Made>> {
    let pictures = output.pictures.iter().zip(&output.seeds);
    let encoded = pictures.map(|(picture, seed): (&Picture, &u64)| {
        let parameters = settings.parameters(*seed);
        let format = prepared.format;
        let bytes = format.encode_at(prepared.quality, picture, Some(&parameters))?;
        Ok(Made {
            seed: *seed,
            bytes: bytes.into(),
            infotext: parameters.to_string(),
            file: None,
        })
    });
    encoded.collect()
}

/// Moves the pictures to the store.
fn keep(service: &Service, job: &Job, format: Format, pictures: &mut [Made]) -> Result<()> {
    let bytes: Vec<&[u8]> = pictures.iter().map(|made| &made.bytes[..]).collect();
    let names = service.store.put(&job.id, format.extension(), &bytes)?;
    for (made, name) in pictures.iter_mut().zip(names) {
        made.bytes = Default::default();
        // It is in the file too.
        made.infotext = String::new();
        made.file = Some(name);
    }
    Ok(())
}

/// What the owner of a job is told of an error.
fn why(service: &Service, job: &Job, error: Error) -> Failure {
    let loras = service.setup.config.lora_dir.as_deref();
    match (error, job.stopped()) {
        (Error::Cancelled, Some(failure)) => failure,
        // They named it, and the folder is the operator's matter.
        (Error::File { path, problem, .. }, _) if loras.is_some_and(|l| path.starts_with(l)) => {
            tracing::error!("{}: {problem}", path.display());
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            Failure::Failed {
                code: crate::error::Code::UnusableFile,
                problem: format!("the LoRA {name:?} of this service {problem}"),
                remedy: "leave it out, or tell the operator".into(),
            }
        }
        (error, _) => error.into(),
    }
}
