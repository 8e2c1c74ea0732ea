//! Tokens that are found in a text before it is split into words: the special ones.
//!
//! By the rules of `AddedVocabulary` of Hugging Face's tokenizers.

use super::fold::fold;
use aho_corasick::{AhoCorasick, BuildError, MatchKind};
use regex::Regex;
use std::sync::LazyLock;

/// A token and how it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub content: String,
    /// Found in the normalised text, in its normalised form, rather than as it stands.
    pub normalized: bool,
    /// Takes the spaces before it.
    pub lstrip: bool,
    /// Takes the spaces after it.
    pub rstrip: bool,
    /// Is found only where no letter or digit touches it.
    pub single_word: bool,
}

impl AddedToken {
    pub fn new(content: &str, normalized: bool) -> Self {
        Self {
            content: content.to_owned(),
            normalized,
            lstrip: false,
            rstrip: false,
            single_word: false,
        }
    }
}

/// The added tokens of a tokenizer, with their ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Added {
    tokens: Vec<(AddedToken, u32)>,
    plain: Finder,
    folded: Finder,
}

/// Finds some of the tokens.
#[derive(Debug, Clone, Default)]
struct Finder {
    search: Option<AhoCorasick>,
    /// By the number of the pattern.
    tokens: Vec<(AddedToken, u32)>,
}

/// A part of a text: an added token's, or between such.
pub(super) struct Piece {
    pub start: usize,
    pub end: usize,
    pub id: Option<u32>,
}

impl Added {
    /// Tokens in the order of their ids, no two of one content.
    pub fn new(tokens: Vec<(AddedToken, u32)>) -> Result<Self, BuildError> {
        Ok(Self {
            plain: Finder::new(&tokens, false)?,
            folded: Finder::new(&tokens, true)?,
            tokens,
        })
    }

    pub fn tokens(&self) -> &[(AddedToken, u32)] {
        &self.tokens
    }

    /// The id of the token of this content.
    pub fn id(&self, content: &str) -> Option<u32> {
        let mut tokens = self.tokens.iter();
        let found = tokens.find(|(token, _)| token.content == content);
        found.map(|(_, id)| *id)
    }

    /// The parts of a text as it stands.
    pub fn in_text(&self, text: &str) -> Vec<Piece> {
        self.plain.pieces(text)
    }

    /// The parts of a normalised text.
    pub fn in_folded(&self, text: &str) -> Vec<Piece> {
        self.folded.pieces(text)
    }
}

impl Finder {
    fn new(all: &[(AddedToken, u32)], normalized: bool) -> Result<Self, BuildError> {
        let (mut patterns, mut tokens) = (Vec::new(), Vec::new());
        for (token, id) in all.iter().filter(|(t, _)| t.normalized == normalized) {
            let pattern = match normalized {
                true => fold(&token.content).text,
                false => token.content.clone(),
            };
            if !pattern.is_empty() {
                patterns.push(pattern);
                tokens.push((token.clone(), *id));
            }
        }
        let mut builder = AhoCorasick::builder();
        builder.match_kind(MatchKind::LeftmostLongest);
        let search = match patterns.is_empty() {
            true => None,
            false => Some(builder.build(&patterns)?),
        };
        Ok(Self { search, tokens })
    }

    /// The parts of a text, in order, all of it.
    fn pieces(&self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut done = 0;
        let found = self.search.iter().flat_map(|search| search.find_iter(text));
        for found in found {
            let (token, id) = &self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            let (before, after) = (&text[..start], &text[end..]);
            let touches = || {
                before.chars().next_back().is_some_and(is_word)
                    || after.chars().next().is_some_and(is_word)
            };
            if token.single_word && touches() {
                continue;
            }
            if token.lstrip {
                start = before.trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - after.trim_start().len();
            }
            if done < start {
                let id = None;
                pieces.push(Piece {
                    start: done,
                    end: start,
                    id,
                });
            }
            let id = Some(*id);
            pieces.push(Piece { start, end, id });
            done = end;
        }
        if done < text.len() {
            let (end, id) = (text.len(), None);
            pieces.push(Piece {
                start: done,
                end,
                id,
            });
        }
        pieces
    }
}

/// Whether a character belongs to a word, as regular expressions have it.
fn is_word(character: char) -> bool {
    static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\w").ok());
    let mut text = [0; 4];
    let text = character.encode_utf8(&mut text);
    WORD.as_ref().is_some_and(|word| word.is_match(text))
}
