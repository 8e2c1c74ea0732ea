//! Figures for Prometheus.

use crate::pipeline::Seconds;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

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

/// A device by its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDevice {
    device: usize,
}

impl OfDevice {
    fn family<M: Clone + Default>() -> Family<OfDevice, M> {
        Family::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    device: usize,
    adapter: String,
}

/// Seconds.
type Seconds64 = Counter<f64, AtomicU64>;

/// Figures for Prometheus.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answer, Counter>,
    stages: Family<Stage, Histogram>,
    waited: Histogram,
    steps_per_second: Family<OfDevice, Gauge<f64, AtomicU64>>,
    pictures: Family<OfDevice, Counter>,
    queue: Gauge,
    in_flight: Gauge,
    connections: Gauge,
    bodies: Gauge,
    credits: Counter,
    device_bytes: Family<OfDevice, Gauge>,
    device_up: Family<OfDevice, Gauge>,
    device_busy: Family<OfDevice, Seconds64>,
    device_info: Family<Named, Gauge>,
    joined: Counter,
    broker: Gauge,
    workers: Gauge,
    worker_devices: Gauge,
    tasks: Gauge,
    refused: Counter,
    resident: Gauge,
    files: Gauge,
    processor: Gauge<f64, AtomicU64>,
    started: Gauge<f64, AtomicU64>,
    ledger: Gauge,
}

/// What is known elsewhere.
pub struct Now {
    /// Requests that wait.
    pub queue: usize,
    /// Bytes of bodies in memory.
    pub bodies: usize,
    /// Whether the ledger can be written.
    pub ledger: bool,
    /// Whether each device can draw.
    pub devices: Vec<bool>,
}

