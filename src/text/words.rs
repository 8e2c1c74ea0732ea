//! Words of a prompt that stand for vectors of their own (textual inversion).
//!
//! `embedding:NAME` is ComfyUI's form; a name alone is AUTOMATIC1111's, found where the
//! tokens of a prompt are those of the name, so that case and spaces do not matter and a
//! part of a longer word does not count.

use super::Tokenizer;
use crate::Result;
use regex::Regex;
use std::sync::LazyLock;

/// `embedding:` and what may be a name after it.
static ASKED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\bembedding:([^\s,()\[\]|:]+)").expect("the form's pattern is valid")
});

/// Endings that a name may be written with.
const ENDINGS: [&str; 4] = [".safetensors", ".pt", ".bin", ".ckpt"];

/// A word and the ids that it becomes for one text encoder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    pub name: String,
    /// Ids beyond the tokenizer's own; none where the encoder is told nothing of it.
    pub ids: Vec<u32>,
}

/// The words of one text encoder.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// With the tokens of the name, those of most tokens first.
    words: Vec<(Word, Vec<u32>)>,
}

impl Words {
    pub fn new(words: Vec<Word>, tokenizer: &Tokenizer) -> Result<Self> {
        let tokens = |word: Word| {
            let tokens = tokenizer.tokens(&word.name)?;
            Ok((word, tokens))
        };
        let mut words: Vec<_> = words.into_iter().map(tokens).collect::<Result<_>>()?;
        words.sort_by_key(|(_, tokens)| std::cmp::Reverse(tokens.len()));
        Ok(Self { words })
    }

    /// The word that `tokens` begin with, and how many of them are its name.
    pub(super) fn at(&self, tokens: &[u32]) -> Option<(&Word, usize)> {
        let found = |(_, name): &&(Word, Vec<u32>)| !name.is_empty() && tokens.starts_with(name);
        let (word, name) = self.words.iter().find(found)?;
        Some((word, name.len()))
    }

    fn named(&self, name: &str) -> Option<&Word> {
        let mut words = self.words.iter().map(|(word, _)| word);
        words.find(|word| same(&word.name, name))
    }

    /// `text` cut at `embedding:NAME` for names that are known.
    pub(super) fn split<'a>(&'a self, text: &'a str) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, name, after)) = next(rest, &|name| self.named(name).is_some()) {
            pieces.push(Piece::Text(before));
            pieces.extend(self.named(name).map(Piece::Word));
            rest = after;
        }
        pieces.push(Piece::Text(rest));
        pieces
    }
}

/// A part of a text.
pub(super) enum Piece<'a> {
    Text(&'a str),
    Word(&'a Word),
}

/// The first `embedding:NAME` whose name is known, and the text around it. A name ends
/// where the longest known one does: in `embedding:ink.` the full stop is text.
fn next<'a>(text: &'a str, is_known: &dyn Fn(&str) -> bool) -> Option<(&'a str, &'a str, &'a str)> {
    ASKED.captures_iter(text).find_map(|found| {
        let (whole, name) = (found.get(0)?, found.get(1)?);
        let name = longest(name.as_str(), is_known)?;
        let end = whole.end() - found.get(1)?.len() + name.len();
        Some((&text[..whole.start()], name, &text[end..]))
    })
}

/// The longest beginning of `written` that is a known name and ends at a word's end.
fn longest<'a>(written: &'a str, is_known: &dyn Fn(&str) -> bool) -> Option<&'a str> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let ends = written.char_indices().rev();
    let ends = ends.filter_map(|(at, c)| (!is_word(c)).then_some(at));
    let mut names = std::iter::once(written.len()).chain(ends);
    names.find_map(|end| {
        let name = &written[..end];
        (!name.is_empty() && is_known(name)).then_some(name)
    })
}

/// Whether a name is that of a word, its case and a file's ending aside.
fn same(known: &str, written: &str) -> bool {
    // ComfyUI's names may begin with a folder's.
    let written = written.rsplit(['/', '\\']).next().unwrap_or(written);
    let written = written.to_lowercase();
    let known = known.to_lowercase();
    let stem = ENDINGS.iter().find_map(|end| written.strip_suffix(end));
    known == written || stem == Some(&known)
}

/// The name among `names` that is written so.
pub fn find_name<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().find(|name| same(name, written))
}

/// What `text` asks for by `embedding:NAME`: names out of `known`, and what is no name
/// of those.
pub fn asked_names(text: &str, known: &[&str]) -> (Vec<String>, Vec<String>) {
    let is_known = |name: &str| known.iter().any(|known| same(known, name));
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for asked in ASKED.captures_iter(text) {
        let Some(written) = asked.get(1) else {
            continue;
        };
        match longest(written.as_str(), &is_known) {
            Some(name) => found.push(name.to_owned()),
            None => {
                let end = |c: char| !c.is_alphanumeric();
                unknown.push(written.as_str().trim_end_matches(end).to_owned());
            }
        }
    }
    (found, unknown)
}

/// The names among `names` that `text` may hold as words: those that are not among
/// them it does not hold, whatever the tokenizer.
pub fn mentioned<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let plain = |text: &str| -> String {
        let letters = text.chars().filter(|c| !c.is_whitespace());
        letters.flat_map(char::to_lowercase).collect()
    };
    let text = plain(text);
    let is_in = |name: &&str| {
        let name = plain(name);
        !name.is_empty() && text.contains(&name)
    };
    names.into_iter().filter(is_in).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_for_in_comfy_uis_form() {
        let known = ["easy-negative", "ink", "ink.v2", "42"];
        let of = |text| asked_names(text, &known);
        let found = |text| of(text).0;
        assert_eq!(found("a embedding:ink, b"), ["ink"]);
        assert_eq!(found("(EMBEDDING:Easy-Negative:1.2)"), ["Easy-Negative"]);
        assert_eq!(found("embedding:ink.v2. embedding:ink."), ["ink.v2", "ink"]);
        assert_eq!(found("embedding:ink.pt"), ["ink.pt"]);
        assert_eq!(of("embedding:inky ending").1, ["inky"]);
        assert_eq!(of("an embedding: of words"), (vec![], vec![]));
        assert_eq!(of("embedding:no.such.").1, ["no.such"]);
    }

    #[test]
    fn bare_names_may_be_anywhere() {
        let of = |text| mentioned(text, ["easy negative", ""]);
        assert_eq!(of("a Easy  Negative b"), ["easy negative"]);
        assert_eq!(of("easy"), [""; 0]);
    }
}
