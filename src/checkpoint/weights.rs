//! The tensors of one part under diffusers' names, from one file or shards.

use super::file::{Entry, TensorFile};
use super::tensor::{DType, TensorSource, TensorView};
use crate::{Error, Result, encoding};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// Names of a weight file or of its index, the first that is whole is taken:
/// `{stem}` is `model` or `diffusion_pytorch_model`.
const NAMES: [&str; 9] = [
    "{stem}.safetensors",
    "{stem}.safetensors.index.json",
    "{stem}.fp16.safetensors",
    "{stem}.fp16.safetensors.index.json",
    "{stem}.safetensors.index.fp16.json",
    "{stem}.bin",
    "{stem}.bin.index.json",
    "{stem}.fp16.bin",
    "{stem}.bin.index.fp16.json",
];

/// Older names of the VAE's attention, which some files still have.
const OLD_ATTENTION: [(&str, [&str; 2]); 5] = [
    ("group_norm", ["norm", "group_norm"]),
    ("to_q", ["q", "query"]),
    ("to_k", ["k", "key"]),
    ("to_v", ["v", "value"]),
    ("to_out.0", ["proj_out", "proj_attn"]),
];

/// One part's weight files.
#[derive(Debug)]
pub(super) struct Weights {
    files: Vec<TensorFile>,
    /// Which file holds a tensor, where an index says so.
    shards: HashMap<String, usize>,
}

impl Weights {
    /// The weights of a component folder, by the names that diffusers gives them.
    pub fn open(folder: &Path, stems: &[&str]) -> Result<Self> {
        let path = |name: &str, stem: &&str| folder.join(name.replace("{stem}", stem));
        let all = NAMES
            .iter()
            .flat_map(|name| stems.iter().map(move |stem| path(name, stem)));
        let there: Vec<PathBuf> = all.filter(|path| path.exists()).collect();
        // An index may have been left over from another variant, without its shards.
        let whole = there.iter().find(|path| is_whole(path));
        let Some(path) = whole.or(there.first()) else {
            let stem = stems.first().copied().unwrap_or_default();
            return Err(missing_part(folder, stem));
        };
        match is_index(path) {
            true => Self::sharded(path),
            false => Ok(Self::single(TensorFile::open(path)?)),
        }
    }

    /// Weights that are all in one file.
    pub fn single(file: TensorFile) -> Self {
        Self {
            files: vec![file],
            shards: HashMap::new(),
        }
    }

    /// Weights in several files, by their index.
    fn sharded(index: &Path) -> Result<Self> {
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut files: Vec<TensorFile> = Vec::new();
        let mut opened: HashMap<PathBuf, usize> = HashMap::new();
        let mut shards = HashMap::new();
        for (tensor, name) in weight_map(index)? {
            let path = folder.join(&name);
            let at = match opened.get(&path) {
                Some(at) => *at,
                None => {
                    files.push(TensorFile::open(&path)?);
                    opened.insert(path.clone(), files.len() - 1);
                    files.len() - 1
                }
            };
            if files
                .get(at)
                .is_none_or(|file| file.entry(&tensor).is_none())
            {
                let problem = format!("not there, though {} says so", index.display());
                return Err(Error::tensor(
                    path,
                    tensor,
                    problem,
                    "download the shard again",
                ));
            }
            shards.insert(tensor, at);
        }
        Ok(Self { files, shards })
    }

    /// The weight files and their bytes.
    pub fn sizes(&self) -> Vec<(PathBuf, u64)> {
        let files = self.files.iter();
        files.map(|f| (f.path().to_path_buf(), f.size())).collect()
    }

    /// The tensor under `name` or its older name, and its file.
    fn find(&self, name: &str) -> Option<(&TensorFile, Entry<'_>)> {
        self.find_exact(name).or_else(|| {
            let mut names = old_attention(name).into_iter();
            names.find_map(|old| self.find_exact(&old))
        })
    }

