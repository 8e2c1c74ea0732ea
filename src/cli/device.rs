//! The flags that say which device runs a model, and how.

use anyhow::Result;
use calotype::pipeline::{Dtype, LoadOptions};

#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Precision of the weights; auto takes f16 where the adapter has it
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "f16"], ignore_case = true)]
    dtype: String,

    /// Precision of the activations; auto follows --dtype, f32 on CPU adapters
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "f16"], ignore_case = true)]
    activations: String,

    /// Which kernels: direct (no shared memory, for CPU adapters) or tiled
    #[arg(long, default_value = "auto", value_parser = ["auto", "direct", "tiled"])]
    kernels: String,

    /// The GPU: an index or a part of its name, as `calotype devices` lists them
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,

    /// The interface to the GPU
    #[arg(long, value_parser = ["vulkan", "metal", "dx12"], ignore_case = true)]
    backend: Option<String>,
}

impl DeviceArgs {
    /// How to load `model`, and nothing else asked for.
    pub fn load_options(&self, model: String) -> Result<LoadOptions> {
        Ok(LoadOptions {
            model,
            adapter: self.adapter.clone(),
            backend: self.backend.as_ref().map(|name| name.to_lowercase()),
            dtype: self.dtype.parse::<Dtype>()?,
            activations: self.activations.parse::<Dtype>()?,
            direct_kernels: match self.kernels.as_str() {
                "direct" => Some(true),
                "tiled" => Some(false),
                _ => None,
            },
            ..Default::default()
        })
    }
}
