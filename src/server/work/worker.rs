//! The threads that hold the models, each on its device, and draw one share of a job after
//! another.

use super::drawn::Made;
use super::failure::Failure;
use super::order::Prepared;
use super::share::Share;
use super::shares::{Outcome, Part};
use super::{Model, Service};
use crate::picture::{Format, Picture};
use crate::pipeline::{Cancel, Event, Models, Observer, Output, RawRequest, Settings};
use crate::{Error, Result};
use std::borrow::Cow;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Draws what the queue brings on one of the service's devices, and returns when that is
/// stopped.
///
/// # Errors
/// The model cannot be loaded at the start; or not again after the device failed, where no
/// other draws.
pub fn work(service: &Service, device: usize) -> Result<()> {
    let worked = Device { service, device }.work();
    service.end_device(device);
    match worked {
        // Asked to stop before it could draw.
        Err(Error::Cancelled) => Ok(()),
        worked => worked,
    }
}

/// One of the service's devices.
struct Device<'a> {
    service: &'a Service,
    device: usize,
}

impl Device<'_> {
    fn work(&self) -> Result<()> {
        let (queue, devices) = (&self.service.queue, &self.service.devices);
        let mut models = self.load()?;
        while let Some(share) = queue.next(self.device) {
            let job = &share.job;
            if job.begins() {
                self.service.metrics.waited(job.waited());
            }
            let start = Instant::now();
            let (outcome, sound) = self.outcome(&mut models, &share);
            self.service.metrics.busy(self.device, start.elapsed());
            // Before others look for who goes on.
            if !sound {
                devices.lost(self.device);
            }
            self.service.end_share(&share, outcome, &models.kind());
            if !sound {
                models = self.again(models)?;
            }
        }
        Ok(())
    }

    /// What became of a share, and whether the device is sound.
    fn outcome(&self, models: &mut Models, share: &Share) -> (Outcome, bool) {
        let drawn = catch_unwind(AssertUnwindSafe(|| self.draw(models, share)));
        let Ok(drawn) = drawn else {
            // The panic has said where it was on stderr.
            let failure = Failure::internal("a panic while drawing");
            return (Outcome::Failed(failure), false);
        };
        let error = match drawn {
            Ok(part) => return (Outcome::Drawn(part), true),
            Err(error) => error,
        };
        let lost = matches!(error, Error::Adapter { .. });
        let sound = !lost && models.check_device().is_ok();
        if !sound {
            tracing::error!("device {}: {error}", self.device);
        }
        let failure = why(self.service, error);
        match lost {
            true => (Outcome::Lost(failure), sound),
            false => (Outcome::Failed(failure), sound),
        }
    }

    fn load(&self) -> Result<Models> {
        let service = self.service;
        let mut observer = Observer {
            events: &mut |event| tracing::debug!("{event:?}"),
            cancel: &service.loading,
            trace: None,
            preview_every: 0,
        };
        let options = service.setup.models_on(self.device);
        let mut models = Models::open(options, &mut observer)?;
        if service.setup.config.warm_up {
            warm_up(service, &mut models, &mut observer)?;
        }
        service.metrics.holds(self.device, models.device_bytes());
        service.loaded(models.facts().map(Model::of).collect());
        let (device, adapter) = (self.device, models.adapter());
        service.metrics.opened(device, &adapter);
        service.devices.opened(device, &models.kind(), 1);
        tracing::info!(
            "ready: {} on device {device}, {adapter}",
            service.model_name()
        );
        Ok(models)
    }

    /// Loads the models once more after the device failed, until it works or the service
    /// stops; while others draw there is no end to it.
    fn again(&self, broken: Models) -> Result<Models> {
        const LONGEST: Duration = Duration::from_secs(64);
        drop(broken);
        let service = self.service;
        let mut pause = Duration::from_secs(1);
        loop {
            let error = match self.load() {
                Err(error) if !service.loading.is_cancelled() => error,
                result => return result,
            };
            if pause >= LONGEST && service.devices.ready() == 0 {
                return Err(error);
            }
            let (device, seconds) = (self.device, pause.as_secs());
            tracing::error!("device {device}: {error}; trying again in {seconds} s");
            sleep(pause, &service.loading);
            pause = (pause * 2).min(LONGEST);
        }
    }

    fn draw(&self, models: &mut Models, share: &Share) -> Result<Part> {
        let (service, job) = (self.service, &share.job);
        let prepared = job
            .prepared()
            .map_err(|_| Error::internal(&job.id, "a job of an earlier run"))?;
        let steps = Cell::new(0);
        let mut observer = Observer {
            events: &mut |event| {
                if let Event::Step { total, .. } = event {
                    steps.set(total);
                }
                tell(share, event);
            },
            cancel: share.cancel(),
            trace: None,
            preview_every: prepared.preview_every,
        };
        let whole = &prepared.request;
        let request = match share.samples().len() == whole.samples {
            true => Cow::Borrowed(whole),
            false => Cow::Owned(whole.part(share.samples())),
        };
        #[cfg(test)]
        if service.devices.is_doomed(self.device) {
            models.lose_device();
        }
        let output = models.generate(prepared.model, &request, &mut observer)?;
        let metrics = &service.metrics;
        metrics.holds(self.device, models.device_bytes());
        let count = output.pictures.len();
        metrics.drawn(self.device, count, steps.get(), &output.seconds);
        let settings = Settings::new(models.options(prepared.model), whole, &output);
        Ok(Part {
            pictures: encode(&settings, &output, &prepared)?,
            interrupted: output.interrupted,
            settings: settings.public(),
            warnings: [prepared.warnings.clone(), output.warnings].concat(),
        })
    }
}

