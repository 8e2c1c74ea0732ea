//! One tokenizer: a prompt to the ids that a text encoder reads.

use super::special::{self, Specials};
use super::vocabulary;
use crate::{Error, Result, encoding};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::OnceLock;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{
    Lowercase, NFC, NormalizerWrapper, Replace, replace::ReplacePattern,
};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, normalizers};

/// Tokens a prompt is padded or cut to where the files give no `model_max_length`.
const DEFAULT_LENGTH: usize = 77;

/// Words as CLIP splits them (the pattern of transformers' `CLIPConverter`).
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

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
    inner: tokenizers::Tokenizer,
    /// The same without the padding's token, made once it is needed, where that is
    /// another than start and end, such as `!`.
    unpadded: OnceLock<tokenizers::Tokenizer>,
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
        let inner = match (files.vocabulary, files.tokenizer) {
            (Some((vocab, merges)), _) => {
                clip_pipeline(vocabulary::from_texts(vocab, merges, origin)?, origin)?
            }
            (None, Some(json)) => from_json(json, origin)?,
            (None, None) => {
                let problem = "neither vocab.json with merges.txt nor tokenizer.json is there";
                return Err(Error::file(origin, problem, REMEDY));
            }
        };
        Self::new(inner, specials, origin)
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
        Self::new(
            clip_pipeline(vocabulary::clip(size)?, origin)?,
            specials,
            origin,
        )
    }

    fn new(mut inner: tokenizers::Tokenizer, specials: Specials, origin: &Path) -> Result<Self> {
        // Rules that a tokenizer.json gives are kept where the config is silent.
        let given = inner.get_added_tokens_decoder();
        let new = |token: &AddedToken| given.values().all(|t| t.content != token.content);
        let named = specials.named.into_iter().filter(new);
        let added: Vec<AddedToken> = specials.listed.into_iter().chain(named).collect();
        inner
            .add_special_tokens(added)
            .map_err(|e| Error::file(origin, e, REMEDY))?;
        let id = |token: &str| {
            inner.token_to_id(token).ok_or_else(|| {
                let problem = format!("special token `{token}` is not in the vocabulary");
                Error::file(origin, problem, REMEDY)
            })
        };
        let (bos, eos, pad) = (id(&specials.bos)?, id(&specials.eos)?, id(&specials.pad)?);
        let max_length = specials.max_length.unwrap_or(DEFAULT_LENGTH);
        if max_length < 3 {
            let problem = format!("model_max_length is {max_length}, at least 3 is needed");
            return Err(Error::file(origin, problem, REMEDY));
        }
        Ok(Self {
            inner,
            unpadded: OnceLock::new(),
            pad_text: specials.pad,
            bos,
            eos,
            pad,
            max_length,
        })
    }

    /// The ids of `prompt`: start, its tokens as far as they fit, end, padding.
    pub fn encode(&self, prompt: &str) -> Result<Encoded> {
        let encoding = self.run(prompt)?;
        let tokens = encoding.get_ids();
        let room = self.max_length - 2;
        let kept = tokens.get(..room).unwrap_or(tokens);
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.bos);
        ids.extend_from_slice(kept);
        ids.push(self.eos);
        let length = ids.len();
        ids.resize(self.max_length, self.pad);
        let cut = encoding.get_offsets().get(room);
        let truncated = cut.map(|(start, _)| prompt.get(*start..).unwrap_or(prompt));
        Ok(Encoded {
            ids,
            length,
            truncated: truncated.map(|rest| rest.trim().to_string()),
        })
    }

    /// The ids of `text` alone, of any number: no start, end or padding.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.run(text)?.get_ids().to_vec())
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
            ids.extend_from_slice(encode(self.unpadded()?, &part)?.get_ids());
        }
        Ok(ids)
    }

    fn unpadded(&self) -> Result<&tokenizers::Tokenizer> {
        if let Some(made) = self.unpadded.get() {
            return Ok(made);
        }
        let mut made = tokenizers::Tokenizer::new(self.inner.get_model().clone());
        made.with_pre_tokenizer(self.inner.get_pre_tokenizer().cloned());
        let added = self.inner.get_added_tokens_decoder();
        let mut added: Vec<_> = added.into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        let others = added.into_iter().map(|(_, token)| token);
        let others = others.filter(|token| token.content != self.pad_text);
        made.with_normalizer(self.inner.get_normalizer().cloned())
            .and_then(|made| made.add_special_tokens(others.collect::<Vec<_>>()))
            .map_err(|e| Error::invalid("tokenizer", "without its padding", e.to_string()))?;
        Ok(self.unpadded.get_or_init(|| made))
    }

    fn run(&self, text: &str) -> Result<tokenizers::Encoding> {
        encode(&self.inner, text)
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
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// Entries of the vocabulary, added tokens included.
    pub fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

fn encode(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<tokenizers::Encoding> {
    tokenizer.encode(text, false).map_err(|e| {
        let allowed = format!("a prompt that the tokenizer can split ({e})");
        Error::invalid("prompt", text, allowed)
    })
}

/// The pipeline around the model: what transformers' `CLIPConverter` builds.
fn clip_pipeline(model: BPE, origin: &Path) -> Result<tokenizers::Tokenizer> {
    let broken = |e: tokenizers::Error| Error::file(origin, e, REMEDY);
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_string()), " ").map_err(broken)?;
    let words = SplitPattern::Regex(WORDS.to_string());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(broken)?;
    let normalizer = normalizers::Sequence::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces),
        NormalizerWrapper::Lowercase(Lowercase),
    ]);
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(normalizer))
        .map_err(broken)?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(words),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    Ok(tokenizer)
}

/// A `tokenizer.json`, checked where the library would rely on it.
fn from_json(json: &str, origin: &Path) -> Result<tokenizers::Tokenizer> {
    let broken = |e: String| Error::file(origin, format!("tokenizer.json: {e}"), REMEDY);
    let value: Value = serde_json::from_str(json).map_err(|e| broken(e.to_string()))?;
    let vocab = value.pointer("/model/vocab").and_then(Value::as_object);
    let vocab = vocab.ok_or_else(|| broken("model.vocab is no object".to_string()))?;
    let prefix = value.pointer("/model/continuing_subword_prefix");
    if prefix
        .and_then(Value::as_str)
        .is_some_and(|p| !p.is_empty())
    {
        return Err(broken("continuing_subword_prefix is not empty".to_string()));
    }
    let merges: Vec<(String, String)> = value
        .pointer("/model/merges")
        .and_then(Value::as_array)
        .and_then(|list| list.iter().map(merge).collect())
        .ok_or_else(|| broken("model.merges is no list of pairs".to_string()))?;
    vocabulary::check_merges(&merges, |token| vocab.contains_key(token), origin)?;
    let mut tokenizer =
        tokenizers::Tokenizer::from_bytes(json).map_err(|e| broken(e.to_string()))?;
    // Length and padding are decided here, by the prompt's own rules.
    tokenizer
        .with_truncation(None)
        .map_err(|e| broken(e.to_string()))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// A merge of `tokenizer.json`: `"a b"`, or since 2024 `["a", "b"]`.
fn merge(value: &Value) -> Option<(String, String)> {
    let (a, b) = match value {
        Value::String(text) => text.split_once(' ')?,
        Value::Array(pair) => match pair.as_slice() {
            [a, b] => (a.as_str()?, b.as_str()?),
            _ => return None,
        },
        _ => return None,
    };
    Some((a.to_string(), b.to_string()))
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