    fn find_exact(&self, name: &str) -> Option<(&TensorFile, Entry<'_>)> {
        let at = match self.shards.is_empty() {
            true => 0,
            false => *self.shards.get(name)?,
        };
        let file = self.files.get(at)?;
        Some((file, file.entry(name)?))
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let Some((file, entry)) = self.find(name) else {
            let path = self.files.first().map_or(Path::new(""), TensorFile::path);
            return Err(missing(path, name));
        };
        let same =
            entry.shape == shape || (is_attention(name) && same_but_ones(entry.shape, shape));
        if !same {
            return Err(wrong_shape(file.path(), name, entry.shape, shape));
        }
        entry
            .view(shape)
            .ok_or_else(|| wrong_type(file.path(), name, &entry))
    }
}

impl TensorSource for Weights {
    fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.get(name, shape).map(|_| ())
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        self.get(name, shape)
    }

    fn expect(&self, name: &str) {
        if let Some((file, entry)) = self.find(name) {
            file.expect(entry.data);
        }
    }

    fn dtype(&self, name: &str) -> Option<DType> {
        self.find(name)?.1.precision()
    }

    fn fits_f16(&self, name: &str) -> bool {
        self.find(name).is_some_and(|(_, entry)| entry.fits_f16())
    }
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json")
}

/// Whether a file is there, and for an index all of its shards.
fn is_whole(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(Path::new("."));
    match is_index(path) {
        false => true,
        // A damaged index is told of when it is opened.
        true => {
            weight_map(path).is_ok_and(|map| map.iter().all(|(_, name)| folder.join(name).exists()))
        }
    }
}

/// `weight_map` of an index, sorted by tensor so that errors do not change from run to run.
fn weight_map(index: &Path) -> Result<Vec<(String, String)>> {
    let remedy = "download the index again";
    let text = encoding::read(index, remedy)?;
    let broken = |problem: String| Error::file(index, problem, remedy);
    let value: Value = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| broken("`weight_map` is no object".to_string()))?;
    if map.is_empty() {
        return Err(broken("`weight_map` is empty".to_string()));
    }
    let mut pairs = Vec::with_capacity(map.len());
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_plain(name));
        let name = name.ok_or_else(|| broken(format!("{file} of {tensor} is no file name")))?;
        pairs.push((tensor.clone(), name.to_string()));
    }
    pairs.sort();
    Ok(pairs)
}

/// Whether a shard's name is a name alone: an index must not lead elsewhere.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    )
}

pub(super) fn missing_part(folder: &Path, stem: &str) -> Error {
    let problem = format!("holds no {stem}.safetensors (nor .fp16, nor an index of shards)");
    Error::file(folder, problem, "download this part of the checkpoint")
}

/// Older names of a tensor of the VAE's attention; empty for all others.
fn old_attention(name: &str) -> Vec<String> {
    let Some((head, tail)) = name.split_once("mid_block.attentions.0.") else {
        return Vec::new();
    };
    let Some((part, kind)) = tail.rsplit_once('.') else {
        return Vec::new();
    };
    let olds = OLD_ATTENTION.iter().filter(|(new, _)| *new == part);
    olds.flat_map(|(_, olds)| olds)
        .map(|old| format!("{head}mid_block.attentions.0.{old}.{kind}"))
        .collect()
}

/// Whether a weight may be stored as a linear layer or as a 1x1 convolution alike.
pub(super) fn is_attention(name: &str) -> bool {
    name.contains("mid_block.attentions.0.to_")
}

/// Whether two shapes differ only in ones at the end: `[C, C]` and `[C, C, 1, 1]`.
pub(super) fn same_but_ones(a: &[usize], b: &[usize]) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    let (head, tail) = long.split_at(short.len());
    head == short && tail.iter().all(|n| *n == 1)
}

pub(super) fn missing(path: &Path, name: &str) -> Error {
    let remedy = "use a complete SDXL checkpoint, whose config fits its weights";
    Error::missing_tensor(path, name, remedy)
}

pub(super) fn wrong_shape(path: &Path, name: &str, have: &[usize], want: &[usize]) -> Error {
    let problem = format!("its shape is {have:?}, the configuration asks for {want:?}");
    Error::tensor(
        path,
        name,
        problem,
        "use weights and config of one checkpoint",
    )
}

pub(super) fn wrong_type(path: &Path, name: &str, entry: &Entry<'_>) -> Error {
    let problem = format!(
        "its type is {}, allowed are F32, F16, BF16, fp8 and ggml's q4 to q8",
        entry.stored
    );
    Error::tensor(path, name, problem, "convert the checkpoint to F16")
}
