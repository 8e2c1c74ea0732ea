//! One tokenizer: a prompt to the ids that a text encoder reads.

use super::added::{Added, AddedToken};
use super::bpe::Bpe;
use super::fold::fold;
use super::special::{self, Specials};
use super::{tokenizer_json, vocabulary};
use crate::{Error, Result, encoding};
use regex::Regex;
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// Tokens a prompt is padded or cut to where the files give no `model_max_length`.
const DEFAULT_LENGTH: usize = 77;

/// Words as CLIP splits them (the pattern of transformers' `CLIPConverter`).
pub(super) const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

const REMEDY: &str = "take the tokenizer folder from the checkpoint's publisher again";

/// The texts of a tokenizer folder's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenizerFiles<'a> {
    /// `vocab.json` and `merges.txt`.
    pub vocabulary: Option<(&'a str, &'a str)>,
    /// `tokenizer.json`; read where `vocabulary` is absent.
    pub tokenizer: Option<&'a str>,
    /// `tokenizer_config.json`.
    pub config: Option<&'a str>,
    /// `special_tokens_map.json`.
    pub special_tokens: Option<&'a str>,
}

/// A prompt as a text encoder reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// [`Tokenizer::max_length`] ids: start, tokens, end, padding.
    pub ids: Vec<u32>,
    /// How many of `ids` come before the padding, start and end included.
    pub length: usize,
    /// The end of the prompt that did not fit, where something did not.
    pub truncated: Option<String>,
}

/// CLIP's byte-pair encoding with one checkpoint's vocabulary and special tokens.
#[derive(Clone)]
pub struct Tokenizer {
    bpe: Arc<Bpe>,
    added: Added,
    /// The added tokens without the padding's.
    unpadded: Added,
    pad_text: String,
    bos: u32,
    eos: u32,
    pad: u32,
    max_length: usize,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("size", &self.size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .field("pad", &self.pad)
            .field("max_length", &self.max_length)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a tokenizer folder: `vocab.json` with `merges.txt`, or else
    /// `tokenizer.json`; and, where they are, `tokenizer_config.json` and
    /// `special_tokens_map.json`.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        Self::from_folder_padding(folder, "<|endoftext|>")
    }

    /// The same, padding with `pad` where the folder has no file that says with what.
    pub fn from_folder_padding(folder: &Path, pad: &str) -> Result<Self> {
        let vocab = read_optional(&folder.join("vocab.json"))?;
        let merges = read_optional(&folder.join("merges.txt"))?;
        let vocabulary = vocab.as_deref().zip(merges.as_deref());
        let tokenizer = match vocabulary {
            Some(_) => None,
            None => read_optional(&folder.join("tokenizer.json"))?,
        };
        let config = read_optional(&folder.join("tokenizer_config.json"))?;
        let special_tokens = read_optional(&folder.join("special_tokens_map.json"))?;
        let silent = serde_json::json!({ "pad_token": pad }).to_string();
        let config = match (&config, &special_tokens) {
            (None, None) => Some(silent),
            _ => config,
        };
        let files = TokenizerFiles {
            vocabulary,
            tokenizer: tokenizer.as_deref(),
            config: config.as_deref(),
            special_tokens: special_tokens.as_deref(),
        };
        Self::from_files(&files, folder)
    }

    /// The same from texts; `origin` is the folder's name in messages.
    pub fn from_files(files: &TokenizerFiles<'_>, origin: &Path) -> Result<Self> {
        let specials = read_specials(files, origin)?;
        let (bpe, given) = match (files.vocabulary, files.tokenizer) {
            (Some((vocab, merges)), _) => {
                let bpe = vocabulary::from_texts(vocab, merges, origin)?;
                (bpe, Vec::new())
            }
            (None, Some(json)) => tokenizer_json::read(json, origin)?,
            (None, None) => {
                let problem = "neither vocab.json with merges.txt nor tokenizer.json is there";
                return Err(Error::file(origin, problem, REMEDY));
            }
        };
        Self::new(bpe, given, specials, origin)
    }

