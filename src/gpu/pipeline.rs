//! Compute pipelines: made once, side by side on worker threads, and kept in
//! the user's cache folder by wgpu's pipeline cache.

use super::{Capabilities, Gpu, Layout, one_line, threads, wgsl};
use crate::shaders::{SHADERS, Source};
use crate::{Remedy, Result};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// How a kernel uses a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    Read,
    Write,
    Uniform,
}

/// One permutation of one shader.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PipelineKey {
    /// The shader's name in `shaders/`.
    pub shader: &'static str,
    /// Preprocessor defines.
    pub defines: Vec<(String, String)>,
    /// Values of `override`s.
    pub constants: Vec<(&'static str, u32)>,
    pub bindings: &'static [Access],
    /// The struct in the uniform binding.
    pub uniform: Layout,
}

impl PipelineKey {
    /// A short name for messages and profiles.
    pub fn label(&self) -> String {
        let mut label = self.shader.to_string();
        for (name, value) in &self.defines {
            label.push_str(&format!(" {name}"));
            if !value.is_empty() {
                label.push_str(&format!("={value}"));
            }
        }
        for (name, value) in &self.constants {
            label.push_str(&format!(" {name}={value}"));
        }
        label
    }

    /// The WGSL of this permutation.
    pub fn wgsl(&self) -> Result<String, String> {
        self.wgsl_of(SHADERS)
    }

    /// As [`Self::wgsl`], from other texts than the program's.
    fn wgsl_of(&self, sources: &[(&str, &str)]) -> Result<String, String> {
        let text = sources.iter().find(|s| s.0 == self.shader);
        let (_, text) = text.ok_or_else(|| format!("no shader {}", self.shader))?;
        wgsl::preprocess(text, &self.defines, sources)
    }
}

