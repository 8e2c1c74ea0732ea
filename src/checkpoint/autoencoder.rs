//! A VAE from elsewhere, in place of a checkpoint's own or beside it.

use super::architecture;
use super::config::Autoencoder;
use super::fields::Fields;
use super::file::TensorFile;
use super::tensor::TensorSource;
use super::weights::Weights;
use super::{Checkpoint, single};
use crate::{Error, Field, Remedy, Result};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Latent channels of every SDXL.
const LATENT_CHANNELS: usize = 4;

/// The name of the weights' file in a component's folder, without endings.
const STEM: &str = "diffusion_pytorch_model";

const REMEDY: Remedy = Remedy::Give {
    field: Field::Vae,
    what: Cow::Borrowed("a VAE's .safetensors file, or at a folder with its config.json"),
};

/// A VAE that is open: its configuration, and tensors that are read when asked for.
pub struct VaeFile {
    pub config: Autoencoder,
    path: PathBuf,
    files: Vec<(PathBuf, u64)>,
    source: Arc<dyn TensorSource>,
}

/// Opens a VAE: a diffusers folder of `AutoencoderKL` or `AutoencoderTiny`; or a
/// `.safetensors` file with either under diffusers' names, an original SDXL VAE
/// with or without `first_stage_model.`, or TAESD as its author publishes it.
/// Headers are checked, values are not read.
///
/// A plain file is taken to be SDXL's: scaling factor 0.13025 (TAESD: 1), group
/// norms of 32 groups, activations kept f32, unless the header's `calotype.config`
/// or the `config.json` beside a `diffusion_pytorch_model` says otherwise.
///
/// # Errors
/// Where there is no VAE, or one of another number of latent channels.
pub fn open_vae(path: impl AsRef<Path>) -> Result<VaeFile> {
    let path = path.as_ref();
    let about = std::fs::metadata(path).map_err(|e| Error::file(path, e, REMEDY))?;
    let opened = match about.is_dir() {
        true => open_folder(path)?,
        false if !about.is_file() => return Err(Error::file(path, "not a file", REMEDY)),
        false => open_file(path)?,
    };
    let have = opened.config.latent_channels();
    if have != LATENT_CHANNELS {
        let problem = format!(
            "a VAE of {have} latent channels, as other models have; SDXL's have {LATENT_CHANNELS}"
        );
        return Err(Error::file(path, problem, "use an SDXL VAE or TAESD-XL"));
    }
    Ok(opened)
}

/// A folder of the VAE alone, or a whole checkpoint's.
fn open_folder(path: &Path) -> Result<VaeFile> {
    let folder = ["", "vae"]
        .iter()
        .map(|below| path.join(below))
        .find(|folder| folder.join("config.json").is_file());
    let Some(folder) = folder else {
        return Err(Error::file(path, "the folder holds no config.json", REMEDY));
    };
    let weights = Weights::open(&folder, &[STEM])?;
    configured(path, &folder.join("config.json"), weights)
}

fn open_file(path: &Path) -> Result<VaeFile> {
    let file = TensorFile::open(path)?;
    let beside = path.with_file_name("config.json");
    let name = path.file_name().and_then(|name| name.to_str());
    if name.is_some_and(|name| name.starts_with(STEM)) && beside.is_file() {
        return configured(path, &beside, Weights::single(file));
    }
    let files = vec![(path.to_path_buf(), file.size())];
    let (config, source) = single::open_vae(file)?;
    Ok(VaeFile {
        config,
        path: path.to_path_buf(),
        files,
        source,
    })
}

/// Weights under diffusers' names with their configuration.
fn configured(path: &Path, config: &Path, weights: Weights) -> Result<VaeFile> {
    Ok(VaeFile {
        config: architecture::autoencoder(&Fields::open(config)?)?,
        path: path.to_path_buf(),
        files: weights.sizes(),
        source: Arc::new(weights),
    })
}

impl VaeFile {
    /// Its tensors, under diffusers' names.
    pub fn source(&self) -> &dyn TensorSource {
        self.source.as_ref()
    }

    /// Takes over the mean, deviation and scale of a model's latents, which are the
    /// UNet's and not the VAE's, from the model's own VAE, where one of the two has mean
    /// and deviation and the other has not.
    ///
    /// # Errors
    /// Where this is TAESD, which decodes SDXL's latents alone.
    pub fn decode_latents_of(&mut self, own: &Autoencoder) -> Result<()> {
        let differ = self.config.latents_mean_std().is_some() != own.latents_mean_std().is_some();
        match (&mut self.config, own) {
            (Autoencoder::Kl(config), Autoencoder::Kl(own)) if differ => {
                config.scaling_factor = own.scaling_factor;
                config.latents_mean = own.latents_mean.clone();
                config.latents_std = own.latents_std.clone();
                Ok(())
            }
            (Autoencoder::Tiny(_), _) if differ => {
                let problem = "TAESD decodes SDXL's latents, and this model's have a mean and \
                               deviation of their own";
                Err(Error::file(&self.path, problem, "use a whole SDXL VAE"))
            }
            _ => Ok(()),
        }
    }

    /// As it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl std::fmt::Debug for VaeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VaeFile")
            .field("path", &self.path)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Checkpoint {
    /// Takes `vae` in place of the checkpoint's own.
    ///
    /// # Errors
    /// Where its latents are not the UNet's.
    pub fn replace_vae(&mut self, mut vae: VaeFile) -> Result<()> {
        vae.decode_latents_of(&self.vae)?;
        self.vae = vae.config;
        self.sources.vae = vae.source;
        self.sources.has_vae = true;
        self.described.remove("vae");
        self.files.extend(vae.files);
        self.check(&vae.path)
    }
}
