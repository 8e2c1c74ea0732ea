//! Which files of a repository calotype reads.

use super::File;
use crate::{Error, Result};

/// The parts of a diffusers folder that are read.
const PARTS: [&str; 7] = [
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "unet",
    "vae",
];

/// The files that are `named`, or else those that are read: of a diffusers folder its parts,
/// of their weights the f16 variant where there is one, as safetensors where there are such;
/// and where there is no folder the one file of weights.
///
/// # Errors
/// A file that is not there, or several checkpoints to choose from.
pub fn choose(repository: &str, all: &[File], named: &[String]) -> Result<Vec<File>> {
    if !named.is_empty() {
        let find = |name: &String| {
            let found = all.iter().find(|file| file.path == *name).cloned();
            found.ok_or_else(|| {
                let allowed = format!("{repository} has {}", list(all.iter()));
                Error::invalid("file", name, allowed)
            })
        };
        return named.iter().map(find).collect();
    }
    if all.iter().any(|file| file.path == "model_index.json") {
        return Ok(folder(all));
    }
    let ends = [".safetensors", ".gguf", ".ckpt"];
    let whole =
        |file: &&File| !file.path.contains('/') && ends.iter().any(|end| file.path.ends_with(end));
    match &all.iter().filter(whole).collect::<Vec<_>>()[..] {
        [one] => Ok(vec![(*one).clone()]),
        [] => {
            let problem = "it has neither a model_index.json nor a checkpoint in one file";
            Err(Error::file(repository, problem, "choose files by --file"))
        }
        several => {
            let problem = format!(
                "it has several checkpoints: {}",
                list(several.iter().copied())
            );
            Err(Error::file(repository, problem, "choose one by --file"))
        }
    }
}

fn folder(all: &[File]) -> Vec<File> {
    let mut files: Vec<&File> = Vec::new();
    files.extend(all.iter().filter(|file| file.path == "model_index.json"));
    for part in PARTS {
        let inside = |file: &&File| match file.path.split_once('/') {
            Some((folder, name)) => folder == part && !name.contains('/'),
            None => false,
        };
        let inside: Vec<&File> = all.iter().filter(inside).collect();
        let plain = |file: &&&File| file.path.ends_with(".json") || file.path.ends_with(".txt");
        files.extend(inside.iter().filter(plain));
        let weights = [".safetensors", ".bin"].map(|end| {
            let of_kind = inside.iter().filter(|file| file.path.ends_with(end));
            let (half, full): (Vec<&File>, Vec<&File>) =
                of_kind.partition(|file| file.path.contains(".fp16"));
            if half.is_empty() { full } else { half }
        });
        files.extend(
            weights
                .into_iter()
                .find(|weights| !weights.is_empty())
                .unwrap_or_default(),
        );
    }
    files.into_iter().cloned().collect()
}

/// Their names, the first of them where there are many.
fn list<'a>(files: impl Iterator<Item = &'a File>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<&str> = files.map(|file| &file.path[..]).collect();
    match names.get(..SHOWN) {
        Some(first) if names.len() > SHOWN => {
            format!("{} and {} more", first.join(", "), names.len() - SHOWN)
        }
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Hash;
    use super::*;

    fn files(paths: &[&str]) -> Vec<File> {
        let file = |path: &&str| File {
            path: (*path).into(),
            size: 1,
            hash: Hash::Git("0".into()),
        };
        paths.iter().map(file).collect()
    }

    fn chosen(paths: &[&str], named: &[&str]) -> Result<Vec<String>> {
        let named: Vec<String> = named.iter().map(|name| (*name).into()).collect();
        let chosen = choose("a/b", &files(paths), &named)?;
        Ok(chosen.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn of_a_folder_the_smallest_complete_set_is_taken() {
        let all = [
            "README.md",
            "model_index.json",
            "sd_xl_base_1.0.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/model.onnx",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.bin",
            "vae_decoder/model.onnx",
            "text_encoder/pytorch_model.bin",
            "text_encoder/pytorch_model.fp16.bin",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
        ];
        let wanted = [
            "model_index.json",
            "text_encoder/pytorch_model.fp16.bin",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ];
        assert_eq!(chosen(&all, &[]).unwrap(), wanted);
        let one = ["sd_xl_base_1.0.safetensors"];
        assert_eq!(chosen(&all, &one).unwrap(), one);
        assert!(
            chosen(&all, &["absent"])
                .unwrap_err()
                .to_string()
                .contains("vae_decoder")
        );
    }

    #[test]
    fn without_a_folder_there_must_be_one_checkpoint() {
        assert_eq!(
            chosen(&["a.gguf", "x/b.gguf", "c.md"], &[]).unwrap(),
            ["a.gguf"]
        );
        let several = chosen(&["a.gguf", "b.safetensors"], &[])
            .unwrap_err()
            .to_string();
        assert!(several.contains("a.gguf, b.safetensors") && several.contains("--file"));
        assert!(chosen(&["README.md"], &[]).is_err());
    }
}
