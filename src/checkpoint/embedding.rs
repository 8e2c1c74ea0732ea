//! Textual inversions: vectors that take the place of a word's in a text encoder's input
//! (Gal et al. 2022, arXiv:2208.01618).

use super::file::TensorFile;
use super::lora::{LoraFile, about};
use crate::text::{find_name, mentioned};
use crate::{Error, Field, Remedy, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Endings of files that folders are searched for.
const ENDINGS: [&str; 3] = ["safetensors", "pt", "bin"];

/// Folders within folders that are looked into.
const DEPTH: usize = 8;

/// Widths of text encoders, and the models that have them.
const WIDTHS: [(usize, &str); 4] = [
    (768, "Stable Diffusion 1.5"),
    (1024, "Stable Diffusion 2.x"),
    (1280, "SDXL's second text encoder"),
    (4096, "a model with a T5 encoder, such as SD 3 or Flux"),
];

/// The textual inversions at hand, by name. Values are read when one is asked for.
#[derive(Debug, Clone, Default)]
pub struct Embeddings {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// The file's name without its ending, then what its tensor calls it.
    names: Vec<String>,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    /// In an adapter's file, and which of those it holds.
    Bundle(Arc<LoraFile>, usize),
}

/// The vectors of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    path: PathBuf,
    tensors: Vec<Vectors>,
}

/// Vectors for one text encoder.
#[derive(Debug, Clone, PartialEq)]
struct Vectors {
    key: String,
    encoder: Encoder,
    width: usize,
    /// `[count, width]`.
    values: Vec<f32>,
}

/// Which text encoder a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoder {
    First,
    Second,
    /// The one that is as wide.
    Fitting,
}

impl Encoder {
    /// What the last part of a tensor's name says; none for tensors that are not read.
    pub fn of(key: &str) -> Option<Self> {
        match key {
            "clip_l" => Some(Self::First),
            "clip_g" => Some(Self::Second),
            // SD 3's, and OneTrainer's vectors for behind the encoders.
            "t5xxl" => None,
            key if key.ends_with("_out") => None,
            _ => Some(Self::Fitting),
        }
    }
}

impl Embeddings {
    /// Lists files and all those in folders and the folders within them. A file that is
    /// named by itself is checked; those of a folder when they are asked for.
    pub fn list(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Self::default();
        for path in paths {
            match path.is_dir() {
                true => all.add_folder(path, DEPTH)?,
                false => {
                    let embedding = Embedding::open(path)?;
                    let mut names = vec![stem(path)];
                    // diffusers names the tensor as the word, `<word>`.
                    let own = embedding.tensors.iter().map(|tensor| &tensor.key);
                    names.extend(own.filter(|key| key.starts_with('<')).cloned());
                    all.entries.push(Entry {
                        names,
                        source: Source::File(path.clone()),
                    });
                }
            }
        }
        Ok(all)
    }

    fn add_folder(&mut self, folder: &Path, depth: usize) -> Result<()> {
        let unreadable = |e| {
            let remedy = Remedy::give(Field::Embeddings, "a folder of textual inversions");
            Error::file(folder, format!("cannot be read ({e})"), remedy)
        };
        let entries = std::fs::read_dir(folder).map_err(unreadable)?;
        let paths = entries.map(|entry| Ok(entry.map_err(unreadable)?.path()));
        let mut paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
        paths.sort();
        for path in paths {
            let ending = path.extension().and_then(|end| end.to_str());
            if path.is_dir() && depth > 0 {
                self.add_folder(&path, depth - 1)?;
            } else if ending.is_some_and(|end| ENDINGS.iter().any(|e| end.eq_ignore_ascii_case(e)))
            {
                self.entries.push(Entry {
                    names: vec![stem(&path)],
                    source: Source::File(path),
                });
            }
        }
        Ok(())
    }

    /// Adds those in an adapter's file (`bundle_emb.NAME`).
    pub fn add_bundles(&mut self, file: &Arc<LoraFile>) {
        for (number, bundle) in file.bundles().iter().enumerate() {
            self.entries.push(Entry {
                names: vec![bundle.name.clone()],
                source: Source::Bundle(file.clone(), number),
            });
        }
    }

    /// All names, in the order in which they are looked up.
    pub fn names(&self) -> Vec<&str> {
        let names = self.entries.iter().flat_map(|entry| &entry.names);
        names.map(String::as_str).collect()
    }

    /// Every one's first name with [`Embedding::size`]; none for what cannot be read.
    pub fn sizes(&self) -> Vec<(String, Option<(usize, usize)>)> {
        let entries = self.entries.iter().filter_map(|entry| {
            let size = entry.source.open().ok().map(|one| one.size());
            Some((entry.names.first()?.clone(), size))
        });
        entries.collect()
    }

    /// The names that `text` may have in it as words.
    pub fn mentioned(&self, text: &str) -> Vec<&str> {
        mentioned(text, self.names())
    }

    /// Reads the vectors of a name for text encoders of these widths, `[count, width]`
    /// each; empty for an encoder that none of its files has any for. None where nothing
    /// has that name.
    pub fn read(&self, name: &str, widths: [Option<usize>; 2]) -> Result<Option<[Vec<f32>; 2]>> {
        let named = |entry: &&Entry| {
            let names = entry.names.iter().map(String::as_str);
            find_name(name, names).is_some()
        };
        let mut found = None;
        for entry in self.entries.iter().filter(named) {
            let [first, second] = entry.source.open()?.fitting(widths)?;
            let [a, b]: &mut [Vec<f32>; 2] = found.get_or_insert_default();
            // diffusers writes one file for each encoder.
            for (have, more) in [(a, first), (b, second)] {
                if have.is_empty() {
                    *have = more;
                }
            }
        }
        Ok(found)
    }
}

