//! What all front doors share: an order goes in, a job comes out.

use super::devices::Devices;
use super::failure::Failure;
use super::job::Job;
use super::metrics::Metrics;
use super::model::Model;
use super::queue::Queue;
use super::store::Store;
use super::turns::Turns;
use crate::Result;
use crate::pipeline::Cancel;
use crate::server::config::{Limits, Role, Setup};
use crate::server::ledger::{Ledger, Place, Reservation};
use crate::server::media::Sources;
use crate::text::Styles;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// The service; clones share it.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

impl Deref for Service {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// See [`Service`].
pub struct Inner {
    pub setup: Setup,
    pub limits: Limits,
    pub styles: Styles,
    pub sources: Sources,
    pub ledger: Option<Box<dyn Ledger>>,
    pub devices: Arc<Devices>,
    pub queue: Queue,
    pub metrics: Metrics,
    pub store: Store,
    /// The default one first.
    pub(super) models: OnceLock<Vec<Model>>,
    /// Ends the loading of the model.
    pub(super) loading: Cancel,
    /// All jobs that may be asked about: those that wait and run, and those whose
    /// results are kept.
    pub(super) jobs: Mutex<HashMap<String, Arc<Job>>>,
    /// Reservations that the ledger could not end when their jobs did, and what of each is
    /// spent; `None` for a refund.
    pub(super) unsettled: Mutex<Vec<(Reservation, Option<i64>)>>,
    /// Decoding pictures.
    pub decoders: Arc<Turns>,
    /// Fetching pictures from elsewhere.
    pub(super) fetchers: Arc<Turns>,
}

impl Service {
    /// Opens the database, the results and the styles; the model comes later.
    pub fn open(setup: Setup) -> Result<Self> {
        let config = &setup.config;
        config.check()?;
        let fetch = Duration::from_secs(config.read_timeout);
        let most = config.max_body;
        let ledger = config.place().map(Place::serve).transpose()?;
        let (store, records) = Store::open(
            config.results.as_deref(),
            Duration::from_secs(config.results_for),
            config.results_most,
        )?;
        // All workers together are one to the queue.
        let devices = match setup.role {
            Role::Front => 1,
            Role::Whole | Role::Worker => setup.adapters.len().max(1),
        };
        let devices = Arc::new(Devices::new(devices));
        let jobs = records.into_iter().map(Job::recorded);
        Ok(Self(Arc::new(Inner {
            limits: config.limits(),
            styles: match &config.styles_file {
                Some(path) => Styles::with_file(path)?,
                None => Styles::builtin(),
            },
            sources: Sources::new(&config.image_hosts, most, config.max_input_pixels, fetch)?,
            ledger,
            queue: Queue::new(config.queue, config.per_key(), devices.clone()),
            devices,
            metrics: match setup.role {
                Role::Front => Metrics::default().with_fleet(),
                Role::Whole | Role::Worker => Metrics::default(),
            },
            store,
            models: OnceLock::new(),
            loading: Cancel::default(),
            jobs: Mutex::new(jobs.map(|job| (job.id.clone(), Arc::new(job))).collect()),
            unsettled: Mutex::default(),
            decoders: Turns::new(2),
            fetchers: Turns::new(8),
            setup,
        })))
    }

    /// Stops taking requests; those that wait are turned away, and a model that is
    /// being loaded is given up.
    pub fn stop(&self) {
        self.loading.cancel();
        for job in self.queue.stop() {
            self.stop_job(&job, Failure::STOPPING);
        }
    }

    /// Stops taking requests; those that wait are drawn.
    pub fn drain(&self) {
        self.queue.drain();
    }

    /// Whether all that drawing needs is well.
    pub async fn check_ready(&self) -> Result<(), Failure> {
        self.model()?;
        if self.queue.is_stopped() {
            return Err(Failure::STOPPING);
        }
        match self.ledger {
            Some(_) => self.with_ledger(|ledger| ledger.probe()).await,
            None => Ok(()),
        }
    }
}

/// Runs `work` where it may wait.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Failure::internal)
}
