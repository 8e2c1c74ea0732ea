//! The files of a diffusers folder, on disk or inside the program.

use super::fields::Fields;
use super::file::TensorFile;
use super::weights::{Weights, missing_part};
use crate::text::{Tokenizer, TokenizerFiles};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A diffusers folder.
#[derive(Debug, Clone)]
pub(super) enum Tree {
    Disk(PathBuf),
    /// Paths below the folder and their bytes; `name` stands for the folder in messages.
    Embedded {
        name: &'static str,
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl Tree {
    /// The name of the folder or of one file in it, for messages.
    pub fn path(&self, below: &str) -> PathBuf {
        match self {
            Tree::Disk(folder) => folder.join(below),
            Tree::Embedded { name, .. } => Path::new(name).join(below),
        }
    }

    /// Whether there is anything under that name.
    pub fn has(&self, below: &str) -> bool {
        match self {
            Tree::Disk(folder) => folder.join(below).exists(),
            Tree::Embedded { files, .. } => files
                .iter()
                .any(|(path, _)| Path::new(path).starts_with(below)),
        }
    }

    /// The JSON object of a file.
    pub fn fields(&self, below: &str) -> Result<Fields> {
        let path = self.path(below);
        match self {
            Tree::Disk(_) => Fields::open(&path),
            Tree::Embedded { .. } => match self.text(below) {
                Some(text) => Fields::parse(text, &path),
                None => Err(Error::file(path, "not embedded", "report this as a fault")),
            },
        }
    }

    /// The weights in a component's folder; `stems` are what their file may be called,
    /// without endings.
    pub fn weights(&self, folder: &str, stems: &[&str]) -> Result<Weights> {
        let stem = stems.first().copied().unwrap_or_default();
        match self {
            Tree::Disk(_) => Weights::open(&self.path(folder), stems),
            Tree::Embedded { .. } => {
                let below = format!("{folder}/{stem}.safetensors");
                let path = self.path(&below);
                let bytes = self.bytes(&below);
                let bytes = bytes.ok_or_else(|| missing_part(&self.path(folder), stem))?;
                Ok(Weights::single(TensorFile::embedded(path, bytes)?))
            }
        }
    }

    /// The tokenizer in a component's folder.
    pub fn tokenizer(&self, folder: &str) -> Result<Tokenizer> {
        let text = |name: &str| self.text(&format!("{folder}/{name}"));
        match self {
            Tree::Disk(_) => {
                // As SDXL's own files have it.
                let pad = match folder {
                    "tokenizer_2" => "!",
                    _ => "<|endoftext|>",
                };
                Tokenizer::from_folder_padding(&self.path(folder), pad)
            }
            Tree::Embedded { .. } => {
                let files = TokenizerFiles {
                    vocabulary: text("vocab.json").zip(text("merges.txt")),
                    tokenizer: text("tokenizer.json"),
                    config: text("tokenizer_config.json"),
                    special_tokens: text("special_tokens_map.json"),
                };
                Tokenizer::from_files(&files, &self.path(folder))
            }
        }
    }

    fn bytes(&self, below: &str) -> Option<&'static [u8]> {
        match self {
            Tree::Disk(_) => None,
            Tree::Embedded { files, .. } => {
                let mut files = files.iter();
                files
                    .find(|(path, _)| *path == below)
                    .map(|(_, bytes)| *bytes)
            }
        }
    }

    fn text(&self, below: &str) -> Option<&'static str> {
        std::str::from_utf8(self.bytes(below)?).ok()
    }
}
