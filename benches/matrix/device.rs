//! A device with cooperative matrices, and how a kernel is timed on it.

use crate::spirv::Module;
use anyhow::{Context, Result, anyhow};
use calotype::gpu::{AdapterChoice, adapters};
use wgpu::Features;

pub struct Device {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: wgpu::AdapterInfo,
    pub matrices: Vec<wgpu::wgt::CooperativeMatrixProperties>,
    pub f16: bool,
    pub shared: u32,
    checked: bool,
    ordered: bool,
}

/// A compute pipeline whose only group is numbered as in the shader.
pub struct Kernel {
    raw: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// One dispatch: its buffers and its workgroups.
pub struct Job {
    group: wgpu::BindGroup,
    grid: [u32; 2],
}

impl Device {
    /// Opens an adapter with everything it has; `checked` keeps naga's run-time
    /// checks in the shaders; `ordered` hands the driver SPIR-V as spirv.rs writes it.
    pub fn open(adapter: Option<String>, checked: bool, ordered: bool) -> Result<Self> {
        let choice = AdapterChoice {
            adapter: adapter.clone(),
            ..Default::default()
        };
        let found = adapters(&choice)?;
        let wanted = adapter.unwrap_or_default().to_lowercase();
        let adapter = found
            .into_iter()
            .find(|a| a.get_info().name.to_lowercase().contains(&wanted))
            .context("no such adapter")?;
        let features = adapter.features()
            & (Features::SHADER_F16
                | Features::SUBGROUP
                | Features::TIMESTAMP_QUERY
                | Features::PASSTHROUGH_SHADERS
                | Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        let descriptor = wgpu::DeviceDescriptor {
            required_features: features,
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            // SAFETY: cooperative matrices are experimental in wgpu; this bench exists to try them.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
        let coop = features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        Ok(Self {
            device,
            queue,
            info: adapter.get_info(),
            matrices: if coop {
                adapter.cooperative_matrix_properties()
            } else {
                Vec::new()
            },
            f16: features.contains(Features::SHADER_F16),
            shared: adapter.limits().max_compute_workgroup_storage_size,
            checked,
            ordered,
        })
    }

    /// A buffer that holds `bytes`, or that many poisoned ones.
    pub fn buffer(&self, bytes: &[u8]) -> wgpu::Buffer {
        let buffer = self.empty(bytes.len() as u64);
        for (i, piece) in bytes.chunks(32 << 20).enumerate() {
            self.queue
                .write_buffer(&buffer, (i as u64) * (32 << 20), piece);
            self.queue.submit([]);
        }
        buffer
    }

    pub fn empty(&self, bytes: u64) -> wgpu::Buffer {
        use wgpu::BufferUsages as U;
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes.next_multiple_of(16),
            usage: U::STORAGE | U::COPY_SRC | U::COPY_DST,
            mapped_at_creation: false,
        })
    }

    pub fn uniform(&self, words: &[u32]) -> wgpu::Buffer {
        let mut words = words.to_vec();
        words.resize(words.len().next_multiple_of(4), 0);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4 * words.len() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue
            .write_buffer(&buffer, 0, bytemuck::cast_slice(&words));
        buffer
    }

