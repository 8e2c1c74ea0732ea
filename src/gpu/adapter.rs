//! Finding adapters, choosing one, and saying what it can do.

use super::block_on;
use crate::{Error, Field, Result};
use serde::Serialize;
use wgpu::{Backends, DeviceType, Features};

/// Which adapter to open.
#[derive(Debug, Clone, Default)]
pub struct AdapterChoice {
    /// An index into [`adapters`], or a part of a name (case is ignored).
    pub adapter: Option<String>,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: Option<String>,
    /// Caps the bytes that one storage binding may cover: for tests of banding,
    /// and for machines that are shared.
    pub max_binding: Option<u64>,
    /// As if the adapter's [`Capabilities::half_words`] were false: for tests.
    pub no_half_words: bool,
}

/// Storage buffers that a kernel may bind: what WebGPU asks of every adapter. The CPU driver
/// of Mesa 20.3 has fewer.
pub const STORAGE_BUFFERS: u32 = 8;

/// What an adapter lacks that every kernel may use.
pub(super) fn lacking(limits: &wgpu::Limits) -> Option<String> {
    let offered = limits.max_storage_buffers_per_shader_stage;
    (offered < STORAGE_BUFFERS).then(|| {
        format!("has {offered} storage buffers for a shader, and calotype needs {STORAGE_BUFFERS}")
    })
}

/// What the kernels may use on an adapter, taken from the adapter itself.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// The features to ask for.
    pub features: Features,
    /// A CPU that plays a GPU (lavapipe, SwiftShader, WARP).
    pub is_cpu: bool,
    pub is_discrete: bool,
    /// Bytes of the largest memory of its own, where the backend tells.
    pub memory: Option<u64>,
    pub shader_f16: bool,
    /// Reads f16 values that are packed in words (`unpack2x16float`). Mesa's CPU driver does
    /// not where the processor has no f16 instructions.
    pub half_words: bool,
    pub subgroup: bool,
    pub timestamps: bool,
    pub pipeline_cache: bool,
    /// Bytes that one storage binding may cover.
    pub max_binding: u64,
    pub max_buffer: u64,
    /// Alignment of binding offsets, in bytes.
    pub alignment: u64,
    pub max_workgroups: u32,
    pub max_invocations: u32,
    pub max_workgroup_storage: u32,
    /// Sides of the square matrices that it multiplies, f16 operands and f32 sums.
    pub matrices: Vec<u32>,
    /// Every cooperative matrix product that it offers.
    pub all_matrices: Vec<wgpu::wgt::CooperativeMatrixProperties>,
    /// Its matrices are loaded from arrays of scalars only: Metal's.
    pub scalar_matrices: bool,
    /// Intel's: 128 registers a thread, at 8 invocations for f32 at the least.
    pub few_registers: bool,
    /// Invocations of the smallest and the largest subgroup.
    pub subgroup_size: [u32; 2],
}

impl Capabilities {
    pub(super) fn of(adapter: &wgpu::Adapter) -> Self {
        let wanted = Features::SHADER_F16
            | Features::EXPERIMENTAL_COOPERATIVE_MATRIX
            | Features::SUBGROUP
            | Features::TIMESTAMP_QUERY
            | Features::TIMESTAMP_QUERY_INSIDE_ENCODERS
            | Features::TIMESTAMP_QUERY_INSIDE_PASSES
            | Features::PIPELINE_CACHE;
        let mut features = adapter.features() & wanted;
        let needed = Features::SHADER_F16 | Features::SUBGROUP;
        if !features.contains(needed) {
            features.remove(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        }
        let info = adapter.get_info();
        let limits = adapter.limits();
        let all_matrices = match features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            true => adapter.cooperative_matrix_properties(),
            false => Vec::new(),
        };
        Self {
            features,
            is_cpu: info.device_type == DeviceType::Cpu,
            is_discrete: info.device_type == DeviceType::DiscreteGpu,
            memory: memory(adapter),
            shader_f16: features.contains(Features::SHADER_F16),
            half_words: adapter
                .get_downlevel_capabilities()
                .flags
                .contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32),
            subgroup: features.contains(Features::SUBGROUP),
            timestamps: features.contains(Features::TIMESTAMP_QUERY),
            pipeline_cache: features.contains(Features::PIPELINE_CACHE),
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            alignment: u64::from(
                limits
                    .min_storage_buffer_offset_alignment
                    .max(limits.min_uniform_buffer_offset_alignment)
                    .max(16),
            ),
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            max_invocations: limits.max_compute_invocations_per_workgroup,
            max_workgroup_storage: limits.max_compute_workgroup_storage_size,
            matrices: square_matrices(&all_matrices),
            all_matrices,
            few_registers: info.vendor == 0x8086,
            scalar_matrices: info.backend == wgpu::Backend::Metal,
            subgroup_size: [info.subgroup_min_size, info.subgroup_max_size],
        }
    }
}