impl Source {
    fn open(&self) -> Result<Embedding> {
        match self {
            Source::File(path) => Embedding::open(path),
            Source::Bundle(file, number) => Embedding::bundled(file, *number),
        }
    }
}

impl Embedding {
    /// Reads a file: `clip_l` and `clip_g` as SDXL's have them, else one tensor under
    /// any name.
    pub fn open(path: &Path) -> Result<Self> {
        let what = "a textual inversion's .safetensors file";
        let file = TensorFile::open(path).map_err(|e| about(e, Field::Embeddings, what))?;
        let mut names = file.names();
        names.sort();
        let of = |key: &String| Some((Encoder::of(key)?, key.clone()));
        let mut keys: Vec<_> = names.iter().filter_map(of).collect();
        if keys.iter().any(|(encoder, _)| *encoder != Encoder::Fitting) {
            keys.retain(|(encoder, _)| *encoder != Encoder::Fitting);
        }
        let named = keys.iter().all(|(encoder, _)| *encoder != Encoder::Fitting);
        let vectors = |key: &str| {
            file.entry(key)
                .is_some_and(|entry| matches!(entry.shape.len(), 1 | 2))
        };
        if names.iter().any(|name| LoraFile::is_adapters(name)) {
            let remedy = Remedy::Set {
                field: Field::Loras,
                value: path.display().to_string().into(),
            };
            let problem = "an adapter (LoRA), not a textual inversion";
            return Err(Error::file(path, problem, remedy));
        }
        if keys.is_empty() || !named && (keys.len() > 1 || !vectors(&keys[0].1)) {
            let first = names.first().map_or("none", String::as_str);
            let problem = format!("holds no textual inversion: its first tensor is {first}");
            let remedy = Remedy::give(Field::Embeddings, what);
            return Err(Error::file(path, problem, remedy));
        }
        let tensor = |(encoder, key): (Encoder, String)| {
            let view = file.entry(&key).and_then(|entry| entry.view(entry.shape));
            let allowed = "F32, F16, BF16 and fp8";
            let view =
                view.ok_or_else(|| wrong(path, &key, format!("its type is none of {allowed}")))?;
            let values = view.values(0..view.count());
            Vectors::new(path, key, encoder, &view.shape, values)
        };
        Ok(Self {
            path: path.to_path_buf(),
            tensors: keys.into_iter().map(tensor).collect::<Result<_>>()?,
        })
    }

    fn bundled(file: &LoraFile, number: usize) -> Result<Self> {
        let tensors = file.bundles().get(number);
        let tensors = tensors.into_iter().flat_map(|bundle| &bundle.tensors);
        let tensor = |(encoder, key): &(Encoder, String)| {
            file.check_type(key)?;
            let (shape, values) = (file.shape(key), file.values(key)?);
            Vectors::new(file.path(), key.clone(), *encoder, shape, values)
        };
        Ok(Self {
            path: file.path().to_path_buf(),
            tensors: tensors.map(tensor).collect::<Result<_>>()?,
        })
    }

    /// Its tensors for text encoders of these widths. An error where one fits none.
    fn fitting(self, widths: [Option<usize>; 2]) -> Result<[Vec<f32>; 2]> {
        let mut found: [Vec<f32>; 2] = Default::default();
        let path = self.path;
        for tensor in self.tensors {
            let fits = |i: usize| widths[i].is_none_or(|width| width == tensor.width);
            let place = match tensor.encoder {
                Encoder::First => Some(0).filter(|_| fits(0)),
                Encoder::Second => Some(1).filter(|_| fits(1)),
                Encoder::Fitting => {
                    let mut places = 0..2;
                    places.find(|i| widths[*i] == Some(tensor.width))
                }
            };
            match place {
                Some(place) => found[place] = tensor.values,
                None => {
                    let wanted: Vec<String> =
                        widths.iter().flatten().map(usize::to_string).collect();
                    let wanted = wanted.join(" and ");
                    let width = tensor.width;
                    let made = WIDTHS.iter().find(|(known, _)| *known == width);
                    let made = made.map_or("another model", |(_, model)| model);
                    let problem = format!(
                        "made for {made}: its vectors are {width} numbers wide, this model's \
                         text encoders take {wanted}"
                    );
                    let remedy = "use a textual inversion made for this model";
                    return Err(Error::tensor(path, tensor.key, problem, remedy));
                }
            }
        }
        Ok(found)
    }

    /// How many vectors it has, and how wide all of them side by side are, as
    /// AUTOMATIC1111 counts.
    pub fn size(&self) -> (usize, usize) {
        let counts = self.tensors.iter().map(|t| t.values.len() / t.width);
        let widths = self.tensors.iter().map(|t| t.width);
        (counts.max().unwrap_or(0), widths.sum())
    }
}

impl Vectors {
    fn new(
        path: &Path,
        key: String,
        encoder: Encoder,
        shape: &[usize],
        values: Vec<f32>,
    ) -> Result<Self> {
        let width = match *shape {
            [width] | [_, width] if !values.is_empty() => width,
            _ => {
                let problem = format!("its shape is {shape:?}, not [vectors, width]");
                return Err(wrong(path, &key, problem));
            }
        };
        if !values.iter().all(|x| x.is_finite()) {
            return Err(wrong(path, &key, "has values that are not finite".into()));
        }
        Ok(Self {
            key,
            encoder,
            width,
            values,
        })
    }
}

fn stem(path: &Path) -> String {
    let name = path.file_stem().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn wrong(path: &Path, key: &str, problem: String) -> Error {
    Error::tensor(path, key, problem, "use a textual inversion that is whole")
}
