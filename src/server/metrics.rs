//! Figures for Prometheus.

use crate::pipeline::Seconds;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    /// The route's pattern, so that there are few.
    route: String,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

/// Figures for Prometheus.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answer, Counter>,
    stages: Family<Stage, Histogram>,
    waited: Histogram,
    steps_per_second: Gauge<f64, AtomicU64>,
    pictures: Counter,
    queue: Gauge,
    device_bytes: Gauge,
    /// Copied into its gauge when asked for.
    device: AtomicU64,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 16))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("calotype"),
            requests: Family::default(),
            stages: Family::new_with_constructor(seconds),
            waited: seconds(),
            steps_per_second: Gauge::default(),
            pictures: Counter::default(),
            queue: Gauge::default(),
            device_bytes: Gauge::default(),
            device: AtomicU64::new(0),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        let requests = self.requests.clone();
        r.register("requests", "Answers by route and status code", requests);
        let (help, unit) = ("Wall time of each stage of a request", Unit::Seconds);
        r.register_with_unit("stage", help, unit, self.stages.clone());
        let (help, unit) = ("Time from arrival to the device", Unit::Seconds);
        r.register_with_unit("queue_wait", help, unit, self.waited.clone());
        let help = "UNet steps a second of the last request";
        r.register("steps_per_second", help, self.steps_per_second.clone());
        r.register("pictures", "Pictures made", self.pictures.clone());
        r.register("queue_length", "Requests that wait", self.queue.clone());
        let (help, unit) = ("Memory held on the device", Unit::Bytes);
        r.register_with_unit("device", help, unit, self.device_bytes.clone());
    }

    /// One answer.
    pub fn answered(&self, route: &str, code: u16) {
        let route = route.to_owned();
        self.requests.get_or_create(&Answer { route, code }).inc();
    }

    /// One request carried out: `pictures` of `steps` steps in all, after `waited`
    /// seconds.
    pub fn drawn(&self, pictures: usize, steps: usize, waited: f64, seconds: &Seconds) {
        for (stage, value) in [
            ("load", seconds.load),
            ("encode", seconds.encode),
            ("encode_picture", seconds.encode_picture),
            ("denoise", seconds.denoise),
            ("decode", seconds.decode),
        ] {
            self.stages.get_or_create(&Stage { stage }).observe(value);
        }
        self.waited.observe(waited);
        if seconds.denoise > 0.0 {
            self.steps_per_second.set(steps as f64 / seconds.denoise);
        }
        self.pictures.inc_by(pictures as u64);
    }

    /// Memory held on the device now.
    pub fn holds(&self, bytes: u64) {
        self.device.store(bytes, Ordering::Relaxed);
    }

    /// The text that Prometheus reads; `queue` requests wait.
    pub fn text(&self, queue: usize) -> Result<String, std::fmt::Error> {
        self.queue.set(queue as i64);
        let bytes = self.device.load(Ordering::Relaxed);
        self.device_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
