//! Vocabularies and merges: from `vocab.json` and `merges.txt`, or CLIP's own,
//! which is part of the program.

use super::bpe::{Bpe, symbols};
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

type Vocabulary = HashMap<String, u32>;
/// Pairs of tokens, in the order in which they are merged.
pub(super) type Merges = Vec<(String, String)>;

/// CLIP's merges, in order; the first line is a version mark.
const CLIP_MERGES: &str = include_str!("../../models/clip/merges.txt");

/// Entries that are no merges: 256 bytes, 256 bytes that end a word, two specials.
const NOT_MERGES: usize = 514;

/// Entries of CLIP's complete vocabulary.
pub(super) const CLIP_SIZE: usize = 49_408;

const REMEDY: &str = "take vocab.json and merges.txt from the checkpoint's publisher again";

/// CLIP's vocabulary cut to its first `size` entries, 514 to 49,408: the bytes,
/// the first merges, and the two specials.
pub(super) fn clip(size: usize) -> Result<Bpe> {
    if !(NOT_MERGES..=CLIP_SIZE).contains(&size) {
        return Err(Error::invalid(
            "vocabulary size",
            size,
            "CLIP's vocabulary has 514 to 49408 entries; use a folder with its own tokenizer files",
        ));
    }
    let origin = Path::new("embedded CLIP vocabulary");
    let mut merges = parse_merges(CLIP_MERGES, origin)?;
    merges.truncate(size - NOT_MERGES);
    let bytes: Vec<String> = symbols().map(|(_, symbol)| symbol.to_string()).collect();
    let words = bytes.iter().map(|b| format!("{b}</w>"));
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let specials = ["<|startoftext|>", "<|endoftext|>"].map(String::from);
    let vocab: Vocabulary = bytes
        .iter()
        .cloned()
        .chain(words)
        .chain(merged)
        .chain(specials)
        .zip(0u32..)
        .collect();
    model(vocab, merges, origin)
}

/// A model from the texts of `vocab.json` and `merges.txt`; `origin` is where
/// they lie, for messages.
pub(super) fn from_texts(vocab: &str, merges: &str, origin: &Path) -> Result<Bpe> {
    let vocab: Vocabulary = serde_json::from_str::<std::collections::HashMap<String, u32>>(vocab)
        .map_err(|e| {
            let problem = format!("vocab.json is no object of token to id ({e})");
            Error::file(origin, problem, REMEDY)
        })?
        .into_iter()
        .collect();
    let merges = parse_merges(merges, origin)?;
    model(vocab, merges, origin)
}

/// The pairs of a `merges.txt`, whose first line is dropped unread, as
/// transformers drops it.
fn parse_merges(text: &str, origin: &Path) -> Result<Merges> {
    let lines = text.trim().lines().enumerate().skip(1);
    lines
        .map(|(i, line)| match line.split_once(' ') {
            Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => {
                Ok((a.to_string(), b.to_string()))
            }
            _ => {
                let problem = format!("merges.txt line {}: not two tokens and a space", i + 1);
                Err(Error::file(origin, problem, REMEDY))
            }
        })
        .collect()
}

/// Builds the model once every merge is known to be in the vocabulary.
fn model(vocab: Vocabulary, merges: Merges, origin: &Path) -> Result<Bpe> {
    check_merges(&merges, |token| vocab.contains_key(token), origin)?;
    Ok(Bpe::new(vocab, &merges, Some("<|endoftext|>")))
}

/// Checks that both halves of each merge and their union are in the vocabulary.
pub(super) fn check_merges(
    merges: &[(String, String)],
    known: impl Fn(&str) -> bool,
    origin: &Path,
) -> Result<()> {
    for (a, b) in merges {
        let whole = format!("{a}{b}");
        if let Some(token) = [a, b, &whole].into_iter().find(|t| !known(t)) {
            let problem = format!("merge `{a} {b}`: `{token}` is not in the vocabulary");
            return Err(Error::file(origin, problem, REMEDY));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_complete_vocabulary_has_49408_entries() {
        let model = clip(CLIP_SIZE).unwrap();
        assert_eq!(model.size(), CLIP_SIZE);
        assert_eq!(model.id("<|startoftext|>"), Some(49406));
        assert_eq!(model.id("<|endoftext|>"), Some(49407));
        assert_eq!(model.id("!"), Some(0));
        assert_eq!(model.id("a</w>"), Some(320));
    }

    #[test]
    fn sizes_outside_the_vocabulary_are_refused() {
        assert!(clip(513).is_err());
        assert!(clip(49_409).is_err());
        assert!(clip(514).is_ok());
    }

    #[test]
    fn a_merge_outside_the_vocabulary_is_an_error() {
        let origin = Path::new("t");
        for merges in ["#v\na b", "#v\na", "#v\na b c", "#v\na c"] {
            let got = from_texts(r#"{"a":0,"b":1,"<|endoftext|>":2}"#, merges, origin);
            assert!(got.is_err(), "{merges}");
        }
    }
}
