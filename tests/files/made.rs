//! Files that tests make and change, and how they are opened.

use calotype::checkpoint::{Checkpoint, Part};
use calotype::pipeline::{Cancel, LoadOptions, Observer, Pipeline};
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub const UNET: &str = "model.diffusion_model.";
pub const VAE: &str = "first_stage_model.";

/// Tensors as a file has them: name, type, shape, bytes.
pub type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// A file that a test changes.
#[derive(Clone)]
pub struct File {
    pub tensors: Tensors,
    pub metadata: Option<HashMap<String, String>>,
}

impl File {
    /// The small checkpoint of `tests/engine/single_file.rs`.
    pub fn single() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/single.safetensors");
        let bytes = fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter();
        Self {
            tensors: tensors
                .map(|(name, t)| (name, t.dtype(), t.shape().to_vec(), t.data().to_vec()))
                .collect(),
            metadata: header.metadata().clone(),
        }
    }

    /// All of diffusers' parts below their folders' names.
    pub fn of_parts(prefix: impl Fn(Part) -> Option<String>) -> Self {
        let folder = TempDir::new().unwrap();
        let known = open(&Self::single().save(&folder, "known"));
        let mut file = Self {
            tensors: Vec::new(),
            metadata: Self::single().metadata,
        };
        for part in Part::ALL {
            for (name, shape) in known.expected(part) {
                let Some(prefix) = prefix(part) else { continue };
                let values = numbers(&name, shape.iter().product());
                let bytes = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes());
                let bytes = bytes.collect();
                file.tensors
                    .push((format!("{prefix}{name}"), Dtype::F16, shape, bytes));
            }
        }
        file
    }

    pub fn keep(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|(name, ..)| keep(name));
        self
    }

    pub fn renamed(mut self, to: impl Fn(&str) -> String) -> Self {
        for (name, ..) in &mut self.tensors {
            *name = to(name);
        }
        self
    }

    /// Values of zero below a prefix.
    pub fn emptied(mut self, prefix: &str) -> Self {
        for (name, _, _, bytes) in &mut self.tensors {
            if name.starts_with(prefix) {
                bytes.fill(0);
            }
        }
        self
    }

    pub fn save(&self, folder: &TempDir, name: &str) -> PathBuf {
        let path = folder.path().join(format!("{name}.safetensors"));
        let views = self.tensors.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
            (name.as_str(), view)
        });
        let bytes = safetensors::serialize(views, self.metadata.clone()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// GGUF of version 3, its tensors f16 as they are.
    pub fn save_gguf(&self, folder: &TempDir, name: &str) -> PathBuf {
        let text = |to: &mut Vec<u8>, text: &str| {
            to.extend((text.len() as u64).to_le_bytes());
            to.extend(text.as_bytes());
        };
        let mut all = b"GGUF\x03\0\0\0".to_vec();
        let metadata = self.metadata.clone().unwrap_or_default();
        all.extend((self.tensors.len() as u64).to_le_bytes());
        all.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in &metadata {
            text(&mut all, key);
            all.extend(8u32.to_le_bytes());
            text(&mut all, value);
        }
        let mut values = Vec::new();
        for (name, dtype, shape, bytes) in &self.tensors {
            assert_eq!(*dtype, Dtype::F16);
            text(&mut all, name);
            all.extend((shape.len() as u32).to_le_bytes());
            for size in shape.iter().rev() {
                all.extend((*size as u64).to_le_bytes());
            }
            all.extend(1u32.to_le_bytes());
            all.extend((values.len() as u64).to_le_bytes());
            values.extend(bytes);
            values.resize(values.len().next_multiple_of(32), 0);
        }
        all.resize(all.len().next_multiple_of(32), 0);
        all.extend(values);
        let path = folder.path().join(format!("{name}.gguf"));
        fs::write(&path, all).unwrap();
        path
    }
}

pub fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path.to_str().unwrap()).unwrap()
}

/// The error of opening a file or folder as a model.
pub fn refused(path: &Path) -> String {
    Checkpoint::open(path.to_str().unwrap())
        .unwrap_err()
        .to_string()
}

pub fn load(options: &LoadOptions) -> calotype::Result<Pipeline> {
    let cancel = Cancel::default();
    let mut observer = Observer {
        events: &mut |_| {},
        cancel: &cancel,
        trace: None,
        preview_every: 0,
    };
    Pipeline::load(options, &mut observer)
}

/// The values that `tools/make_single_fixture.py` writes.
pub fn numbers(name: &str, count: usize) -> Vec<f32> {
    let places = name.bytes().zip(1usize..);
    let start: usize = places.map(|(b, place)| b as usize * place).sum();
    (0..count).map(|i| ((start + i) % 251) as f32).collect()
}

/// Checks every value of the parts, and gives how many tensors there were.
pub fn check(checkpoint: &Checkpoint, parts: &[Part]) -> usize {
    let mut count = 0;
    for part in parts {
        for (name, shape) in checkpoint.expected(*part) {
            let view = checkpoint.source(*part).read(&name, &shape).unwrap();
            let want = numbers(&name, shape.iter().product());
            assert_eq!(view.values(0..want.len()), want, "{part:?} {name}");
            count += 1;
        }
    }
    count
}

/// What `calotype inspect` says, and whether it is content.
pub fn inspect(arguments: &[&str], cache: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .arg("inspect")
        .args(arguments)
        .env("HF_HUB_CACHE", cache)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}