/// A pipeline with the layout of its one bind group. Shaders run without bounds
/// checks, so that only checked dispatches may reach what is inside.
pub struct Pipeline {
    pub key: PipelineKey,
    pub(crate) raw: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// All pipelines of a device.
pub(super) struct PipelineStore {
    /// Texts in place of the program's own, by name.
    shaders: HashMap<&'static str, String>,
    made: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    cache: Option<wgpu::PipelineCache>,
}

impl PipelineStore {
    pub fn new(
        device: &wgpu::Device,
        info: &wgpu::AdapterInfo,
        capabilities: &Capabilities,
        shaders: HashMap<&'static str, String>,
    ) -> Self {
        let cache = capabilities.pipeline_cache.then(|| {
            let data = cache_file(info).and_then(|path| std::fs::read(path).ok());
            // SAFETY: the data was written by `save` below from `get_data`, and
            // wgpu checks its header against this adapter and driver;
            // `fallback` makes it start empty when that check fails.
            unsafe {
                device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                    label: Some("calotype"),
                    data: data.as_deref(),
                    fallback: true,
                })
            }
        });
        Self {
            shaders,
            made: Mutex::new(HashMap::new()),
            cache,
        }
    }

    /// The keys of all pipelines made so far, in no order.
    pub fn keys(&self) -> Vec<PipelineKey> {
        let made = self.made.lock().unwrap_or_else(|e| e.into_inner());
        made.keys().cloned().collect()
    }

    pub fn get(&self, gpu: &Gpu, keys: &[PipelineKey]) -> Result<Vec<Arc<Pipeline>>> {
        let mut missing: Vec<PipelineKey> = Vec::new();
        {
            let made = self.made.lock().unwrap_or_else(|e| e.into_inner());
            for key in keys {
                if !made.contains_key(key) && !missing.contains(key) {
                    missing.push(key.clone());
                }
            }
        }
        if !missing.is_empty() {
            let fresh = self.compile_all(gpu, &missing)?;
            let mut made = self.made.lock().unwrap_or_else(|e| e.into_inner());
            for pipeline in fresh {
                made.insert(pipeline.key.clone(), Arc::new(pipeline));
            }
        }
        let made = self.made.lock().unwrap_or_else(|e| e.into_inner());
        keys.iter()
            .map(|key| {
                made.get(key)
                    .cloned()
                    .ok_or_else(|| gpu.error(format!("kernel {} is missing", key.label()), BUG))
            })
            .collect()
    }

    fn compile_all(&self, gpu: &Gpu, keys: &[PipelineKey]) -> Result<Vec<Pipeline>> {
        let threads = threads();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push(self.compile(gpu, key)?);
            }
            Ok(done)
        };
        if threads == 1 {
            return work();
        }
        let results: Vec<Result<Vec<Pipeline>>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.min(keys.len()))
                .map(|_| scope.spawn(work))
                .collect();
            workers
                .into_iter()
                .map(|w| {
                    w.join()
                        .unwrap_or_else(|_| Err(gpu.error("a pipeline worker panicked", BUG)))
                })
                .collect()
        });
        let mut all = Vec::new();
        for result in results {
            all.extend(result?);
        }
        Ok(all)
    }

    fn compile(&self, gpu: &Gpu, key: &PipelineKey) -> Result<Pipeline> {
        let started = web_time::Instant::now();
        let label = key.label();
        let fail = |problem: String| gpu.error(format!("kernel {label}: {problem}"), BUG);
        let text = |(name, own): &Source| (*name, self.shaders.get(name).map_or(*own, |s| s));
        let sources: Vec<(&str, &str)> = SHADERS.iter().map(text).collect();
        let wgsl = key.wgsl_of(&sources).map_err(&fail)?;
        let filters = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::Internal];
        let (made, error) = gpu.caught(&filters, || self.create(gpu.device(), key, &label, wgsl));
        if let Some(e) = error {
            return Err(fail(one_line(&e.to_string())));
        }
        gpu.counters()
            .pipelines_created
            .fetch_add(1, Ordering::Relaxed);
        tracing::debug!(kernel = %label, seconds = started.elapsed().as_secs_f64(), "compiled");
        Ok(made)
    }

    fn create(
        &self,
        device: &wgpu::Device,
        key: &PipelineKey,
        label: &str,
        wgsl: String,
    ) -> Pipeline {
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(label),
            source: wgpu::ShaderSource::Wgsl(wgsl.into()),
        };
        // SAFETY: every kernel clamps or guards each index it forms to what its
        // parameters say, and a dispatch is only made of operands that hold what
        // those parameters ask for (see `kernel::Dispatch`); the tests run all
        // kernels over odd shapes against CPU twins.
        let module = unsafe {
            device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        };
        let layout = bind_group_layout(device, label, key.bindings);
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let constants: Vec<(&str, f64)> = key
            .constants
            .iter()
            .map(|(name, value)| (*name, f64::from(*value)))
            .collect();
        let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: self.cache.as_ref(),
        });
        Pipeline {
            key: key.clone(),
            raw,
            layout,
        }
    }

    /// Best effort: a cache that cannot be written costs only time.
    pub fn save(&self, info: &wgpu::AdapterInfo) {
        let Some(data) = self.cache.as_ref().and_then(|c| c.get_data()) else {
            return;
        };
        let Some(path) = cache_file(info) else { return };
        let saved = (|| -> std::io::Result<()> {
            let folder = path.parent().ok_or(std::io::ErrorKind::NotFound)?;
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            std::io::Write::write_all(&mut file, &data)?;
            file.persist(&path)?;
            Ok(())
        })();
        if let Err(e) = saved {
            tracing::debug!("pipeline cache {} not saved: {e}", path.display());
        }
    }
}

/// What helps where neither the request nor the files are to blame.
const BUG: [Remedy; 4] = [
    Remedy::UpdateDriver,
    Remedy::OTHER_ADAPTER,
    Remedy::OTHER_BACKEND,
    Remedy::ReportBug,
];

fn bind_group_layout(
    device: &wgpu::Device,
    label: &str,
    bindings: &[Access],
) -> wgpu::BindGroupLayout {
    let entries: Vec<_> = bindings
        .iter()
        .enumerate()
        .map(|(i, access)| wgpu::BindGroupLayoutEntry {
            binding: i as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match access {
                    Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
                    Access::Write => wgpu::BufferBindingType::Storage { read_only: false },
                    Access::Uniform => wgpu::BufferBindingType::Uniform,
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(label),
        entries: &entries,
    })
}

fn cache_file(info: &wgpu::AdapterInfo) -> Option<PathBuf> {
    let key = wgpu::util::pipeline_cache_key(info)?;
    let folders = directories::ProjectDirs::from("", "", "calotype")?;
    let driver: String = info
        .driver_info
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let name = format!("{key}_{driver}_{}.bin", env!("CARGO_PKG_VERSION"));
    Some(folders.cache_dir().join("pipelines").join(name))
}
