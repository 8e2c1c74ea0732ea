//! The threads that hold the models, each on its device, and draw one share of a job after
//! another.

use super::drawn::Made;
use super::failure::Failure;
use super::order::Prepared;
use super::share::Share;
use super::shares::{Outcome, Part};
use super::{Model, Service};
use crate::picture::{Format, Picture};
use crate::pipeline::{
    Cancel, Event, Models, Observer, Output, RawRequest, Request, Settings, Watched,
};
use crate::{Error, Result};
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
            let shares = self.with_company(&models, share);
            for share in &shares {
                if share.job.begins() {
                    self.service.metrics.waited(share.job.waited());
                }
            }
            let start = Instant::now();
            let (outcomes, sound) = self.outcomes(&mut models, &shares);
            self.service.metrics.busy(self.device, start.elapsed());
            devices.holds(self.device, models.all_loaded());
            // Before others look for who goes on.
            if !sound {
                devices.lost(self.device);
                queue.wake();
            }
            for (share, outcome) in shares.iter().zip(outcomes) {
                self.service.end_share(share, outcome, &models.kind());
            }
            if !sound {
                models = self.again(models)?;
            }
        }
        Ok(())
    }

    /// A share with others that wait, where it is faster to draw them together.
    fn with_company(&self, models: &Models, share: Share) -> Vec<Share> {
        let (model, request) = (share.order.model, &share.order.request);
        let room = models.pictures_at_once(model, request);
        let room = room.saturating_sub(share.samples().len());
        if room == 0 {
            return vec![share];
        }
        let joined = self.service.queue.join(room, |job| {
            let other = job.prepared();
            other.is_ok_and(|other| other.model == model && request.may_share(&other.request))
        });
        self.service.metrics.joined(joined.len());
        std::iter::once(share).chain(joined).collect()
    }

    /// What became of shares that were drawn together, and whether the device is sound.
    fn outcomes(&self, models: &mut Models, shares: &[Share]) -> (Vec<Outcome>, bool) {
        let drawn = catch_unwind(AssertUnwindSafe(|| self.draw(models, shares)));
        let Ok(drawn) = drawn else {
            // The panic has said where it was on stderr.
            let failed = |_| Outcome::Failed(Failure::internal("a panic while drawing"));
            return (shares.iter().map(failed).collect(), false);
        };
        let lost = |part: &Result<Part>| matches!(part, Err(Error::Adapter { .. }));
        let sound = !drawn.iter().any(lost) && models.check_device().is_ok();
        let outcomes = drawn.into_iter().map(|part| match part {
            Ok(part) => Outcome::Drawn(part),
            Err(error) => {
                if !sound {
                    tracing::error!("device {}: {error}", self.device);
                }
                let lost = matches!(error, Error::Adapter { .. });
                let failure = why(self.service, error);
                match lost {
                    true => Outcome::Lost(failure),
                    false => Outcome::Failed(failure),
                }
            }
        });
        (outcomes.collect(), sound)
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
        service.devices.holds(device, models.all_loaded());
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

    /// Draws shares together; an answer for each.
    fn draw(&self, models: &mut Models, shares: &[Share]) -> Vec<Result<Part>> {
        let Some(first) = shares.first() else {
            return Vec::new();
        };
        let requests: Vec<Request> = shares.iter().map(Share::request).collect();
        #[cfg(test)]
        if self.service.devices.is_doomed(self.device) {
            models.lose_device();
        }
        let steps: Vec<Cell<usize>> = shares.iter().map(|_| Cell::new(0)).collect();
        let mut hears: Vec<Box<dyn FnMut(Event) + '_>> = shares
            .iter()
            .zip(&steps)
            .map(|(share, steps)| Box::new(|event| tell(share, steps, event)) as _)
            .collect();
        let mut observers: Vec<Observer<'_>> = hears
            .iter_mut()
            .zip(shares)
            .map(|(hear, share)| Observer {
                events: hear,
                cancel: share.cancel(),
                trace: None,
                preview_every: share.order.preview_every,
            })
            .collect();
        let mut runs: Vec<Watched<'_, '_>> = requests
            .iter()
            .zip(&mut observers)
            .map(|(request, observer)| Watched { request, observer })
            .collect();
        let drawn = models.generate_together(first.order.model, &mut runs);
        self.service
            .metrics
            .holds(self.device, models.device_bytes());
        let told = shares.iter().zip(&steps).zip(drawn);
        told.map(|((share, steps), output)| self.part(models, &share.order, steps.get(), output?))
            .collect()
    }

    /// What was made of an order's share of so many UNet steps.
    fn part(
        &self,
        models: &Models,
        order: &Prepared,
        steps: usize,
        output: Output,
    ) -> Result<Part> {
        let count = output.pictures.len();
        self.service
            .metrics
            .drawn(self.device, count, steps, &output.seconds);
        let settings = Settings::new(models.options(order.model), &order.request, &output);
        Ok(Part {
            pictures: encode(&settings, &output, order)?,
            interrupted: output.interrupted,
            settings: settings.public(),
            warnings: [order.warnings.clone(), output.warnings.clone()].concat(),
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

fn tell(share: &Share, steps: &Cell<usize>, event: Event) {
    match event {
        Event::Step { index, total } => {
            steps.set(total);
            share.steps([index, total]);
        }
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
