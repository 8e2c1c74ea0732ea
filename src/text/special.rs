//! Which tokens are special, from `tokenizer_config.json` and
//! `special_tokens_map.json`, by the rules of transformers' fast tokenizers.

use super::added::AddedToken;
use serde_json::{Map, Value};

/// The special tokens of one tokenizer and its length.
#[derive(Debug, Clone)]
pub(super) struct Specials {
    pub bos: String,
    pub eos: String,
    pub pad: String,
    /// The tokens of `added_tokens_decoder` with their matching rules.
    pub listed: Vec<AddedToken>,
    /// Special tokens that are not among those, each once.
    pub named: Vec<AddedToken>,
    /// `model_max_length` where the file gives one that is not the library's "unset".
    pub max_length: Option<usize>,
}

const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";

/// `model_max_length` above this stands for "no limit given" (transformers writes 1e30).
const UNSET_LENGTH: f64 = 1e9;

/// Reads the two files' objects; empty maps give CLIP's defaults. Where
/// `tokenizer_config.json` lists `added_tokens_decoder` it decides alone,
/// otherwise `special_tokens_map.json` overrides it.
pub(super) fn read(config: &Map<String, Value>, map: &Map<String, Value>) -> Specials {
    let decoder = config
        .get("added_tokens_decoder")
        .and_then(Value::as_object);
    let pick = |key: &str| match decoder {
        Some(_) => config.get(key),
        None => map.get(key).or_else(|| config.get(key)),
    };
    let listed: Vec<AddedToken> = decoder.into_iter().flat_map(in_order).collect();
    let mut named: Vec<AddedToken> = Vec::new();
    let mut name = |key: &str, default: &str, normalized: bool| {
        let value = pick(key).filter(|v| !v.is_null());
        let token = value.and_then(|v| token(v, normalized));
        let token = token.unwrap_or_else(|| AddedToken::new(default, normalized));
        let mut known = listed.iter().chain(&named);
        if known.all(|t| t.content != token.content) {
            named.push(token.clone());
        }
        token.content
    };
    let bos = name("bos_token", BOS, true);
    let eos = name("eos_token", EOS, true);
    name("unk_token", EOS, true);
    let pad = name("pad_token", EOS, false);
    let length = config.get("model_max_length").and_then(Value::as_f64);
    Specials {
        bos,
        eos,
        pad,
        listed,
        named,
        max_length: length
            .filter(|n| (1.0..UNSET_LENGTH).contains(n))
            .map(|n| n as usize),
    }
}

/// The tokens of `added_tokens_decoder` by rising id.
fn in_order(decoder: &Map<String, Value>) -> Vec<AddedToken> {
    let mut tokens: Vec<(u32, AddedToken)> = decoder
        .iter()
        .filter_map(|(id, value)| Some((id.parse().ok()?, token(value, false)?)))
        .collect();
    tokens.sort_by_key(|(id, _)| *id);
    tokens.into_iter().map(|(_, token)| token).collect()
}

/// A token given as a string, or as an object with its matching rules. A plain
/// string is matched after normalisation if `normalized`.
pub(super) fn token(value: &Value, normalized: bool) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::new(text, normalized));
    }
    let flag = |key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
    Some(AddedToken {
        content: value.get("content")?.as_str()?.to_owned(),
        normalized: flag("normalized"),
        lstrip: flag("lstrip"),
        rstrip: flag("rstrip"),
        single_word: flag("single_word"),
    })
}
