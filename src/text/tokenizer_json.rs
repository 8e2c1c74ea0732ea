//! A `tokenizer.json` of Hugging Face's tokenizers, as far as it says what CLIP's does.

use super::added::AddedToken;
use super::bpe::Bpe;
use super::special::token;
use super::tokenizer::WORDS;
use super::vocabulary::{Merges, check_merges};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

const REMEDY: &str = "take the tokenizer folder from the checkpoint's publisher again, with \
                      vocab.json and merges.txt";

/// The model of the file's text, and its added tokens in the order of their ids.
///
/// # Errors
/// No such file, or one whose model or steps are not CLIP's.
pub(super) fn read(json: &str, origin: &Path) -> Result<(Bpe, Vec<AddedToken>)> {
    let broken = |problem: String| {
        let problem = format!("tokenizer.json: {problem}");
        Error::file(origin, problem, REMEDY)
    };
    let file: Value = serde_json::from_str(json).map_err(|e| broken(e.to_string()))?;
    let vocabulary = file.pointer("/model/vocab").cloned().unwrap_or_default();
    let vocabulary: std::collections::HashMap<String, u32> = serde_json::from_value(vocabulary)
        .map_err(|e| broken(format!("model.vocab is no object of token to id ({e})")))?;
    let merges: Merges = file
        .pointer("/model/merges")
        .and_then(Value::as_array)
        .and_then(|list| list.iter().map(merge).collect())
        .ok_or_else(|| broken("model.merges is no list of pairs".to_string()))?;
    check_merges(&merges, |token| vocabulary.contains_key(token), origin)?;
    if let Some((what, is, must)) = deviation(&file) {
        return Err(broken(format!("{what} is {is}, CLIP's is {must}")));
    }
    let unknown = file.pointer("/model/unk_token").and_then(Value::as_str);
    let added = file.get("added_tokens").and_then(Value::as_array);
    let mut added: Vec<_> = added
        .into_iter()
        .flatten()
        .filter_map(|value| Some((value.get("id")?.as_u64()?, token(value, false)?)))
        .collect();
    added.sort_by_key(|(id, _)| *id);
    let added = added.into_iter().map(|(_, token)| token).collect();
    Ok((Bpe::new(vocabulary, &merges, unknown), added))
}

/// Where the file's tokenizer is not CLIP's: what, what it is, and what it must be.
fn deviation(file: &Value) -> Option<(String, Value, Value)> {
    let spaces = json!({ "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " });
    let split = json!({ "type": "Split", "pattern": { "Regex": WORDS },
        "behavior": "Removed", "invert": true });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false });
    let expected = [
        ("/model/type", json!("BPE")),
        ("/model/end_of_word_suffix", json!("</w>")),
        ("/normalizer/type", json!("Sequence")),
        ("/normalizer/normalizers/0", json!({ "type": "NFC" })),
        ("/normalizer/normalizers/1", spaces),
        ("/normalizer/normalizers/2", json!({ "type": "Lowercase" })),
        ("/normalizer/normalizers/3", Value::Null),
        ("/pre_tokenizer/type", json!("Sequence")),
        ("/pre_tokenizer/pretokenizers/0", split),
        ("/pre_tokenizer/pretokenizers/1", bytes),
        ("/pre_tokenizer/pretokenizers/2", Value::Null),
    ];
    let off = [
        "dropout",
        "continuing_subword_prefix",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
    ];
    let off = off.map(|name| (format!("/model/{name}"), json!(false)));
    let expected = expected.map(|(path, value)| (path.to_owned(), value));
    expected.into_iter().chain(off).find_map(|(path, must)| {
        let is = file.pointer(&path).cloned().unwrap_or_default();
        (!says(&is, &must)).then(|| (path[1..].replace('/', "."), is, must))
    })
}

/// Whether a value says what is expected: an object those fields among others, and `false`
/// is also what is not there or empty.
fn says(is: &Value, must: &Value) -> bool {
    match must {
        Value::Object(fields) => fields.iter().all(|(name, must)| {
            let is = is.get(name).unwrap_or(&Value::Null);
            says(is, must)
        }),
        Value::Bool(false) => [json!(null), json!(false), json!("")].contains(is),
        _ => is == must,
    }
}

/// A merge: `"a b"`, or since 2024 `["a", "b"]`.
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
