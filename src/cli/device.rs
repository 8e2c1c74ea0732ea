//! The flags that say which device runs a model, and how.

use calotype::gpu::{AdapterChoice, Gpu};
use calotype::kernel::product::Family;
use calotype::pipeline::{Dtype, LoadOptions, MemoryLimit, TuningSource, WeightFormat};
use calotype::{Error, Field};
use std::sync::Arc;

/// A family of kernels by its name; `tiled` is the scalar ones.
fn family(name: &str) -> Result<Family, String> {
    let name = if name == "tiled" { "scalar16" } else { name };
    let found = Family::ALL.into_iter().find(|family| family.name() == name);
    found.ok_or_else(|| {
        let names: Vec<_> = Family::ALL.iter().map(|family| family.name()).collect();
        format!("there are: {}", names.join(", "))
    })
}

#[derive(clap::Args, Clone)]
pub struct DeviceArgs {
    /// Precision of the weights; auto takes f16 where the adapter has it
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "f16"], ignore_case = true)]
    dtype: String,

    /// Precision of the activations; auto follows --dtype, f32 on CPU adapters
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "f16"], ignore_case = true)]
    activations: String,

    #[command(flatten)]
    engine: EngineArgs,
}

/// The adapter and the kernels on it, whatever the precision.
#[derive(clap::Args, Clone)]
pub struct EngineArgs {
    /// How the UNet's weights are kept on the device: f16 (as --dtype says), or in blocks
    /// of 8 or 4 bits; auto takes q8 where the others do not fit
    #[arg(long, default_value = "auto", value_parser = ["auto", "f16", "q8", "q4"], ignore_case = true)]
    weights: String,

    /// Memory of the device that may be used, such as 4G; weights that do not fit are
    /// streamed in every step. auto is what a GPU has
    #[arg(long, value_name = "SIZE", default_value = "auto")]
    max_memory: String,

    /// Which kernels to begin with, those after them serving what they cannot: coop16
    /// or coop8 (matrix units), scalar16, scalar32, direct (no shared memory, for CPU
    /// adapters) [default: what the adapter has]
    #[arg(long, value_name = "FAMILY", value_parser = family)]
    kernels: Option<Family>,

    /// The table of the fastest kernels: auto (kept from before, shipped, or measured
    /// once), off, force (measured again), or a file of `calotype tune --output`
    #[arg(long, value_name = "SOURCE", default_value = "auto")]
    tuning: String,

    #[command(flatten)]
    adapter: AdapterArgs,
}

/// Which adapter is used.
#[derive(clap::Args, Clone)]
pub struct AdapterArgs {
    /// The GPU: an index or a part of its name, as `calotype devices` lists them; serve
    /// takes several, and all
    #[arg(long, value_name = "NAME")]
    adapter: Vec<String>,

    /// The interface to the GPU
    #[arg(long, value_parser = ["vulkan", "metal", "dx12"], ignore_case = true)]
    backend: Option<String>,
}

impl AdapterArgs {
    fn backend(&self) -> Option<String> {
        self.backend.as_ref().map(|name| name.to_lowercase())
    }

    /// # Errors
    /// Several are named.
    pub fn choice(&self) -> calotype::Result<AdapterChoice> {
        Ok(AdapterChoice {
            adapter: match &self.adapter[..] {
                [] => None,
                [one] => Some(one.clone()),
                several => {
                    let allowed = "give one; only `calotype serve` draws on several";
                    return Err(Error::invalid(Field::Adapter, several.join(", "), allowed));
                }
            },
            backend: self.backend(),
            ..Default::default()
        })
    }

    /// Opens it.
    pub fn open(&self) -> calotype::Result<Arc<Gpu>> {
        Gpu::open(&self.choice()?)
    }
}

/// Several adapters, as services have them.
#[cfg(feature = "server")]
impl AdapterArgs {
    /// These flags for another process of this program.
    pub fn words(&self) -> Vec<String> {
        let adapter = self
            .adapter
            .iter()
            .map(|name| ["--adapter".into(), name.clone()]);
        let backend = self
            .backend
            .iter()
            .map(|name| ["--backend".into(), name.clone()]);
        adapter.chain(backend).flatten().collect()
    }

    /// Those that a service draws on, `all` as what there is; none where it is silent.
    ///
    /// # Errors
    /// All are asked for, and there is none or others are named too.
    fn several(&self) -> calotype::Result<Vec<String>> {
        if !self
            .adapter
            .iter()
            .any(|name| name.eq_ignore_ascii_case("all"))
        {
            return Ok(self.adapter.clone());
        }
        if let [_, other, ..] = &self.adapter[..] {
            let allowed = "all and others: give all alone, or those that are wanted";
            return Err(Error::invalid(Field::Adapter, other, allowed));
        }
        calotype::gpu::all(&AdapterChoice {
            backend: self.backend(),
            ..Default::default()
        })
    }

    /// Opens the first of those that a service draws on.
    pub fn open_first(&self) -> calotype::Result<Arc<Gpu>> {
        Gpu::open(&AdapterChoice {
            adapter: self.several()?.into_iter().next(),
            backend: self.backend(),
            ..Default::default()
        })
    }
}

impl DeviceArgs {
    /// See [`AdapterArgs::several`].
    #[cfg(feature = "server")]
    pub fn adapters(&self) -> calotype::Result<Vec<String>> {
        self.engine.adapter.several()
    }

    /// How to load `model`, and nothing else asked for.
    pub fn load_options(&self, model: String) -> anyhow::Result<LoadOptions> {
        let adapter = self.engine.adapter.choice()?.adapter;
        Ok(LoadOptions {
            adapter,
            ..self.load_anywhere(model)?
        })
    }

    /// The same on no adapter in particular.
    pub fn load_anywhere(&self, model: String) -> anyhow::Result<LoadOptions> {
        Ok(LoadOptions {
            dtype: self.dtype.parse::<Dtype>()?,
            activations: self.activations.parse::<Dtype>()?,
            ..self.engine.load_anywhere(model)?
        })
    }
}

impl EngineArgs {
    /// How to load `model` in the precision that suits the adapter.
    pub fn load_options(&self, model: String) -> anyhow::Result<LoadOptions> {
        let adapter = self.adapter.choice()?.adapter;
        Ok(LoadOptions {
            adapter,
            ..self.load_anywhere(model)?
        })
    }

    fn load_anywhere(&self, model: String) -> anyhow::Result<LoadOptions> {
        Ok(LoadOptions {
            model,
            backend: self.adapter.backend(),
            kernels: self.kernels,
            tuning: self.tuning.parse::<TuningSource>()?,
            weights: self.weights.parse::<WeightFormat>()?,
            max_memory: self.max_memory.parse::<MemoryLimit>()?,
            ..Default::default()
        })
    }
}