/// Bytes of the largest heap of device memory, on Vulkan.
#[cfg(not(any(target_vendor = "apple", target_family = "wasm")))]
fn memory(adapter: &wgpu::Adapter) -> Option<u64> {
    use wgpu::hal::api::Vulkan;
    /// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`.
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the adapter is only asked what it is; nothing of it is kept or destroyed.
    let properties = unsafe {
        let adapter = adapter.as_hal::<Vulkan>()?;
        let instance = adapter.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(adapter.raw_physical_device())
    };
    let heaps = properties.memory_heaps_as_slice().iter();
    let own = heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0);
    own.map(|heap| heap.size).max()
}

#[cfg(any(target_vendor = "apple", target_family = "wasm"))]
fn memory(_: &wgpu::Adapter) -> Option<u64> {
    None
}

fn backends(choice: &AdapterChoice) -> Result<Backends> {
    let all = Backends::VULKAN | Backends::METAL | Backends::DX12 | Backends::BROWSER_WEBGPU;
    let Some(name) = &choice.backend else {
        return Ok(all);
    };
    match name.to_lowercase().as_str() {
        "vulkan" | "vk" => Ok(Backends::VULKAN),
        "metal" => Ok(Backends::METAL),
        "dx12" => Ok(Backends::DX12),
        _ => Err(Error::invalid(
            Field::Backend,
            name,
            "allowed are vulkan, metal and dx12; leave it out to search all",
        )),
    }
}

/// Every adapter that the backends of `choice` offer, the fastest kind first.
/// The place in this list is the adapter's index.
pub fn adapters(choice: &AdapterChoice) -> Result<Vec<wgpu::Adapter>> {
    block_on(adapters_async(choice))
}

/// As [`adapters`], without blocking.
///
/// # Errors
/// As [`adapters`].
pub async fn adapters_async(choice: &AdapterChoice) -> Result<Vec<wgpu::Adapter>> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends(choice)?;
    let instance = wgpu::Instance::new(descriptor);
    let mut found = instance.enumerate_adapters(wgpu::Backends::all()).await;
    found.sort_by_key(|a| match a.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    Ok(found)
}

/// The sides of square matrices with f16 operands and f32 sums.
fn square_matrices(offered: &[wgpu::wgt::CooperativeMatrixProperties]) -> Vec<u32> {
    use wgpu::wgt::CooperativeScalarType::{F16, F32};
    let square = offered.iter().filter(|m| {
        m.m_size == m.n_size && m.n_size == m.k_size && m.ab_type == F16 && m.cr_type == F32
    });
    let mut sides: Vec<u32> = square.map(|m| m.m_size).collect();
    sides.sort_unstable();
    sides.dedup();
    sides
}

/// The indices of all GPUs, in words that [`AdapterChoice::adapter`] takes: each once,
/// though several backends may offer it. CPUs that play a GPU are left out unless there is
/// nothing else.
///
/// # Errors
/// [`Error::NoAdapter`] where there is none.
pub fn all(choice: &AdapterChoice) -> Result<Vec<String>> {
    let found = adapters(choice)?;
    let first = found.first().ok_or_else(|| no_adapter(choice))?.get_info();
    let is_cpu = |info: &wgpu::AdapterInfo| info.device_type == DeviceType::Cpu;
    let found = found.iter().map(wgpu::Adapter::get_info).enumerate();
    // The fastest kind comes first: where that is a CPU, all are.
    let wanted = found
        .filter(|(_, info)| info.backend == first.backend && (is_cpu(&first) || !is_cpu(info)));
    Ok(wanted.map(|(index, _)| index.to_string()).collect())
}