/// User and system time of this process.
#[cfg(target_os = "linux")]
fn processor_seconds() -> f64 {
    // SAFETY: it reads a number and cannot fail for this name.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in parentheses, may hold spaces.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let fields = rest.split_whitespace().skip(11).take(2);
    fields.filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() / ticks
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 16))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            stages: Family::new_with_constructor(seconds),
            waited: seconds(),
            steps_per_second: OfDevice::family(),
            pictures: OfDevice::family(),
            queue: Gauge::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            bodies: Gauge::default(),
            credits: Counter::default(),
            resident: Gauge::default(),
            files: Gauge::default(),
            processor: Gauge::default(),
            started: Gauge::default(),
            ledger: Gauge::default(),
            device_bytes: OfDevice::family(),
            device_up: OfDevice::family(),
            device_busy: OfDevice::family(),
            device_info: Family::default(),
            joined: Counter::default(),
            broker: Gauge::default(),
            workers: Gauge::default(),
            worker_devices: Gauge::default(),
            tasks: Gauge::default(),
            refused: Counter::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        self.register_process();
        let r = self.registry.sub_registry_with_prefix("calotype");
        let requests = self.requests.clone();
        r.register("requests", "Answers by route and status code", requests);
        let (help, unit) = ("Wall time of each stage of a request", Unit::Seconds);
        r.register_with_unit("stage", help, unit, self.stages.clone());
        let (help, unit) = ("Time from arrival to a device", Unit::Seconds);
        r.register_with_unit("queue_wait", help, unit, self.waited.clone());
        let help = "UNet steps a second of the last request";
        r.register("steps_per_second", help, self.steps_per_second.clone());
        r.register("pictures", "Pictures made", self.pictures.clone());
        r.register("queue_length", "Requests that wait", self.queue.clone());
        let (help, unit) = ("Memory held on the device", Unit::Bytes);
        r.register_with_unit("device", help, unit, self.device_bytes.clone());
        let help = "Whether the device can draw";
        r.register("device_up", help, self.device_up.clone());
        let (help, unit) = ("Time that the device was given to requests", Unit::Seconds);
        r.register_with_unit("device_busy", help, unit, self.device_busy.clone());
        let help = "Requests that were drawn together with one before them";
        r.register("requests_joined", help, self.joined.clone());
        let help = "What the device is";
        r.register("device_info", help, self.device_info.clone());
        let help = "Requests that are not answered yet";
        r.register("requests_in_flight", help, self.in_flight.clone());
        r.register("connections", "Open connections", self.connections.clone());
        let (help, unit) = ("Requests' bodies in memory", Unit::Bytes);
        r.register_with_unit("bodies", help, unit, self.bodies.clone());
        r.register("credits_spent", "Credits paid", self.credits.clone());
        let help = "Whether the file of keys can be written (1 without keys)";
        r.register("ledger_up", help, self.ledger.clone());
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        r.register("build", "What runs", Info::new(version));
    }

    /// The figures of a front end of workers.
    pub fn with_fleet(mut self) -> Self {
        let r = self.registry.sub_registry_with_prefix("calotype");
        let help = "Whether the broker is connected";
        r.register("broker_up", help, self.broker.clone());
        let help = "Workers that draw for this front end";
        r.register("workers", help, self.workers.clone());
        let help = "Their devices";
        r.register("worker_devices", help, self.worker_devices.clone());
        let help = "Tasks that workers have or that wait for one";
        r.register("tasks", help, self.tasks.clone());
        let help = "Results that came too late or twice";
        r.register("results_refused", help, self.refused.clone());
        self
    }

    /// The broker's state, the workers and their devices, and tasks that are out.
    pub fn fleet(&self, up: bool, [workers, devices, tasks]: [usize; 3]) {
        self.broker.set(up.into());
        self.workers.set(workers as i64);
        self.worker_devices.set(devices as i64);
        self.tasks.set(tasks as i64);
    }

    /// A result came too late or twice.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// By the names that every program's figures have.
    fn register_process(&mut self) {
        let r = self.registry.sub_registry_with_prefix("process");
        let (help, unit) = ("Memory of the process", Unit::Bytes);
        r.register_with_unit("resident_memory", help, unit, self.resident.clone());
        r.register("open_fds", "Open files and sockets", self.files.clone());
        let (help, unit) = ("Processor time", Unit::Seconds);
        r.register_with_unit("cpu", help, unit, self.processor.clone());
        let (help, unit) = ("Unix time of the start", Unit::Seconds);
        r.register_with_unit("start_time", help, unit, self.started.clone());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.started.set(now.map_or(0.0, |now| now.as_secs_f64()));
    }

    fn look_at_process(&self) {
        #[cfg(target_os = "linux")]
        {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<i64>().ok());
            self.resident.set(kib.unwrap_or_default() << 10);
            let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
            self.files.set(i64::try_from(files).unwrap_or(i64::MAX));
            self.processor.set(processor_seconds());
        }
    }

    /// Requests that came or went.
    pub fn in_flight(&self, more: i64) {
        self.in_flight.inc_by(more);
    }

    /// Connections that are open now.
    pub fn connections(&self, count: usize) {
        self.connections.set(count as i64);
    }

    /// Credits that were paid.
    pub fn paid(&self, credits: i64) {
        self.credits
            .inc_by(u64::try_from(credits).unwrap_or_default());
    }

    /// One answer.
    pub fn answered(&self, route: &str, code: u16) {
        let route = route.to_owned();
        self.requests.get_or_create(&Answer { route, code }).inc();
    }

    /// A request came to a device after this time.
    pub fn waited(&self, time: Duration) {
        self.waited.observe(time.as_secs_f64());
    }

    /// A device was opened.
    pub fn opened(&self, device: usize, adapter: &str) {
        let adapter = adapter.to_owned();
        let info = self.device_info.get_or_create(&Named { device, adapter });
        info.set(1);
    }

    /// A device was busy with a request for this time, whatever came of it.
    pub fn busy(&self, device: usize, time: Duration) {
        let busy = self.device_busy.get_or_create(&OfDevice { device });
        busy.inc_by(time.as_secs_f64());
    }

    /// `pictures` of `steps` steps in all, drawn by a device.
    pub fn drawn(&self, device: usize, pictures: usize, steps: usize, seconds: &Seconds) {
        for (stage, value) in [
            ("load", seconds.load),
            ("encode", seconds.encode),
            ("encode_picture", seconds.encode_picture),
            ("denoise", seconds.denoise),
            ("decode", seconds.decode),
        ] {
            self.stages.get_or_create(&Stage { stage }).observe(value);
        }
        let device = OfDevice { device };
        if seconds.denoise > 0.0 {
            let gauge = self.steps_per_second.get_or_create(&device);
            gauge.set(steps as f64 / seconds.denoise);
        }
        let made = self.pictures.get_or_create(&device);
        made.inc_by(pictures as u64);
    }

    /// Requests that are drawn together with one before them.
    pub fn joined(&self, requests: usize) {
        self.joined.inc_by(requests as u64);
    }

    /// Memory held on a device now.
    pub fn holds(&self, device: usize, bytes: u64) {
        let gauge = self.device_bytes.get_or_create(&OfDevice { device });
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The text that Prometheus reads.
    pub fn text(&self, now: Now) -> Result<String, std::fmt::Error> {
        self.queue.set(now.queue as i64);
        self.bodies.set(now.bodies as i64);
        self.ledger.set(now.ledger.into());
        for (device, up) in now.devices.into_iter().enumerate() {
            let gauge = self.device_up.get_or_create(&OfDevice { device });
            gauge.set(up.into());
        }
        self.look_at_process();
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
