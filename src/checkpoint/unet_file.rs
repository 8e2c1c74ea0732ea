//! A UNet from elsewhere, in place of a checkpoint's own: SDXL-Lightning, Hyper-SD, DMD2
//! and other models are published so, in files of the UNet alone.

use super::config::UNetConfig;
use super::fields::Fields;
use super::file::TensorFile;
use super::tensor::TensorSource;
use super::weights::Weights;
use super::{Checkpoint, architecture, single};
use crate::schedule;
use crate::{Error, Field, Remedy, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the weights' file in a component's folder, without endings.
const STEM: &str = "diffusion_pytorch_model";

/// A UNet that is open.
struct UNetFile {
    config: UNetConfig,
    source: Arc<dyn TensorSource>,
    files: Vec<(PathBuf, u64)>,
    /// What kind of diffusion it is for, where the file says so.
    scheduler: Option<schedule::Config>,
}

impl Checkpoint {
    /// Takes the UNet of a file or folder in place of the checkpoint's own: under the
    /// original release's names, with or without `model.diffusion_model.`, or diffusers';
    /// a whole checkpoint's too. Headers are checked, values are not read.
    ///
    /// # Errors
    /// Where there is no UNet, or one that does not fit the text encoders and the VAE.
    pub fn replace_unet(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let unet = self.open_unet(path)?;
        self.unet = unet.config;
        self.described.remove("unet");
        self.sources.unet = unet.source;
        self.files.extend(unet.files);
        if let Some(scheduler) = unet.scheduler {
            self.scheduler = scheduler;
            self.described.remove("scheduler");
        }
        self.check(path)
    }

    fn open_unet(&self, path: &Path) -> Result<UNetFile> {
        let wanted = || {
            Remedy::give(
                Field::Unet,
                "a UNet's file, or a folder with its config.json",
            )
        };
        let about = std::fs::metadata(path).map_err(|e| Error::file(path, e, wanted()))?;
        if about.is_dir() {
            let folders = ["", "unet"].map(|below| path.join(below));
            let folder = folders
                .iter()
                .find(|folder| folder.join("config.json").is_file());
            let folder = folder
                .ok_or_else(|| Error::file(path, "the folder holds no config.json", wanted()))?;
            let weights = Weights::open(folder, &[STEM])?;
            return configured(&folder.join("config.json"), weights);
        }
        let file = TensorFile::open(path)?;
        let beside = path.with_file_name("config.json");
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(STEM)) && beside.is_file() {
            return configured(&beside, Weights::single(file));
        }
        let files = vec![(path.to_path_buf(), file.size())];
        let pooled = self.text_encoder_2.projection_dim.unwrap_or(0);
        let (config, source, scheduler) = single::open_unet(file, [pooled, self.time_id_count()])?;
        // No shape tells the size of pictures.
        let config = UNetConfig {
            sample_size: self.unet.sample_size,
            ..config
        };
        Ok(UNetFile {
            config,
            source,
            files,
            scheduler,
        })
    }
}

/// Weights under diffusers' names with their configuration.
fn configured(config: &Path, weights: Weights) -> Result<UNetFile> {
    Ok(UNetFile {
        config: architecture::unet(&Fields::open(config)?)?,
        files: weights.sizes(),
        source: Arc::new(weights),
        scheduler: None,
    })
}
