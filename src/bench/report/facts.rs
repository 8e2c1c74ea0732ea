//! The device, the system and the program that figures belong to.

use crate::gpu::Gpu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The program that measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Program {
    pub version: String,
    /// Of git, or `unknown` for a build from a package.
    pub commit: String,
}

/// A cooperative matrix product that the adapter offers: `m x k` times `k x n`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Matrix {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    /// Type of the operands.
    pub operands: String,
    /// Type of the sums.
    pub sums: String,
}

/// An adapter as it describes itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceFacts {
    pub adapter: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// PCI ids of the vendor and of the device.
    pub vendor: u32,
    pub device: u32,
    /// `DiscreteGpu`, `IntegratedGpu`, `VirtualGpu`, `Cpu` or `Other`.
    pub kind: String,
    pub driver: String,
    pub driver_info: String,
    /// Invocations of the smallest and the largest subgroup.
    pub subgroup_size: [u32; 2],
    pub shader_f16: bool,
    pub timestamps: bool,
    pub matrices: Vec<Matrix>,
    /// Bytes of a binding, of a buffer, of a workgroup's shared memory.
    pub max_binding: u64,
    pub max_buffer: u64,
    pub max_workgroup_storage: u32,
    /// Invocations of a workgroup.
    pub max_invocations: u32,
}

impl DeviceFacts {
    pub fn of(gpu: &Gpu) -> Self {
        let (info, can) = (gpu.info(), gpu.capabilities());
        let matrix = |m: &wgpu::wgt::CooperativeMatrixProperties| Matrix {
            m: m.m_size,
            n: m.n_size,
            k: m.k_size,
            operands: format!("{:?}", m.ab_type).to_lowercase(),
            sums: format!("{:?}", m.cr_type).to_lowercase(),
        };
        Self {
            adapter: info.name.clone(),
            backend: info.backend.to_string(),
            vendor: info.vendor,
            device: info.device,
            kind: format!("{:?}", info.device_type),
            driver: info.driver.clone(),
            driver_info: info.driver_info.clone(),
            subgroup_size: can.subgroup_size,
            shader_f16: can.shader_f16,
            timestamps: can.timestamps,
            matrices: can.all_matrices.iter().map(matrix).collect(),
            max_binding: can.max_binding,
            max_buffer: can.max_buffer,
            max_workgroup_storage: can.max_workgroup_storage,
            max_invocations: can.max_invocations,
        }
    }

    /// Whether both are the same kind of device by the same driver.
    pub fn is_like(&self, other: &Self) -> bool {
        let key = |d: &Self| (d.adapter.clone(), d.backend.clone(), d.device);
        key(self) == key(other)
    }
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SystemFacts {
    /// Such as `Debian GNU/Linux 12`.
    pub os: String,
    pub kernel: String,
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    pub memory_bytes: u64,
    /// Variables of the environment that change what drivers do.
    pub environment: BTreeMap<String, String>,
}

/// Beginnings of the variables that change what drivers do, and hold no paths.
const VARIABLES: [&str; 8] = [
    "LP_", "MESA_", "RADV_", "ANV_", "NVK_", "WGPU_", "GALLIUM_", "MTL_",
];

impl SystemFacts {
    pub fn here() -> Self {
        use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
        let wanted = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(wanted);
        let unknown = || "unknown".to_string();
        let brand = system.cpus().first().map(|cpu| cpu.brand().trim());
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            let matters = VARIABLES.iter().any(|start| name.starts_with(start));
            (matters && !value.contains(['/', '\\'])).then_some((name, value))
        });
        Self {
            os: System::long_os_version().unwrap_or_else(unknown),
            kernel: System::kernel_version().unwrap_or_else(unknown),
            processor: match brand {
                None | Some("") => std::env::consts::ARCH.into(),
                Some(brand) => brand.into(),
            },
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory_bytes: system.total_memory(),
            environment: variables.collect(),
        }
    }
}