pub(super) fn no_adapter(choice: &AdapterChoice) -> Error {
    Error::NoAdapter {
        problem: match &choice.backend {
            Some(name) => format!("no GPU adapter found on the {name} backend"),
            None => "no GPU adapter found".into(),
        },
        remedy: install_hint().into(),
    }
}

/// The adapters to open, the first that can be: the one that is named, or else all.
pub(super) async fn pick(choice: &AdapterChoice) -> Result<Vec<wgpu::Adapter>> {
    let mut found = adapters_async(choice).await?;
    if found.is_empty() {
        return Err(no_adapter(choice));
    }
    let Some(wanted) = &choice.adapter else {
        return Ok(found);
    };
    let place = match wanted.parse::<usize>() {
        Ok(index) => (index < found.len()).then_some(index),
        Err(_) => found.iter().position(|a| {
            let name = a.get_info().name.to_lowercase();
            !wanted.is_empty() && name.contains(&wanted.to_lowercase())
        }),
    };
    match place {
        Some(place) => Ok(vec![found.swap_remove(place)]),
        None => {
            let names: Vec<String> = found
                .iter()
                .enumerate()
                .map(|(i, a)| format!("{i} ({})", a.get_info().name))
                .collect();
            Err(Error::invalid(
                Field::Adapter,
                wanted,
                format!(
                    "give an index or a part of a name; there are: {}",
                    names.join(", ")
                ),
            ))
        }
    }
}

/// What to install on this platform so that there is an adapter.
pub fn install_hint() -> &'static str {
    if cfg!(target_family = "wasm") {
        "this browser offers no WebGPU adapter: update it, see that its settings allow \
         hardware acceleration, and open the page by https or from localhost"
    } else if cfg!(target_os = "windows") {
        "install the graphics driver of your GPU's vendor (DirectX 12 or Vulkan)"
    } else if cfg!(target_os = "macos") {
        "calotype needs a Mac with Metal, and a session that may use the GPU"
    } else {
        "install a Vulkan driver: on Debian and Ubuntu `apt-get install mesa-vulkan-drivers` \
         (AMD, Intel, and a CPU fallback), on Fedora `dnf install mesa-vulkan-drivers`, \
         on Arch vulkan-radeon, vulkan-intel or vulkan-swrast, or NVIDIA's own driver"
    }
}

/// What `calotype devices` says of an adapter.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterReport {
    pub index: usize,
    pub name: String,
    pub backend: String,
    pub kind: String,
    pub driver: String,
    pub max_buffer_bytes: u64,
    pub max_binding_bytes: u64,
    pub max_workgroup_invocations: u32,
    pub max_workgroup_storage_bytes: u32,
    pub subgroup_size: [u32; 2],
    pub features: Vec<&'static str>,
}

/// Describes every adapter of `choice`.
pub fn report(choice: &AdapterChoice) -> Result<Vec<AdapterReport>> {
    let found = adapters(choice)?;
    Ok(found
        .iter()
        .enumerate()
        .map(|(index, adapter)| {
            let info = adapter.get_info();
            let c = Capabilities::of(adapter);
            let features = [
                (c.shader_f16, "shader-f16"),
                (c.subgroup, "subgroup"),
                (c.timestamps, "timestamp-query"),
                (c.pipeline_cache, "pipeline-cache"),
                (!c.matrices.is_empty(), "cooperative-matrix"),
            ];
            AdapterReport {
                index,
                name: info.name,
                backend: info.backend.to_string(),
                kind: format!("{:?}", info.device_type),
                driver: format!("{} {}", info.driver, info.driver_info)
                    .trim()
                    .to_string(),
                max_buffer_bytes: c.max_buffer,
                max_binding_bytes: c.max_binding,
                max_workgroup_invocations: c.max_invocations,
                max_workgroup_storage_bytes: c.max_workgroup_storage,
                subgroup_size: [info.subgroup_min_size, info.subgroup_max_size],
                features: features.iter().filter(|f| f.0).map(|f| f.1).collect(),
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_of_few_storage_buffers_is_refused() {
        let offering = |max_storage_buffers_per_shader_stage| wgpu::Limits {
            max_storage_buffers_per_shader_stage,
            ..Default::default()
        };
        assert_eq!(lacking(&offering(STORAGE_BUFFERS)), None);
        let said = lacking(&offering(3)).unwrap();
        assert!(said.contains("has 3") && said.contains("needs 8"), "{said}");
    }
}