    /// CLIP's vocabulary from inside the program, cut to its first `size`
    /// entries (49,408: all of it), padding with `pad`: `<|endoftext|>` for
    /// SDXL's first encoder, `!` for its second.
    pub fn clip(size: usize, pad: &str) -> Result<Self> {
        let config = serde_json::json!({ "pad_token": pad }).to_string();
        Self::clip_with_config(size, &config)
    }

    /// The same with a `tokenizer_config.json`'s text for the special tokens.
    pub fn clip_with_config(size: usize, config: &str) -> Result<Self> {
        let origin = Path::new("embedded CLIP vocabulary");
        let files = TokenizerFiles {
            config: Some(config),
            ..TokenizerFiles::default()
        };
        let specials = read_specials(&files, origin)?;
        Self::new(vocabulary::clip(size)?, Vec::new(), specials, origin)
    }

    /// `given` are the added tokens that a tokenizer.json lists.
    fn new(bpe: Bpe, given: Vec<AddedToken>, specials: Specials, origin: &Path) -> Result<Self> {
        // Rules that a tokenizer.json gives are kept where the config is silent.
        let new = |token: &AddedToken| given.iter().all(|t| t.content != token.content);
        let named = specials.named.into_iter().filter(new).collect();
        let added = with_ids(&bpe, [given.clone(), specials.listed, named].concat());
        let (pad_text, bos, eos) = (specials.pad, specials.bos, specials.eos);
        let others = added.iter().filter(|(token, _)| token.content != pad_text);
        let broken = |e: aho_corasick::BuildError| Error::file(origin, e, REMEDY);
        let unpadded = Added::new(others.cloned().collect()).map_err(broken)?;
        let added = Added::new(added).map_err(broken)?;
        let id = |token: &str| {
            let known = added.id(token).or_else(|| bpe.id(token));
            known.ok_or_else(|| {
                let problem = format!("special token `{token}` is not in the vocabulary");
                Error::file(origin, problem, REMEDY)
            })
        };
        let (bos, eos, pad) = (id(&bos)?, id(&eos)?, id(&pad_text)?);
        let max_length = specials.max_length.unwrap_or(DEFAULT_LENGTH);
        if max_length < 3 {
            let problem = format!("model_max_length is {max_length}, at least 3 is needed");
            return Err(Error::file(origin, problem, REMEDY));
        }
        Ok(Self {
            bpe: Arc::new(bpe),
            added,
            unpadded,
            pad_text,
            bos,
            eos,
            pad,
            max_length,
        })
    }

