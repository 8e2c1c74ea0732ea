//! Copies of the demonstration models with a few weights changed.

// Not every test binary uses all of it.
#![allow(dead_code)]

use super::folder::copy;
use super::tensors::{Tensors, read, write};
use half::f16;
use safetensors::tensor::Dtype;
use std::path::{Path, PathBuf};

/// The weight files, below a model's folder.
pub const ENCODER: &str = "text_encoder/model.safetensors";
pub const ENCODER_2: &str = "text_encoder_2/model.safetensors";
pub const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
pub const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// A model's folder, gone when dropped.
pub struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    /// The base.
    pub fn base() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&demo("base"), folder.path());
        Self { folder }
    }

    /// The refiner, with what it takes of the base.
    pub fn refiner() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for part in ["text_encoder_2", "tokenizer_2", "vae"] {
            copy(&demo("base").join(part), &folder.path().join(part));
        }
        copy(&demo("refiner"), folder.path());
        Self { folder }
    }

    pub fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    /// Changes tensors of one of the weight files.
    pub fn change(self, file: &str, change: impl FnOnce(&mut Tensors)) -> Self {
        let path = self.folder.path().join(file);
        let mut tensors = read(&path);
        change(&mut tensors);
        write(&path, &tensors, None);
        self
    }

    /// With a VAE that says that f16 would not do.
    pub fn upcast(self) -> Self {
        let path = self.folder.path().join("vae/config.json");
        let config = std::fs::read_to_string(&path).unwrap();
        let upcast = config.replace("\"force_upcast\": false", "\"force_upcast\": true");
        assert_ne!(config, upcast);
        std::fs::write(&path, upcast).unwrap();
        self
    }

    /// NaN in place of the middle value of a tensor of f16.
    pub fn with_nan(self, file: &str, tensor: &str) -> Self {
        self.with_nan_at(file, tensor, |bytes| bytes / 4 * 2)
    }

    /// The same where `place` says, of a tensor of so many bytes.
    pub fn with_nan_at(self, file: &str, tensor: &str, place: fn(usize) -> usize) -> Self {
        self.change(file, |tensors| {
            let (dtype, _, bytes) = tensors.get_mut(tensor).expect(tensor);
            assert_eq!(*dtype, Dtype::F16);
            let at = place(bytes.len());
            bytes[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
        })
    }
}

/// Replaces the values of a tensor of f16 by `value` of the place and the value, in f32.
pub fn widen(tensors: &mut Tensors, tensor: &str, value: impl Fn(usize, f32) -> f32) {
    let (dtype, _, bytes) = tensors.get_mut(tensor).expect(tensor);
    assert_eq!(*dtype, Dtype::F16);
    let halves: Vec<f16> = bytemuck::pod_collect_to_vec(bytes);
    let values = halves.iter().enumerate();
    let values: Vec<f32> = values.map(|(i, x)| value(i, x.to_f32())).collect();
    (*dtype, *bytes) = (Dtype::F32, bytemuck::cast_slice(&values).to_vec());
}

fn demo(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("models/demo").join(name)
}