/// Draws a step, so that the first request does not wait for pipelines to be compiled.
fn warm_up(service: &Service, models: &mut Models, observer: &mut Observer<'_>) -> Result<()> {
    let raw = RawRequest {
        prompt: Some("warm".into()),
        steps: Some(1),
        seed: Some(0),
        ..Default::default()
    };
    let pipeline = models.pipeline(0, observer)?;
    let request = pipeline.resolve(raw, &service.styles)?;
    match models.generate(0, &request, observer) {
        // Every request is told so; what they ask for may help.
        Err(error) if error.is_not_finite() => tracing::error!("warming up: {error}"),
        warmed => drop(warmed?),
    }
    Ok(())
}

/// Sleeps, unless `cancel` says to stop.
fn sleep(time: Duration, cancel: &Cancel) {
    const PART: Duration = Duration::from_millis(100);
    let end = Instant::now() + time;
    while Instant::now() < end && !cancel.is_cancelled() {
        std::thread::sleep(PART);
    }
}

fn tell(share: &Share, event: Event) {
    match event {
        Event::Step { index, total } => share.steps([index, total]),
        Event::Preview { index, picture } => match Format::Jpeg.encode(&picture, None) {
            Ok(jpeg) => share.preview(index, jpeg),
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

/// What the owner of a job is told of an error.
fn why(service: &Service, error: Error) -> Failure {
    let loras = service.setup.config.lora_dir.as_deref();
    match error {
        // They named it, and the folder is the operator's matter.
        Error::File { path, problem, .. } if loras.is_some_and(|l| path.starts_with(l)) => {
            tracing::error!("{}: {problem}", path.display());
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            Failure::Failed {
                code: crate::error::Code::UnusableFile,
                problem: format!("the LoRA {name:?} of this service {problem}"),
                remedy: "leave it out, or tell the operator".into(),
            }
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::Order;
    use super::super::{Caller, Size};
    use super::*;
    use crate::pipeline::LoadOptions;
    use crate::server::config::{Config, Role, Setup};

    fn service(adapters: &[&str]) -> Service {
        let config = Config {
            warm_up: false,
            ..Config::default()
        };
        let load = LoadOptions {
            model: "demo".into(),
            vae: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/taesd").into()),
            ..LoadOptions::default()
        };
        let adapters = adapters.iter().map(ToString::to_string).collect();
        let (more, config) = (Vec::new(), config);
        let setup = Setup {
            config,
            load,
            more,
            adapters,
            role: Role::Whole,
        };
        Service::open(setup).unwrap()
    }

    fn order(samples: i64) -> Order {
        Order {
            raw: RawRequest {
                prompt: Some("a red circle".into()),
                steps: Some(1),
                seed: Some(7),
                samples: Some(samples),
                ..RawRequest::default()
            },
            size: Size::Exact(64, 64),
            format: Some(Format::Png),
            ..Order::default()
        }
    }

    async fn pictures(service: &Service, samples: i64) -> Vec<Made> {
        while service.devices.ready() < service.devices.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let order = order(samples);
        let caller = Caller { key: None };
        let ticket = service.submit(&caller, order, "/", "a", false).await;
        ticket
            .unwrap()
            .drawn()
            .await
            .unwrap()
            .drawn
            .pictures
            .clone()
    }

    fn run(service: &Service, test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        std::thread::scope(|scope| {
            for device in 0..service.devices.len() {
                scope.spawn(move || work(service, device).unwrap());
            }
            runtime.block_on(async {
                test().await;
                service.stop();
            });
        });
    }

    /// What the lost device had is drawn by the other one, which goes on; the lost one is
    /// opened again.
    #[test]
    fn a_lost_device_leaves_the_others_serving() {
        let service = &service(&["0", "0"]);
        run(service, async || {
            let sound = pictures(service, 2).await;
            service.devices.doom(1);
            let again = pictures(service, 2).await;
            assert!(service.devices.ready() >= 1);
            let bytes = |all: &[Made]| all.iter().map(|m| m.bytes.clone()).collect::<Vec<_>>();
            assert!(bytes(&again) == bytes(&sound));
            assert_eq!(again.iter().map(|m| m.seed).collect::<Vec<_>>(), [7, 8]);
            // Waits for both.
            assert_eq!(pictures(service, 4).await.len(), 4);
        });
    }

    /// The only device is opened again, and the request is drawn then.
    #[test]
    fn a_request_survives_the_loss_of_the_only_device() {
        let service = &service(&[]);
        run(service, async || {
            service.devices.doom(0);
            assert_eq!(pictures(service, 1).await.len(), 1);
        });
    }
}