    /// The ids of `prompt`: start, its tokens as far as they fit, end, padding.
    pub fn encode(&self, prompt: &str) -> Result<Encoded> {
        let tokens = self.run(prompt, &self.added)?;
        let room = self.max_length - 2;
        let kept = tokens.iter().take(room).map(|(id, _)| *id);
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.bos);
        ids.extend(kept);
        ids.push(self.eos);
        let length = ids.len();
        ids.resize(self.max_length, self.pad);
        let cut = tokens.get(room);
        let truncated = cut.map(|(_, start)| prompt.get(*start..).unwrap_or(prompt));
        Ok(Encoded {
            ids,
            length,
            truncated: truncated.map(|rest| rest.trim().to_string()),
        })
    }

    /// The ids of `text` alone, of any number: no start, end or padding.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.run(text, &self.added)?;
        Ok(tokens.into_iter().map(|(id, _)| id).collect())
    }

    /// The same of `text` as [`super::normalise()`] cleans it.
    ///
    /// Special tokens are found before that, as in the slow tokenizer: a full-width
    /// `！` does not become the padding of SDXL's second encoder, which `!` is.
    pub fn cleaned_tokens(&self, text: &str) -> Result<Vec<u32>> {
        let cleaned = super::normalise(text);
        if cleaned == text || self.pad == self.bos || self.pad == self.eos {
            return self.tokens(&cleaned);
        }
        let mut ids = Vec::new();
        for (i, part) in text.split(&self.pad_text).enumerate() {
            ids.extend((i > 0).then_some(self.pad));
            let part = super::normalise(part);
            let tokens = self.run(&part, &self.unpadded)?;
            ids.extend(tokens.into_iter().map(|(id, _)| id));
        }
        Ok(ids)
    }

    /// The tokens of a text, each with the place where it begins there: what the pipeline
    /// does that transformers' `CLIPConverter` builds.
    fn run(&self, text: &str, added: &Added) -> Result<Vec<(u32, usize)>> {
        let mut tokens = Vec::new();
        for piece in added.in_text(text) {
            if let Some(id) = piece.id {
                tokens.push((id, piece.start));
                continue;
            }
            let folded = fold(&text[piece.start..piece.end]);
            let origin = |at: usize| piece.start + folded.origins.get(at).unwrap_or(&0);
            for part in added.in_folded(&folded.text) {
                if let Some(id) = part.id {
                    tokens.push((id, origin(part.start)));
                    continue;
                }
                for word in words(&folded.text[part.start..part.end]) {
                    let start = part.start + word.start();
                    let found = self.bpe.tokens(word.as_str())?.into_iter();
                    tokens.extend(found.map(|(id, at)| (id, origin(start + at))));
                }
            }
        }
        Ok(tokens)
    }

    /// Id of the start-of-text token.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// Id of the end-of-text token.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Id of the padding token.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Tokens of an encoded prompt: 77 in every published SDXL.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The largest id that a prompt can give: the text encoder needs one more embedding.
    pub fn largest_id(&self) -> u32 {
        let added = self.added.tokens().iter().map(|(_, id)| *id);
        added.max().unwrap_or(0).max(self.bpe.largest())
    }

    /// Entries of the vocabulary, added tokens included.
    pub fn size(&self) -> usize {
        let added = self.added.tokens().iter();
        let new = added.filter(|(token, _)| self.bpe.id(&token.content).is_none());
        self.bpe.size() + new.count()
    }
}

/// Tokens with their ids: that of the vocabulary, or the next one after it. Of several of
/// one content the last counts.
fn with_ids(bpe: &Bpe, tokens: Vec<AddedToken>) -> Vec<(AddedToken, u32)> {
    let mut next = bpe.size() as u32;
    let mut added: Vec<(AddedToken, u32)> = Vec::new();
    for token in tokens.into_iter().filter(|t| !t.content.is_empty()) {
        let known = added.iter_mut().find(|(t, _)| t.content == token.content);
        if let Some((known, _)) = known {
            *known = token;
            continue;
        }
        let id = bpe.id(&token.content).unwrap_or_else(|| {
            next += 1;
            next - 1
        });
        added.push((token, id));
    }
    added.sort_by_key(|(_, id)| *id);
    added
}

/// The words of a folded text.
fn words(text: &str) -> impl Iterator<Item = regex::Match<'_>> {
    static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(WORDS).ok());
    PATTERN.iter().flat_map(move |words| words.find_iter(text))
}

fn read_specials(files: &TokenizerFiles<'_>, origin: &Path) -> Result<Specials> {
    let object = |text: Option<&str>, name: &str| -> Result<Map<String, Value>> {
        let Some(text) = text else {
            return Ok(Map::new());
        };
        serde_json::from_str(text)
            .map_err(|e| Error::file(origin.join(name), format!("no JSON object ({e})"), REMEDY))
    };
    let config = object(files.config, "tokenizer_config.json")?;
    let map = object(files.special_tokens, "special_tokens_map.json")?;
    Ok(special::read(&config, &map))
}

/// The text of a file, `None` where there is none.
fn read_optional(path: &Path) -> Result<Option<String>> {
    encoding::read_optional(path, REMEDY)
}