    /// The kernel of a shader in the dialect of `shaders/`, with its numbers or types,
    /// and those of its flags that hold.
    pub fn permutation(
        &self,
        text: &str,
        defines: &[(&str, String)],
        flags: &[(&str, bool)],
    ) -> Result<Kernel> {
        let flags = flags.iter().filter(|flag| flag.1);
        let flags = flags.map(|(name, _)| (name.to_string(), String::new()));
        let defines = defines
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()));
        let defines: Vec<_> = defines.chain(flags).collect();
        let wgsl = calotype::gpu::preprocess(text, &defines, &[]);
        self.kernel(wgsl.map_err(anyhow::Error::msg)?)
    }

    pub fn kernel(&self, wgsl: String) -> Result<Kernel> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let checks = match self.checked {
            true => wgpu::ShaderRuntimeChecks::checked(),
            false => wgpu::ShaderRuntimeChecks::unchecked(),
        };
        let parsed = Module::parse(&wgsl)?;
        let module = if self.ordered {
            let entry = &parsed.module.entry_points[0];
            let descriptor = wgpu::ShaderModuleDescriptorPassthrough {
                entry_points: vec![wgpu::PassthroughShaderEntryPoint {
                    name: entry.name.as_str().into(),
                    workgroup_size: entry.workgroup_size.into(),
                }]
                .into(),
                spirv: Some(parsed.ordered()?.into()),
                ..Default::default()
            };
            // SAFETY: naga wrote it, from a module that it validated.
            unsafe { self.device.create_shader_module_passthrough(descriptor) }
        } else {
            // SAFETY: the shaders clamp every index to what the host binds.
            unsafe {
                self.device.create_shader_module_trusted(
                    wgpu::ShaderModuleDescriptor {
                        label: None,
                        source: wgpu::ShaderSource::Wgsl(wgsl.into()),
                    },
                    checks,
                )
            }
        };
        let layout = self.layout(&parsed.module);
        let pipeline_layout = self
            .device
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
        let raw = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            });
        let inner = pollster::block_on(internal.pop());
        if let Some(e) = inner.or(pollster::block_on(scope.pop())) {
            return Err(anyhow!("{e}"));
        }
        Ok(Kernel { raw, layout })
    }

    /// The layout of group 0 as the shader declares it.
    fn layout(&self, module: &naga::Module) -> wgpu::BindGroupLayout {
        let mut entries: Vec<_> = module
            .global_variables
            .iter()
            .filter_map(|(_, v)| Some((v.binding?.binding, v.space)))
            .map(|(binding, space)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match space {
                        naga::AddressSpace::Storage { access } => {
                            wgpu::BufferBindingType::Storage {
                                read_only: !access.contains(naga::StorageAccess::STORE),
                            }
                        }
                        _ => wgpu::BufferBindingType::Uniform,
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        entries.sort_by_key(|e| e.binding);
        self.device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            })
    }

    pub fn job(&self, kernel: &Kernel, buffers: &[&wgpu::Buffer], grid: [u32; 2]) -> Job {
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, b)| wgpu::BindGroupEntry {
                binding,
                resource: b.as_entire_binding(),
            })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor {
            label: None,
            layout: &kernel.layout,
            entries: &entries,
        };
        Job {
            group: self.device.create_bind_group(&descriptor),
            grid,
        }
    }

    /// Runs `jobs` in turn, `count` dispatches in one pass, and says how many
    /// seconds the pass took on the device.
    pub fn pass(&self, kernel: &Kernel, jobs: &[Job], count: usize) -> Result<f64> {
        let queries = self.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }),
            });
            pass.set_pipeline(&kernel.raw);
            for job in jobs.iter().cycle().take(count) {
                pass.set_bind_group(0, &job.group, &[]);
                pass.dispatch_workgroups(job.grid[0], job.grid[1], 1);
            }
        }
        let resolve = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 256,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        encoder.resolve_query_set(&queries, 0..2, &resolve, 0);
        self.queue.submit([encoder.finish()]);
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&self.read(&resolve, 0, 16)?);
        Ok((ticks[1] - ticks[0]) as f64 * f64::from(self.queue.get_timestamp_period()) * 1e-9)
    }

    /// Median seconds of a dispatch, over passes of about 3 ms.
    pub fn time(&self, kernel: &Kernel, jobs: &[Job]) -> Result<f64> {
        let once = self.pass(kernel, jobs, jobs.len())? / jobs.len() as f64;
        // An idle device runs at a sixth of its clock (seen on an H200) and takes a while to speed up.
        if self.info.device_type != wgpu::DeviceType::Cpu {
            let started = std::time::Instant::now();
            while started.elapsed().as_secs_f64() < 0.15 {
                self.pass(
                    kernel,
                    jobs,
                    ((5e-3 / once.max(1e-7)) as usize).clamp(1, 2000),
                )?;
            }
        }
        let once = self.pass(kernel, jobs, jobs.len())? / jobs.len() as f64;
        let count = ((3e-3 / once.max(1e-7)) as usize).clamp(1, 2000);
        let mut seconds = Vec::new();
        for _ in 0..9 {
            seconds.push(self.pass(kernel, jobs, count)? / count as f64);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    pub fn read(&self, buffer: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(bytes as usize);
        let chunk = 64 << 20;
        let mut at = 0;
        while at < bytes {
            let size = (bytes - at).min(chunk);
            let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: size.next_multiple_of(4),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(
                buffer,
                offset + at,
                &staging,
                0,
                size.next_multiple_of(4),
            );
            self.queue.submit([encoder.finish()]);
            staging.slice(..).map_async(wgpu::MapMode::Read, |_| {});
            self.device.poll(wgpu::PollType::wait_indefinitely())?;
            out.extend_from_slice(&staging.slice(..).get_mapped_range()?[..size as usize]);
            at += size;
        }
        Ok(out)
    }
}
