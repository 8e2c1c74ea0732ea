//! The adapter and what it can do: buffers, pipelines and their cache, WGSL
//! preprocessing, timestamps, errors. Knows nothing of ops.

mod adapter;
mod buffer;
mod host_shareable;
mod pipeline;
mod processor;
mod timestamps;
mod upload;
mod wait;
mod wgsl;

pub use adapter::{
    AdapterChoice, AdapterReport, Capabilities, STORAGE_BUFFERS, adapters, adapters_async, all,
    install_hint, report,
};
pub use buffer::Buffer;
pub(crate) use host_shareable::host_shareable;
pub use host_shareable::{HostShareable, Layout, Member};
pub use pipeline::{Access, Pipeline, PipelineKey};
pub use processor::processor_seconds;
pub(crate) use processor::threads;
pub use timestamps::Timestamps;
pub use upload::Uploads;
pub use wait::{Submission, block_on};
pub use wgsl::preprocess;

use crate::error::Remedies;
use crate::{Error, Remedy, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What has been created so far. `device_bytes` follows drops as well.
#[derive(Debug, Default)]
pub struct Counters {
    pub buffers_created: AtomicU64,
    pub pipelines_created: AtomicU64,
    pub device_bytes: AtomicU64,
    pub peak_device_bytes: AtomicU64,
    /// The most that wgpu has reserved of the driver, gaps included, whenever somebody
    /// looked (see [`Gpu::note_reserved`]); 0 where it does not tell.
    pub peak_reserved_bytes: AtomicU64,
    /// Bytes beyond which memory is short; 0 for what the driver has.
    most: AtomicU64,
}

/// For tests of what happens when memory runs out: bytes beyond which it is short.
const DEVICE_BYTES: &str = "CALOTYPE_DEVICE_BYTES";

impl Counters {
    /// From now on memory is short beyond `bytes`, if given.
    pub fn limit(&self, bytes: Option<u64>) {
        let device = std::env::var(DEVICE_BYTES).ok();
        let device = device.and_then(|text| text.parse().ok());
        let least = bytes.into_iter().chain(device).min();
        self.most.store(least.unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether there is no room for so many bytes more.
    fn is_short_of(&self, bytes: u64) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        most > 0 && self.device_bytes.load(Ordering::Relaxed) + bytes > most
    }

    fn allocate(&self, bytes: u64) {
        self.buffers_created.fetch_add(1, Ordering::Relaxed);
        let now = self.device_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak_device_bytes.fetch_max(now, Ordering::Relaxed);
    }

    fn release(&self, bytes: u64) {
        self.device_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// An open device with its queue. Cheap to share behind an [`Arc`].
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    capabilities: Capabilities,
    counters: Arc<Counters>,
    pipelines: pipeline::PipelineStore,
    /// The first error that no scope caught, or the reason of a device loss.
    trouble: Arc<Mutex<Option<Trouble>>>,
}

/// What went wrong on a device.
#[derive(Debug, Clone)]
enum Trouble {
    /// Commands that wgpu found to be wrong: a mistake of the program.
    Invalid(String),
    /// The driver failed, or memory ran out.
    Device(String),
}

impl Gpu {
    /// Opens the adapter that `choice` names, or the fastest kind there is that its driver
    /// opens.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where there is none, or none of that name;
    /// [`Error::Adapter`] where its driver refuses to open it, of several the first.
    pub fn open(choice: &AdapterChoice) -> Result<Arc<Self>> {
        block_on(Self::open_async(choice))
    }

    /// As [`Self::open`], without blocking.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_async(choice: &AdapterChoice) -> Result<Arc<Self>> {
        // SAFETY: no shader is replaced.
        unsafe { Self::opened(choice, HashMap::new()) }.await
    }

    /// As [`Self::open`], with texts in place of some of the program's shaders, by name:
    /// to measure a change without building the program.
    ///
    /// # Safety
    /// Shaders run without bounds checks. Each must stay within its bindings as the one
    /// that it replaces does.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub unsafe fn open_with(
        choice: &AdapterChoice,
        shaders: HashMap<&'static str, String>,
    ) -> Result<Arc<Self>> {
        // SAFETY: the caller vouches for the shaders.
        block_on(unsafe { Self::opened(choice, shaders) })
    }

    /// See [`Self::open_with`], whose safety is the caller's.
    async unsafe fn opened(
        choice: &AdapterChoice,
        shaders: HashMap<&'static str, String>,
    ) -> Result<Arc<Self>> {
        let mut failed = Vec::new();
        for adapter in adapter::pick(choice).await? {
            // SAFETY: the caller vouches for the shaders.
            match unsafe { Self::of(&adapter, choice, shaders.clone()) }.await {
                Ok(gpu) => {
                    let name = &gpu.info.name;
                    failed
                        .iter()
                        .for_each(|e| tracing::warn!("{e}; {name} takes its place"));
                    return Ok(Arc::new(gpu));
                }
                Err(e) => failed.push(e),
            }
        }
        let first = failed.into_iter().next();
        Err(first.unwrap_or_else(|| adapter::no_adapter(choice)))
    }

    /// See [`Self::open_with`], whose safety is the caller's.
    async unsafe fn of(
        adapter: &wgpu::Adapter,
        choice: &AdapterChoice,
        shaders: HashMap<&'static str, String>,
    ) -> Result<Self> {
        let mut info = adapter.get_info();
        if info.name.is_empty() {
            // Browsers tell as little as they can.
            info.name = "the browser's GPU".into();
        }
        let mut capabilities = Capabilities::of(adapter);
        let mut limits = adapter.limits();
        if let Some(problem) = adapter::lacking(&limits) {
            return Err(Error::Adapter {
                adapter: info.name,
                problem,
                remedy: [Remedy::UpdateDriver, Remedy::OTHER_ADAPTER].into(),
            });
        }
        if let Some(cap) = choice.max_binding {
            capabilities.max_binding = capabilities.max_binding.min(cap);
            limits.max_storage_buffer_binding_size = capabilities.max_binding;
        }
        capabilities.half_words &= !choice.no_half_words;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("calotype"),
            required_features: capabilities.features,
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            // SAFETY: the one experimental feature asked for is cooperative matrices,
            // whose kernels draw nothing before their self-test has passed.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        let opened = adapter.request_device(&descriptor).await;
        let (device, queue) = opened.map_err(|e| Error::Adapter {
            adapter: info.name.clone(),
            problem: format!("cannot be opened: {}", one_line(&e.to_string())),
            remedy: [Remedy::UpdateDriver, Remedy::OTHER_ADAPTER].into(),
        })?;
        let trouble = Arc::new(Mutex::new(None));
        let note = |trouble: &Arc<Mutex<Option<Trouble>>>| {
            let trouble = trouble.clone();
            move |new: Trouble| {
                let (Trouble::Invalid(text) | Trouble::Device(text)) = &new;
                tracing::error!("{text}");
                if let Ok(mut slot) = trouble.lock() {
                    slot.get_or_insert(new);
                }
            }
        };
        let (on_error, on_lost) = (note(&trouble), note(&trouble));
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            let text = one_line(&e.to_string());
            on_error(match e {
                wgpu::Error::Validation { .. } => Trouble::Invalid(text),
                _ => Trouble::Device(text),
            })
        }));
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                let text = format!("device lost: {}", one_line(&message));
                on_lost(Trouble::Device(text));
            }
        });
        tracing::info!(adapter = %info.name, backend = %info.backend, driver = %info.driver_info, "opened");
        let counters = Arc::new(Counters::default());
        let pipelines = pipeline::PipelineStore::new(&device, &info, &capabilities, shaders);
        Ok(Self {
            device,
            queue,
            info,
            capabilities,
            counters,
            pipelines,
            trouble,
        })
    }

    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Looks at what wgpu has reserved of the driver's memory.
    pub fn note_reserved(&self) {
        if let Some(report) = self.device.generate_allocator_report() {
            let peak = &self.counters.peak_reserved_bytes;
            peak.fetch_max(report.total_reserved_bytes, Ordering::Relaxed);
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// An [`Error::Adapter`] about this device.
    pub fn error(&self, problem: impl Into<String>, remedy: impl Into<Remedies>) -> Error {
        Error::Adapter {
            adapter: self.info.name.clone(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// Fails if anything went wrong on the device since it was opened.
    pub fn check(&self) -> Result<()> {
        let trouble = self.trouble.lock().ok().and_then(|t| t.clone());
        match trouble {
            None => Ok(()),
            Some(Trouble::Invalid(problem)) => Err(Error::internal("wgpu", problem)),
            Some(Trouble::Device(problem)) => Err(self.error(
                problem,
                [
                    Remedy::SmallerPicture,
                    Remedy::HALF_PRECISION,
                    Remedy::OTHER_ADAPTER,
                    Remedy::UpdateDriver,
                ],
            )),
        }
    }

    /// As a driver's reset does.
    #[cfg(test)]
    pub(crate) fn lose(&self) {
        let lost = Trouble::Device("device lost: as a test asks".into());
        *self.trouble.lock().unwrap() = Some(lost);
        self.device.destroy();
    }

    /// The pipelines of `keys`, in their order; those that are not there yet
    /// are compiled side by side on worker threads.
    pub fn pipelines(&self, keys: &[PipelineKey]) -> Result<Vec<Arc<Pipeline>>> {
        self.pipelines.get(self, keys)
    }

    /// The keys of all pipelines made on this device so far, in no order.
    pub fn pipelines_made(&self) -> Vec<PipelineKey> {
        self.pipelines.keys()
    }

    /// A file in the user's cache folder that belongs to this adapter, driver and version
    /// of the program; `None` where there is no such folder.
    pub fn cache_file(&self, kind: &str, extension: &str) -> Option<std::path::PathBuf> {
        let info = &self.info;
        let folders = directories::ProjectDirs::from("", "", "calotype")?;
        let name = format!(
            "{}_{:x}_{}_{}_{}",
            info.name,
            info.device,
            info.backend,
            info.driver_info,
            env!("CARGO_PKG_VERSION")
        );
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || ".-".contains(c) {
                c
            } else {
                '_'
            }
        };
        let name: String = name.chars().map(plain).collect();
        Some(
            folders
                .cache_dir()
                .join(kind)
                .join(format!("{name}.{extension}")),
        )
    }

    /// Keeps the compiled pipelines in the user's cache folder for the next run.
    pub fn save_pipeline_cache(&self) {
        self.pipelines.save(&self.info);
    }
}

/// Folds a driver's message into one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
