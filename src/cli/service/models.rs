//! The flags that say which models a service draws with.

use crate::cli::device::DeviceArgs;
use anyhow::Result;
use calotype::checkpoint::{catalogue, is_catalogue};
use calotype::pipeline::LoadOptions;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct ModelArgs {
    /// A checkpoint: a diffusers folder, a file, demo, or random:sdxl-base; or a folder of
    /// checkpoints. May be repeated: requests name the one that draws, the first draws for
    /// those that name none. The others are loaded when they are asked for, and leave when
    /// memory is asked for
    #[arg(long, env = "CALOTYPE_MODEL", default_value = "demo")]
    model: Vec<String>,

    /// A refiner for it, or none; the demo model brings its own
    #[arg(long, env = "CALOTYPE_REFINER")]
    refiner: Option<String>,

    /// A UNet in place of the model's own
    #[arg(long)]
    unet: Option<String>,

    /// A VAE in place of the model's own
    #[arg(long)]
    vae: Option<String>,

    /// A small VAE for previews
    #[arg(long)]
    preview_vae: Option<String>,

    /// A textual inversion, or a folder of them, for its name or embedding:NAME in
    /// prompts; may be repeated
    #[arg(long, value_name = "FOLDER")]
    embedding: Vec<PathBuf>,

    /// Less memory, more time
    #[arg(long)]
    low_memory: bool,

    /// Pictures that go through the UNet at a time, of one request and of several that are
    /// alike, as far as memory allows [default: as many as are fastest, see calotype tune
    /// --steps]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: Option<u16>,

    #[command(flatten)]
    device: DeviceArgs,
}

impl ModelArgs {
    /// The adapters that draw.
    pub fn adapters(&self) -> calotype::Result<Vec<String>> {
        self.device.adapters()
    }

    /// Every checkpoint that is named, folders of them opened.
    fn checkpoints(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for model in &self.model {
            let path = Path::new(crate::cli::checked_model(model)?);
            if !is_catalogue(path) {
                all.push(model.clone());
                continue;
            }
            let mut told = |path: &Path, why: &str| {
                tracing::warn!("{} is left out: {why}", path.display());
            };
            let found = catalogue(path, &mut told)?;
            all.extend(found.iter().map(|path| path.to_string_lossy().into_owned()));
        }
        Ok(all)
    }

    /// How all models are loaded. The refiner goes with the first alone.
    pub fn all_load_options(&self) -> Result<(LoadOptions, Vec<LoadOptions>)> {
        let mut names = self.checkpoints()?.into_iter();
        let first = self.load_options(names.next().unwrap_or_default())?;
        let more = names.map(|model| LoadOptions {
            model,
            refiner: None,
            ..first.clone()
        });
        let more = more.collect();
        Ok((first, more))
    }

    fn load_options(&self, model: String) -> Result<LoadOptions> {
        let demo = (model == "demo").then(|| "demo".to_owned());
        let refiner = match self.refiner.as_deref() {
            Some("none" | "") => None,
            Some(name) => Some(name.to_owned()),
            None => demo,
        };
        Ok(LoadOptions {
            refiner,
            unet: self.unet.clone(),
            vae: self.vae.clone(),
            preview_vae: self.preview_vae.clone(),
            embeddings: self.embedding.clone(),
            low_memory: self.low_memory,
            batch: self.batch.map(usize::from),
            ..self.device.load_anywhere(model)?
        })
    }
}
